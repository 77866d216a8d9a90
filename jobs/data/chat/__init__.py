"""Conversations for fine-tuning: from files of many formats to token ids, and which of them are answers."""

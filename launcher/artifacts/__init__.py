"""Formats of what runs make: corpora, tokenizers, adapters."""

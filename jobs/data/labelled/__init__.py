"""Labelled notes: from tables to samples, from logits to scores."""

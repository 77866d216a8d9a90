"""Evaluation and generation: items in numbered batches, scoring of options, perplexity, text."""

"""Corpora: from sources to shards, from shards to batches."""

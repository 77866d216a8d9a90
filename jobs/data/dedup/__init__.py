"""Which documents are duplicates of others."""

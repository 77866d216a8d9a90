"""A model in a format for serving, and how it is compared with the original."""

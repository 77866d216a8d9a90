"""Adapters: built, trained on top of each other, saved."""

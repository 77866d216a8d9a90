"""Pipelines: recipes as stages, queued in the order of their names, each identity carried out once."""

"""Comparing scores of evaluations, item by item."""

"""The label of tokens that count for nothing."""

IGNORED = -100
"""Label that torch's cross entropy leaves out."""

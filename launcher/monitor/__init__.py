"""Runs as seen from outside: which there are, their state, logs and cost."""

"""Talking to a model: on a terminal, or through a page that only this machine can reach."""

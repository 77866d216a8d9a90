"""Adapters in the fake vLLM."""

"""Builds and parallelises models."""

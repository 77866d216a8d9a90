"""Rendezvous, stopping, attempts, checkpoints and tracking."""

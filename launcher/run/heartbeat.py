"""How ranks and the batch process exchange heartbeats."""

VARIABLE = "LAUNCHER_HANG_SECONDS"
"""Passes the limit to the ranks; 0 or missing: nobody watches (`launcher debug`, or `limits.hang: null`)."""


def pulse_seconds(limit: float) -> float:
    """Seconds between heartbeats; more frequent ones would only load a shared file system."""
    return min(5.0, limit / 20)

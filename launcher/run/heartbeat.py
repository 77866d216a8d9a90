"""How ranks and the batch process exchange heartbeats. Standard library only."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher.run.typed import read_object

VARIABLE = "LAUNCHER_HANG_SECONDS"
"""Passes the limit to the ranks; 0 or missing: nobody watches (`launcher debug`, or `limits.hang: null`)."""


def pulse_seconds(limit: float) -> float:
    """Seconds between heartbeats; more frequent ones would only load a shared file system."""
    return min(5.0, limit / 20)


@dataclass(frozen=True)
class Bound:
    """How long an attempt may go without a heartbeat in what it does now: the content of the heartbeat file."""

    seconds: float
    doing: str = ""
    """What it does: training, saving, evaluating; empty for all else."""
    longest: float = 0.0
    """The longest time between two heartbeats that it needed for that before; 0: the recipe's limit holds."""

    def write(self, path: Path) -> None:
        """Renew the heartbeat file.

        Raises:
            OSError: the disk is full or gone.
        """
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path, limit: float) -> "Bound":
        """Read the heartbeat file; with the recipe's limit where it does not tell, as of an earlier launcher."""
        try:
            bound = cls(**read_object(path))
            return bound if 0 < bound.seconds <= limit else cls(limit)
        except (OSError, ValueError, TypeError):
            return cls(limit)

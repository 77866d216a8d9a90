"""Runs without Slurm that work on another machine, whose processes nobody can see from here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from launcher.monitor.run_state import RunState
from launcher.recipe.quantities import Duration
from launcher.run.ledger import Attempt, read_attempts
from launcher.run.paths import RunDir, list_shares
from launcher.run.signs_of_life import END_SECONDS, seen_lately
from launcher.run.typed import read_resolved


@dataclass(frozen=True)
class Sighting:
    """A run that works on another machine, as far as its files tell."""

    host: str
    seconds: float
    """Since it last wrote something."""

    @override
    def __str__(self) -> str:
        return f"on `{self.host}`, where it last wrote something {self.seconds:.0f} s ago"


def find_elsewhere(run: RunState) -> Sighting | None:
    """Tell on which other machine a run works; None if it does not, is over, or has been silent for too long.

    A run that waits for its turn is where the others of its group are: one process carries them out.

    Args:
        run: What its directory says.
    """
    if run.is_terminal or not run.job_id.startswith("local-"):
        return None
    if run.last and not run.waits_for_first_start:
        return _sight_attempt(run.folder, run.last)
    if not run.record.group:
        return None
    first = run.folder.group if run.record.share else run.folder
    last = [(one, attempts[-1]) for one in (*list_shares(first), first) if (attempts := read_attempts(one.ledger))]
    its = [(one, attempt) for one, attempt in last if attempt.job_id == run.job_id]
    # They follow one another, so the newest tells what became of their process.
    return _sight_attempt(*max(its, key=lambda found: found[1].started)) if its else None


def _sight_attempt(run: RunDir, attempt: Attempt) -> Sighting | None:
    """Tell whether the process of an attempt works on another machine; after its end it has a moment to go on."""
    has_ended = attempt.ended is not None
    if not attempt.nodes or (has_ended and attempt.reason == "stopped"):
        return None
    seen = sight(run, attempt.number, attempt.nodes[0])
    return None if seen and has_ended and seen.seconds > END_SECONDS else seen


def sight(run: RunDir, attempt: int | None, host: str, claim: Path | None = None) -> Sighting | None:
    """Tell whether an attempt works on another machine; None if it does not, or has been silent for too long.

    Args:
        run: The run, whose directory may not be there yet.
        attempt: Number of the attempt; None if it has just been made for its first one.
        host: The machine that the attempt was started on; empty if that is not known.
        claim: A file that says whose the run is, and is older than what its owner writes into the run.
    """
    if host in ("", os.uname().nodename):
        return None
    seconds = seen_lately(run, attempt, hang_seconds_of(read_resolved(run.recipe)), claim)
    return None if seconds is None else Sighting(host, seconds)


def hang_seconds_of(recipe: Mapping[str, Any]) -> float | None:
    """Seconds after which an attempt without a heartbeat is ended, as a recipe says; None if nobody watches."""
    limits = recipe.get("limits")
    hang = limits.get("hang") if isinstance(limits, dict) else None
    return float(Duration(hang).seconds) if isinstance(hang, str) else None

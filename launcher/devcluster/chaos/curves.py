"""Comparing the losses of a run with those of another one, to the last bit."""

from pathlib import Path

from launcher.run.ledger import read_json_lines


def differing_steps(metrics: Path, reference: Path) -> list[int]:
    """Return the steps at which two runs differ: in a loss, in one that was computed again, or in being there at all.

    Args:
        metrics: What one run logged; a step that it did twice counts twice.
        reference: What the other one logged.
    """
    ours, theirs = _losses(metrics), _losses(reference)
    return sorted(step for step in ours.keys() | theirs.keys() if ours.get(step) != theirs.get(step))


def _losses(metrics: Path) -> dict[int, set[float]]:
    found: dict[int, set[float]] = {}
    for row in read_json_lines(metrics):
        if "loss" in row:
            found.setdefault(int(row["step"]), set()).add(row["loss"])
    return found

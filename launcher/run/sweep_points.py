"""points.jsonl of a sweep: the values of each point, and the run that carries it out. Standard library only."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launcher.run.files import replace_text
from launcher.run.ledger import read_json_lines
from launcher.run.paths import RunDir
from launcher.run.typed import fits, hints_of

_HASH_CHARACTERS = 8
_LONGEST = 240
"""Characters of a name that its folder has: file systems take 255."""


@dataclass(frozen=True)
class SweepDir:
    """The files of one sweep; its points are runs with folders of their own."""

    root: Path

    @property
    def points(self) -> Path:
        """Line i is point i: its values and its run."""
        return self.root / "points.jsonl"

    @property
    def waiting(self) -> Path:
        """There as long as points wait for room in the queue."""
        return self.root / "waiting"


@dataclass(frozen=True)
class SweptRun:
    """A point of a sweep and its run."""

    sweep: str
    """Name of the sweep."""
    values: Mapping[str, Any]
    """By the dotted keys."""
    run: str
    """Name of the run's folder."""
    fingerprint: str
    """SHA-256 of the point's resolved recipe."""


def sweep_dir(runs_root: Path, name: str) -> SweepDir:
    """Name the folder of a sweep."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:_LONGEST]
    if slug != name:  # bytes of a command line that are no UTF-8 are surrogates
        slug += "-" + hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:_HASH_CHARACTERS]
    return SweepDir(runs_root / ".sweeps" / slug)


def read_points(runs_root: Path, name: str) -> list[SweptRun]:
    """Read the points of a sweep that have a run; none if there is no such sweep."""
    rows = read_json_lines(sweep_dir(runs_root, name).points)
    hints = hints_of(SweptRun)
    sound = [row for row in rows if all(fits(hint, row.get(name)) for name, hint in hints.items())]
    points = [SweptRun(**{name: row[name] for name in hints}) for row in sound]
    return [point for point in points if RunDir(runs_root / point.run).record.is_file()]


def write_points(runs_root: Path, name: str, points: Iterable[SweptRun], mode: int) -> None:
    """Replace the points of a sweep.

    Args:
        runs_root: Folder of all runs.
        name: The sweep.
        points: Its points.
        mode: Mode of the folder, if there is none yet.
    """
    folder = sweep_dir(runs_root, name)
    folder.root.parent.mkdir(exist_ok=True)
    folder.root.mkdir(mode, exist_ok=True)
    replace_text(folder.points, "".join(json.dumps(asdict(point)) + "\n" for point in points))

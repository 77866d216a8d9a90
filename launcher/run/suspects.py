"""Nodes that gave trouble, remembered for all who use the folder of all runs. Standard library only.

`RUNS/.nodes/TIME-NODE-NUMBER.json` is one report; nobody changes it. Several may write at once, and forgiving a node is
a report as well, so nobody needs the permission to remove what another user wrote. A report holds the name of a node,
one of a few reasons, and the id of a run: nothing of recipes, folders or data.
"""

import contextlib
import json
import os
import re
import stat
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from launcher.run.files import make_folder, replace_text
from launcher.run.paths import reports_root
from launcher.run.typed import made_of, read_object

Trouble: TypeAlias = Literal[
    "failed the preflight check",
    "failed the preflight check as the only node",
    "hung",
    "was slow",
    "added by hand",
    "forgiven",
]

_AT_ONCE = ("failed the preflight check", "added by hand")
"""What makes a node suspect by itself. A hang, a slow rank, or a check that no other node of the job has passed may be
the run's own fault: that takes two attempts."""
_ENOUGH = 2
_KEPT_SECONDS = 90 * 86400
"""Reports that are older are removed, whatever the profile says."""
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class NodeReport:
    """What one attempt, or a person, says of a node."""

    node: str
    trouble: Trouble
    time: float
    """Unix time."""
    run: str = ""
    """Id of the run; empty if a person says so."""
    attempt: int = 0
    note: str = ""
    """A person's reason."""

    def __str__(self) -> str:
        said = self.trouble + (f": {self.note}" if self.note else "")
        return f"{said} (run {self.run}, attempt {self.attempt})" if self.run else said


@dataclass(frozen=True)
class SuspectNode:
    """A node, and what was reported of it since it was last forgiven."""

    node: str
    reports: tuple[NodeReport, ...]
    """The newest last."""
    is_avoided: bool
    """Whether that is enough not to ask for it; else it is only remembered."""
    until: float
    """Unix time at which the newest report expires."""


def is_node_name(text: str) -> bool:
    """Tell whether a text can be the name of a node."""
    return _NODE.fullmatch(text) is not None


def report_node(runs_root: Path, report: NodeReport) -> None:
    """Remember something of a node.

    Raises:
        OSError: The folder of all runs cannot be written to.
    """
    folder = reports_root(runs_root)
    mode = stat.S_IMODE(os.stat(runs_root).st_mode)
    make_folder(folder, mode)
    name = f"{report.time:.0f}-{report.node}-{uuid.uuid4().hex[:8]}.json"
    replace_text(folder / name, json.dumps(asdict(report)) + "\n", mode & 0o666)
    _remove_old(folder)


def read_reports(runs_root: Path) -> list[NodeReport]:
    """Read all reports, the oldest first; what cannot be read is left out."""
    found = []
    for path in _files(reports_root(runs_root)):
        with contextlib.suppress(OSError, ValueError):
            report = made_of(NodeReport, read_object(path), path)
            if is_node_name(report.node):
                found.append(replace(report, note=_as_one_line(report.note), run=_as_one_line(report.run)))
    return sorted(found, key=lambda one: one.time)


def find_suspects(runs_root: Path, expire_seconds: float, now: float | None = None) -> list[SuspectNode]:
    """Find the nodes that something was reported of lately, those of which most was first.

    Args:
        runs_root: The folder of all runs.
        expire_seconds: How long a report counts.
        now: Unix time; now if left out.
    """
    return suspects_of(read_reports(runs_root), expire_seconds, time.time() if now is None else now)


def suspects_of(reports: Iterable[NodeReport], expire_seconds: float, now: float) -> list[SuspectNode]:
    """Judge reports, which are given oldest first."""
    by_node: dict[str, list[NodeReport]] = defaultdict(list)
    for report in reports:
        if report.trouble == "forgiven":
            by_node.pop(report.node, None)
        elif report.time > now - expire_seconds:
            by_node[report.node].append(report)
    found = [
        SuspectNode(node, tuple(its), _is_enough(its), its[-1].time + expire_seconds) for node, its in by_node.items()
    ]
    return sorted(found, key=lambda one: (-one.is_avoided, -len(one.reports), one.node))


def _is_enough(reports: list[NodeReport]) -> bool:
    attempts = {(one.run, one.attempt) for one in reports}
    return any(one.trouble in _AT_ONCE for one in reports) or len(attempts) >= _ENOUGH


def _as_one_line(text: str) -> str:
    """Leave out what would change the terminal of whoever reads what another user wrote."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _files(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):  # there is none yet, or it is not ours to read
        names = [path for path in folder.iterdir() if path.suffix == ".json" and path.name[0] != "."]
        yield from sorted(path for path in names if path.is_file())  # a pipe would never end


def _remove_old(folder: Path) -> None:
    for path in _files(folder):
        written = path.name.partition("-")[0]
        if written.isdecimal() and int(written) < time.time() - _KEPT_SECONDS:
            with contextlib.suppress(OSError):  # another user's, or just removed
                path.unlink()

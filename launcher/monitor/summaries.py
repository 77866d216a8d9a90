"""Summaries of runs, kept in `RUNS/.summaries/` so that ten thousand runs need not be read again to be listed.

A summary counts as long as the files that it was made of have their sizes and times. Each user has a folder of their
own, which others cannot read: messages of runs are in it.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from launcher.run.files import replace_text
from launcher.run.paths import RunDir

_FILES = ("run.json", "attempts.jsonl", "metrics.jsonl", "pauses.jsonl", "STOP")


class Summaries:
    """The summaries of one purpose.

    Args:
        root: Folder of all runs.
        purpose: Names the file.
        version: Of what is written; summaries of another one do not count.
    """

    def __init__(self, root: Path, purpose: str, version: int) -> None:
        self._path = root / ".summaries" / str(os.getuid()) / f"{purpose}.json"
        self._version = version
        self._kept = self._read()
        self._now: dict[str, Any] = {}
        self._stamps: dict[str, list[int]] = {}

    def find(self, name: str, run: RunDir) -> Mapping[str, Any] | None:
        """Return what is kept of a run; None if nothing is, or the run has changed."""
        stamp = self._stamps[name] = _stamp(str(run.root))
        known = self._kept.get(name)
        if known is None or known[0] != stamp:
            return None
        self._now[name] = known
        found: Mapping[str, Any] = known[1]
        return found

    def keep(self, name: str, summary: Mapping[str, Any]) -> None:
        """Keep the summary of a run that was looked for; what changed while it was read counts as changed."""
        self._now[name] = [self._stamps[name], summary]

    def save(self) -> None:
        """Write down what is kept, if that has changed; what was kept of runs that are gone is left out."""
        asked = self._stamps.keys()
        if self._now.keys() == self._kept.keys() & asked and all(
            self._now[key] is self._kept[key] for key in self._now
        ):
            return
        others = {name: known for name, known in self._kept.items() if name not in asked and self._is_there(name)}
        with contextlib.suppress(OSError):  # a folder of somebody else, or a full disk
            self._path.parent.parent.mkdir(exist_ok=True)
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            replace_text(self._path, json.dumps({"version": self._version, "runs": others | self._now}))

    def _is_there(self, name: str) -> bool:
        root, (folder, *_) = self._path.parents[2], name.split("/")
        return os.path.isdir(root / folder)

    def _read(self) -> dict[str, Any]:
        try:
            found = _parse(self._path.read_bytes())
            return dict(found["runs"]) if found["version"] == self._version else {}
        except (OSError, ValueError, LookupError, TypeError):
            return {}


def _parse(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:  # a loss may be NaN
        return json.loads(content)


def _stamp(folder: str) -> list[int]:
    stamp: list[int] = []
    for name in _FILES:
        try:
            seen = os.stat(f"{folder}/{name}")
            stamp += (seen.st_size, seen.st_mtime_ns, seen.st_ino)
        except OSError:
            stamp.append(-1)
    return stamp

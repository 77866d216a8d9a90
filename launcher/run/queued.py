"""The run that was queued last for a recipe: `RUNS/.index/.queued/FINGERPRINT` is a link to it. Standard library only.

So is the run that was queued last to make something of a name, by a checksum of the name. Whether that run is still
queued, has ended or was removed is for the reader to find out.
"""

import contextlib
import os
import uuid
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from launcher.run.index import make_shared
from launcher.run.paths import RunDir, index_root

_CHARACTERS = 40
"""Of the fingerprint: 160 bits."""


def find_queued(runs_root: Path, fingerprint: str) -> RunDir | None:
    """Find the run that was queued last for a recipe; None if there is none, or it was removed.

    Args:
        runs_root: The folder of all runs.
        fingerprint: SHA-256 of the resolved recipe, or of the name of what it makes.
    """
    try:
        run = RunDir(runs_root / os.path.basename(os.readlink(_link(runs_root, fingerprint))))
    except OSError:
        return None
    return run if os.access(run.record, os.R_OK) else None


def note_queued(runs_root: Path, runs: Mapping[str, RunDir]) -> None:
    """Let others find runs that are about to be queued, by their recipes. `launcher.run.lock` is held.

    Args:
        runs_root: The folder of all runs.
        runs: The runs by the fingerprints of their recipes, and of the names of what they make.
    """
    with contextlib.suppress(PermissionError):  # the index is somebody else's
        make_shared(_folder(runs_root), runs_root)
        for fingerprint, run in runs.items():
            _replace_link(_link(runs_root, fingerprint), f"../../{run.root.name}")


def _replace_link(link: str, target: str) -> None:
    try:
        os.symlink(target, link)
    except FileExistsError:
        folder, name = os.path.split(link)
        staging = os.path.join(folder, f".{name}.{uuid.uuid4().hex}")
        os.symlink(target, staging)
        os.replace(staging, link)


def _link(runs_root: Path, fingerprint: str) -> str:
    return f"{_folder(runs_root)}/{fingerprint[:_CHARACTERS]}"


@lru_cache(maxsize=1)
def _folder(runs_root: Path) -> Path:
    return index_root(runs_root) / ".queued"

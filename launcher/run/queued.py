"""The run that was queued last for a recipe: `RUNS/.index/.queued/FINGERPRINT` is a link to it. Standard library only.

Whether that run is still queued, has ended or was removed is for the reader to find out.
"""

import contextlib
import os
import uuid
from pathlib import Path

from launcher.run.index import make_shared
from launcher.run.paths import RunDir, index_root

_CHARACTERS = 40
"""Of the fingerprint: 160 bits."""


def find_queued(runs_root: Path, fingerprint: str) -> RunDir | None:
    """Find the run that was queued last for a recipe; None if there is none, or it was removed.

    Args:
        runs_root: The folder of all runs.
        fingerprint: SHA-256 of the resolved recipe.
    """
    try:
        run = RunDir(runs_root / Path(os.readlink(_link(runs_root, fingerprint))).name)
    except OSError:
        return None
    return run if os.access(run.record, os.R_OK) else None


def note_queued(run: RunDir, fingerprint: str) -> None:
    """Let others find a run that is about to be queued, by its recipe. `launcher.run.lock` is held."""
    root = run.root.parent
    link, target = _link(root, fingerprint), f"../../{run.root.name}"
    with contextlib.suppress(PermissionError):  # the index is somebody else's
        make_shared(link.parent, root)
        try:
            os.symlink(target, link)
        except FileExistsError:
            staging = link.with_name(f".{link.name}.{uuid.uuid4().hex}")
            os.symlink(target, staging)
            os.replace(staging, link)


def _link(runs_root: Path, fingerprint: str) -> Path:
    return index_root(runs_root) / ".queued" / fingerprint[:_CHARACTERS]

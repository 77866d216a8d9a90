"""The index of finished runs: `RUNS/.index/IDENTITY/RUN` is a link to a run that finished. Standard library only.

Several may write at once: each run has a link of its own. A run that was removed leaves a link that leads nowhere,
which counts as none; so does a run that this user may not look into. Whoever may use the folder of all runs may use the
index, since it holds nothing but names of run directories.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from launcher.run.files import make_folder
from launcher.run.identity import RunIdentity, part_of
from launcher.run.ledger import has_finished, read_attempts
from launcher.run.paths import RunDir, index_root


def checksums_root(runs_root: Path) -> Path:
    """Folder of checksums of files that were computed before."""
    return index_root(runs_root) / ".checksums"


def may_be_finished(runs_root: Path, recipe: str) -> bool:
    """Tell whether any finished run had this recipe, whatever it read; asks for no checksum of a file."""
    with contextlib.suppress(OSError):
        return any(name.startswith(part_of(recipe)) for name in os.listdir(index_root(runs_root)))
    return False


def find_finished(runs_root: Path, identity: RunIdentity) -> RunDir | None:
    """Find the newest finished run of an identity whose result is still there; None if there is none."""
    if not may_be_finished(runs_root, identity.recipe):
        return None
    folder = index_root(runs_root) / identity.name(checksums_root(runs_root))
    return next(_usable(folder), None) if os.access(folder, os.R_OK | os.X_OK) else None


def register(run: RunDir) -> str | None:
    """Put a finished run into the index.

    Returns:
        Why it is not in it; None if it is.
    """
    noted = RunIdentity.read(run.identity)
    if noted is None:
        return "it has no identity.json"
    if noted.is_mixed or not noted.is_unchanged():
        return "its inputs changed while it ran"
    made = noted.note_made(run.identity).makes
    if made and made.content is None:
        return f"`{made.path}` is not there"
    root = run.root.parent
    try:
        make_shared(checksums_root(root), root)
        folder = index_root(root) / noted.name(checksums_root(root))
        make_shared(folder, root)
        with contextlib.suppress(FileExistsError):
            os.symlink(f"../../{run.root.name}", folder / run.root.name)
    except OSError as error:
        return str(error)
    return None


def make_shared(folder: Path, runs_root: Path) -> None:
    """Make a folder of the index with the mode of the folder of all runs: the umask of credentialed jobs is 077."""
    mode = stat.S_IMODE(os.stat(runs_root).st_mode)
    for part in dict.fromkeys((index_root(runs_root), folder)):
        make_folder(part, mode)


def _usable(folder: Path) -> Iterator[RunDir]:
    """Give the runs of an identity that finished and whose results are there, newest first."""
    stamped = sorted(os.listdir(folder), key=lambda name: name.rsplit("-", 3)[1:], reverse=True)
    for run in (RunDir(folder.parent.parent / name) for name in stamped):
        with contextlib.suppress(PermissionError):  # it is somebody else's, and credentialed
            if not run.record.is_file() or not has_finished(read_attempts(run.ledger)):
                continue
            noted = RunIdentity.read(run.identity)
            if noted and (noted.makes is None or noted.makes.is_there()):
                yield run

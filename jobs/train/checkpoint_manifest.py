"""The manifest of a checkpoint, and whether its files are what the manifest says. No torch.

Only what is certain counts as damage: a missing file, other bytes, a manifest that is none. Any other answer of the
file system (a stale handle, a server that is away, too many open files) says nothing of the checkpoint.
"""

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from launcher.run.paths import COMPLETE
from launcher.run.typed import read_object

_MOST_RANKS = 10**6
_OF_NAMES = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""What the file system says where no such file can be read, now or later."""

Files: TypeAlias = dict[str, tuple[int, str]]
"""Size and SHA-256 by path below the checkpoint."""


class UnreadableCheckpointError(OSError):
    """The file system does not give a checkpoint that may be intact; another attempt may succeed."""


@dataclass(frozen=True)
class CheckpointManifest:
    """What COMPLETE says."""

    step: int
    world_size: int
    """Number of ranks that saved."""
    files: Files


@dataclass(frozen=True)
class CheckpointFault:
    """Why a checkpoint cannot be resumed from."""

    said: str
    may_pass: bool = False
    """Whether the file system failed, so that the checkpoint may be intact."""


def find_unfinished(folder: Path) -> CheckpointFault | None:
    """Say that a checkpoint was never finished; None if it was."""
    try:
        if stat.S_ISREG(os.stat(folder / COMPLETE).st_mode):
            return None
    except OSError as error:
        if may_pass(error):
            return CheckpointFault(f"{COMPLETE} cannot be looked at ({error.strerror})", may_pass=True)
    return CheckpointFault(f"{COMPLETE} is missing: the checkpoint was never finished")


def read_manifest(folder: Path) -> CheckpointManifest:
    """Read COMPLETE.

    Raises:
        OSError: it cannot be read.
        Exception: it holds something that it cannot hold.
    """
    manifest = read_object(folder / COMPLETE)
    files = {name: (int(size), str(digest)) for name, (size, digest) in manifest["files"].items()}
    world_size = int(manifest["world_size"])
    if not 0 < world_size <= _MOST_RANKS:
        raise ValueError(f"{world_size} ranks")
    if outside := [name for name in files if not _is_inside(name)]:
        raise ValueError(f"{outside[0][:80]!r} is not in it")
    return CheckpointManifest(int(manifest["step"]), world_size, files)


def try_manifest(folder: Path, step: int) -> CheckpointManifest | CheckpointFault:
    """Read the manifest of a step's checkpoint, or say why that cannot be done."""
    try:
        manifest = read_manifest(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        return CheckpointFault(f"{COMPLETE} is unreadable ({type(error).__name__}: {error})", may_pass(error))
    return manifest if manifest.step == step else CheckpointFault(f"{COMPLETE} is of step {manifest.step}")


def find_fault(folder: Path, name: str, size: int, digest: str) -> CheckpointFault | None:
    """Compare a file of a checkpoint with its entry in the manifest; None if it is as it was saved."""
    try:
        found_size, found_digest = fingerprint(folder / name)
    except OSError as error:
        return CheckpointFault(f"{name} cannot be read ({error.strerror})", may_pass(error))
    if found_size != size:
        return CheckpointFault(f"{name} has {found_size} bytes, not {size}")
    return (
        None
        if found_digest == digest
        else CheckpointFault(f"{name} has changed since it was saved (its checksum differs)")
    )


def fingerprint(path: Path) -> tuple[int, str]:
    """Return the size and the SHA-256 of a file."""
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def may_pass(error: Exception) -> bool:
    """Tell whether the file system failed, rather than what it was asked for."""
    return isinstance(error, OSError) and error.errno not in _OF_NAMES


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return name.isprintable() and bool(path.parts) and not path.is_absolute() and ".." not in path.parts

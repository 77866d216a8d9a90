"""Files that are complete, even after a power cut, or absent."""

import contextlib
import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_STAGED = re.compile(r"\..+-(\d+)")
_ABANDONED_SECONDS = 24 * 3600
"""A process on another machine that has not touched its files for so long is gone."""


def staging_path(path: Path) -> Path:
    """Where this process writes what will be called `path`; ranks on several nodes may make the same file at once."""
    return path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}")


def clear_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing: gigabytes each, and a run may be preempted many times."""
    for where, folders, files in os.walk(folder):  # passes over what others remove meanwhile, unlike rglob
        for path in (Path(where, name) for name in (*folders, *files)):
            if not _is_left(path):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_left(path: Path) -> bool:
    staged = _STAGED.fullmatch(path.name)
    if staged is None:
        return False
    if path.name.endswith(f".{os.uname().nodename}-{staged[1]}"):
        return not os.path.exists(f"/proc/{staged[1]}")
    with contextlib.suppress(FileNotFoundError):  # it has just been put in place
        return time.time() - path.stat().st_mtime > _ABANDONED_SECONDS
    return False


@contextlib.contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Add the folder to the error of a full disk, which names no file."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:
            raise OSError(error.errno, error.strerror, str(folder)) from None
        raise


def write_durably(path: Path, text: str) -> None:
    """Write a small file."""
    with replace_durably(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def replace_durably(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the name `path` once it is complete and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = staging_path(path)
    with staging.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(staging, path)


def move_durably(made: Path, path: Path) -> None:
    """Put a file in place that a library wrote, once it is on disk."""
    sync(made)
    os.replace(made, path)


def sync_tree(folder: Path) -> None:
    """Flush a folder and everything in it to disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync(path: Path) -> None:
    """Flush one file's content, or one folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

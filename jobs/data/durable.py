"""Files that are there whole, even after a power cut, or not at all."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def staging_path(path: Path) -> Path:
    """Where this process writes what will be called `path`; tasks on several nodes may make the same file at once."""
    return path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}")


@contextlib.contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Let the error of a full disk, which names no file, say where it is full."""
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
    """Open a file for writing that takes the name `path` once it is whole and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = staging_path(path)
    with staging.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(staging, path)


def sync_names(folder: Path) -> None:
    """Bring the names of a folder's files to disk; their contents are there already."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

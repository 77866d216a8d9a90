"""Files that are there whole, even after a power cut, or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def staging_path(path: Path) -> Path:
    """Where this process writes what will be called `path`; tasks on several nodes may make the same file at once."""
    return path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}")


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

"""Writing files so that nobody reads a part of one, and who may use a file. Standard library only."""

import contextlib
import errno
import os
import shutil
import stat
import threading
from pathlib import Path

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_NO_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO)
"""A link, a folder or a socket is in its place."""


def write_all(descriptor: int, content: bytes) -> None:
    """Write everything, or raise: a disk that is nearly full takes a part without an error."""
    while content:
        content = content[os.write(descriptor, content) :]


def write_text(path: str | Path, text: str) -> None:
    """Write a file that nobody reads yet."""
    # `Path.write_text` takes three times as long, and an array of 1,000 runs writes 4,000 files.
    _write_and_close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), str(path), text)


def _write_and_close(descriptor: int, name: str, text: str) -> None:
    try:
        write_all(descriptor, text.encode())
    except OSError as error:  # which names no file, since it only knows the descriptor
        error.filename = name
        raise
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str, mode: int | None = None) -> None:
    """Put a whole file in place of another one, or of none, at once.

    Args:
        path: The file.
        text: What it is to hold.
        mode: Who may use it; what the umask allows if left out.
    """
    folder, name = os.path.split(path)
    staging = os.path.join(folder, f".{name}.{os.getpid()}.{threading.get_ident()}")
    try:
        descriptor = os.open(staging, _NEW, 0o666)
    except FileExistsError:
        # Of a process that was killed; or of somebody who may write here, too, as a link to elsewhere.
        os.unlink(staging)
        descriptor = os.open(staging, _NEW, 0o666)
    if mode is not None:
        os.fchmod(descriptor, mode)
    try:
        _write_and_close(descriptor, staging, text)
        os.replace(staging, path)
    except OSError:
        with contextlib.suppress(OSError):  # a part of a file would keep a full disk full
            os.unlink(staging)
        raise


def make_folder(folder: Path, mode: int) -> None:
    """Make a folder with a mode, whatever the umask; what is there, or takes its place meanwhile, stays as it is."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)  # not what it was replaced by
        try:
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)


def open_lock(path: Path) -> int | None:
    """Open a file to lock, in a folder that others may write into; None if that cannot be done.

    What somebody else has put there is never followed to another place.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except PermissionError:
        return None
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return descriptor


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Give a file that nobody changes a second name; copy it where the file system has no links between folders."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def closed_folder(path: str | Path) -> Path | None:
    """Return the folder on the way to a path that this user may not enter and list; None if there is none."""
    return _deepest_without(os.R_OK | os.X_OK, path)


def unwritable_folder(path: str | Path) -> Path | None:
    """Return the folder on the way to a path in which this user may make nothing; None if there is none."""
    return _deepest_without(os.W_OK | os.X_OK, path)


def _deepest_without(access: int, path: str | Path) -> Path | None:
    deepest = next(folder for folder in Path(path).absolute().parents if os.path.isdir(folder))
    return None if os.access(deepest, access, effective_ids=True) else deepest


def is_program(path: Path) -> bool:
    """Tell whether a path is a file that this user may execute."""
    return path.is_file() and os.access(path, os.X_OK)

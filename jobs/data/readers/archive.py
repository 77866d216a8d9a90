"""Members of a tar archive, in its order, out of a stream.

`tarfile` takes a damaged header for the end of the archive, reads headers of any size into memory, and keeps
all of them; PMC's archives have 500,000 members. So only the parsing of a header is its (POSIX.1-2001,
https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html#tag_20_92_13_06).
"""

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_BLOCK = 512
_MAX_NAME_BYTES = 2**16
_PAX_PATH = re.compile(rb"\d path=([^\n]*)")
_LONG_NAME = (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)


class BrokenArchiveError(ValueError):
    """An archive is not whole."""


@dataclass(frozen=True)
class Member:
    """A file in an archive."""

    number: int
    """1-based, of all entries that `tar --list` shows."""
    size: int
    content: bytes | None
    """None if it is larger than the bound."""


def members(stream: io.BufferedIOBase, is_wanted: Callable[[str], bool], max_bytes: int) -> Iterator[Member]:
    """Give the files of an archive that are wanted.

    Args:
        stream: The archive, decompressed.
        is_wanted: Tells by its path whether to read a file.
        max_bytes: Files larger than this are not read.

    Raises:
        BrokenArchiveError: the archive is not whole; everything before that has been given.
    """
    number, name = 0, ""
    while header := _header(stream):
        if header.type in _LONG_NAME and header.size <= _MAX_NAME_BYTES:
            name = _long_name(header, _content(stream, header.size)) or name
        elif header.type in (*_LONG_NAME, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
            _skip(stream, header.size)
        else:
            number += 1
            if header.isreg() and is_wanted(name or header.name):
                yield Member(number, header.size, _bounded(stream, header.size, max_bytes))
            else:
                _skip(stream, header.size if header.isreg() else 0)
            name = ""
    # A hole in a copy looks like the end, and so does the end of the first of several archives laid end to end.
    if any(block.strip(b"\0") for block in iter(lambda: stream.read(_BLOCK), b"")):
        raise BrokenArchiveError("the archive goes on behind its end")


def _header(stream: io.BufferedIOBase) -> tarfile.TarInfo | None:
    """The next header; None at the block of zeros that ends an archive."""
    block = _exactly(stream, _BLOCK)
    if not any(block):
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except tarfile.HeaderError:
        header = None
    if header is None or header.size < 0:
        raise BrokenArchiveError("the header of a member is none")
    return header


def _long_name(header: tarfile.TarInfo, content: bytes) -> str:
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return content.rstrip(b"\0").decode("utf-8", "replace")
    path = _PAX_PATH.search(content)
    return path[1].decode("utf-8", "replace") if path else ""


def _bounded(stream: io.BufferedIOBase, size: int, max_bytes: int) -> bytes | None:
    if size <= max_bytes:
        return _content(stream, size)
    _skip(stream, size)
    return None


def _content(stream: io.BufferedIOBase, size: int) -> bytes:
    content = _exactly(stream, size)
    _exactly(stream, -size % _BLOCK)
    return content


def _skip(stream: io.BufferedIOBase, size: int) -> None:
    left = size + -size % _BLOCK
    while left:
        left -= len(_exactly(stream, min(left, 2**20)))


def _exactly(stream: io.BufferedIOBase, size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise BrokenArchiveError("the archive ends early")
    return content

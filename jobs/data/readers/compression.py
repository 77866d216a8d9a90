"""Decompression by the suffix of a file's name: gzip, zstd, xz and bzip2, with any number of members or frames."""

import bz2
import contextlib
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


class _CorruptBz2Error(Exception):
    """A .bz2 file is corrupt; Python says so by an OSError, as of a file system that fails."""


# Not OSError: when the file system fails, the data may be good and another attempt may succeed.
DECOMPRESSION_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError, lzma.LZMAError, _CorruptBz2Error)
"""What decompression raises when a file is truncated or corrupt."""
_COMPRESSED = (".gz", ".zst", ".xz", ".bz2")
# The default, 27, refuses what `zstd --long` and `--ultra` make. Only what a file fills of its window is in memory.
_ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 31}
_LEAST_BLOCK = 2**10


def format_suffix(path: Path) -> str:
    """Return the suffix that tells a file's format, in lower case and without that of its compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def decompressed(file: "io.BufferedReader[Any]", suffix: str) -> io.BufferedIOBase:
    """Return the content of an open file with this suffix; reading raises DECOMPRESSION_ERRORS."""
    blocks: Any = _Blocks(file)
    match suffix.lower():
        case ".gz" | ".tgz":
            return gzip.GzipFile(fileobj=blocks) if file.peek(1) else io.BufferedReader(_NoStream())
        case ".zst":
            return zstd.ZstdFile(blocks, options=_ZSTD_OPTIONS)
        case ".xz":
            return lzma.LZMAFile(blocks)
        case ".bz2":
            return io.BufferedReader(_Bz2Stream(blocks))
    return file


@contextlib.contextmanager
def start_of(path: Path) -> Iterator[io.BufferedIOBase]:
    """Open a file, decompressed as its name says, to look at its start; the rest of it is not read."""
    with path.open("rb") as file:
        yield decompressed(file, path.suffix)


class _Blocks:
    """A compressed file as its decompressor reads it: in the blocks in which it comes, without waiting for more."""

    def __init__(self, file: "io.BufferedReader[Any]") -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        # Headers are short, and have to be whole.
        return self._file.read1(size) if size >= _LEAST_BLOCK else self._file.read(size)


class _NoStream(io.RawIOBase):
    """The content of a .gz file of no bytes, a copy that failed; gzip would read it as empty."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ARG002 - as io.RawIOBase
        raise EOFError("it is empty")


class _Bz2Stream(io.RawIOBase):
    """The content of a .bz2 file."""

    def __init__(self, file: Any) -> None:
        self._file = bz2.BZ2File(file)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return self._file.readinto1(buffer)  # `readinto` would lose what comes before corrupt data
        except OSError as error:
            if error.errno is not None:
                raise
            raise _CorruptBz2Error(str(error)) from None

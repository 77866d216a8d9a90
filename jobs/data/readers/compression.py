"""Decompression by the suffix of a file's name: gzip, zstd, xz and bzip2, with any number of members or frames."""

import bz2
import gzip
import io
import lzma
import sys
import zlib
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


def format_suffix(path: Path) -> str:
    """Return the suffix that tells a file's format, in lower case and without that of its compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def decompressed(file: "io.BufferedReader[Any]", suffix: str) -> io.BufferedIOBase:
    """Return the content of an open file with this suffix; reading raises DECOMPRESSION_ERRORS."""
    match suffix.lower():
        case ".gz" | ".tgz":
            return gzip.GzipFile(fileobj=file) if file.peek(1) else io.BufferedReader(_NoStream())
        case ".zst":
            return zstd.ZstdFile(file, options=_ZSTD_OPTIONS)
        case ".xz":
            return lzma.LZMAFile(file)
        case ".bz2":
            return io.BufferedReader(_Bz2Stream(file))
    return file


class _NoStream(io.RawIOBase):
    """The content of a .gz file of no bytes, a copy that failed; gzip would read it as empty."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ARG002 - as io.RawIOBase
        raise EOFError("it is empty")


class _Bz2Stream(io.RawIOBase):
    """The content of a .bz2 file."""

    def __init__(self, file: "io.BufferedReader[Any]") -> None:
        self._file = bz2.BZ2File(file)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return self._file.readinto(buffer)
        except OSError as error:
            if error.errno is not None:
                raise
            raise _CorruptBz2Error(str(error)) from None

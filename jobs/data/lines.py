"""Lines of source files, compressed or not, whatever is wrong with them."""

import gzip
import hashlib
import io
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_LINE_BYTES = 64 * 2**20
"""Longer lines are bad: they bound the memory that one document can take."""

# Not OSError: a file system that does not answer is no fault of the data, and worth another attempt.
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError)
_NAMED = 5


class SourceLines:
    """The lines of one file, and what was wrong with them. Memory is bounded whatever the file holds.

    A truncated or corrupt compressed file gives what comes before the damage shows, but all its lines
    count as bad, those behind the damage by the rate so far: nothing vouches for them. gzip notices
    damage at the end of the file, after it gave any amount of garbage.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        """Bytes on disk."""
        self.count = 0
        """Lines so far that are not blank, those behind damage among them."""
        self.bad = 0
        """Lines so far that could not be read; all of them if the file is damaged."""
        self.first_bad: list[str] = []
        """The first of them, as `file:line: what is wrong`; damage to the file before all. Quotes no text."""
        self.sha256 = ""
        """Checksum of the file as it lies on disk, once all lines have been read."""
        self._file: io.BufferedReader[Any] | None = None

    @property
    def share_read(self) -> float:
        """How much of the file has been read, from 0 to 1."""
        return self._file.tell() / max(1, self.size) if self._file else float(bool(self.sha256))

    def spoil(self, line: int, what: str) -> None:
        """Count a bad line.

        Args:
            line: 1-based number of the line.
            what: What is wrong with it, in words that quote nothing of it.
        """
        self.bad += 1
        if len(self.first_bad) < _NAMED:
            self.first_bad.append(f"{self.path}:{line}: {what}")

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Give each line that is not blank, with its 1-based number."""
        number = 0
        with _HashedFile(self.path) as raw, io.BufferedReader(raw, 2**17) as file:
            self._file = file
            try:
                for number, line in enumerate(_bounded_lines(_decompressed(file, self.path.suffix)), 1):
                    if line is None:
                        self.count += 1
                        self.spoil(number, f"is longer than {MAX_LINE_BYTES // 2**20} MiB")
                    elif not line.isspace():
                        self.count += 1
                        yield number, line
            except _DAMAGE as error:
                self.first_bad.insert(0, f"{self.path}:{number + 1}: the file is damaged: {error}")
                self.bad = self.count = max(1, round(number / (self.share_read or 1)))
            while file.read(2**20):
                pass
        self._file, self.sha256 = None, raw.checksum.hexdigest()


class _HashedFile(io.FileIO):
    """A file that sums up what is read from it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.checksum = hashlib.sha256()

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        self.checksum.update(memoryview(buffer)[:count])
        return count


def _decompressed(file: "io.BufferedReader[Any]", suffix: str) -> io.BufferedIOBase:
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=file)
    if suffix == ".zst":
        return zstd.ZstdFile(file)
    return file


def _bounded_lines(stream: io.BufferedIOBase) -> Iterator[bytes | None]:
    """Give each line, None in place of one that is too long."""
    while line := stream.readline(MAX_LINE_BYTES):
        is_whole = line.endswith(b"\n") or len(line) < MAX_LINE_BYTES
        yield line if is_whole else None
        while not is_whole:
            rest = stream.readline(2**20)
            is_whole = not rest or rest.endswith(b"\n")

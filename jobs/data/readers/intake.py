"""One source file on its way in: its bytes, decompressed; its checksum; and the account of what could not be read."""

import contextlib
import gzip
import hashlib
import io
import sys
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from jobs.runtime.watchdog import WATCHDOG

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BOM = b"\xef\xbb\xbf"
"""What Windows writes before text in UTF-8; no part of it."""
MAX_RECORD_BYTES = 64 * 2**20
"""Longer lines, rows and XML records are bad: they bound the memory that one document can take."""
MAX_VALUES = 2**21
"""JSON with more values is bad: each takes up to 160 bytes, and an empty list 3 in the file."""

# Not OSError: a file system that does not answer is no fault of the data, and worth another attempt.
DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError)
"""What decompression raises when a file is truncated or corrupt."""

_NAMED = 5
_RECORD_BYTES = 1000
"""Size on disk of a record of a file that gave none: about that of a compressed abstract. A file must not pass for one
bad record because nothing at all could be read of it."""


class Intake:
    """One source file, what came out of it, and what was wrong with it. Memory is bounded whatever the file holds.

    A truncated or corrupt file gives what comes before the damage shows, but all its records count as
    bad, those behind the damage by the rate so far: nothing vouches for them. gzip notices damage at the
    end of the file, after it gave any amount of garbage.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = path.stat()
        self.size = file.st_size
        """Bytes on disk."""
        self.modified_ns = file.st_mtime_ns
        """Time of the file's last change."""
        self.count = 0
        """Records (lines that are not blank, citations, rows) so far, those behind damage among them."""
        self.bad = 0
        """Records so far that could not be read; all of them if the file is damaged."""
        self.first_bad: list[str] = []
        """The first of them, as `file:line: what is wrong`; damage to the file before all. Quotes no text."""
        self.sha256 = ""
        """Checksum of the file as it lies on disk, once all of it has been read."""
        self.deleted = array("Q")
        """Identities of what this file withdraws: documents of it and of files before it (MEDLINE's DeleteCitation)."""
        self.deleted_versions = array("I")
        """Their versions: other versions of the same documents stay."""
        self._file: io.BufferedReader[Any] | None = None

    @property
    def share_read(self) -> float:
        """How much of the file has been read, from 0 to 1."""
        return self._file.tell() / max(1, self.size) if self._file else float(bool(self.sha256))

    def spoil(self, line: int, what: str) -> None:
        """Count a bad record.

        Args:
            line: 1-based number of its (first) line, or of the record where a file has no lines.
            what: What is wrong with it, in words that quote nothing of it.
        """
        self.bad += 1
        if len(self.first_bad) < _NAMED:
            self.first_bad.append(f"{self.path}:{line}: {what}")

    def damage(self, line: int, what: str) -> None:
        """Call the whole file bad: it ends early, or is not what its name says.

        Args:
            line: Where it shows.
            what: What is wrong, in words that quote nothing of it.
        """
        doubt = "" if self.count else ", or of another format"
        unquoted = what.partition(" (b'")[0]  # gzip tells the first bytes of what is not gzipped
        self.first_bad.insert(0, f"{self.path}:{line}: the file is damaged{doubt}: {unquoted}")
        self._spoil_all()

    def misfit(self, what: str) -> None:
        """Call the whole file bad: it is whole, and holds something else than the recipe looks for.

        Args:
            what: What is missing, in words that quote nothing of it.
        """
        self.first_bad.insert(0, f"{self.path}:1: the file does not fit: {what}")
        self._spoil_all()

    def _spoil_all(self) -> None:
        known = self.count / self.share_read if self.count and self.share_read else self.size / _RECORD_BYTES
        self.bad = self.count = max(1, self.count, round(known))

    def withdraw(self, identity: int, version: int) -> None:
        """Say that the file withdraws a version of a document."""
        self.deleted.append(identity)
        self.deleted_versions.append(version)

    @contextlib.contextmanager
    def stream(self) -> Iterator[io.BufferedIOBase]:
        """Open the file, decompressed as its name says; afterwards its checksum is known.

        Damage (see `DAMAGE`) is raised where it shows; the reader catches it and calls `damage`.
        """
        with _HashedFile(self.path) as raw, io.BufferedReader(raw, 2**17) as file:
            self._file = file
            yield _decompressed(file, self.path.suffix)
            while file.read(2**20):
                pass
        self._file, self.sha256 = None, raw.checksum.hexdigest()

    @contextlib.contextmanager
    def seekable(self) -> Iterator["io.BufferedReader[Any]"]:
        """Open the file as it is, for readers that jump about in it; a second pass sums it up afterwards."""
        with self.path.open("rb") as self._file:
            yield self._file
        with self.stream():
            pass

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Give each line that is not blank, with its 1-based number; each is a record."""
        number = 0
        with self.stream() as stream:
            try:
                for number, line in enumerate(_bounded_lines(stream), 1):
                    if number == 1 and line is not None:
                        line = line.removeprefix(BOM)  # noqa: PLW2901
                    if line is None:
                        self.count += 1
                        self.spoil(number, f"is longer than {MAX_RECORD_BYTES // 2**20} MiB")
                    elif line and not line.isspace():
                        self.count += 1
                        yield number, line
            except DAMAGE as error:
                self.damage(number + 1, str(error))


def text_of(raw: bytes) -> str:
    """Decode the text of a document.

    Raises:
        ValueError: it is none; the message quotes nothing of it.
    """
    if b"\0" in raw:
        raise ValueError("holds NUL bytes, as a hole in a file does")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None


def object_of(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: it is none, or holds too much; the message quotes nothing of it.
    """
    if len(raw) > MAX_VALUES and sum(map(raw.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise ValueError(f"has more than {MAX_VALUES:,} values")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        text_of(raw)  # knows better what is wrong with bytes that are no text
        raise ValueError(f"is not JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


class _HashedFile(io.FileIO):
    """A file that sums up what is read from it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.checksum = hashlib.sha256()

    def readinto(self, buffer: Any) -> int:
        WATCHDOG.beat()
        count = super().readinto(buffer)
        self.checksum.update(memoryview(buffer)[:count])
        return count

    def read(self, size: int | None = -1) -> bytes:
        """Read by `readinto`, which sums up; FileIO's own passes by it."""
        if size is None or size < 0:
            return self.readall()
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(buffer)])

    def readall(self) -> bytes:
        """Read the rest."""
        return b"".join(iter(lambda: self.read(2**20), b""))


class _NoStream(io.RawIOBase):
    """What a compressed file of no bytes holds: a copy that failed. gzip takes it for nothing compressed."""

    def readable(self) -> bool:
        """Tell io that it can be read; that raises, as all damage does."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ARG002
        """Fail."""
        raise EOFError("it is empty")


def _decompressed(file: "io.BufferedReader[Any]", suffix: str) -> io.BufferedIOBase:
    if suffix in (".gz", ".tgz"):
        return gzip.GzipFile(fileobj=file) if file.peek(1) else io.BufferedReader(_NoStream())
    if suffix == ".zst":
        return zstd.ZstdFile(file)
    return file


def _bounded_lines(stream: io.BufferedIOBase) -> Iterator[bytes | None]:
    """Give each line, None in place of one that is too long."""
    while line := stream.readline(MAX_RECORD_BYTES):
        is_whole = line.endswith(b"\n") or len(line) < MAX_RECORD_BYTES
        yield line if is_whole else None
        while not is_whole:
            rest = stream.readline(2**20)
            is_whole = not rest or rest.endswith(b"\n")

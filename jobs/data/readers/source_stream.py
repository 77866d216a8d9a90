"""A source file while it is read: its decompressed bytes, its checksum, and what could not be read."""

import contextlib
import hashlib
import io
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import orjson

from jobs.data.readers.bad_records import EXAMPLES, reason_of
from jobs.data.readers.compression import DECOMPRESSION_ERRORS, decompressed
from jobs.rank.watchdog import WATCHDOG

_BOM = b"\xef\xbb\xbf"
_OTHER_ENCODINGS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
"""Byte order marks."""
MAX_RECORD_BYTES = 64 * 2**20
"""Longer lines, rows and XML records are record errors: this bounds the memory that one document can take."""
MAX_VALUES = 2**21
"""JSON with more values is a record error: each takes up to 160 bytes, and an empty list 3 in the file."""


class EncodingError(ValueError):
    """A file is not text in UTF-8."""


UNREADABLE = (*DECOMPRESSION_ERRORS, EncodingError)
"""What reading the text of a file raises when none of it can be trusted."""

_REASONS = 50
_OTHER_REASON = "other reasons"
_VALUES, _VALUE_LENGTH = 1000, 100
"""So many different values of a filter's field are counted, and so long ones, besides those that the recipe names."""
_FIRST_BLOCK = 2**10
"""Bytes on disk that are read at first; later blocks are larger."""
_RECORD_BYTES = 1000
"""Assumed size on disk of a record, where none could be read: such a file must not count as one bad record only."""
T = TypeVar("T")


class SourceStream:
    """One source file, its records so far, and what was wrong with them. Memory is bounded whatever the file holds.

    A truncated or corrupt file gives the records before the damage shows, but all its records count as bad, also those
    behind it (estimated from the bytes that the records so far took): gzip notices damage at the end, after any amount
    of garbage.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = path.stat()
        self.size = file.st_size
        """Bytes on disk."""
        self.modified_ns = file.st_mtime_ns
        """Time of the file's last change."""
        self.count = 0
        """Records so far: lines that are not blank, citations, rows."""
        self.bad = 0
        """Records so far that could not be read; all of them if the file is corrupt."""
        self.first_bad: list[str] = []
        """The first of them for each reason, as `file:line: what is wrong`; what is wrong with the whole file first.
        Quotes no text."""
        self.reasons = Counter[str]()
        """Bad records by what is wrong, see `reason_of`."""
        self.values: Counter[str] | None = None
        """How many records have each value that the source's filter is compared with; see `expect`."""
        self.sha256 = ""
        """Checksum of the file on disk, once all of it has been read."""
        self.deleted = array("Q")
        """Identities of the documents of this and earlier files that this one withdraws (MEDLINE's DeleteCitation)."""
        self.deleted_versions = array("I")
        """Their versions; other versions stay."""
        self._file: io.BufferedReader[Any] | None = None
        self._measured = 0, 0
        """Records that were counted when more of the file was asked for, and its bytes that had been read by then."""

    @property
    def share_read(self) -> float:
        """How much of the file has been read, from 0 to 1."""
        return self._file.tell() / max(1, self.size) if self._file else float(bool(self.sha256))

    def record_error(self, line: int, what: str) -> None:
        """Count a record that cannot be read.

        Args:
            line: 1-based number of its first line, or of the record where a file has no lines.
            what: What is wrong, without quoting the record.
        """
        self.bad += 1
        reason = reason_of(what)
        if reason not in self.reasons and len(self.reasons) >= _REASONS:
            reason = _OTHER_REASON
        self.reasons[reason] += 1
        if self.reasons[reason] <= EXAMPLES:
            self.first_bad.append(f"{self.path}:{line}: {what}")

    def expect(self, names: Iterable[str]) -> None:
        """Begin to count values: these, which the recipe names, and others in bounded memory."""
        self.values = Counter(dict.fromkeys(names, 0))

    def count_values(self, values: Iterable[object]) -> None:
        """Count what one record, or the file, has; does nothing unless values are expected."""
        if self.values is None:
            return
        for value in values:
            has_room = isinstance(value, str) and len(value) <= _VALUE_LENGTH and len(self.values) < _VALUES
            if isinstance(value, str) and (has_room or value in self.values):
                self.values[value] += 1

    def parsed(self, line: int, parse: Callable[[], T]) -> Iterator[T]:
        """Give what a parser makes of a record; if it raises ValueError, count a record error instead."""
        try:
            value = parse()
        except ValueError as error:
            self.record_error(line, str(error))
        else:
            yield value

    def corrupt_file(self, line: int, what: str, records: int | None = None) -> None:
        """Count the whole file as bad: it ends early, or is not what its name says.

        Args:
            line: Where that showed.
            what: What is wrong, without quoting the file.
            records: How many it holds; estimated if that is unknown.
        """
        doubt = "" if self.count else ", or of another format"
        unquoted = what.partition(" (b'")[0]  # gzip's message quotes the first bytes
        self.first_bad.insert(0, f"{self.path}:{line}: the file is corrupt{doubt}: {unquoted}")
        self._reject_all("the file is corrupt", records)

    def schema_mismatch(self, what: str, records: int | None = None) -> None:
        """Count the whole file as bad: it lacks the columns that the recipe names. `what` must not quote it."""
        self.first_bad.insert(0, f"{self.path}:1: schema mismatch: {what}")
        self._reject_all("schema mismatch", records)

    def _reject_all(self, reason: str, records: int | None = None) -> None:
        self.bad = self.count = self._estimated() if records is None else records
        self.reasons[reason] += self.bad - self.reasons.total()

    def _estimated(self) -> int:
        """Estimate how many records the file holds: at least those that were counted."""
        # Not from what has been read by now: behind the last record, that may be any number of bytes.
        found, read = self._measured if self._measured[0] else (self.count, self.share_read * self.size)
        expected = found * self.size / read if found and read else self.size / _RECORD_BYTES
        return max(1, self.count, round(expected))

    def _measure(self, read: int) -> None:
        if self.count > self._measured[0]:
            self._measured = self.count, read

    def withdraw(self, identity: int, version: int) -> None:
        """Note that the file withdraws a version of a document."""
        self.deleted.append(identity)
        self.deleted_versions.append(version)

    @contextlib.contextmanager
    def open(self) -> Iterator[io.BufferedIOBase]:
        """Open the file, decompressed as its name says; afterwards its checksum is known.

        The reader catches DECOMPRESSION_ERRORS and calls `corrupt_file`.
        """
        with _HashedFile(self.path, self._measure) as raw, io.BufferedReader(raw, 2**17) as file:
            self._file = file
            yield decompressed(file, self.path.suffix)
            while file.read(2**20):
                pass
        self._file, self.sha256 = None, raw.checksum.hexdigest()

    @contextlib.contextmanager
    def open_seekable(self) -> Iterator["io.BufferedReader[Any]"]:
        """Open the file for readers that seek in it; a second pass computes the checksum."""
        with self.path.open("rb") as self._file:
            yield self._file
        with _HashedFile(self.path) as raw:
            while raw.read(2**20):
                pass
        self._file, self.sha256 = None, raw.checksum.hexdigest()

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Give each line that is not blank, with its 1-based number; each is a record."""
        number = 0
        with self.open() as stream:
            try:
                for number, line in enumerate(_bounded_lines(stream), 1):
                    if number == 1 and line is not None:
                        line = without_bom(line)  # noqa: PLW2901 - read as if it had none
                    if line is None:
                        self.count += 1
                        self.record_error(number, f"is longer than {MAX_RECORD_BYTES // 2**20} MiB")
                    elif line and not line.isspace():
                        self.count += 1
                        yield number, line
            except EncodingError as error:
                self.corrupt_file(1, str(error))
            except DECOMPRESSION_ERRORS as error:
                self.corrupt_file(number + 1, str(error))


def without_bom(start: bytes) -> bytes:
    """Return the start of a text without the byte order mark that Windows writes before UTF-8.

    Raises:
        EncodingError: the mark is that of another encoding.
    """
    for mark, encoding in _OTHER_ENCODINGS.items():
        if start.startswith(mark):
            raise EncodingError(f"byte {start[0]:#04x} at its start says that it is {encoding}; save it as UTF-8")
    return start.removeprefix(_BOM)


def text_of(raw: bytes) -> str:
    """Decode the text of a document.

    Raises:
        ValueError: it is not text; the message does not quote it.
    """
    if b"\0" in raw:
        raise ValueError("holds NUL bytes, as after a failed copy")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        lines = raw.count(b"\n", 0, error.start)
        where = f" in line {lines + 1} of it" if lines else ""
        raise ValueError(f"byte {raw[error.start]:#04x}{where} is not UTF-8; save the file as UTF-8") from None


def object_of(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: it is not one, or holds too many values; the message does not quote it.
    """
    if len(raw) > MAX_VALUES and sum(map(raw.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise ValueError(f"has more than {MAX_VALUES:,} values")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        text_of(raw)  # explains bytes that are not text
        raise ValueError(f"is not JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


class _HashedFile(io.FileIO):
    """A file that computes the checksum of what is read from it.

    Args:
        path: The file.
        on_read: Called before each read with the bytes read so far.
    """

    def __init__(self, path: Path, on_read: Callable[[int], None] = lambda _: None) -> None:
        super().__init__(path)
        self.checksum = hashlib.sha256()
        self._on_read = on_read
        self._end = 0

    def readinto(self, buffer: Any) -> int:
        WATCHDOG.heartbeat()
        self._on_read(self._end)
        # Blocks grow with the file: what is read ahead of a record is little beside what its predecessors took.
        block = memoryview(buffer)[: max(_FIRST_BLOCK, self._end // 8)]
        count = super().readinto(block)
        self.checksum.update(block[:count])
        self._end += count
        return count

    def read(self, size: int | None = -1) -> bytes:
        # By `readinto`, which updates the checksum; FileIO's own `read` does not call it.
        if size is None or size < 0:
            return self.readall()
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(buffer)])

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(2**20), b""))


def _bounded_lines(stream: io.BufferedIOBase) -> Iterator[bytes | None]:
    """Give each line, None in place of one that is too long."""
    while line := stream.readline(MAX_RECORD_BYTES):
        is_whole = line.endswith(b"\n") or len(line) < MAX_RECORD_BYTES
        yield line if is_whole else None
        while not is_whole:
            rest = stream.readline(2**20)
            is_whole = not rest or rest.endswith(b"\n")

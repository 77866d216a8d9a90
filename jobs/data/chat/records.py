"""JSON records out of source files, in bounded memory, each with the line that it begins in."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from jobs.data.readers.intake import BOM, DAMAGE, MAX_RECORD_BYTES, Intake, object_of

Record: TypeAlias = dict[str, Any]

_CHUNK = 2**20
_COMPRESSED = (".gz", ".zst")

# Possessive (`*+`): a string that is never closed must not be tried in every way it might have been.
_MARK = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\]]', re.DOTALL)
_GAP = re.compile(rb'\s*(?:,\s*)?(?:("[^"\\]*+(?:\\.[^"\\]*+)*+")\s*:\s*)?', re.DOTALL)


def read_records(intake: Intake) -> Iterator[tuple[int, str | None, Record]]:
    """Give each record: the line that it begins in, its key if the file is an object of records, and itself.

    A file that is called `.jsonl`, or whose first line is a record, has a record a line. Any other is one JSON value:
    a list of records, or an object of them.
    """
    records = _lines(intake) if _has_lines(intake.path) or _begins_with_record(intake) else _elements(intake)
    for line, key, raw in records:
        try:
            yield line, key, object_of(raw)
        except ValueError as error:
            intake.spoil(line, str(error))


def _has_lines(path: Path) -> bool:
    name = path.with_suffix("") if path.suffix in _COMPRESSED else path
    return name.suffix in (".jsonl", ".ndjson")


def _begins_with_record(intake: Intake) -> bool:
    """Tell whether the first line is an object with something else than objects in it."""
    with Intake(intake.path).stream() as stream:
        try:
            first = orjson.loads(stream.readline(MAX_RECORD_BYTES).removeprefix(BOM))
        except (orjson.JSONDecodeError, *DAMAGE):
            return False
    return isinstance(first, dict) and not all(isinstance(value, dict) for value in first.values())


def _lines(intake: Intake) -> Iterator[tuple[int, None, bytes]]:
    for number, line in intake.lines():
        yield number, None, line


def _elements(intake: Intake) -> Iterator[tuple[int, str | None, bytes]]:
    """Give what the outermost list or object of a file holds."""
    line = 1
    with intake.stream() as stream:
        scanner = _Scanner()
        try:
            for line, gap, raw in scanner.scan(stream):
                intake.count += 1
                if between := _GAP.fullmatch(gap):
                    yield line, _key(between[1]), raw
                else:
                    intake.spoil(line, "comes after something that is no record")
        except DAMAGE as error:
            scanner.fault = str(error)
    if scanner.fault:
        intake.damage(line, scanner.fault)


def _key(raw: bytes | None) -> str | None:
    return None if raw is None else raw[1:-1].decode(errors="replace")


class _Scanner:
    """Cuts the elements out of one JSON list or object by its brackets. Places count from the start of the file."""

    def __init__(self) -> None:
        self.fault = ""
        """What is wrong with the file as a whole."""
        self._data = b""
        self._first = 0
        """Place of `_data`; what comes before is not needed any more."""
        self._end = 0
        """Where the last element ended."""
        self._line, self._counted = 1, 0
        """Number of the line at a place."""

    def scan(self, stream: io.BufferedIOBase) -> Iterator[tuple[int, bytes, bytes]]:
        """Give each element that is a list or an object: its line, what stands before it, and itself."""
        depth = roots = start = 0
        for bracket, place in self._brackets(stream):
            opens = bracket in b"{["
            depth += 1 if opens else -1
            if opens and depth == 1:
                roots, self._end = roots + 1, place + 1
            elif opens and depth == 2:
                start = place
            elif depth == 1:
                yield self._line_of(start), self._slice(self._end, start), self._slice(start, place + 1)
                self._end = place + 1
        if depth or roots != 1:
            self.fault = self.fault or "it is not one whole list or object of records"

    def _brackets(self, stream: io.BufferedIOBase) -> Iterator[tuple[bytes, int]]:
        """Give each bracket that is not in a string, and its place."""
        place = 0
        while chunk := stream.read1(_CHUNK):  # `read` would lose what comes before damage
            self._forget()
            self._data += chunk
            for mark in _MARK.finditer(self._data, place - self._first):
                if mark[0] == b'"':
                    break  # the string goes on in the next chunk
                place = self._first + mark.end()
                if not mark[0].startswith(b'"'):
                    yield mark[0], place - 1
            if len(self._data) - (self._end - self._first) > MAX_RECORD_BYTES:
                self.fault = f"a record is longer than {MAX_RECORD_BYTES // 2**20} MiB, or never closed"
                return

    def _forget(self) -> None:
        self._line_of(max(self._end, self._counted))
        self._data = self._slice(self._end, self._first + len(self._data))
        self._first = self._end

    def _line_of(self, place: int) -> int:
        self._line += self._data.count(b"\n", self._counted - self._first, place - self._first)
        self._counted = place
        return self._line

    def _slice(self, start: int, end: int) -> bytes:
        return self._data[start - self._first : end - self._first]

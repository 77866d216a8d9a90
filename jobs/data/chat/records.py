"""Read JSON records from source files in bounded memory, each with the line that it begins in."""

import io
import re
from collections.abc import Iterator
from functools import partial
from typing import Any, TypeAlias

import orjson

from jobs.data.readers.compression import format_suffix, start_of
from jobs.data.readers.source_stream import (
    MAX_RECORD_BYTES,
    UNREADABLE,
    SourceStream,
    object_of,
    without_bom,
)

Record: TypeAlias = dict[str, Any]

_CHUNK = 2**20

# Possessive (`*+`): a string that is never closed must not be tried in every way it might have been.
_MARK = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\]]', re.DOTALL)
_GAP = re.compile(rb'\s*(?:,\s*)?(?:("[^"\\]*+(?:\\.[^"\\]*+)*+")\s*:\s*)?', re.DOTALL)


def read_records(stream: SourceStream) -> Iterator[tuple[int, str | None, Record]]:
    """Give each record: the line that it begins in, its key if the file is an object of records, and its content.

    A `.jsonl` file, or one whose first line is a record, has one record per line. Any other is one JSON list or object
    of records.
    """
    has_lines = format_suffix(stream.path) in (".jsonl", ".ndjson") or _begins_with_record(stream)
    records = ((number, None, line) for number, line in stream.lines()) if has_lines else _elements(stream)
    for line, key, raw in records:
        for record in stream.parsed(line, partial(object_of, raw)):
            yield line, key, record


def _begins_with_record(stream: SourceStream) -> bool:
    """Tell whether the first line is an object that holds other things than objects."""
    with start_of(stream.path) as file:
        try:
            first = orjson.loads(without_bom(file.readline(MAX_RECORD_BYTES)))
        except (orjson.JSONDecodeError, *UNREADABLE):
            return False
    return isinstance(first, dict) and not all(isinstance(value, dict) for value in first.values())


def _elements(stream: SourceStream) -> Iterator[tuple[int, str | None, bytes]]:
    """Give the elements of the outermost list or object of a file."""
    line = 1
    with stream.open() as file:
        scanner = _Scanner()
        try:
            for line, gap, raw in scanner.scan(file):
                stream.count += 1
                if between := _GAP.fullmatch(gap):
                    yield line, between[1][1:-1].decode(errors="replace") if between[1] else None, raw
                else:
                    stream.record_error(line, "comes after something that is not a record")
        except UNREADABLE as error:
            scanner.fault = str(error)
    if scanner.fault:
        stream.corrupt_file(line, scanner.fault)


class _Scanner:
    """Cuts the elements out of one JSON list or object by its brackets. Offsets count from the start of the file."""

    def __init__(self) -> None:
        self.fault = ""
        """What is wrong with the file as a whole."""
        self._data = b""
        self._first = 0
        """Offset of `_data`."""
        self._end = 0
        """Where the last element ended."""
        self._line, self._counted = 1, 0
        """Number of the line at an offset."""

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
        while chunk := stream.read1(_CHUNK):  # `read` would lose what comes before corrupt data
            self._forget()
            self._data += chunk if self._data or place else without_bom(chunk)
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

"""Rows of CSV files (RFC 4180, https://www.rfc-editor.org/rfc/rfc4180), in bounded memory whatever the file holds.

A row that is misquoted or too long is skipped; reading goes on at the next line that looks like the start of a row.
A row ends with LF or CRLF; a CR inside an unquoted cell is refused.
"""

# Why not the csv module: it gives no way to go back behind a quote that is never closed. Measured on 2026-11-29 (2
# cores, CPU only): of 200,000 rows with one such quote in the middle this reads 199,999, csv (strict or not) 100,000
# and says nothing about the rest. In 10,000 notes a lost quote costs 1 row and 1 error here; with csv 2 rows, up to
# 60 errors, and without `strict` a wrong text. Speed on notes is the same (120 MB/s); rows of 40 bytes take longer (7
# against 38 MB/s).

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from jobs.data.readers.compression import start_of
from jobs.data.readers.source_stream import MAX_RECORD_BYTES, UNREADABLE, SourceStream, text_of, without_bom

_CHUNK = 2**18
_MAX_CELLS = 1000

# Possessive (`*+`): a quote that is never closed must not be tried in every way it might have been.
_CELL = re.compile(rb'("[^"]*+(?:""[^"]*+)*+"|[^",\r\n][^,\r\n]*+|)(,|\r?\n|\r?\Z)')
_OPEN_QUOTE = re.compile(rb'"[^"]*+(?:""[^"]*+)*+\Z')
_CELL_IN_LINE = rb'(?:"[^"\n]*+(?:""[^"\n]*+)*+"|[^",\r\n][^,\r\n]*+|)'
_NUMBER_IN_LINE = rb'(?:"[0-9]++"|[0-9]++)'
_ANY_LINE = re.compile(rb"\n")

Row: TypeAlias = tuple[str, ...]


def read_rows(stream: SourceStream, columns: Sequence[str], numbers: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """Give the line that each row begins in, counted from 1, and its cells in the wanted columns.

    Args:
        stream: The file; its first row names the columns, in any case.
        columns: Names of the wanted columns.
        numbers: Columns that hold a whole number in every row: they tell the start of a row from a line of text.
    """
    with stream.open() as file:
        window = _RowWindow(file)
        try:
            header = _read_header(window)
            if fault := _fault_of(header, [*columns, *numbers]):
                for _ in _records(stream, window, _ANY_LINE):
                    pass  # counts them
                stream.schema_mismatch(fault)
            else:
                wanted = [header.index(name.casefold()) for name in columns]
                table = _Table(len(header), wanted, {header.index(name.casefold()): name for name in numbers})
                yield from _rows(stream, window, table)
        except UNREADABLE as error:
            stream.corrupt_file(window.line, str(error))


def column_names(path: Path) -> list[str]:
    """Return the names of a file's columns, in lower case, without reading the rest; none if they cannot be read."""
    with start_of(path) as file:
        try:
            return _read_header(_RowWindow(file))
        except UNREADABLE:
            return []


def _read_header(window: "_RowWindow") -> list[str]:
    window.grow()
    window.advance(len(window.data) - len(without_bom(window.data)))
    try:
        cells, end = _parse(window)
    except ValueError:
        return []
    window.advance(end)
    return [cell.decode("utf-8", "replace").strip().casefold() for cell in cells]


def _fault_of(header: list[str], names: Sequence[str]) -> str:
    for name in names:
        if header.count(name.casefold()) != 1:
            return f"its first row names {'several columns' if name.casefold() in header else 'no column'} `{name}`"
    return ""


@dataclass(frozen=True)
class _Table:
    """What the rows of a file look like."""

    width: int
    """Number of columns."""
    wanted: Sequence[int]
    """Indices of the columns to give."""
    numbers: Mapping[int, str]
    """Indices and names of the columns that hold a whole number."""

    def row(self, cells: Sequence[bytes]) -> Row:
        """Return the wanted cells; raise ValueError if this is not a row of the table."""
        if len(cells) != self.width:
            raise ValueError(f"has {len(cells)} columns instead of {self.width}")
        for index, name in self.numbers.items():
            if not cells[index].isdigit():
                raise ValueError(f"its `{name}` is not a whole number")
        return tuple(text_of(cells[index]) for index in self.wanted)

    def row_start(self) -> re.Pattern[bytes]:
        """Return a pattern of a newline and the row behind it up to its last number; without numbers, of a newline."""
        if not self.numbers:
            return _ANY_LINE
        columns = range(max(self.numbers) + 1)
        cells = [_NUMBER_IN_LINE if index in self.numbers else _CELL_IN_LINE for index in columns]
        return re.compile(rb"\n(?=" + rb",".join(cells) + rb"[,\r\n])")


def _rows(stream: SourceStream, window: "_RowWindow", table: _Table) -> Iterator[tuple[int, Row]]:
    for line, cells in _records(stream, window, table.row_start()):
        for row in stream.parsed(line, partial(table.row, cells)):
            yield line, row


def _records(
    stream: SourceStream, window: "_RowWindow", row_start: re.Pattern[bytes]
) -> Iterator[tuple[int, list[bytes]]]:
    """Give the line and the cells of every well-formed row that is not blank."""
    while window.start < len(window.data) or window.grow():
        line = window.line
        try:
            cells, end = _parse(window)
        except ValueError as error:
            stream.count += 1
            stream.record_error(line, str(error))
            window.skip_to(row_start)
        else:
            window.advance(end)
            if cells != [b""]:
                stream.count += 1
                yield line, cells


def _parse(window: "_RowWindow") -> tuple[list[bytes], int]:
    """Return the cells of the row at the window's start, and where it ends; a blank line is a row of one empty cell.

    Raises:
        ValueError: it is not a row; the message does not quote it.
    """
    while True:
        cells, end = _cells(window.data, window.start)
        if end and (window.is_last or window.data.endswith(b"\n", window.start, end)):
            return [_unquoted(cell) for cell in cells], end
        if window.is_last:
            raise ValueError("has a quote that is never closed")
        if not window.grow() and not window.is_last:  # what turns out to be the end is looked at once more
            raise ValueError(f"is longer than {MAX_RECORD_BYTES // 2**20} MiB")


def _cells(data: bytes, start: int) -> tuple[list[bytes], int]:
    """Return the cells from `start`, and where the row or the data end; 0 if a quote is open there."""
    cells: list[bytes] = []
    position = start
    while cell := _CELL.match(data, position):
        cells.append(cell[1])
        position = cell.end()
        if cell[2] != b",":
            return cells, position
        if len(cells) == _MAX_CELLS:
            raise ValueError(f"has more than {_MAX_CELLS} columns")
    if _OPEN_QUOTE.match(data, position):
        return cells, 0
    raise ValueError("has a cell that is not valid CSV")


def _unquoted(cell: bytes) -> bytes:
    return cell[1:-1].replace(b'""', b'"') if cell.startswith(b'"') else cell


class _RowWindow:
    """The part of a stream that is in memory: from the start of the current row."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self.data = b""
        self.start = 0
        """Where the row begins in `data`."""
        self.line = 1
        """Number of the line at `start`."""
        self.is_last = False
        """Whether the stream ends with `data`."""
        self._damage: Exception | None = None

    def grow(self) -> bool:
        """Read on; return False if there is no more, or a row would be too long.

        Raises:
            Exception: one of UNREADABLE, once what comes before the damage has been given.
        """
        if self._damage:
            raise self._damage
        # Twice as much each time: a row is parsed again from its start, and the total stays linear.
        size = len(self.data) - self.start
        missing = min(max(_CHUNK, 2 * size), MAX_RECORD_BYTES) - size
        chunks = [self.data[self.start :]]
        try:
            while missing > 0 and not self.is_last:
                chunks.append(self._stream.read1(min(missing, _CHUNK)))
                missing -= len(chunks[-1])
                self.is_last = not chunks[-1]
        except UNREADABLE as error:
            if not chunks[1:]:
                raise
            self._damage = error
        self.data, self.start = b"".join(chunks), 0
        return len(self.data) > size

    def advance(self, end: int) -> None:
        self.line += self.data.count(b"\n", self.start, end)
        self.start = end

    def skip_to(self, row_start: re.Pattern[bytes]) -> None:
        """Skip the current line and those after it that do not look like the start of a row."""
        while not (match := row_start.search(self.data, self.start)):
            self.advance(max(self.start, self.data.rfind(b"\n", self.start)))  # the last line may go on
            if not self.grow():
                self.advance(len(self.data) - (not self.is_last))
                if self.is_last:
                    return
        self.advance(match.start() + 1)

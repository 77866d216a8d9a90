"""Rows of CSV files (RFC 4180, https://www.rfc-editor.org/rfc/rfc4180), in bounded memory whatever the file holds.

The csv module reads on for as long as a quote stands open, to the end of the file if need be, and does
not say where a row began. Here a row that is misquoted or too long is given up, and the next one begins
at the next line that looks like one. A row ends with LF or CRLF; a CR inside an unquoted cell is no CSV.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from jobs.data.readers.intake import BOM, DAMAGE, MAX_RECORD_BYTES, Intake, text_of

_CHUNK = 2**18
_MAX_CELLS = 1000

# Possessive (`*+`): a quote that is never closed must not be tried in every way it might have been.
_CELL = re.compile(rb'("[^"]*+(?:""[^"]*+)*+"|[^",\r\n][^,\r\n]*+|)(,|\r?\n|\r?\Z)')
_OPEN_QUOTE = re.compile(rb'"[^"]*+(?:""[^"]*+)*+\Z')
_CELL_IN_LINE = rb'(?:"[^"\n]*+(?:""[^"\n]*+)*+"|[^",\r\n][^,\r\n]*+|)'
_NUMBER_IN_LINE = rb'(?:"[0-9]++"|[0-9]++)'
_ANY_LINE = re.compile(rb"\n")

Row: TypeAlias = tuple[str, ...]


def read_rows(intake: Intake, columns: Sequence[str], numbers: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """Give each row's cells in the wanted columns, and the 1-based number of the line that the row begins in.

    Args:
        intake: The file; its first row names the columns.
        columns: Names of the wanted columns, in any case.
        numbers: Columns that hold a whole number in every row: that tells a row from a line of text.
    """
    with intake.stream() as stream:
        window = _Window(stream)
        try:
            header = _read_header(window)
            if fault := _fault_of(header, [*columns, *numbers]):
                for _ in _records(intake, window, _ANY_LINE):
                    pass  # they count
                intake.misfit(fault)
            else:
                wanted = [header.index(name.casefold()) for name in columns]
                table = _Table(len(header), wanted, {header.index(name.casefold()): name for name in numbers})
                yield from _rows(intake, window, table)
        except DAMAGE as error:
            intake.damage(window.line, str(error))


def column_names(path: Path) -> list[str]:
    """Return the names of a file's columns, in lower case; none if its first row cannot be read."""
    with Intake(path).stream() as stream:
        try:
            return _read_header(_Window(stream))
        except DAMAGE:
            return []


def _read_header(window: "_Window") -> list[str]:
    """Take the names of the columns, in lower case; none if the file begins with something else."""
    window.grow()
    window.advance(len(BOM) if window.data.startswith(BOM) else 0)
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
        """Give the wanted cells; raise ValueError if this is no row of the table."""
        if len(cells) != self.width:
            raise ValueError(f"has {len(cells)} columns instead of {self.width}")
        for index, name in self.numbers.items():
            if not cells[index].isdigit():
                raise ValueError(f"its `{name}` is not a whole number")
        return tuple(text_of(cells[index]) for index in self.wanted)

    def row_start(self) -> re.Pattern[bytes]:
        """What a newline and the row behind it look like, up to the last number; any newline without numbers."""
        if not self.numbers:
            return _ANY_LINE
        columns = range(max(self.numbers) + 1)
        cells = [_NUMBER_IN_LINE if index in self.numbers else _CELL_IN_LINE for index in columns]
        return re.compile(rb"\n(?=" + rb",".join(cells) + rb"[,\r\n])")


def _rows(intake: Intake, window: "_Window", table: _Table) -> Iterator[tuple[int, Row]]:
    for line, cells in _records(intake, window, table.row_start()):
        try:
            row = table.row(cells)
        except ValueError as error:
            intake.spoil(line, str(error))
        else:
            yield line, row


def _records(intake: Intake, window: "_Window", row_start: re.Pattern[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Give the line and the cells of everything that is quoted as CSV must be, but for blank lines."""
    while window.start < len(window.data) or window.grow():
        line = window.line
        try:
            cells, end = _parse(window)
        except ValueError as error:
            intake.count += 1
            intake.spoil(line, str(error))
            window.skip_to(row_start)
        else:
            window.advance(end)
            if cells != [b""]:
                intake.count += 1
                yield line, cells


def _parse(window: "_Window") -> tuple[list[bytes], int]:
    """Read on to the end of the row at the window's start.

    Returns:
        Its cells, and where it ends; a blank line is a row of one empty cell.

    Raises:
        ValueError: it is no row; the message quotes nothing of it.
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
    """Give the cells from `start`, and where the row ends or the data are over; 0 if a quote is open there."""
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
    raise ValueError("has a cell that is not quoted as CSV must be")


def _unquoted(cell: bytes) -> bytes:
    return cell[1:-1].replace(b'""', b'"') if cell.startswith(b'"') else cell


class _Window:
    """The part of a stream in hand: from where the row under way begins."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self.data = b""
        self.start = 0
        """Where the row begins in `data`."""
        self.line = 1
        """Number of the line at `start`."""
        self.is_last = False
        """Whether the stream ends with `data`."""

    def grow(self) -> bool:
        """Read on, to twice as much from `start` on: what is looked at again each time stays linear in all.

        Returns:
            False if there is no more, or no row may be longer.
        """
        size = len(self.data) - self.start
        missing = min(max(_CHUNK, 2 * size), MAX_RECORD_BYTES) - size
        pieces = [self.data[self.start :]]
        while missing > 0 and not self.is_last:
            pieces.append(self._stream.read(min(missing, _CHUNK)))
            missing -= len(pieces[-1])
            self.is_last = not pieces[-1]
        self.data, self.start = b"".join(pieces), 0
        return len(self.data) > size

    def advance(self, end: int) -> None:
        """Let go of what comes before `end`."""
        self.line += self.data.count(b"\n", self.start, end)
        self.start = end

    def skip_to(self, row_start: re.Pattern[bytes]) -> None:
        """Leave the line under way and those after it that do not look like the start of a row."""
        while not (match := row_start.search(self.data, self.start)):
            self.advance(max(self.start, self.data.rfind(b"\n", self.start)))  # the last line may go on
            if not self.grow():
                self.advance(len(self.data) - (not self.is_last))
                if self.is_last:
                    return
        self.advance(match.start() + 1)

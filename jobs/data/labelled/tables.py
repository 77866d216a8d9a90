"""Read tables of labelled notes. A row that cannot be used ends the run, since scores must cover all notes."""

import glob
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jobs.data.readers.csv_rows import column_names, read_rows
from jobs.data.readers.source_stream import SourceStream
from jobs.data.readers.text_file import read_text_file
from jobs.scoring.true_labels import TrueLabels
from launcher.errors import LauncherError
from launcher.recipe.names import class_names, column_faults
from launcher.recipe.sections.labelled_notes import CoreNotes, CsvNotes, check_classes

_NAMED = 20
"""Bad rows that a message names."""
PATIENT = "SUBJECT_ID"
"""MIMIC's column of patients; CORe's code leaves it out of its tables, and people may add it."""
_CODE = re.compile(r"[^\s,]+")


@dataclass
class Table:
    """The notes of one split, in the order of their files and rows."""

    ids: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    """The unit of each note (its patient); notes of one unit are not independent of each other."""
    unit_column: str = "id"
    texts: list[str] = field(default_factory=list)
    labels: TrueLabels = field(default_factory=lambda: np.empty(0, np.int64))
    values: Counter[str] = field(default_factory=Counter)
    """How many notes have each value of the label's column, if the recipe lists the classes."""
    sources: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each file by its path."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_row_numbers(self) -> bool:
        """Whether the ids only number the rows, from 0 or 1; where tables were joined, the numbers begin again."""
        return any(_number_rows(self.ids, first) for first in (0, 1))


def read_classes(data: CoreNotes | CsvNotes, locate: Callable[[str], str]) -> tuple[str, ...]:
    """Return the names of the classes, from the recipe or from the file that it names.

    Args:
        data: The recipe's section.
        locate: Makes a glob absolute.

    Raises:
        LauncherError: the file does not exist, is not in UTF-8, or does not list classes.
    """
    if data.class_file is None:
        return data.classes
    pattern = locate(data.class_file)
    paths = [Path(path) for path in sorted(glob.glob(pattern))]
    if not paths:
        raise LauncherError(f"data: the file of classes `{pattern}` does not exist; correct `class_file`")
    classes = tuple(code for path in paths for code in _CODE.findall(read_text_file(path)))
    if complaint := check_classes(classes, data.labels):
        raise LauncherError(f"{paths[0]}: {complaint}")
    return classes


def read_table(
    pattern: str, data: CoreNotes | CsvNotes, classes: Sequence[str], data_use: str = "credentialed"
) -> Table:
    """Read the notes of a split.

    Args:
        pattern: Absolute glob of its files.
        data: The recipe's section.
        classes: Names of all classes.
        data_use: The recipe's: which values of the label's column may be listed.

    Raises:
        LauncherError: no file, no row, or rows that cannot be used; the message does not quote them.
    """
    paths = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]
    table, targets, faults = Table(unit_column=_unit_column(paths, data)), [], _Faults()
    read_label = _label_reader(data, classes)
    for path in paths:
        stream = SourceStream(path)
        if isinstance(data, CsvNotes) and data.classes:
            stream.expect(data.classes)
        for line, (note, text, label, unit) in _rows(stream, data, table.unit_column):
            stream.count_values(_values_in(label, data))
            target = read_label(label) if text.strip() else "its text is empty"
            if isinstance(target, str):
                stream.record_error(line, target)
                faults.add(f"{path}:{line}: {target}")
                continue
            table.ids.append(note)
            table.units.append(unit)
            table.texts.append(text)
            targets.append(target)
        faults.take(stream)
        table.values.update(stream.values or {})
        table.sources[str(path)] = stream.sha256
    faults.refuse(_class_fault([table], data, data_use))
    if not table:
        raise LauncherError(f"data: no note in `{pattern}`; correct the pattern")
    table.labels = _stacked(targets, len(classes)) if data.labels == "multilabel" else np.array(targets, np.int64)
    return table


def require_columns(pattern: str, data: CsvNotes, data_use: str) -> None:
    """Refuse tables that lack a column which the recipe names.

    Args:
        pattern: Absolute glob of the files of a split.
        data: The recipe's section.
        data_use: The recipe's.

    Raises:
        LauncherError: names the key, and the columns that there are.
    """
    for path in sorted(glob.glob(pattern, recursive=True)):
        header = column_names(Path(path))
        if header and (faults := [*column_faults(path, data.named_columns, header, data_use)]):
            raise LauncherError("\n".join(f"{key}: {message}" for key, message in faults))


def require_classes(tables: Iterable[Table], data: CoreNotes | CsvNotes, data_use: str) -> None:
    """Refuse classes of the recipe that no note of any split has.

    Raises:
        LauncherError: names them, and the values that there are.
    """
    if fault := _class_fault(tables, data, data_use):
        raise LauncherError(fault)


def _class_fault(tables: Iterable[Table], data: CoreNotes | CsvNotes, data_use: str) -> str | None:
    if not isinstance(data, CsvNotes):  # the tasks of CORe fix the classes, and rare ones may be absent
        return None
    there = sum((table.values for table in tables), start=Counter[str]())
    fault = class_names(data).fault(there, data_use)
    return fault and f"data.classes: {fault}"


def _number_rows(ids: Sequence[str], first: int) -> bool:
    starts = [place for place, one in enumerate(ids) if one == str(first)]
    lengths = [end - start for start, end in pairwise([*starts, len(ids)])]
    if len(lengths) > 1 and min(lengths) == 1:  # one patient with several notes
        return False
    return ids == [str(first + place) for length in lengths for place in range(length)]


def _values_in(cell: str, data: CoreNotes | CsvNotes) -> list[str]:
    parts = cell.split(",") if data.labels == "multilabel" else [cell]
    return [part.strip() for part in parts if part.strip()]


def _unit_column(paths: Sequence[Path], data: CoreNotes | CsvNotes) -> str:
    """Return the column of the notes' units: the patient, if CORe's tables have it, else the id."""
    has_patients = paths and all(PATIENT.casefold() in column_names(path) for path in paths)
    return PATIENT if data.format == "core" and has_patients else data.columns.id


def _rows(stream: SourceStream, data: CoreNotes | CsvNotes, unit: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    columns = data.columns
    numbers = [columns.id, unit] if data.format == "core" else []
    return read_rows(stream, [columns.id, columns.text, columns.label, unit], numbers)


def _label_reader(data: CoreNotes | CsvNotes, classes: Sequence[str]) -> Callable[[str], int | list[int] | str]:
    """Return a function from a cell to its classes, or to what is wrong with it."""
    numbers = {value: number for number, value in enumerate(data.label_values or classes)}
    column = data.columns.label

    def read_one(cell: str) -> int | str:
        return numbers.get(cell.strip(), f"its `{column}` is none of the {len(classes)} classes")

    def read_several(cell: str) -> list[int] | str:
        codes = [code.strip() for code in cell.split(",") if code.strip()]
        unknown = sum(code not in numbers for code in codes)
        if unknown:
            return f"{unknown} of the {len(codes)} codes in its `{column}` are none of the {len(classes)} classes"
        return [numbers[code] for code in codes]

    return read_several if data.labels == "multilabel" else read_one


def _stacked(targets: Sequence[int | list[int]], classes: int) -> TrueLabels:
    labels = np.zeros((len(targets), classes), np.int64)
    for row, target in zip(labels, targets, strict=True):
        row[target] = 1
    return labels


class _Faults:
    """Rows that cannot be used, over all files of a split."""

    def __init__(self) -> None:
        self._named: list[str] = []
        self._total = 0

    def add(self, message: str) -> None:
        if len(self._named) < _NAMED:
            self._named.append(message)

    def take(self, stream: SourceStream) -> None:
        """Add a file's bad rows, also those that could not be read."""
        self._total += stream.bad
        for message in stream.first_bad:
            if message not in self._named:
                self.add(message)

    def refuse(self, hint: str | None) -> None:
        """Raise LauncherError if there are bad rows; a hint may say what is wrong with many of them."""
        if not self._total:
            return
        more = self._total - len(self._named)
        lines = [*self._named, *([f"and {more} more"] if more > 0 else []), *([hint] if hint else [])]
        raise LauncherError("\n".join([f"data: {self._total} rows cannot be used; correct or remove them", *lines]))


def class_counts(labels: TrueLabels, classes: int) -> NDArray[np.int64]:
    """Count the notes of each class."""
    counts: NDArray[np.int64] = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=classes)
    return counts

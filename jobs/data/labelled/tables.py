"""Reads tables of labelled notes.

A row that cannot be used is named and ends the run: scores have to be those of all notes.
"""

import glob
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from jobs.data.readers.intake import Intake
from jobs.data.readers.rows import column_names, read_rows
from launcher.errors import LauncherError
from launcher.recipe.notes import CoreNotes, CsvNotes, complain_of_classes

_NAMED = 20
"""Bad rows that a message names; it says how many more there are."""
PATIENT = "SUBJECT_ID"
"""MIMIC's column of patients, which CORe's code leaves out of its tables, and people may add."""
_CODE = re.compile(r"[^\s,]+")

Truth: TypeAlias = NDArray[np.int64]
"""The class of each note; multilabel: a row of 0 and 1 for each, a column for each class."""


@dataclass
class Table:
    """The notes of one split, in the order of their files and rows."""

    ids: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    """What each note belongs to: notes of one unit are not independent of each other."""
    unit_column: str = "id"
    """Where that stands."""
    texts: list[str] = field(default_factory=list)
    truth: Truth = field(default_factory=lambda: np.empty(0, np.int64))
    sources: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each file, by its name."""

    def __len__(self) -> int:
        return len(self.ids)


def read_classes(data: CoreNotes | CsvNotes, locate: Callable[[str], str]) -> tuple[str, ...]:
    """Return the names of the classes, from the recipe or from the file that it names.

    Args:
        data: The recipe's section.
        locate: Makes a glob absolute.

    Raises:
        LauncherError: the file is not there, or is no list of classes.
    """
    if data.class_file is None:
        return data.classes
    pattern = locate(data.class_file)
    paths = sorted(glob.glob(pattern))
    if not paths:
        raise LauncherError(f"data: there is no file `{pattern}`, which lists the classes; check the name")
    classes = tuple(code for path in paths for code in _CODE.findall(Path(path).read_text(encoding="utf-8")))
    if complaint := complain_of_classes(classes, data.labels):
        raise LauncherError(f"{paths[0]}: {complaint}")
    return classes


def read_table(pattern: str, data: CoreNotes | CsvNotes, classes: Sequence[str]) -> Table:
    """Read the notes of a split.

    Args:
        pattern: Absolute glob of its files.
        data: The recipe's section.
        classes: Names of all classes.

    Raises:
        LauncherError: no file, no row, or rows that cannot be used; it names the rows and quotes nothing of them.
    """
    paths = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]
    table, targets, faults = Table(unit_column=_unit_column(paths, data)), [], _Faults()
    read_label = _label_reader(data, classes)
    for path in paths:
        intake = Intake(path)
        for line, (note, text, label, unit) in _rows(intake, data, table.unit_column):
            target = read_label(label) if text.strip() else "its text is empty"
            if isinstance(target, str):
                intake.spoil(line, target)
                faults.add(f"{path}:{line}: {target}")
                continue
            table.ids.append(note)
            table.units.append(unit)
            table.texts.append(text)
            targets.append(target)
        faults.take(intake)
        table.sources[path.name] = intake.sha256
    faults.refuse()
    if not table:
        raise LauncherError(f"data: no note in `{pattern}`; check the pattern")
    table.truth = _stacked(targets, len(classes)) if data.labels == "multilabel" else np.array(targets, np.int64)
    return table


def _unit_column(paths: Sequence[Path], data: CoreNotes | CsvNotes) -> str:
    """Choose the column that says which notes belong together: the patient's, if CORe's tables have it, else the id."""
    has_patients = paths and all(PATIENT.casefold() in column_names(path) for path in paths)
    return PATIENT if data.format == "core" and has_patients else data.columns.id


def _rows(intake: Intake, data: CoreNotes | CsvNotes, unit: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    columns = data.columns
    numbers = [columns.id, unit] if data.format == "core" else []
    return read_rows(intake, [columns.id, columns.text, columns.label, unit], numbers)


def _label_reader(data: CoreNotes | CsvNotes, classes: Sequence[str]) -> Callable[[str], int | list[int] | str]:
    """Return what turns a cell into classes, or into what is wrong with it."""
    numbers = {value: number for number, value in enumerate(data.label_values or classes)}
    column = data.columns.label

    def read_one(cell: str) -> int | str:
        return numbers.get(cell.strip(), f"its `{column}` is none of the {len(classes)} classes")

    def read_several(cell: str) -> list[int] | str:
        parts = [part.strip() for part in cell.split(",") if part.strip()]
        unknown = sum(part not in numbers for part in parts)
        if unknown:
            return f"{unknown} of the {len(parts)} codes in its `{column}` are none of the {len(classes)} classes"
        return [numbers[part] for part in parts]

    return read_several if data.labels == "multilabel" else read_one


def _stacked(targets: Sequence[int | list[int]], classes: int) -> Truth:
    truth = np.zeros((len(targets), classes), np.int64)
    for row, target in zip(truth, targets, strict=True):
        row[target] = 1
    return truth


class _Faults:
    """Rows that cannot be used, over all files of a split."""

    def __init__(self) -> None:
        self._named: list[str] = []
        self._total = 0

    def add(self, message: str) -> None:
        if len(self._named) < _NAMED:
            self._named.append(message)

    def take(self, intake: Intake) -> None:
        """Count a file's bad rows; those that could not be read are named by its intake."""
        self._total += intake.bad
        for message in intake.first_bad:
            if message not in self._named:
                self.add(message)

    def refuse(self) -> None:
        """Raise LauncherError if there are any."""
        if not self._total:
            return
        more = self._total - len(self._named)
        lines = [*self._named, f"and {more} more"] if more > 0 else self._named
        raise LauncherError("\n".join([f"data: {self._total} rows cannot be used; correct or remove them", *lines]))


def absent_classes(table: Table, classes: Sequence[str]) -> list[str]:
    """Name the classes that no note of a table has."""
    counts = class_counts(table.truth, len(classes))
    return [name for name, count in zip(classes, counts, strict=True) if not count]


def class_counts(truth: Truth, classes: int) -> NDArray[np.int64]:
    """Count the notes of each class."""
    counts: NDArray[np.int64] = truth.sum(axis=0) if truth.ndim == 2 else np.bincount(truth, minlength=classes)
    return counts

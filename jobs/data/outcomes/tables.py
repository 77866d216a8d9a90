"""Read MIMIC's tables but for the notes: admissions, codes, labels of ventilation, lists of patients."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TypeVar

from jobs.data.outcomes.rules import ICD_VERSIONS, Grouping
from jobs.data.readers.csv_rows import Row, column_names, read_rows
from jobs.data.readers.source_stream import SourceStream
from jobs.rank.stop_flag import STOP
from launcher.recipe.sections.labelled_notes import NoteSplit
from launcher.recipe.sections.outcome_tables import LABEL_COLUMNS, PATIENT_COLUMN, SPLIT_COLUMN, TableColumns

_ROWS = 1000
"""Rows between two looks for a request to stop."""
_WHOLE = re.compile(r"([0-9]+)(?:\.0)?")
_LABEL_SPLITS: dict[str, NoteSplit] = {"train": "train", "val": "validation", "test": "test"}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Admission:
    """What the table of admissions says about one."""

    patient: int
    seconds: int
    """Length of the stay; negative if the table has it end before it starts."""
    is_newborn: bool
    died: bool


@dataclass
class Codes:
    """Diagnoses or procedures."""

    groups: dict[int, list[str]] = field(default_factory=dict)
    """The groups of each admission, each once, in the order of the table."""
    classes: dict[str, None] = field(default_factory=dict)
    """All groups of the table, in its order."""


def whole(cell: str, column: str) -> int:
    """Read a whole number, also as pandas writes one in a column with gaps (`8001.0`).

    Raises:
        ValueError: it is none; the message does not quote it.
    """
    if match := _WHOLE.fullmatch(cell.strip()):
        return int(match[1])
    raise ValueError(f"its `{column}` is not a whole number")


def records(
    stream: SourceStream, columns: Sequence[str], numbers: Sequence[str], parse: Callable[[Row], T]
) -> Iterator[tuple[int, T]]:
    """Give each row's line and what a parser makes of its cells; its ValueErrors are bad records.

    Raises:
        StopRequested: a stop was asked for.
    """
    for count, (line, row) in enumerate(read_rows(stream, columns, numbers)):
        if count % _ROWS == 0:
            STOP.raise_if_requested()
        for value in stream.parsed(line, partial(parse, row)):
            yield line, value


def read_admissions(stream: SourceStream, columns: TableColumns, left_out: Counter[str]) -> dict[int, Admission]:
    """Read admissions by their number.

    A second row that says the same is left out. One that says something else is a bad record, and that admission is
    not used, since nothing tells which row is right.
    """
    started, ended, _, flag = columns.stay

    def parse(row: Row) -> tuple[int, Admission]:
        patient, number, start, end, kind, died = row
        stay = _time(end, ended) - _time(start, started)
        seconds = 86_400 * stay.days + stay.seconds
        return int(number), Admission(int(patient), seconds, kind.strip() == "NEWBORN", bool(_class(died, flag)))

    admissions: dict[int, Admission] = {}
    numbers = (columns.patient, columns.admission)
    contradicted = set[int]()
    for line, (number, admission) in records(stream, columns.admissions, numbers, parse):
        if number not in admissions:
            admissions[number] = admission
        elif admissions[number] == admission:
            left_out["copy"] += 1
        else:
            stream.record_error(line, f"its `{columns.admission}` is that of an earlier row, which says otherwise")
            contradicted.add(number)
    return {number: admission for number, admission in admissions.items() if number not in contradicted}


def read_codes(
    stream: SourceStream,
    columns: TableColumns,
    admissions: Mapping[int, Admission],
    group: Grouping,
    left_out: Counter[str],
) -> Codes:
    """Read the codes of admissions as groups. Rows without a code are counted as left out."""

    def parse(row: Row) -> tuple[int, str]:
        patient, number, code, version = row if len(columns.code) > 1 else (*row, ICD_VERSIONS[0])
        admission = admissions.get(int(number))
        if admission and admission.patient != int(patient):
            raise ValueError(f"its `{columns.patient}` is not that of its admission")
        if version.strip() not in ICD_VERSIONS:
            raise ValueError(f"its `{columns.code[1]}` is neither 9 nor 10")
        code = code.strip()
        if "," in code or len(code.split()) > 1:  # they separate codes in what is made of them
            raise ValueError(f"its `{columns.code[0]}` is not a code")
        return int(number), group(code, version.strip()) if code.strip(".") else ""

    codes = Codes()
    numbers = (columns.patient, columns.admission)
    names: dict[str, str] = {}  # one object for each group
    for _, (number, name) in records(stream, columns.codes, numbers, parse):
        if not name:
            left_out["no_code"] += 1
            continue
        codes.classes[name] = None
        groups = codes.groups.setdefault(number, [])
        if name not in groups:
            groups.append(names.setdefault(name, name))
    return codes


def read_labels(stream: SourceStream) -> dict[int, tuple[int, NoteSplit | None]]:
    """Read labels of ventilation by admission, and the split of each where the table names it."""
    has_split = SPLIT_COLUMN in column_names(stream.path)
    admission, label = LABEL_COLUMNS
    columns = (*LABEL_COLUMNS, *([SPLIT_COLUMN] if has_split else []))

    def parse(row: Row) -> tuple[int, int, NoteSplit | None]:
        split = row[2].strip() if has_split else ""
        if has_split and split not in _LABEL_SPLITS:
            raise ValueError(f"its `{SPLIT_COLUMN}` is none of {', '.join(_LABEL_SPLITS)}")
        return int(row[0]), _class(row[1], label), _LABEL_SPLITS.get(split)

    labels: dict[int, tuple[int, NoteSplit | None]] = {}
    for line, (number, value, split) in records(stream, columns, (admission,), parse):
        if number in labels:
            stream.record_error(line, f"its `{admission}` is that of an earlier row")
        else:
            labels[number] = value, split
    return labels


def read_patients(stream: SourceStream, split: NoteSplit, lists: dict[int, NoteSplit]) -> None:
    """Add a list of patients; one who is in another split already is a bad record."""
    columns = (PATIENT_COLUMN,)
    for line, patient in records(stream, columns, columns, lambda row: int(row[0])):
        if lists.setdefault(patient, split) != split:
            stream.record_error(line, f"its `{PATIENT_COLUMN}` is in the list of another split as well")


def _time(cell: str, column: str) -> datetime:
    try:
        return datetime.fromisoformat(cell.strip()).replace(tzinfo=None)
    except ValueError:
        raise ValueError(f"its `{column}` is not a time") from None


def _class(cell: str, column: str) -> int:
    value = whole(cell, column)
    if value > 1:
        raise ValueError(f"its `{column}` is neither 0 nor 1")
    return value

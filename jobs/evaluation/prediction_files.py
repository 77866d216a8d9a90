"""Read predictions that some program has saved: Parquet, CSV or JSON lines with a row for each note."""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from jobs.data.chat.records import read_records
from jobs.data.corpus.file_list import matching
from jobs.data.readers.arrow_columns import fault_of_error
from jobs.data.readers.compression import format_suffix
from jobs.data.readers.source_stream import SourceStream
from jobs.data.readers.text_file import csv_text, read_content
from jobs.evaluation.item_ids import numbered, text_or_nothing
from jobs.evaluation.question_files import check_bad
from jobs.rank.context import Context
from jobs.scoring.classification import Predictions
from launcher.artifacts.scores import ScoredFile
from launcher.errors import LauncherError
from launcher.recipe.base import nearest_first
from launcher.recipe.sections.classification_task import ClassificationTask
from launcher.recipe.sections.labelled_notes import check_classes

_PROBABILITY = "p_"
_ROUNDING = 1e-3
"""By how much probabilities of exclusive classes may miss 1: files often hold few digits."""


@dataclass(frozen=True)
class SavedPredictions:
    """The rows of all files."""

    ids: tuple[str, ...]
    """Unique: notes of one id are numbered in their order, `x`, `x#2`."""
    groups: tuple[str, ...]
    """What rows share that are not independent; their ids, if nothing is named. Empty for a note that names nothing: it
    stands alone."""
    classes: tuple[str, ...]
    found: Predictions
    files: tuple[ScoredFile, ...]
    bad: int
    """Rows that could not be read."""

    @property
    def units(self) -> list[str]:
        """What is resampled together: notes of a group, or a note that has none."""
        return [
            f"group {group}" if group else f"note {name}" for group, name in zip(self.groups, self.ids, strict=True)
        ]


@dataclass(frozen=True)
class _Prediction:
    id: str
    group: str
    label: list[int]
    """Of each class 1 if the note has it."""
    chances: list[float]


def read_predictions(context: Context, task: ClassificationTask, key: str, limit: float) -> SavedPredictions:
    """Read the predictions of a task.

    Args:
        context: Knows where files are.
        task: The section.
        key: Of the task in the recipe.
        limit: Share of rows that may be unreadable.

    Raises:
        LauncherError: files or columns are missing, or too many rows cannot be used.
    """
    streams = [SourceStream(path) for path in matching(context, f"{key}.files", task.files)]
    columns = _columns(streams[0].path, key)
    classes = task.classes or tuple(
        name.removeprefix(_PROBABILITY) for name in columns if name.startswith(_PROBABILITY)
    )
    if complaint := check_classes(classes, task.labels):
        raise LauncherError(f"{key}.classes: {complaint}")
    rows: list[_Prediction] = []
    for stream in streams:
        _require(task, classes, _columns(stream.path, key), stream.path, key)
        for line, record in _records(stream):
            rows += stream.parsed(line, partial(_row, record, task, classes))
    check_bad(streams, f"{key}.files", limit)
    if not rows:
        raise LauncherError(f"{key}.files: there are no rows in `{streams[0].path}`")
    labels = np.array([row.label for row in rows], np.int64)
    truth = labels if task.labels == "multilabel" else labels.argmax(axis=1)
    found = Predictions(truth, np.array([row.chances for row in rows], np.float64), task.labels)
    files = tuple(ScoredFile(path=str(stream.path), sha256=stream.sha256) for stream in streams)
    ids, groups = numbered([row.id for row in rows]), tuple(row.group for row in rows)
    return SavedPredictions(tuple(ids), groups, classes, found, files, sum(stream.bad for stream in streams))


def _columns(path: Path, key: str) -> list[str]:
    """Return the names of a file's columns; of JSON lines those of the first record."""
    if format_suffix(path) == ".parquet":
        with _naming(path), parquet.ParquetFile(path) as table:
            return [str(name) for name in table.schema_arrow.names]
    stream = SourceStream(path)
    _, first = next(_records(stream), (0, {}))
    if not first and stream.first_bad:
        raise LauncherError(f"{key}.files: {stream.first_bad[0]}; write the file again")
    return [*first]


def _require(task: ClassificationTask, classes: Sequence[str], columns: Sequence[str], path: Path, key: str) -> None:
    wanted = {"id_column": task.id_column, "label_column": task.label_column, "group_column": task.group_column}
    named = [(f"{key}.{name}", column) for name, column in wanted.items() if column]
    if task.prediction_column:
        named.append((f"{key}.prediction_column", task.prediction_column))
    else:
        named += [(f"{key}.classes", f"{_PROBABILITY}{name}") for name in classes]
    for place, column in named:
        if column not in columns:
            raise LauncherError(
                f"{place}: `{path}` has no column `{column}`; there are {nearest_first(column, columns) or 'none'}"
            )


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name a Parquet file that pyarrow cannot read."""
    try:
        yield
    except (pyarrow.ArrowException, UnicodeError, OSError) as error:
        raise LauncherError(f"{path}: {fault_of_error(error)}; write the Parquet file again") from None


def _records(stream: SourceStream) -> Iterator[tuple[int, Mapping[str, Any]]]:
    match format_suffix(stream.path):
        case ".parquet":
            yield from _parquet_rows(stream)
        case ".csv":
            yield from _csv_rows(stream)
        case _:
            yield from ((line, record) for line, _, record in read_records(stream))


def _parquet_rows(stream: SourceStream) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with _naming(stream.path), parquet.ParquetFile(stream.path) as table:
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                stream.count += 1
                yield stream.count, row
    with stream.open():
        pass  # computes the checksum


def _csv_rows(stream: SourceStream) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with csv_text(stream.path, read_content(stream)) as text:
        reader = csv.DictReader(text, restval="")
        for row in reader:
            stream.count += 1
            yield reader.line_num, row


def _row(record: Mapping[str, Any], task: ClassificationTask, classes: Sequence[str]) -> _Prediction:
    name = text_or_nothing(record.get(task.id_column))
    if not name:
        raise ValueError(f"has no `{task.id_column}`")
    label = _flags(record.get(task.label_column), task, classes, task.label_column)
    if task.prediction_column:
        chances = [float(one) for one in _flags(record.get(task.prediction_column), task, classes, "prediction")]
    else:
        chances = [_chance(record.get(f"{_PROBABILITY}{one}")) for one in classes]
        if task.labels != "multilabel" and abs(sum(chances) - 1) > _ROUNDING:
            raise ValueError(f"its probabilities add up to {sum(chances):.4f}, not to 1")
    group = text_or_nothing(record.get(task.group_column)) if task.group_column else name
    return _Prediction(name, group, label, chances)


def _flags(value: Any, task: ClassificationTask, classes: Sequence[str], column: str) -> list[int]:
    if task.labels == "multilabel":
        names = value if isinstance(value, list) else [one.strip() for one in str(value or "").split(",")]
        chosen = {str(one) for one in names if str(one)}
    else:
        chosen = {str(value)}
    if chosen - {*classes}:
        raise ValueError(f"its `{column}` is none of the {len(classes)} classes")
    return [int(name in chosen) for name in classes]


def _chance(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError("a probability of it is no number from 0 to 1")
    return number

"""Publish the scores of an evaluation. Items hold no prompt and no source text beside the predicted answer."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from jobs.evaluation.contamination import TrainingData
from jobs.evaluation.report import TaskReport
from jobs.rank.atomic_files import staging_path, write_durably
from jobs.rank.context import Context
from launcher.artifacts.scores import FIXED_COLUMNS, ITEMS, EvaluationScores, TaskScores, Training, plus_minus
from launcher.run.paths import SCORES

_LIBRARIES = ("torch", "transformers", "tokenizers", "peft")


def publish_evaluation(
    context: Context,
    model: dict[str, Any],
    trained_on: TrainingData,
    reports: Mapping[str, TaskReport],
    left_out: Sequence[str] = (),
    trainings: Sequence[Training] = (),
) -> Iterator[None]:
    """Write `items.parquet` and finally `scores.json`; for rank 0.

    Args:
        context: The run.
        model: Describes what was evaluated; empty where no task needs a model.
        trained_on: What the notes of each task tell of.
        reports: By the name of the task.
        left_out: Names of the tasks whose files are not there.
        trainings: Of the model and its adapters.
    """
    outputs = context.run.outputs
    outputs.mkdir(parents=True, exist_ok=True)
    staging = staging_path(outputs / ITEMS)
    parquet.write_table(_table(reports), staging)
    staging.replace(outputs / ITEMS)
    yield
    content = EvaluationScores(
        run=context.record.id,
        name=context.recipe.name,
        data_use=context.recipe.data_use,
        model=model,
        versions={name: version(name) for name in _LIBRARIES} | {"launcher": context.code_version},
        trainings=tuple(trainings),
        tasks={name: _noted(report.scores, trained_on) for name, report in reports.items()},
        notes=tuple(f"left out, since its files are not there: {name}" for name in left_out),
    )
    write_durably(outputs / SCORES, content.model_dump_json(indent=1) + "\n")


def _noted(scores: TaskScores, trained_on: TrainingData) -> TaskScores:
    return scores.model_copy(update={"notes": (*scores.notes, *trained_on.notes(scores))})


def is_published(outputs: Path) -> bool:
    """Tell whether the scores are there."""
    return (outputs / SCORES).is_file()


def read_items(outputs: Path) -> list[dict[str, Any]]:
    """Return the rows of items.parquet."""
    rows: list[dict[str, Any]] = parquet.read_table(outputs / ITEMS).to_pylist()
    return rows


def describe(scores: EvaluationScores) -> str:
    """Say the scores in a line for each task, and what a reader has to know."""
    lines = []
    for name, task in scores.tasks.items():
        said = [
            f"{metric} {_number(score.value)}{_error(score.standard_error)}" for metric, score in task.scores.items()
        ]
        counted = [f"{count:,} {what}" for what, count in task.counts.items()]
        lines.append(f"{name}: {task.n:,} items  {'  '.join(said)}" + (f"  ({'; '.join(counted)})" if counted else ""))
        lines += [f"  {note}" for note in task.notes]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _error(value: float | None) -> str:
    return "" if value is None else f" {plus_minus(sys.stdout.encoding)}{value:.4f}"


def _table(reports: Mapping[str, TaskReport]) -> pyarrow.Table:
    rows = [{"task": name, **item} for name, report in reports.items() for item in report.items]
    metrics = sorted({key for row in rows for key in row} - {*FIXED_COLUMNS})
    columns: dict[str, Any] = {name: [_text(row.get(name)) for row in rows] for name in FIXED_COLUMNS}
    columns |= {name: pyarrow.array([row.get(name) for row in rows], pyarrow.float64()) for name in metrics}
    return pyarrow.table(columns)


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)

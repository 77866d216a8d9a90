"""Tasks of `type: classification`: saved predictions, scored by the metrics of `kind: classify`."""

import math
from collections.abc import Sequence
from itertools import compress
from typing import Any

import numpy as np

from jobs.evaluation.batches import Batches, Row
from jobs.evaluation.prediction_files import SavedPredictions, read_predictions
from jobs.evaluation.report import PreparedTask, TaskReport, TaskSettings, digest, nonzero, text_digest
from jobs.rank.context import Context
from jobs.rank.watchdog import WATCHDOG
from jobs.scoring.bootstrap import Bootstrap, losses_of_notes, units_of
from jobs.scoring.classification import compute_scores
from launcher.artifacts.scores import Score, TaskScores
from launcher.recipe.kinds.classify import LOWER_IS_BETTER
from launcher.recipe.sections.classification_task import ClassificationTask

_OF_DECISIONS = ("accuracy", "macro_f1", "micro_f1", "f1")
"""Scores that need no probabilities."""
_HEADLINES = ("auroc", "accuracy", "macro_f1")


def prepare_classification(context: Context, recipe: TaskSettings, task: ClassificationTask, key: str) -> PreparedTask:
    """Read the predictions of a task; there is nothing to compute before its report.

    Args:
        context: Knows where files are.
        recipe: The run's.
        task: The section.
        key: Of the task in the recipe.

    Raises:
        LauncherError: the predictions cannot be used.
    """
    saved = read_predictions(context, task, key, recipe.max_bad_fraction)
    items = _identity(saved)

    def work(numbers: Sequence[int]) -> list[Row]:
        return [{"item": number} for number in numbers]

    def report(rows: Sequence[Row]) -> TaskReport:
        settings = task.model_dump(mode="json", exclude_none=True) | {"classes": [*saved.classes]}
        counts = {
            "unreadable records": saved.bad,
            "classes that ranking scores leave out": saved.found.skipped_classes,
            f"notes without a `{task.group_column}`": saved.groups.count(""),
        }
        scores = _scores(saved, task, recipe.seed)
        its = TaskScores(
            type="classification",
            headline=next(name for name in _HEADLINES if name in scores),
            n=len(rows),
            scores=scores,
            lower_is_better=tuple(sorted(LOWER_IS_BETTER & scores.keys())),
            counts=nonzero(counts),
            files=saved.files,
            items_sha256=items,
            settings=settings,
        )
        return TaskReport(its, _items(saved, has_chances=task.prediction_column is None))

    identity = digest(items, [file.sha256 for file in saved.files])
    return PreparedTask(Batches(task.name, identity, [tuple(range(len(saved.ids)))], work), report)


def _identity(saved: SavedPredictions) -> str:
    """Return a checksum of classes, notes and labels, whatever the order of rows and classes: programs differ in it."""
    has_positive = saved.found.label_type == "binary"  # the second class
    labels = ([*compress(saved.classes, flags)] for flags in saved.found.indicators)
    notes = sorted((name, *sorted(its)) for name, its in zip(saved.ids, labels, strict=True))
    return digest(saved.classes if has_positive else sorted(saved.classes), notes)


def _scores(saved: SavedPredictions, task: ClassificationTask, seed: int) -> dict[str, Score]:
    bootstrap = Bootstrap(saved.found, units_of(saved.units), task.resamples, seed)
    for _ in bootstrap.compute():
        WATCHDOG.heartbeat()
    intervals, units = bootstrap.intervals(), len(set(saved.units))
    return {
        name: Score(
            value=_known(value),
            standard_error=_spread(bootstrap.values[name]),
            low=_known(intervals[name][0]),
            high=_known(intervals[name][1]),
            n=len(saved.ids),
            clusters=units if units < len(saved.ids) else None,
        )
        for name, value in compute_scores(saved.found).items()
        if task.prediction_column is None or name in _OF_DECISIONS
    }


def _spread(values: Sequence[float]) -> float | None:
    """Return the bootstrap's standard error (Efron & Tibshirani 1993, chapter 6)."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.std(known, ddof=1)) if len(known) > 1 else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _items(saved: SavedPredictions, has_chances: bool) -> list[dict[str, Any]]:
    found, grouped = saved.found, len(set(saved.units)) < len(saved.ids)
    right = (found.decisions == found.indicators).all(axis=1)
    losses = losses_of_notes(found) if has_chances else None
    return [
        {
            "id": name,
            "group": saved.groups[number] if grouped else "",
            "prompt_sha256": text_digest(name),
            "prediction": _named(found.decisions[number], saved.classes),
            "answer": _named(found.indicators[number], saved.classes),
            "details": {"probabilities": found.probabilities[number].tolist()} if has_chances else None,
            "accuracy": float(right[number]),
            **({} if losses is None else {"log_loss": float(losses[number])}),
        }
        for number, name in enumerate(saved.ids)
    ]


def _named(flags: Any, classes: Sequence[str]) -> str:
    return ",".join(compress(classes, flags))

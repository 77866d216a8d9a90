"""Scores of several models beside one another, and how each differs from a baseline."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from launcher.artifacts.scores import Score
from launcher.errors import LauncherError
from launcher.recipe.base import nearest_first
from launcher.scores.differences import (
    LEVEL,
    PERPLEXITIES,
    PairedDifference,
    difference_of,
    holm,
    perplexity_difference,
)
from launcher.scores.items import TaskItems, TaskResult, explain_other_items, read_items
from launcher.scores.notes import notes_on
from launcher.scores.scored_model import ScoredModel

ALL = "all"
"""Stands for every metric."""
_EQUAL = 1e-6
"""Relative difference between a score and what its items come to that is more than rounding."""


@dataclass(frozen=True)
class ComparedScore:
    """A score of a model in a task."""

    task: str
    metric: str
    model: str
    """Its label."""
    score: Score
    lower_is_better: bool
    difference: PairedDifference | None = None
    """From the baseline's score; None for the baseline, and where a note says that there is none."""
    p_holm: float | None = None
    """p of the difference, after Holm's correction for all differences of the comparison."""

    @property
    def is_marked(self) -> bool:
        """Whether the difference is significant."""
        return self.p_holm is not None and self.p_holm < LEVEL

    @property
    def is_better(self) -> bool:
        """Whether the model is better than the baseline."""
        return self.difference is not None and (self.difference.value < 0) == self.lower_is_better


@dataclass(frozen=True)
class Comparison:
    """What comparing evaluations came to."""

    models: tuple[ScoredModel, ...]
    """The baseline first."""
    rows: tuple[ComparedScore, ...]
    """By task, metric and model, in this order."""
    notes: tuple[str, ...]
    """What a reader has to know to judge the scores."""

    @property
    def baseline(self) -> str:
        """Label of the model that the others are compared with."""
        return self.models[0].label

    @property
    def tests(self) -> int:
        """Number of differences that Holm's correction counts."""
        return sum(row.p_holm is not None for row in self.rows)

    def blocks(self) -> dict[tuple[str, str], list[ComparedScore]]:
        """Return the rows by task and metric."""
        found: dict[tuple[str, str], list[ComparedScore]] = {}
        for row in self.rows:
            found.setdefault((row.task, row.metric), []).append(row)
        return found


class _UnpairedError(Exception):
    """Scores that have no paired difference; the message says why."""


def compare(models: Sequence[ScoredModel], baseline: ScoredModel, metrics: Sequence[str] = ()) -> Comparison:
    """Compare the scores of models with those of a baseline, item by item.

    Args:
        models: Models, with the baseline among them. If it is the only one, nothing is compared.
        baseline: What the others are compared with.
        metrics: What to show; `all` for everything, none for the headline of each task.

    Raises:
        LauncherError: no two models were scored in the same task, or they were scored on other items, or no task has
            such a metric; all of these are reported at once.
    """
    ordered = [baseline, *(model for model in models if model is not baseline)]
    chosen = choose_metrics(baseline, ordered, metrics)
    items = {model.label: read_items(model.folder) for model in ordered} if len(ordered) > 1 else {}
    refuse_other_items(ordered, items)
    rows, unpaired = [], []
    for task, metric in chosen:
        for model in ordered:
            if task in model.scores.tasks and metric in model.scores.tasks[task].scores:
                row = _row(model, task, metric)
                try:
                    row = replace(row, difference=_difference(row, model, baseline, items))
                except _UnpairedError as error:
                    unpaired.append(f"`{task}`: no difference of `{metric}` for `{model.label}`: {error}")
                rows.append(row)
    return Comparison(tuple(ordered), tuple(_corrected(rows)), (*unpaired, *notes_on(ordered)))


def choose_metrics(
    baseline: ScoredModel, models: Sequence[ScoredModel], metrics: Sequence[str]
) -> list[tuple[str, str]]:
    """Return pairs of task and metric, in the baseline's order.

    Args:
        baseline: What the others are compared with.
        models: All models.
        metrics: What the user asks for; `all` for everything, none for the headline of each task.

    Raises:
        LauncherError: no task has a metric, or no task is the baseline's and another model's.
    """
    others = [model for model in models if model is not baseline]
    tasks = {
        name: task
        for name, task in baseline.scores.tasks.items()
        if not others or any(name in other.scores.tasks for other in others)
    }
    if not tasks:
        theirs = "; ".join(f"`{model.label}`: {', '.join(model.scores.tasks)}" for model in models)
        raise LauncherError(f"`{baseline.label}` has no task in common with another model: {theirs}")
    known = list(dict.fromkeys(metric for task in tasks.values() for metric in task.scores))
    if unknown := [metric for metric in metrics if metric != ALL and metric not in known]:
        listed = nearest_first(unknown[0], known)
        raise LauncherError(f"--metric {unknown[0]}: no task has such a metric; there are {listed}")
    if ALL in metrics:
        return [(name, metric) for name, task in tasks.items() for metric in task.scores]
    if not metrics:
        return [(name, task.headline) for name, task in tasks.items()]
    return [(name, metric) for name, task in tasks.items() for metric in metrics if metric in task.scores]


def refuse_other_items(models: Sequence[ScoredModel], items: Mapping[str, Mapping[str, TaskItems]]) -> None:
    """Refuse models that were not scored on the same items with the same prompts.

    Args:
        models: The baseline first.
        items: Of each model's label, by task.

    Raises:
        LauncherError: names all tasks whose items differ, and how.
    """
    baseline, *others = models
    errors = []
    for other in others:
        for task in [name for name in baseline.scores.tasks if name in other.scores.tasks]:
            first, second = (_result(model, task, items[model.label]) for model in (baseline, other))
            if said := explain_other_items(task, first, second):
                errors.append(said)
    if errors:
        raise LauncherError("\n".join(errors) + "\nscores of other items or prompts cannot be compared")


def _result(model: ScoredModel, task: str, items: Mapping[str, TaskItems]) -> TaskResult:
    scores, found = model.scores.tasks[task], items.get(task)
    if found is None or len(found.ids) != scores.n:
        rows = 0 if found is None else len(found.ids)
        raise LauncherError(
            f"{model.folder}: items.parquet has {rows:,} items of `{task}`, scores.json {scores.n:,}; copy both files "
            "of one evaluation"
        )
    return TaskResult(model.label, model.scores.data_use, scores, found)


def _row(model: ScoredModel, task: str, metric: str) -> ComparedScore:
    its = model.scores.tasks[task]
    return ComparedScore(task, metric, model.label, its.scores[metric], metric in its.lower_is_better)


def _difference(
    row: ComparedScore,
    model: ScoredModel,
    baseline: ScoredModel,
    items: Mapping[str, Mapping[str, TaskItems]],
) -> PairedDifference | None:
    if model is baseline or row.task not in baseline.scores.tasks:
        return None
    if row.metric not in baseline.scores.tasks[row.task].scores:
        raise _UnpairedError(f"`{baseline.label}` has no such score")
    one, other = items[model.label][row.task], items[baseline.label][row.task]
    scores = row.score, baseline.scores.tasks[row.task].scores[row.metric]
    if None in (score.value for score in scores):
        raise _UnpairedError("one of the scores is not known")
    if row.metric in PERPLEXITIES:
        return _perplexity_difference(row.metric, (one, other), scores)
    values, others, clusters = _paired(row.metric, one, other)
    for score, column in zip(scores, (values, others), strict=True):
        if not _agree(score.value, math.fsum(column) / len(column)):
            raise _UnpairedError("it is not the mean of the items' scores")
    return difference_of(values, others, clusters)


def _paired(column: str, one: TaskItems, other: TaskItems) -> tuple[list[float], list[float], list[str]]:
    """Return the values of a column for both models, and what the items belong to; without items that have none."""
    if column not in one.values or column not in other.values:
        raise _UnpairedError("there is no score of each item")
    pairs = zip(one.values[column], other.values[column], one.clusters, strict=True)
    rows = [(mine, its, cluster) for mine, its, cluster in pairs if mine is not None and its is not None]
    present = sum(value is not None for items in (one, other) for value in items.values[column])
    if not rows or present != 2 * len(rows):
        raise _UnpairedError("not the same items have one")
    if not all(math.isfinite(value) for row in rows for value in row[:2]):
        raise _UnpairedError("some items have an infinite one")
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def _perplexity_difference(
    metric: str, items: tuple[TaskItems, TaskItems], scores: tuple[Score, Score]
) -> PairedDifference:
    units, other_units, _ = _paired(PERPLEXITIES[metric], *items)
    if units != other_units:
        raise _UnpairedError(
            f"the items have other numbers of {PERPLEXITIES[metric]}, since the tokenizers differ; compare "
            "`byte_perplexity`, `bits_per_byte` or `word_perplexity`"
        )
    nll, other_nll, clusters = _paired("nll", *items)
    if len(nll) != len(units) or not math.fsum(units):
        raise _UnpairedError(f"the items have no {PERPLEXITIES[metric]}")
    if metric == "document_perplexity":
        rows = [row for row in zip(nll, other_nll, units, clusters, strict=True) if row[2]]
        nll, other_nll = [row[0] / row[2] for row in rows], [row[1] / row[2] for row in rows]
        units, clusters = [1.0] * len(rows), [row[3] for row in rows]
    for score, column in zip(scores, (nll, other_nll), strict=True):
        by_unit = math.fsum(column) / math.fsum(units)
        if not _agree(score.value, by_unit / math.log(2) if metric == "bits_per_byte" else math.exp(by_unit)):
            raise _UnpairedError("it is not made of the items' log-likelihoods")
    return perplexity_difference(metric, nll, other_nll, units, clusters)


def _agree(score: float | None, found: float) -> bool:
    return score is not None and math.isclose(score, found, rel_tol=_EQUAL, abs_tol=_EQUAL)


def _corrected(rows: Sequence[ComparedScore]) -> Iterator[ComparedScore]:
    values = [row.difference.p for row in rows if row.difference is not None and row.difference.p is not None]
    adjusted = iter(holm(values))
    for row in rows:
        has_test = row.difference is not None and row.difference.p is not None
        yield replace(row, p_holm=next(adjusted)) if has_test else row

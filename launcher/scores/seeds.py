"""Scores of several trainings that differ in their seeds only: their mean and how much they vary."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from launcher.errors import LauncherError
from launcher.scores.comparison import choose_metrics, refuse_other_items
from launcher.scores.differences import LEVEL, NO_VARIATION, holm, student_p
from launcher.scores.items import read_items
from launcher.scores.notes import notes_on
from launcher.scores.scored_model import ScoredModel

_FORMAT = ("dtype", "quantization", "attention")
"""Of a model in scores.json: part of how it was evaluated."""


@dataclass(frozen=True)
class Spread:
    """A mean over seeds and how much single seeds vary around it."""

    mean: float
    standard_deviation: float | None
    """Of single seeds: sqrt(sum (s - mean)^2 / (n - 1)). None: one seed tells nothing about it."""
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Make one of a score for each seed.

        Raises:
            ValueError: there are no values.
        """
        if not values:
            raise ValueError("no values to take the mean of")
        if len(values) == 1:
            return cls(values[0], None, 1)
        if max(values) == min(values):
            return cls(values[0], 0.0, len(values))  # the rounded mean of equal scores may be another number
        mean = math.fsum(values) / len(values)
        squares = math.fsum((value - mean) ** 2 for value in values)
        return cls(mean, math.sqrt(squares / (len(values) - 1)), len(values))


@dataclass(frozen=True)
class SeedDifference:
    """Mean of one group minus that of another."""

    value: float
    standard_error: float | None
    p: float | None
    """Two-sided, of Welch's t test over the seeds; None if a group has one seed, or none varies."""

    @classmethod
    def of(cls, group: Spread, baseline: Spread) -> "SeedDifference":
        """Compare two groups.

        Source: Welch, Biometrika 34 (1947), doi:10.1093/biomet/34.1-2.28. The degrees of freedom are rounded down to a
        whole number, which makes p slightly larger.
        """
        value = group.mean - baseline.mean
        if group.standard_deviation is None or baseline.standard_deviation is None:
            return cls(value, None, None)
        parts = [(one.standard_deviation or 0.0) ** 2 / one.n for one in (group, baseline)]
        error = math.sqrt(sum(parts))
        rounding = NO_VARIATION * max(abs(group.mean), abs(baseline.mean))
        if error <= rounding:
            return cls(value, 0.0, None if abs(value) > rounding else 1.0)
        sizes = (group.n, baseline.n)
        degrees = sum(parts) ** 2 / sum(part**2 / (n - 1) for part, n in zip(parts, sizes, strict=True))
        return cls(value, error, student_p(value / error, max(1, math.floor(degrees + 1e-9))))


@dataclass(frozen=True)
class SeedGroup:
    """Models whose trainings differ in their seeds only."""

    label: str
    models: tuple[ScoredModel, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of all trainings, model by model; a model has as many as it has trainings."""
        return tuple(one.seed for model in self.models for one in model.scores.trainings if one.seed is not None)


@dataclass(frozen=True)
class GroupedScore:
    """A score of a group in a task."""

    task: str
    metric: str
    group: str
    """Its label."""
    values: tuple[float, ...]
    """Of each model of the group."""
    spread: Spread
    lower_is_better: bool
    difference: SeedDifference | None = None
    """From the baseline's group; None for that group itself."""
    p_holm: float | None = None
    """p of the difference, after Holm's correction for all differences of the comparison."""

    @property
    def is_marked(self) -> bool:
        """Whether the difference is significant."""
        return self.p_holm is not None and self.p_holm < LEVEL

    @property
    def is_better(self) -> bool:
        """Whether the group is better than the baseline's."""
        return self.difference is not None and (self.difference.value < 0) == self.lower_is_better


@dataclass(frozen=True)
class GroupedComparison:
    """What comparing groups came to."""

    groups: tuple[SeedGroup, ...]
    """That of the baseline first."""
    rows: tuple[GroupedScore, ...]
    """By task, metric and group, in this order."""
    notes: tuple[str, ...]

    @property
    def tests(self) -> int:
        """Number of differences that Holm's correction counts."""
        return sum(row.p_holm is not None for row in self.rows)

    @property
    def models(self) -> list[ScoredModel]:
        """Models of all groups."""
        return [model for group in self.groups for model in group.models]

    def blocks(self) -> dict[tuple[str, str], list[GroupedScore]]:
        """Return the rows by task and metric."""
        found: dict[tuple[str, str], list[GroupedScore]] = {}
        for row in self.rows:
            found.setdefault((row.task, row.metric), []).append(row)
        return found


def group_models(models: Sequence[ScoredModel]) -> list[SeedGroup]:
    """Group models whose trainings differ in their seeds only, and that were evaluated in the same number format.

    A model of which no training is known is a group by itself.

    Raises:
        LauncherError: two models of a group were trained with the same seed.
    """
    groups: dict[Any, list[ScoredModel]] = {}
    for model in models:
        groups.setdefault(_method(model), []).append(model)
    errors = [said for its in groups.values() for said in _equal_seeds(its)]
    if errors:
        raise LauncherError("\n".join(errors))
    names = [_common_name(its) for its in groups.values()]
    counts = Counter(names)
    labels = [
        name if name and counts[name] == 1 else its[0].label for name, its in zip(names, groups.values(), strict=True)
    ]
    return [SeedGroup(label, tuple(its)) for label, its in zip(labels, groups.values(), strict=True)]


def compare_groups(
    groups: Sequence[SeedGroup], baseline: ScoredModel, metrics: Sequence[str] = ()
) -> GroupedComparison:
    """Compare the mean scores of groups with those of a baseline's group.

    Args:
        groups: From `group_models`.
        baseline: A model of the group that the others are compared with.
        metrics: As for `comparison.compare`.

    Raises:
        LauncherError: models were scored on other items, or no task has such a metric.
    """
    first = next(group for group in groups if baseline in group.models)
    ordered = [first, *(group for group in groups if group is not first)]
    models = [model for group in ordered for model in group.models]
    chosen = choose_metrics(models[0], models, metrics)
    if len(models) > 1:
        refuse_other_items(models, {model.label: read_items(model.folder) for model in models})
    rows = [*_corrected([*_rows(ordered, chosen)])]
    return GroupedComparison(tuple(ordered), tuple(rows), (*_lacking(ordered, chosen), *notes_on(models)))


def _method(model: ScoredModel) -> Any:
    trainings = model.scores.trainings
    known = [one.method or one.name for one in trainings]
    if not any(one.method for one in trainings):
        return model.label
    return (*known, *(str(model.scores.model.get(name)) for name in _FORMAT))


def _equal_seeds(models: Sequence[ScoredModel]) -> Iterator[str]:
    seen: dict[tuple[int | None, ...], str] = {}
    for model in models:
        seeds = tuple(one.seed for one in model.scores.trainings)
        if seeds in seen:
            said = ", ".join(str(seed) for seed in seeds if seed is not None)
            yield f"`{seen[seeds]}` and `{model.label}` were trained with the same seed ({said}); name one of them"
        seen.setdefault(seeds, model.label)


def _common_name(models: Sequence[ScoredModel]) -> str:
    """What the names of recipes begin with: `qlora` of `qlora-seed1` and `qlora-seed2`."""
    if len(models) == 1:
        return models[0].label
    letters = zip(*(one.scores.name for one in models), strict=False)
    start = "".join(same[0] for same in takewhile(lambda each: len({*each}) == 1, letters))
    return start.rstrip("-_. ").removesuffix("seed").rstrip("-_. ")


def _rows(groups: Sequence[SeedGroup], chosen: Sequence[tuple[str, str]]) -> Iterator[GroupedScore]:
    for task, metric in chosen:
        baseline: Spread | None = None
        for group in groups:
            known = _known(group, task, metric)
            if len(known) < len(group.models):
                if group is groups[0]:
                    break
                continue
            spread = Spread.of(known)
            difference = None if baseline is None else SeedDifference.of(spread, baseline)
            baseline = baseline or spread
            lower = metric in group.models[0].scores.tasks[task].lower_is_better
            yield GroupedScore(task, metric, group.label, tuple(known), spread, lower, difference)


def _lacking(groups: Sequence[SeedGroup], chosen: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Say which means are not shown because seeds lack the score; other notes name tasks that a whole group lacks."""
    for task, metric in chosen:
        for group in groups:
            count, lacking = len(group.models), len(group.models) - len(_known(group, task, metric))
            if lacking and any(task in model.scores.tasks for model in group.models):
                said = f"{lacking} of {count} seeds have no such score"
                ending = "; nothing is compared with it, the baseline" if group is groups[0] else ""
                yield f"`{task}`: no mean of `{metric}` for `{group.label}`: {said}{ending}"


def _known(group: SeedGroup, task: str, metric: str) -> list[float]:
    """Return the scores of the models that have one."""
    values = [_value(model, task, metric) for model in group.models]
    return [value for value in values if value is not None and math.isfinite(value)]


def _value(model: ScoredModel, task: str, metric: str) -> float | None:
    its = model.scores.tasks.get(task)
    score = its.scores.get(metric) if its else None
    return score.value if score else None


def _corrected(rows: Sequence[GroupedScore]) -> Iterator[GroupedScore]:
    adjusted = iter(holm([row.difference.p for row in rows if row.difference and row.difference.p is not None]))
    for row in rows:
        has_test = row.difference is not None and row.difference.p is not None
        yield replace(row, p_holm=next(adjusted)) if has_test else row

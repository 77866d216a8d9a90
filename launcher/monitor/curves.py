"""Curves of a run for drawing: for each column of a picture the least, the greatest and the mean value.

All extremes stay visible however many rows there are, and memory depends on the number of columns alone.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from launcher.monitor.traces import Traces, read_steps
from launcher.run.metrics import Row, read_newest_rows

COLUMNS = 600
_NO_CURVES = ("time", "step", "attempt", "epoch")


@dataclass
class CurveBin:
    """The values of one metric in some neighbouring steps."""

    low: float
    high: float
    total: float
    count: int

    @classmethod
    def of(cls, values: Sequence[Any]) -> "CurveBin | None":
        """Sum values up, without those that are no numbers, or none that can be drawn; None if nothing is left."""
        try:
            total = math.fsum(values)
        except (TypeError, ValueError, OverflowError):
            total = math.nan
        if not math.isfinite(total):  # some value is to blame
            values = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
            total = sum(values)
        return cls(min(values), max(values), total, len(values)) if values else None

    def merged(self, other: "CurveBin") -> "CurveBin":
        """Put two together."""
        low, high = min(self.low, other.low), max(self.high, other.high)
        return CurveBin(low, high, self.total + other.total, self.count + other.count)


@dataclass
class Curve:
    """One metric by steps, in bins that are twice as wide whenever there would be too many.

    Args:
        width: Steps in a bin, at first.
        most: Bins, at most.
    """

    width: int = 1
    most: int = COLUMNS
    bins: dict[int, CurveBin] = field(default_factory=dict)

    def add(self, steps: Sequence[int], values: Sequence[Any]) -> None:
        """Take values of rising steps; what is no number, or none that can be drawn, is left out."""
        while steps and steps[-1] // self.width >= self.most:
            self._widen()
        start, width = 0, self.width
        while start < len(steps):
            place = steps[start] // width
            end = _first_from(steps, (place + 1) * width, start)
            if new := CurveBin.of(values[start:end]):
                old = self.bins.get(place)
                self.bins[place] = old.merged(new) if old else new
            start = end

    def _widen(self) -> None:
        narrow, self.bins, self.width = self.bins, {}, self.width * 2
        for place, one in narrow.items():
            old = self.bins.get(place // 2)
            self.bins[place // 2] = old.merged(one) if old else one

    @property
    def mean(self) -> float:
        """Mean of all values."""
        return sum(one.total for one in self.bins.values()) / sum(one.count for one in self.bins.values())

    def points(self) -> list[tuple[float, float, float, float]]:
        """Return step, least, mean and greatest value of each bin, by steps; the step is the bin's middle."""
        middle = (self.width - 1) / 2
        ordered = sorted(self.bins.items())
        return [(place * self.width + middle, one.low, one.total / one.count, one.high) for place, one in ordered]


def _first_from(steps: Sequence[int], bound: int, start: int) -> int:
    """Return the place of the first step from a bound on; nearly always all steps between are there."""
    guess = min(len(steps), start + bound - steps[start])
    if steps[guess - 1] < bound and (guess == len(steps) or steps[guess] >= bound):
        return guess
    return next((place for place in range(start + 1, len(steps)) if steps[place] >= bound), len(steps))


@dataclass(frozen=True)
class MetricCurves:
    """What one pass over metrics.jsonl finds."""

    curves: Mapping[str, Curve]
    """By metric, without those that never had a number."""
    traces: Traces
    rows: int


def read_curves(path: Path, limits: Mapping[int, float], columns: int = COLUMNS) -> MetricCurves:
    """Read the one curve of each metric that all attempts make together.

    Args:
        path: metrics.jsonl.
        limits: Last step of each attempt that counts (`launcher.monitor.traces.kept_limits`).
        columns: Points of a curve, at most.
    """
    newest = max((row["step"] for row in read_newest_rows(path) if isinstance(row.get("step"), int)), default=0)
    width = max(1, math.ceil((newest + 1) / columns))
    traces, curves, rows = Traces(limits), dict[str, Curve](), 0
    for attempt, piece in read_steps(path):
        kept = piece[: traces.add(attempt, piece)]
        rows += len(piece)
        steps = [row["step"] for row in kept]
        for name, values in _columns(kept):
            curves.setdefault(name, Curve(width, columns)).add(steps, values)
    return MetricCurves({name: curve for name, curve in curves.items() if curve.bins}, traces, rows)


def _columns(rows: Sequence[Row]) -> Iterable[tuple[str, Sequence[Any]]]:
    """Turn rows into columns: those of the metrics that the first and the last row have."""
    names = dict.fromkeys(name for row in (*rows[:1], *rows[-1:]) for name in row)
    metrics = [name for name in names if name not in _NO_CURVES]
    try:
        _, *columns = zip(*map(itemgetter("step", *metrics), rows), strict=True) if metrics else [()]
    except KeyError:  # some rows lack some
        return [(name, [row.get(name) for row in rows]) for name in metrics]
    return list(zip(metrics, columns, strict=True))

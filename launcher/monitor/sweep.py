"""How a sweep is doing: its points, their runs, and what each came to."""

import json
import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.load.sweep_points import is_one_of, shorten_keys
from launcher.load.yaml_scalars import resolve
from launcher.monitor.status import RunStatus, read_statuses
from launcher.run.metrics import read_joined_rows, read_newest_rows
from launcher.run.paths import RunDir, expand
from launcher.run.sweep_points import SweptRun, read_points, sweep_dir
from launcher.run.trials import SearchDir, find_search, swept_runs
from launcher.run.typed import read_object

SEED = "seed"
_NO_METRICS = ("step", "time", "attempt", "epoch")
_LOWER = ("loss", "perplexity", "error", "bits_per_byte", "brier")
"""Words in the names of metrics that are better the lower they are."""


@dataclass(frozen=True)
class PointStatus:
    """One point of a sweep."""

    values: Mapping[str, Any]
    run: RunStatus
    metrics: Mapping[str, float]
    """The newest value of each; NaN where it was undefined."""


@dataclass(frozen=True)
class SweepStatus:
    """A sweep, its points in the order of the recipe."""

    name: str
    points: tuple[PointStatus, ...]
    metric: str | None
    """What points are compared by; None as long as none has any."""
    lower_is_better: bool
    notes: tuple[str, ...] = ()
    trials: int | None = None
    """Of a search: how many there will be."""

    @property
    def keys(self) -> list[str]:
        """The swept keys."""
        return [*dict.fromkeys(key for point in self.points for key in point.values)]

    @property
    def best(self) -> PointStatus | None:
        """The best point; None as long as none has the metric."""
        measured = [point for point in self.points if self.value(point) is not None]
        return min(measured, key=self.rank) if measured else None

    def value(self, point: PointStatus) -> float | None:
        """The metric of a point; None if it has none, or it is not a finite number."""
        found = point.metrics.get(self.metric or "")
        return None if found is None or not math.isfinite(found) else found

    def rank(self, point: PointStatus) -> float:
        """Sort key: the best point first, those without the metric last."""
        found = self.value(point)
        return math.inf if found is None else found if self.lower_is_better else -found

    def count_states(self) -> dict[str, int]:
        """How many runs are in each state."""
        return dict(Counter(point.run.state for point in self.points))


@dataclass(frozen=True)
class SeedMean:
    """Points that differ only in their seeds."""

    values: Mapping[str, Any]
    runs: int
    measured: int
    """Of these runs: how many have finished and have the metric; only they count in the mean."""
    mean: float | None
    spread: float | None
    """Standard deviation over seeds, of a sample; None of fewer than two."""


def find_sweep(cluster: Cluster, text: str) -> list[SweptRun]:
    """Read the points of a sweep, or the trials of a search, by its name; none if there is no such thing."""
    if search := search_named(cluster, text):
        return [one for one in swept_runs(search, text) if RunDir(search.runs_root / one.run).record.is_file()]
    return [] if "/" in text else read_points(expand(cluster.roots.runs), text)


def search_named(cluster: Cluster, text: str) -> SearchDir | None:
    """Find a search by its name; None if there is none."""
    return None if "/" in text else find_search(expand(cluster.roots.runs), text)


def folders_of(cluster: Cluster, points: Sequence[SweptRun]) -> list[RunDir]:
    """Locate the runs of points."""
    root = expand(cluster.roots.runs)
    return [RunDir(root / point.run) for point in points]


def select(points: Sequence[SweptRun], conditions: Sequence[str]) -> list[SweptRun]:
    """Choose points by `--where KEY=VALUE`, all of which must hold; the last word of a key is enough.

    Raises:
        RunError: A condition names no swept key, or no point has the values.
    """
    keys = [*dict.fromkeys(key for point in points for key in point.values)]
    long = {short: key for key, short in shorten_keys(keys).items()} | {key: key for key in keys}
    for condition in conditions:
        key, equals, text = condition.partition("=")
        if not equals or key not in long:
            listed = ", ".join(f"`{one}`" for one in keys)
            raise RunError(f"--where {condition}: write `KEY=VALUE` with one of the swept keys {listed}")
        wanted = [resolve(word.strip())[0] for word in text.split(",")]
        there = [point.values[long[key]] for point in points if long[key] in point.values]
        points = [point for point in points if long[key] in point.values and is_one_of(point.values[long[key]], wanted)]
        if not points:
            values = ", ".join(f"`{value}`" for value in dict.fromkeys(map(str, there)))
            raise RunError(f"--where {condition}: no point has this value; there are {values}")
    return [*points]


def read_sweep(cluster: Cluster, name: str, points: Sequence[SweptRun], metric: str | None = None) -> SweepStatus:
    """Read how the points of a sweep are doing.

    Args:
        cluster: The site.
        name: The sweep.
        points: Its points, or some of them.
        metric: What to compare them by; chosen if left out.

    Raises:
        RunError: No point has the metric.
    """
    runs = folders_of(cluster, points)
    statuses, notes = read_statuses(cluster, runs)
    by_folder = {one.folder: one for one in statuses}
    found, headlines, lower = [], Counter[str](), set[str]()
    for point, run in zip(points, runs, strict=True):
        if status := by_folder.get(str(run.root)):
            measured = read_measured(run)
            headlines.update([measured.headline] if measured.headline else [])
            lower |= measured.lower_is_better
            found.append(PointStatus(point.values, status, measured.values))
    known = dict.fromkeys(one for point in found for one in point.metrics)
    if metric is not None and metric not in known:
        listed = ", ".join(f"`{one}`" for one in known) or "none yet"
        raise RunError(f"--metric {metric}: no point has it; there are {listed}")
    chosen = metric or (headlines.most_common(1)[0][0] if headlines else None)
    stalled = _say_stalled(cluster, name, statuses)
    return SweepStatus(name, tuple(found), chosen, chosen in lower, (*notes, *stalled))


def _say_stalled(cluster: Cluster, name: str, statuses: Sequence[RunStatus]) -> Iterator[str]:
    """Say what to type if points wait for room in the queue, and no run is left whose end would queue them."""
    waiting = [one for one in statuses if one.state == "not submitted" and not one.stop_requested]
    root = expand(cluster.roots.runs)
    if not waiting or not all(one.is_over for one in statuses) or not sweep_dir(root, name).waiting.exists():
        return
    if len(statuses) == len(read_points(root, name)):  # else only some of the points were asked for
        yield (
            f"{len(waiting)} points wait for room in the queue, and no run is left whose end would queue them. If that "
            f"lasts longer than a minute, `launcher sweep advance {shlex.quote(waiting[0].folder)}` does it"
        )


@dataclass(frozen=True)
class MeasuredRun:
    """The newest values of the metrics of a run; NaN where one was undefined."""

    values: dict[str, float]
    headline: str | None
    lower_is_better: frozenset[str]


def read_measured(run: RunDir) -> MeasuredRun:
    """Read the newest values of all metrics; the headline is of scores, of an evaluation, or the loss."""
    rows = read_newest_rows(run.metrics)
    values = {"loss": float(rows[-1]["loss"])} if rows and isinstance(rows[-1].get("loss"), int | float) else {}
    headline = "loss" if values else None
    evaluated: dict[str, float] = {}
    for row in reversed(read_joined_rows(run.evaluations)):
        evaluated |= {
            key: math.nan if value is None else float(value)
            for key, value in row.items()
            if isinstance(value, int | float | None) and key not in _NO_METRICS and key not in evaluated
        }
    scored, scored_lower = _read_scores(run.outputs / "scores.json")
    headline = next(iter(scored), next(iter(evaluated), headline))
    values |= evaluated | scored
    lower = {key for key in values if any(word in key for word in _LOWER)} if not scored else set()
    return MeasuredRun(values, headline, frozenset(lower | scored_lower))


def _read_scores(path: Path) -> tuple[dict[str, float], set[str]]:
    """Read `TASK.METRIC` of an evaluation, each task's headline first, and which of them are better the lower."""
    try:
        tasks: dict[str, Any] = read_object(path)["tasks"]
        values, lower = {}, set()
        for name, task in tasks.items():
            for metric in sorted(task["scores"], key=lambda metric: metric != task["headline"]):
                if isinstance(value := task["scores"][metric]["value"], int | float):
                    values[f"{name}.{metric}"] = float(value)
                if metric in task["lower_is_better"]:
                    lower.add(f"{name}.{metric}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}, set()
    return values, lower


def group_seeds(sweep: SweepStatus) -> list[SeedMean]:
    """Put points together that differ only in `seed`; the best mean first."""
    groups: dict[str, list[PointStatus]] = {}
    for point in sweep.points:
        others = {key: value for key, value in point.values.items() if key != SEED}
        groups.setdefault(json.dumps(others, sort_keys=True), []).append(point)
    found = [_summarise(sweep, points) for points in groups.values()]
    sign = 1 if sweep.lower_is_better else -1
    return sorted(found, key=lambda group: math.inf if group.mean is None else sign * group.mean)


def _summarise(sweep: SweepStatus, points: Sequence[PointStatus]) -> SeedMean:
    finished = [point for point in points if point.run.state == "finished"]
    measured = [value for point in finished if (value := sweep.value(point)) is not None]
    values = {key: value for key, value in points[0].values.items() if key != SEED}
    spread = stdev(measured) if len(measured) > 1 else None
    return SeedMean(values, len(points), len(measured), mean(measured) if measured else None, spread)

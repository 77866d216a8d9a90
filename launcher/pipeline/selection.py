"""Which of several points is selected: the best of those that have finished, of equal ones the first."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.artifacts.scores import read_split_scores
from launcher.monitor.sweep import read_measured
from launcher.monitor.trials import read_reports
from launcher.pipeline.record import Selection
from launcher.run.paths import RunDir

_SHOWN = 3


@dataclass(frozen=True)
class Verdict:
    """What comes of a selection."""

    run: RunDir | None
    """The run that is selected; None: none, or none yet."""
    why: str
    """Which point it is, or why there is none."""
    is_open: bool = False
    """Whether points are still to end."""


def select_best(select: Selection, finished: Mapping[str, RunDir], noun: str = "points") -> Verdict:
    """Select one of the points that have finished.

    Args:
        select: How.
        finished: The runs by the names of their points, in the order of the recipe.
        noun: What they are called.
    """
    sign = 1 if select.direction == "minimize" else -1
    values = {name: read_value(run, select.metric) for name, run in finished.items()}
    known = {name: value for name, value in values.items() if value is not None}
    if not known:
        return Verdict(None, f"none of {len(finished)} {noun} has a number as `{select.metric}`")
    best = min(known, key=lambda name: sign * known[name])
    without = [name for name in values if name not in known]
    passed = f"; passed over without a number: {list_points(without)}" if without else ""
    return Verdict(finished[best], f"`{best}` of {len(finished)} {noun}, {select.metric} {known[best]:.6g}{passed}")


def recall(select: Selection, run: RunDir, points: Mapping[str, RunDir | None]) -> Verdict:
    """Tell of a selection that was made.

    Args:
        select: How it was made.
        run: What was selected.
        points: The runs of all points by their names.
    """
    name = next((point for point, its in points.items() if its == run), run.root.name)
    value = read_value(run, select.metric)
    return Verdict(
        run, f"`{name}` of {len(points)} points" + ("" if value is None else f", {select.metric} {value:.6g}")
    )


def read_value(run: RunDir, metric: str) -> float | None:
    """Read what a finished run came to; None if there is no such number.

    Of scores by split it is that of the validation split: these are of the weights that the run exports.
    """
    splits = read_split_scores(run.outputs)
    if splits and metric in splits.get("validation", {}):
        value = splits["validation"][metric]
    else:
        reports = read_reports(run, metric)
        value = reports[max(reports)] if reports else read_measured(run).values.get(metric)
    return None if value is None or not math.isfinite(value) else value


def list_points(names: list[str]) -> str:
    """List some points."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"`{name}`" for name in names[:_SHOWN]) + more

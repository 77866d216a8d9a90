"""A sweep as a table of its points, and of groups of seeds."""

import json
from collections.abc import Sequence
from typing import Any

from launcher.cli.views.score_wording import number
from launcher.load.sweep_points import shorten_keys
from launcher.monitor.sweep import PointStatus, SeedMean, SweepStatus

SHOWN = 40
"""Points in the table without `--all`."""
BEST = "*"


def sweep_lines(sweep: SweepStatus, everything: bool = False) -> list[str]:
    """Write how a sweep is doing: a line for each point, the best first."""
    counted = ", ".join(f"{count} {state}" for state, count in sweep.count_states().items()) or "none has started"
    of = "points" if sweep.trials is None else f"of {sweep.trials} trials"
    lines = [f"{sweep.name}: {len(sweep.points)} {of}: {counted}"]
    if sweep.metric:
        lines[0] += f"; by {sweep.metric}, {'lower' if sweep.lower_is_better else 'higher'} is better"
    if not sweep.points:
        return lines
    points = sorted(sweep.points, key=sweep.rank)
    shown = points if everything else points[:SHOWN]
    short = shorten_keys(sweep.keys)
    header = ["", "id", *(short[key] for key in sweep.keys), "state", "step", sweep.metric or "metric"]
    lines += table([header, *(_cells(sweep, point) for point in shown)])
    if len(shown) < len(points):
        lines.append(f"{len(points) - len(shown)} more: `launcher status '{sweep.name}' --all`")
    return lines


def group_lines(sweep: SweepStatus, groups: Sequence[SeedMean]) -> list[str]:
    """Write means over seeds, the best first."""
    keys = [*dict.fromkeys(key for group in groups for key in group.values)]
    short = shorten_keys(keys)
    rows = [["", *(short[key] for key in keys), "seeds", sweep.metric or "metric", "spread"]]
    for place, group in enumerate(groups):
        mark = BEST if place == 0 and group.mean is not None and len(groups) > 1 else ""
        count = str(group.runs) if group.measured == group.runs else f"{group.measured} of {group.runs}"
        values = [text_of(group.values.get(key)) for key in keys]
        rows.append(
            [mark, *values, count, number(group.mean), "" if group.spread is None else f"±{number(group.spread)}"]
        )
    direction = "lower" if sweep.lower_is_better else "higher"
    said = (
        f"mean of {sweep.metric} over seeds ± standard deviation; {direction} is better"
        if sweep.metric
        else "no metric yet"
    )
    return [f"{sweep.name}: {said}", *table(rows)]


def text_of(value: Any) -> str:
    """Write a value of a key."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _cells(sweep: SweepStatus, point: PointStatus) -> list[str]:
    one, value = point.run, sweep.value(point)
    of = f"/{one.total_steps}" if one.total_steps else ""
    step = "" if one.step is None else f"{one.step}{of}"
    mark = BEST if point is sweep.best and len(sweep.points) > 1 else ""
    values = [text_of(point.values.get(key)) for key in sweep.keys]
    return [mark, one.id, *values, one.state, step, number(value) if value is not None else ""]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align columns; rich takes a second for a thousand rows."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]

"""Curves as SVG with HTML labels: several runs in one picture, drawn by a page's own style."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from launcher.cli.views.axes import round_ticks, tick_label

WIDTH, HEIGHT = 1000, 200
"""Of a picture, in its own units; it is stretched to what the page has."""
COLOURS = 8
"""Classes `c0` to `c7` of a page's style; further curves are dashed (`dash1`, ...)."""

Point = tuple[float, float, float, float]
"""Step, least, mean and greatest value."""


@dataclass(frozen=True)
class ChartLine:
    """One run's curve."""

    label: str
    place: int
    """Of the run in the report: says its colour."""
    points: Sequence[Point]


def line_class(place: int) -> str:
    """Name the style of a run."""
    dash = place // COLOURS % 3
    return f"c{place % COLOURS}" + (f" dash{dash}" if dash else "")


def chart(title: str, lines: Sequence[ChartLine]) -> str:
    """Draw curves: the mean as a line, and from the least to the greatest value as an area behind it."""
    points = [point for line in lines for point in line.points]
    xs, ys = _ends(point[0] for point in points), round_ticks(*_ends(_values(points)))
    marks = [tick for tick in round_ticks(*xs) if xs[0] <= tick <= xs[1]] or [xs[0]]
    said = "; ".join(_said(line) for line in lines)
    grid = [f'<line class="tick" x1="0" x2="{WIDTH}" y1="{_y(tick, ys)}" y2="{_y(tick, ys)}"/>' for tick in ys]
    areas = [_area(line, xs, ys) for line in lines]
    curves = [_curve(line, xs, ys) for line in lines]
    picture = (
        f'<svg role="img" aria-label="{escape(title)}: {escape(said)}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'preserveAspectRatio="none">{"".join([*grid, *areas, *curves])}</svg>'
    )
    up = (f'<span style="top:{_y(tick, ys) / HEIGHT:.2%}">{tick_label(tick, ys)}</span>' for tick in ys)
    along = (f'<span style="left:{_x(tick, xs) / WIDTH:.2%}">{tick:,.0f}</span>' for tick in marks)
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption><div class="up">{"".join(up)}</div>{picture}'
        f'<div class="along">{"".join(along)}</div></figure>'
    )


def _values(points: Iterable[Point]) -> Iterator[float]:
    for _, low, _, high in points:
        yield low
        yield high


def _ends(values: Iterable[float]) -> tuple[float, float]:
    known = list(values)
    return min(known), max(known)


def _said(line: ChartLine) -> str:
    step, _, value, _ = line.points[-1]
    return f"{line.label} {value:.4g} at step {step:.0f}"


def _x(step: float, ends: tuple[float, float]) -> float:
    return round(WIDTH * (step - ends[0]) / ((ends[1] - ends[0]) or 1.0), 1)


def _y(value: float, ticks: Sequence[float]) -> float:
    return round(HEIGHT * (1 - (value - ticks[0]) / (ticks[-1] - ticks[0])), 1)


def _area(line: ChartLine, xs: tuple[float, float], ys: Sequence[float]) -> str:
    if all(low == high for _, low, _, high in line.points):
        return ""
    above = [f"{_x(step, xs)},{_y(high, ys)}" for step, _, _, high in line.points]
    below = [f"{_x(step, xs)},{_y(low, ys)}" for step, low, _, _ in reversed(line.points)]
    return f'<polygon class="area {line_class(line.place)}" points="{" ".join(above + below)}"/>'


def _curve(line: ChartLine, xs: tuple[float, float], ys: Sequence[float]) -> str:
    places = [f"{_x(step, xs)},{_y(mean, ys)}" for step, _, mean, _ in line.points]
    if len(places) == 1:  # a line of no length with round ends is a dot
        places *= 2
    return f'<polyline class="{line_class(line.place)}" points="{" ".join(places)}"/>'


def legend(labels: Sequence[str]) -> str:
    """Say which colour is whose; nothing of a single run."""
    if len(labels) < 2:
        return ""
    items = (
        f'<li><svg class="key" viewBox="0 0 30 10" aria-hidden="true"><polyline class="{line_class(place)}" '
        f'points="0,5 30,5"/></svg>{escape(label)}</li>'
        for place, label in enumerate(labels)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def drawable(points: Sequence[tuple[int, float]]) -> list[Point]:
    """Make points of values that were not summed up."""
    return [(float(step), value, value, value) for step, value in points if math.isfinite(value)]

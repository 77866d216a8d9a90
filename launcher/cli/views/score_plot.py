"""Scores on an axis, as SVG within a page."""

import math
from collections.abc import Iterable, Sequence
from html import escape

from launcher.cli.views.axes import round_ticks

_WIDTH = 1000
"""Of a plot, in its own units; it is stretched to what the page has."""
_HEIGHT = 24


def ticks_around(values: Iterable[float | None]) -> list[float]:
    """Return round numbers around values, evenly spaced; values that are not known or infinite do not count."""
    finite = [value for value in values if value is not None and math.isfinite(value)] or [0.0, 1.0]
    return round_ticks(min(finite), max(finite))


def plot(label: str, ticks: Sequence[float], parts: Iterable[str], baseline: float | None) -> str:
    """Draw a row of a table.

    Args:
        label: What it shows, for those who cannot see it.
        ticks: Of the axis.
        parts: From `interval` and `dot`.
        baseline: Gets a dashed line.
    """
    lines = [_upright(tick, ticks, _HEIGHT, "tick") for tick in ticks]
    if baseline is not None and math.isfinite(baseline):
        lines.append(_upright(baseline, ticks, _HEIGHT, "baseline"))
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none"'
    return f'<svg role="img" aria-label="{escape(label)}" {box}>{"".join([*lines, *parts])}</svg>'


def interval(low: float, high: float, ticks: Sequence[float], kind: str) -> str:
    """Draw a line with an upright at both ends.

    Args:
        low: Where it starts.
        high: Where it ends.
        ticks: Of the axis.
        kind: `plain`, `better` or `worse`.
    """
    first, last = _place(low, ticks), _place(high, ticks)
    line = f'<line class="{kind}" x1="{first}" x2="{last}" y1="12" y2="12"/>'
    return line + "".join(_upright(end, ticks, 10, kind) for end in (low, high))


def dot(value: float, ticks: Sequence[float], kind: str) -> str:
    """Draw a point.

    Args:
        value: Where.
        ticks: Of the axis.
        kind: `plain`, `better` or `worse`, and `small` for small ones.
    """
    place = _place(value, ticks)
    return f'<line class="{kind} dot" x1="{place}" x2="{place}" y1="12" y2="12"/>'


def axis(ticks: Sequence[float]) -> str:
    """Write the numbers below plots that share an axis."""
    decimals = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    labels = (f'<span style="left:{_place(tick, ticks) / _WIDTH:.2%}">{tick:,.{decimals}f}</span>' for tick in ticks)
    return f'<div class="labels">{"".join(labels)}</div>'


def _upright(value: float, ticks: Sequence[float], height: int, kind: str) -> str:
    place, top = _place(value, ticks), (_HEIGHT - height) // 2
    return f'<line class="{kind}" x1="{place}" x2="{place}" y1="{top}" y2="{top + height}"/>'


def _place(value: float, ticks: Sequence[float]) -> float:
    return round(_WIDTH * (value - ticks[0]) / (ticks[-1] - ticks[0]), 1)

"""A curve in the terminal, drawn with braille dots: 2 x 4 of them in each character."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

_BLANK = 0x2800
_NARROWEST = 10
"""Characters that a curve needs beside its labels."""
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bit of the dot in column x, row y of a braille character (Unicode 6.0, chapter 15.11)."""


def plot(points: Sequence[tuple[float, float]], marks: Iterable[float], width: int, height: int) -> list[str]:
    """Draw a curve with its axes.

    Args:
        points: x and y, by rising x; those that are not finite are left out.
        marks: Values of x to mark on the axis.
        width: Characters in a line, labels included.
        height: Lines, the axis and its labels included.

    Returns:
        The lines; none if there are not two points to join, or too few characters for a curve.
    """
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if len(finite) < 2:
        return []
    low, high = _range(y for _, y in finite)
    rows = height - 2
    sides = {row: _label(high - (high - low) * row / (rows - 1)) for row in (0, rows // 2, rows - 1)}
    margin = max(map(len, sides.values())) + 1
    columns = width - margin - 1
    if columns < _NARROWEST:
        return []
    canvas = _draw(finite, columns, rows, (low, high))
    lines = [f"{sides.get(row, ''):>{margin - 1}} ┤{_characters(canvas[row])}" for row in range(rows)]
    first, last = finite[0][0], finite[-1][0]
    ends = f"{_label(first)}{_label(last):>{columns - len(_label(first))}}"
    return [*lines, f"{'':{margin}}└{_axis(marks, (first, last), columns)}", f"{'':{margin}} {ends}"]


def _draw(
    points: Sequence[tuple[float, float]], columns: int, rows: int, y_range: tuple[float, float]
) -> list[list[int]]:
    canvas = [[_BLANK] * columns for _ in range(rows)]
    x_range = points[0][0], points[-1][0]
    dots = [(_scale(x, x_range, columns * 2), rows * 4 - 1 - _scale(y, y_range, rows * 4)) for x, y in points]
    for start, end in itertools.pairwise(dots):
        for x, y in _line(start, end):
            canvas[y // 4][x // 2] |= _DOTS[x % 2][y % 4]
    return canvas


def _characters(cells: Iterable[int]) -> str:
    return "".join(map(chr, cells)).rstrip(chr(_BLANK))


def _line(start: tuple[int, int], end: tuple[int, int]) -> Iterator[tuple[int, int]]:
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    for step in range(steps + 1):
        share = step / steps
        yield round(start[0] + (end[0] - start[0]) * share), round(start[1] + (end[1] - start[1]) * share)


def _axis(marks: Iterable[float], x_range: tuple[float, float], columns: int) -> str:
    axis = ["─"] * columns
    for mark in marks:
        if x_range[0] <= mark <= x_range[1]:
            axis[_scale(mark, x_range, columns)] = "┬"
    return "".join(axis)


def _scale(value: float, limits: tuple[float, float], places: int) -> int:
    share = (value - limits[0]) / (limits[1] - limits[0])
    return min(places - 1, max(0, round(share * (places - 1))))


def _range(values: Iterable[float]) -> tuple[float, float]:
    everything = list(values)
    low, high = min(everything), max(everything)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _label(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"

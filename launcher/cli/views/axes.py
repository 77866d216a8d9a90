"""Round numbers for axes."""

import math
from collections.abc import Sequence

TICKS = 5
"""Intervals of an axis, at most."""
_NO_SPAN = 1e-12
"""Values closer than this part of the largest are one value, written with rounding errors."""


def round_ticks(low: float, high: float) -> list[float]:
    """Return round numbers around a range, evenly spaced; both ends must be finite."""
    largest = max(abs(low), abs(high))
    span = high - low if high - low > _NO_SPAN * largest else largest or 1.0
    power = 10.0 ** math.floor(math.log10(span / TICKS))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if _count(low, high, factor * power) <= TICKS)
    first = math.floor(low / step)
    decimals = max(12, 3 - math.floor(math.log10(step)))
    return [round((first + place) * step, decimals) for place in range(max(1, _count(low, high, step)) + 1)]


def _count(low: float, high: float, step: float) -> int:
    return math.ceil(high / step) - math.floor(low / step)


def tick_label(tick: float, ticks: Sequence[float]) -> str:
    """Write a tick with as many digits as its axis needs."""
    largest, step = max(map(abs, ticks)), ticks[1] - ticks[0]
    if largest >= 1e6 or 0 < largest < 1e-3:
        return f"{tick:.3g}"
    return f"{tick:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"

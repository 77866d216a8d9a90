"""A curve in one line of text."""

import itertools
import math
from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw values as bars, from the lowest to the highest.

    Args:
        values: In their order; those that are not finite are left out.
        width: Most characters; more values than that are averaged in equal parts.

    Returns:
        The bars; nothing for fewer than two values.
    """
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    shown = _averages(finite, width) if len(finite) > width else finite
    low, high = min(shown), max(shown)
    if high == low:
        return _BARS[0] * len(shown)
    return "".join(_BARS[min(len(_BARS) - 1, int((one - low) / (high - low) * len(_BARS)))] for one in shown)


def _averages(values: Sequence[float], count: int) -> list[float]:
    ends = [round(part * len(values) / count) for part in range(count + 1)]
    parts = (values[start:end] for start, end in itertools.pairwise(ends))
    return [sum(part) / len(part) for part in parts]

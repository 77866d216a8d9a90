"""What a recipe with a `sweep` or a `search` comes to, all of its runs together."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from launcher.cluster import Cluster
from launcher.load import LoadedRecipe
from launcher.plan.cost import attempt_gpu_hours
from launcher.plan.details import detail


@dataclass(frozen=True)
class RepeatedForecast:
    """An estimate for all runs of a sweep or a search."""

    name: str
    runs: int
    at_once: int
    gpu_hours: float
    days: float
    """Without waiting in the queue."""
    is_limit: bool
    """There is no estimate: each run is one attempt up to its time limit."""


def forecast_repeated(loaded: Sequence[LoadedRecipe], cluster: Cluster) -> Iterator[RepeatedForecast]:
    """Add up the points of each sweep, and count the trials of each search.

    All trials of a search are taken to be like its first corner, and none to be pruned.

    Args:
        loaded: Recipes; the points of a sweep, and the corners of a search, follow each other.
        cluster: Where they go.
    """
    for _, group in groupby(loaded, key=lambda item: (item.path, item.point and item.point.sweep)):
        items = list(group)
        if items[0].point is not None:
            yield _add_up(items, cluster)


def _add_up(items: Sequence[LoadedRecipe], cluster: Cluster) -> RepeatedForecast:
    first = items[0]
    assert first.point is not None
    if search := first.recipe.search:
        hours, days, is_limit = _of_one(first, cluster)
        days *= math.ceil(search.budget / search.parallel)
        return RepeatedForecast(
            first.recipe.name, search.budget, search.parallel, hours * search.budget, days, is_limit
        )
    each = [_of_one(item, cluster) for item in items]
    hours, days = sum(one[0] for one in each), max(one[1] for one in each)
    return RepeatedForecast(first.point.sweep, len(items), len(items), hours, days, any(one[2] for one in each))


def _of_one(item: LoadedRecipe, cluster: Cluster) -> tuple[float, float, bool]:
    """GPU-hours and days of one run, and whether they are those of its time limit."""
    found = detail(item, cluster)
    if found and found.days is not None and found.gpu_hours is not None:
        return found.gpu_hours, found.days, False
    hours = attempt_gpu_hours(item.recipe) if cluster.gpus.device == "cuda" else 0.0
    return hours, item.recipe.resources.time.seconds / 86400, True

"""What a recipe with a `sweep` or a `search` comes to, all of its runs together."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
    is_least: bool
    """The estimate is a lower bound."""


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
        one = _of_one(first, cluster)
        hours, days = one.gpu_hours * search.budget, one.days * math.ceil(search.budget / search.parallel)
        return replace(
            one, name=first.recipe.name, runs=search.budget, at_once=search.parallel, gpu_hours=hours, days=days
        )
    each = [_of_one(item, cluster) for item in items]
    return RepeatedForecast(
        first.point.sweep,
        runs=len(items),
        at_once=len(items),
        gpu_hours=sum(one.gpu_hours for one in each),
        days=max(one.days for one in each),
        is_limit=any(one.is_limit for one in each),
        is_least=any(one.is_least for one in each),
    )


def _of_one(item: LoadedRecipe, cluster: Cluster) -> RepeatedForecast:
    """Forecast one run."""
    found = detail(item, cluster)
    if found and found.days is not None and found.gpu_hours is not None:
        return RepeatedForecast(item.recipe.name, 1, 1, found.gpu_hours, found.days, False, found.is_least)
    hours = attempt_gpu_hours(item.recipe, cluster)
    return RepeatedForecast(item.recipe.name, 1, 1, hours, item.recipe.resources.time.seconds / 86400, True, False)

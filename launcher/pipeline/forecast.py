"""What a pipeline costs: the sum of its stages, and the days of those that wait for each other longest."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from launcher.cluster import Cluster
from launcher.load.pipeline import LoadedPipeline
from launcher.load.recipes import LoadedRecipe
from launcher.pipeline.faults import awaited_names
from launcher.pipeline.order import StageOrder, order_stages
from launcher.plan.cost import attempt_gpu_hours
from launcher.plan.details import detail
from launcher.plan.edges import sort_stages


@dataclass(frozen=True)
class StageForecast:
    """What one stage takes, without waiting in the queue."""

    name: str
    awaits: tuple[str, ...]
    days: float
    gpu_hours: float
    is_limit: bool
    """There is no estimate: it is one attempt up to its time limit."""
    is_least: bool = False
    """The estimate is a lower bound."""
    points: int | None = None
    """Of a sweep: how many. Its days are those of the longest, as if all of them ran at once."""
    trials: int | None = None
    """Of a search: how many, if none is pruned. Its days are those of as many as follow each other."""


@dataclass(frozen=True)
class PipelineForecast:
    """What all stages take."""

    stages: tuple[StageForecast, ...]
    """Each after those that it waits for."""
    longest: tuple[str, ...]
    """The stages that decide when the last one ends."""
    days: float
    """Of these together."""
    gpu_hours: float
    price: float | None
    """By the profile's `gpus.price`."""


def forecast_pipeline(loaded: LoadedPipeline, cluster: Cluster) -> PipelineForecast:
    """Estimate a pipeline as if none of its stages were done.

    A training is estimated as `launcher plan` does it; of a model that another stage makes, the sizes are those of the
    model it starts from. Other kinds have their time limits.

    Raises:
        RecipeError: Stages wait for each other.
    """
    order, awaited = order_stages(loaded), awaited_names(loaded)
    items = {stage.name: replace(stage.loaded, awaited=awaited) for stage in loaded.stages}
    written = {stage.name: stage.sweep or stage.name for stage in loaded.stages}
    selected = {choice.name: choice.points[0] for choice in loaded.choices}
    whole = dict.fromkeys(written.get(name, name) for name in order.awaits)
    members = {name: [one for one in written if written[one] == name] for name in whole}
    stages: dict[str, StageForecast] = {}
    for name, its in members.items():
        points = [_of_trials(_forecast(one, order, items, selected, cluster), items[one]) for one in its]
        stages[name] = _join(name, points, written, is_sweep=its != [name])
    stages = _sorted(stages)
    longest = _longest(stages)
    days, hours = {name: stage.days for name, stage in stages.items()}, sum(one.gpu_hours for one in stages.values())
    price = None if cluster.gpus.price is None else hours * cluster.gpus.price
    return PipelineForecast(tuple(stages.values()), longest, sum(days[name] for name in longest), hours, price)


def _join(name: str, points: Sequence[StageForecast], written: Mapping[str, str], *, is_sweep: bool) -> StageForecast:
    """Add up the points of a sweep; what they wait for is named as it is written."""
    awaits = dict.fromkeys(written.get(one, one) for point in points for one in point.awaits)
    return StageForecast(
        name,
        tuple(awaits),
        max(point.days for point in points),
        sum(point.gpu_hours for point in points),
        any(point.is_limit for point in points),
        any(point.is_least for point in points),
        len(points) if is_sweep else None,
        points[0].trials,
    )


def _sorted(stages: Mapping[str, StageForecast]) -> dict[str, StageForecast]:
    """Give the stages as they are written, each after those that it waits for."""
    return {name: stages[name] for name in sort_stages({name: {*one.awaits} for name, one in stages.items()})}


def _forecast(
    name: str, order: StageOrder, items: Mapping[str, LoadedRecipe], selected: Mapping[str, str], cluster: Cluster
) -> StageForecast:
    awaits, item = tuple(sorted(order.awaits[name])), items[name]
    found = detail(_from_what_there_is(name, order, items, selected), cluster)
    if found and found.days is not None and found.gpu_hours is not None:
        return StageForecast(name, awaits, found.days, found.gpu_hours, is_limit=False, is_least=found.is_least)
    recipe = item.recipe
    hours = attempt_gpu_hours(recipe, cluster)
    return StageForecast(name, awaits, recipe.resources.time.seconds / 86400, hours, is_limit=True)


def _of_trials(one: StageForecast, item: LoadedRecipe) -> StageForecast:
    """Make the forecast of one trial that of a search; others stay as they are."""
    search = item.recipe.search
    if search is None:
        return one
    after_another = math.ceil(search.budget / search.parallel)
    days, hours = one.days * after_another, one.gpu_hours * search.budget
    return replace(one, days=days, gpu_hours=hours, trials=search.budget)


def _from_what_there_is(
    name: str, order: StageOrder, items: Mapping[str, LoadedRecipe], selected: Mapping[str, str]
) -> LoadedRecipe:
    """Return a stage's recipe with the model that its own starts from, however many stages are between."""
    item, path, maker = items[name], None, order.reads[name].get("model.path")
    while maker is not None:
        maker = selected.get(maker, maker)
        models = [one for one in items[maker].recipe.inputs() if one.type == "model"]
        if not models:
            return item
        path, maker = models[0].name, order.reads[maker].get(models[0].key)
    if path is None or not item.recipe.trains:
        return item
    model = item.recipe.model.model_copy(update={"path": path})
    return replace(item, recipe=item.recipe.model_copy(update={"model": model}))


def _longest(stages: Mapping[str, StageForecast]) -> tuple[str, ...]:
    """Find the stages that wait for each other longest; `stages` come in their order."""
    ends: dict[str, tuple[float, tuple[str, ...]]] = {}
    for name, stage in stages.items():
        before = max((ends[one] for one in stage.awaits), default=(0.0, ()))
        ends[name] = (before[0] + stage.days, (*before[1], name))
    return max(ends.values(), default=(0.0, ()))[1]

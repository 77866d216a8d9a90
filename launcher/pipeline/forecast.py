"""What a pipeline costs: the sum of its stages, and the days of those that wait for each other longest."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from launcher.cluster import Cluster
from launcher.load.pipeline import LoadedPipeline
from launcher.load.recipes import LoadedRecipe
from launcher.pipeline.order import StageOrder, order_stages
from launcher.plan.cost import attempt_gpu_hours
from launcher.plan.details import detail


@dataclass(frozen=True)
class StageForecast:
    """What one stage takes, without waiting in the queue."""

    name: str
    awaits: tuple[str, ...]
    days: float
    gpu_hours: float
    is_limit: bool
    """There is no estimate: it is one attempt up to its time limit."""


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
        LauncherError: Stages wait for each other.
    """
    order, items = order_stages(loaded), {stage.name: stage.loaded for stage in loaded.stages}
    stages = tuple(_forecast(name, order, items, cluster) for name in order.awaits)
    longest = _longest({stage.name: stage for stage in stages})
    days, hours = {stage.name: stage.days for stage in stages}, sum(stage.gpu_hours for stage in stages)
    price = None if cluster.gpus.price is None else hours * cluster.gpus.price
    return PipelineForecast(stages, longest, sum(days[name] for name in longest), hours, price)


def _forecast(name: str, order: StageOrder, items: Mapping[str, LoadedRecipe], cluster: Cluster) -> StageForecast:
    awaits, item = tuple(sorted(order.awaits[name])), items[name]
    found = detail(_from_what_there_is(name, order, items), cluster)
    if found and found.days is not None and found.gpu_hours is not None:
        return StageForecast(name, awaits, found.days, found.gpu_hours, is_limit=False)
    recipe = item.recipe
    hours = attempt_gpu_hours(recipe) * recipe.shares
    return StageForecast(name, awaits, recipe.resources.time.seconds / 86400, hours, is_limit=True)


def _from_what_there_is(name: str, order: StageOrder, items: Mapping[str, LoadedRecipe]) -> LoadedRecipe:
    """Return a stage's recipe with the model that its own starts from, however many stages are between."""
    item, path, maker = items[name], None, order.reads[name].get("model.path")
    while maker is not None:
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

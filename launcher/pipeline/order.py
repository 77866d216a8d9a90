"""The order of a pipeline's stages, from the names in their recipes."""

from dataclasses import dataclass

from launcher.errors import LauncherError
from launcher.load.pipeline import LoadedPipeline
from launcher.plan.edges import find_edges, sort_stages


@dataclass(frozen=True)
class StageOrder:
    """What each stage reads and waits for; the stages are sorted, each after those that it waits for."""

    reads: dict[str, dict[str, str]]
    """For each stage the stages that make what it reads, by the keys that name it."""
    awaits: dict[str, set[str]]


def order_stages(loaded: LoadedPipeline) -> StageOrder:
    """Sort the stages of a pipeline.

    Raises:
        LauncherError: Stages wait for each other.
    """
    names = [stage.name for stage in loaded.stages]
    reads: dict[str, dict[str, str]] = {name: {} for name in names}
    for edge in find_edges([stage.loaded.recipe for stage in loaded.stages]):
        reads[names[edge.reader]][edge.key] = names[edge.maker]
    awaits = {stage.name: {*reads[stage.name].values(), *stage.needs} for stage in loaded.stages}
    try:
        order = sort_stages(awaits)
    except LauncherError as error:
        raise LauncherError(f"{loaded.path}: stages: {error}") from None
    return StageOrder({name: reads[name] for name in order}, {name: awaits[name] for name in order})


def sort_loaded(loaded: LoadedPipeline) -> dict[str, set[str]]:
    """Give the stages in their order, each with those that it waits for."""
    return order_stages(loaded).awaits

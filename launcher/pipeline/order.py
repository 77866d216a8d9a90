"""The order of a pipeline's stages, from the names in their recipes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from launcher.errors import Fault, RecipeError
from launcher.load.pipeline import LoadedPipeline
from launcher.load.translate import fault_at
from launcher.plan.edges import CircleError, find_edges, sort_stages
from launcher.recipe.base import Artifact


@dataclass(frozen=True)
class StageOrder:
    """What each stage reads and waits for; the stages are sorted, each after those that it waits for."""

    reads: dict[str, dict[str, str]]
    """For each stage the stages that make what it reads, by the keys that name it."""
    awaits: dict[str, set[str]]


def order_stages(loaded: LoadedPipeline) -> StageOrder:
    """Sort the stages of a pipeline; of a sweep, its points and then what selects one of them.

    Raises:
        RecipeError: Stages wait for each other.
    """
    names = [*(stage.name for stage in loaded.stages), *(choice.name for choice in loaded.choices)]
    reads: dict[str, dict[str, str]] = {name: {} for name in names}
    selected = [Artifact(*choice.makes) if choice.makes else None for choice in loaded.choices]
    for edge in find_edges([stage.loaded.recipe for stage in loaded.stages], selected):
        reads[names[edge.reader]][edge.key] = names[edge.maker]
    points: dict[str, list[str]] = {}
    for stage in loaded.stages:
        points.setdefault(stage.sweep or stage.name, []).append(stage.name)
    points |= {choice.name: [choice.name] for choice in loaded.choices}
    awaits = {choice.name: {*choice.points} for choice in loaded.choices}
    for stage in loaded.stages:
        needed = (one for need in stage.needs for one in points[need])
        awaits[stage.name] = {*reads[stage.name].values(), *needed}
    try:
        order = sort_stages({name: awaits[name] for name in _as_written(loaded)})
    except CircleError as error:
        raise RecipeError([_explain(error, loaded, reads)]) from None
    return StageOrder({name: reads[name] for name in order}, {name: awaits[name] for name in order})


def _explain(error: CircleError, loaded: LoadedPipeline, reads: Mapping[str, Mapping[str, str]]) -> Fault:
    """Make a circle a fault of a stage: of one that says with `needs` what it waits for, if there is such a one."""
    written = {stage.name: stage.sweep or stage.name for stage in loaded.stages}
    needs = {stage.name: stage.needs for stage in loaded.stages}
    for name, following in pairwise(error.circle):
        need = written.get(following, following)
        if need in needs.get(name, ()) and following not in reads[name].values():
            message = f"{str(error).rpartition(';')[0]}; remove `{need}` here, or another of these names"
            return fault_at(loaded.root, ("stages", written.get(name, name), "needs"), message, "conflict")
    first = error.circle[0]
    return fault_at(loaded.root, ("stages", written.get(first, first)), str(error), "conflict")


def _as_written(loaded: LoadedPipeline) -> Iterator[str]:
    """Give the stages as they are written, each choice behind its last point."""
    behind = {choice.points[-1]: choice.name for choice in loaded.choices}
    for stage in loaded.stages:
        yield stage.name
        if stage.name in behind:
            yield behind[stage.name]


def sort_loaded(loaded: LoadedPipeline) -> dict[str, set[str]]:
    """Give the stages as they are written, in their order, each with those that it waits for."""
    written = {stage.name: stage.sweep or stage.name for stage in loaded.stages}
    found: dict[str, set[str]] = {}
    for name, awaits in order_stages(loaded).awaits.items():
        stage = written.get(name, name)
        found.setdefault(stage, set()).update({written.get(one, one) for one in awaits} - {stage})
    return {name: found[name] for name in sort_stages(found)}

"""The order of a pipeline's stages, from the names in their recipes."""

from collections.abc import Iterator
from dataclasses import dataclass

from launcher.errors import LauncherError
from launcher.load.pipeline import LoadedPipeline
from launcher.plan.edges import find_edges, sort_stages
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
        LauncherError: Stages wait for each other.
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
    except LauncherError as error:
        raise LauncherError(f"{loaded.path}: stages: {error}") from None
    return StageOrder({name: reads[name] for name in order}, {name: awaits[name] for name in order})


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

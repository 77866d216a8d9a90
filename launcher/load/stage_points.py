"""The points of a stage that is a sweep: their names in the pipeline, and those of what they make."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from launcher.load.recipes import LoadedRecipe
from launcher.load.sweep_points import shorten_keys
from launcher.recipe.base import ArtifactType, Direction
from launcher.recipe.pipeline import PipelineStage, Select
from launcher.recipe.sections.search import find_metric, metric_fault

_LONGEST = 100


@dataclass(frozen=True)
class LoadedStage:
    """One stage of a pipeline with its recipe as it is to be carried out, or one point of a stage that is a sweep."""

    name: str
    loaded: LoadedRecipe
    needs: tuple[str, ...] = ()
    sweep: str | None = None
    """Of a point: the stage as it is written."""
    corners: tuple[LoadedRecipe, ...] = ()
    """Of a search: recipes at the corners of its space."""
    best: "LoadedChoice | None" = None
    """Of a search: how its best trial is selected."""


@dataclass(frozen=True)
class LoadedChoice:
    """A stage that is a sweep, as the one of its points that will be selected."""

    name: str
    points: tuple[str, ...]
    metric: str
    direction: Direction
    """Which values are better."""
    allow_failed: int
    makes: tuple[ArtifactType, str] | None
    """Type and name of what the selected point makes for other stages."""


def read_points(
    pipeline: str, name: str, stage: PipelineStage, loaded: Sequence[LoadedRecipe]
) -> tuple[list[LoadedStage], LoadedChoice | None]:
    """Give each point a name, and what it makes one of its own.

    Args:
        pipeline: Its name.
        name: Of the stage.
        stage: The stage as it is written.
        loaded: A recipe for each point, or the only one.

    Returns:
        The stages, and what selects one of them.
    """
    if search := loaded[0].recipe.search:
        select = stage.select or Select(metric=search.metric, direction=search.direction)
        best = _choice(name, (), select, loaded[0])
        return [LoadedStage(name, replace(loaded[0], point=None), stage.needs, None, tuple(loaded), best)], None
    if loaded[0].point is None:
        return [LoadedStage(name, loaded[0], stage.needs)], None
    made = {recipe.makes.name for recipe in (item.recipe for item in loaded) if recipe.makes}
    points = []
    for item in loaded:
        assert item.point is not None
        words = _words(item.point.values)
        point = replace(item.point, sweep=f"{pipeline}:{name}")
        named = replace(_rename_output(item, words) if len(made) == 1 and len(loaded) > 1 else item, point=point)
        label = _join(f"{name}-", "-", [f"{key}={word}" for key, word in words])
        points.append(LoadedStage(label, named, stage.needs, name))
    return points, _choice(name, points, stage.select, loaded[0]) if stage.select else None


def find_select_faults(stage: PipelineStage, loaded: Sequence[LoadedRecipe]) -> Iterator[tuple[str, str]]:
    """Name what is wrong with a stage's `select`, with the key below it."""
    search = loaded[0].recipe.search
    if stage.select is None:
        return
    if search and stage.select.allow_failed:
        yield "allow_failed", "is for sweeps; a search passes over trials that failed, so leave it out"
        return
    if loaded[0].point is None and not search:
        yield "", "the stage has no `sweep`, so there is nothing to select from; write one, or remove `select`"
        return
    select = stage.select
    if fault := next(
        filter(None, (metric_fault(select.metric, select.direction, one.recipe.reports) for one in loaded)), None
    ):
        key, _, message = fault.partition(": ")
        yield key, message
    if not search and select.allow_failed >= len(loaded):
        yield "allow_failed", f"{select.allow_failed} leaves none of {len(loaded)} points; write a smaller number"


def _choice(name: str, points: Sequence[LoadedStage], select: Select, first: LoadedRecipe) -> LoadedChoice:
    reported = first.recipe.reports
    known = find_metric(select.metric, reported)
    direction = select.direction or (reported[known] if known else None) or "minimize"  # `find_select_faults`
    made = first.recipe.makes
    its = tuple(point.name for point in points)
    return LoadedChoice(
        name, its, select.metric, direction, select.allow_failed, (made.type, made.name) if made else None
    )


def _rename_output(item: LoadedRecipe, words: Sequence[tuple[str, str]]) -> LoadedRecipe:
    made = item.recipe.makes
    if made is None:
        return item
    key = next(key for key in ("output", "corpus") if getattr(item.recipe, key, None) == made.name)
    name = _join(
        f"{made.name}.", ".", [re.sub(r"[^A-Za-z0-9._]+", "-", f"{key}-{word}").strip("-") for key, word in words]
    )
    return replace(item, recipe=item.recipe.model_copy(update={key: name}))


def _words(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Write the values of a point, by the last words of its keys."""
    short = shorten_keys(list(values))
    return [(short[key], value if isinstance(value, str) else json.dumps(value)) for key, value in values.items()]


def _join(start: str, separator: str, words: Sequence[str]) -> str:
    name = f"{start}{separator.join(words)}".replace("/", "_")
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 9]}{separator}{hashlib.sha256(name.encode()).hexdigest()[:8]}"

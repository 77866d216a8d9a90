"""Names that runs which are not over will give to what they make. The runs are found by the names, not searched for."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from launcher.cluster import Cluster
from launcher.errors import Fault, LauncherError, RunError
from launcher.load import LoadedRecipe
from launcher.plan.conflicts import key_of, would_clash
from launcher.recipe import Recipe, read_recipe
from launcher.recipe.base import Artifact
from launcher.run.locations import Locations, root_of
from launcher.run.paths import RunDir, expand
from launcher.run.queued import find_queued
from launcher.run.record import RunRecord

if TYPE_CHECKING:
    from launcher.monitor.status import RunStatus


def name_key(made: Artifact) -> str:
    """The key by which `launcher.run.queued` finds the run that was queued last to make something of this name."""
    return hashlib.sha256(f"{root_of(made.type)}/{made.name}".encode()).hexdigest()


def find_taken(
    loaded: Sequence[LoadedRecipe], cluster: Cluster, rehearsal: bool
) -> Iterator[tuple[LoadedRecipe, list[Fault]]]:
    """Name the recipes that make something of a name that another run, which is queued or running, will give.

    Args:
        loaded: The recipes, none of which has a run.
        cluster: The site.
        rehearsal: They are rehearsals, which may take the name of what another rehearsal trains.
    """
    runs_root, read = expand(cluster.roots.runs), cache(_read)
    makers = [(item, made, find_queued(runs_root, name_key(made))) for item in loaded if (made := item.recipe.makes)]
    alive = _states([run for _, _, run in makers if run], cluster)
    for item, made, run in makers:
        status = alive.get(run) if run else None
        if run is None or status is None or status.is_over:
            continue
        gives_way = rehearsal and status.rehearsal and item.recipe.trains
        if not gives_way and (maker := read(run)) and _takes(*maker, made, item, cluster):
            message = f"run `{status.id}`, which is {status.state}, makes `{made.name}`; write another name"
            yield item, [item.place(Fault(item.recipe.name, None, key_of(made), message, "name-taken"))]


def _states(runs: Sequence[RunDir], cluster: Cluster) -> Mapping[RunDir, "RunStatus"]:
    if not runs:
        return {}
    from launcher.monitor.status import read_statuses

    with suppress(RunError):  # none of them can be read
        statuses, _ = read_statuses(cluster, [*dict.fromkeys(runs)])
        by_folder = {one.folder: one for one in statuses}
        return {run: by_folder[str(run.root)] for run in runs if str(run.root) in by_folder}
    return {}


def _read(run: RunDir) -> tuple[Recipe, Locations] | None:
    """Read what a run makes, and where; None if it is another version's, or damaged."""
    with suppress(OSError, ValueError, LauncherError):
        return read_recipe(run.recipe.read_text(encoding="utf-8")), RunRecord.read(run.record).locations
    return None


def _takes(recipe: Recipe, places: Locations, made: Artifact, item: LoadedRecipe, cluster: Cluster) -> bool:
    """Tell whether a run of a recipe makes something else of a name, in the same folder."""
    folder = Locations(cluster.roots.model_dump(), item.folder, item.artifacts).folder(made.type, made.name)
    theirs = recipe.makes and places.folder(recipe.makes.type, recipe.makes.name)
    return theirs == folder and would_clash(recipe, item.recipe, (places.recipe_folder, item.folder))

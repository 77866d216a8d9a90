"""Runs that finished already: the same recipe, but for where and how fast, with the same inputs."""

import logging
from collections.abc import Sequence

from launcher.cluster import Cluster
from launcher.load import LoadedRecipe
from launcher.recipe.identity import identify, recipe_checksum
from launcher.run.index import find_finished, may_be_finished
from launcher.run.locations import Locations
from launcher.run.paths import RunDir, expand, index_root

_LOG = logging.getLogger(__name__)


def find_reusable(loaded: Sequence[LoadedRecipe], cluster: Cluster) -> dict[int, RunDir]:
    """Find the recipes of which nothing is left to do.

    Checksums of files are computed only where a run of the same recipe has finished.

    Args:
        loaded: The recipes.
        cluster: Where they would go.

    Returns:
        The newest finished run of each, by the recipe's place.
    """
    if not index_root(expand(cluster.roots.runs)).is_dir():
        return {}
    found = ((place, find_finished_run(item, cluster)) for place, item in enumerate(loaded))
    return {place: run for place, run in found if run is not None}


def find_finished_run(item: LoadedRecipe, cluster: Cluster) -> RunDir | None:
    """Find the newest finished run of a recipe with its present inputs; None if there is none."""
    runs_root = expand(cluster.roots.runs)
    if not may_be_finished(runs_root, recipe_checksum(item.recipe)):
        _LOG.info("%s: no run of this recipe has finished", item.recipe.name)
        return None
    identity = identify(item.recipe, Locations(cluster.roots.model_dump(), item.folder, item.artifacts))
    found = find_finished(runs_root, identity) if identity else None
    told = f"finished as {found.root}" if found else "no run of this recipe has finished with these inputs"
    _LOG.info("%s: %s", item.recipe.name, told)
    return found

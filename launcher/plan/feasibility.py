"""Whether a recipe can work on a cluster, said before it waits in a queue. Reads small local files only."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from launcher.cluster import Cluster
from launcher.errors import Fault
from launcher.load import LoadedRecipe
from launcher.plan.conflicts import find_conflicts
from launcher.plan.corpus_checks import check_corpora, check_corpus_name, check_token_ids
from launcher.plan.file_checks import check_files, check_tables_name
from launcher.plan.model_checks import (
    HUB_ID,
    check_adapters,
    check_chat_template,
    check_lengths,
    check_models,
    check_output,
    check_schedule,
)
from launcher.plan.name_checks import check_columns, check_targets
from launcher.plan.recipe_at_site import Lookups, Pending, RecipeAtSite
from launcher.plan.site_checks import (
    check_device,
    check_engine,
    check_gpus,
    check_secrets,
    check_sweep_of_wandb,
    check_time,
    check_tracking,
)
from launcher.plan.terminology_checks import check_terminology
from launcher.recipe import Recipe

_NOTHING: Pending = MappingProxyType({})
_CHECKS = (
    *(check_gpus, check_time, check_secrets, check_sweep_of_wandb, check_engine),
    *(check_models, check_adapters, check_output, check_lengths, check_schedule, check_targets, check_chat_template),
    *(check_device, check_tracking, check_files, check_columns),
    *(check_tables_name, check_corpus_name, check_corpora, check_token_ids, check_terminology),
)


def check(
    recipe: Recipe,
    cluster: Cluster,
    recipe_folder: str,
    pending: Pending = _NOTHING,
    artifacts: Path | None = None,
    site: Lookups | None = None,
) -> list[Fault]:
    """Find out why a recipe cannot work on a cluster.

    Args:
        recipe: The recipe.
        cluster: Where it is to run.
        recipe_folder: Folder of its file, for `./` values.
        pending: Corpora, tokenizers, models, adapters and tables that are not there yet, but will be when it starts.
        artifacts: Of a stage: those of its pipeline.
        site: What was found for recipes that are checked together with this one.

    Returns:
        The faults, with the recipe's name for a file; `LoadedRecipe.place` turns it into file and line.
    """
    here = RecipeAtSite(recipe, cluster, recipe_folder, pending, site or Lookups(), artifacts)
    return [fault for find_faults in _CHECKS for fault in find_faults(here)]


def check_each(
    loaded: Sequence[LoadedRecipe], cluster: Cluster, pending: Pending = _NOTHING
) -> list[tuple[LoadedRecipe, list[Fault]]]:
    """Check recipes as `check` does, but not for conflicts with each other; each fault at its file and line."""
    site = Lookups()
    return [
        (item, [item.place(fault) for fault in _check_loaded(item, cluster, {**pending, **item.awaited}, site)])
        for item in loaded
    ]


def _check_loaded(item: LoadedRecipe, cluster: Cluster, pending: Pending, site: Lookups) -> list[Fault]:
    return check(item.recipe, cluster, item.folder, pending, item.artifacts, site)


def check_all(loaded: Sequence[LoadedRecipe], cluster: Cluster, pending: Pending = _NOTHING) -> list[Fault]:
    """Check recipes as `check` does, each fault at its file and line, and for conflicts with each other."""
    alone = [fault for _, faults in check_each(loaded, cluster, pending) for fault in faults]
    return [*alone, *dict.fromkeys(find_conflicts(loaded))]


def hub_ids(recipe: Recipe, cluster: Cluster, recipe_folder: str) -> list[str]:
    """Name the models and tokenizers that are not on this site; the nodes will ask the Hugging Face Hub for them."""
    here = RecipeAtSite(recipe, cluster, recipe_folder, _NOTHING)
    names = [one.name for one in here.inputs("model", "adapter", "tokenizer") if HUB_ID.fullmatch(one.name)]
    return [name for name in names if not os.path.isabs(here.model(name))]

"""What a site must have for a recipe: GPUs, time, secrets, a place to track runs."""

import os
from collections.abc import Iterator

from launcher.errors import Fault
from launcher.plan.model_shape import find_head_size
from launcher.plan.recipe_at_site import RecipeAtSite
from launcher.plan.wandb_login import netrc_with, wandb_host
from launcher.recipe.sections.common import Model
from launcher.run.files import is_program
from launcher.run.paths import expand

LEAST_FLEX_HEAD = 16
"""Numbers of an attention head that torch's flex attention needs on a GPU (torch 2.13)."""


def check_gpus(here: RecipeAtSite) -> Iterator[Fault]:
    """Compare the GPUs that a recipe asks for with those of a node."""
    wanted, site, name = here.recipe.resources, here.cluster.gpus, here.cluster.name
    if site.per_node and wanted.gpus_per_node > site.per_node:
        yield here.fault(
            "site-limit",
            "resources.gpus_per_node",
            f"{wanted.gpus_per_node} are more than a node of `{name}` has; write at most {site.per_node}, and more "
            "`nodes`",
        )
    if site.memory and wanted.gpu_memory and wanted.gpu_memory.bytes > site.memory.bytes:
        message = f"`{wanted.gpu_memory}` is more than a GPU of `{name}` has; write at most `{site.memory}`"
        yield here.fault("site-limit", "resources.gpu_memory", message)


def check_time(here: RecipeAtSite) -> Iterator[Fault]:
    """Refuse a time limit that is over when a run is asked to stop."""
    time, lead = here.recipe.resources.time, here.cluster.slurm.lead
    if time.seconds <= lead.seconds:
        yield here.fault(
            "site-limit",
            "resources.time",
            f"`{time}` leaves no time to work: runs of `{here.cluster.name}` are asked to stop {lead} before their "
            "limit; write more, or a shorter `slurm.lead` in the profile",
        )


def check_secrets(here: RecipeAtSite) -> Iterator[Fault]:
    """Look for the secrets that a recipe names."""
    file = here.cluster.secrets_file
    known = {*os.environ, *here.site.once(_names_in, file)} if here.recipe.secrets else set()
    where = file or "the file that the profile names as `secrets_file`"
    for index, name in enumerate(here.recipe.secrets):
        if name not in known:
            message = f"`{name}` is neither in this environment nor in {where}; export it, or write it there"
            yield here.fault("not-found", f"secrets.{index}", message)


def check_sweep_of_wandb(here: RecipeAtSite) -> Iterator[Fault]:
    """Look for W&B's key, without which a sweep gives no run to a search."""
    search = here.recipe.search
    if search is None or search.sweep is None or "WANDB_API_KEY" in (*here.recipe.secrets, *os.environ):
        return
    host = wandb_host(here.cluster, os.environ)
    if netrc_with(host, os.environ) is None:
        yield here.fault(
            "not-found",
            "search.sweep",
            f"there is no key for {host} here, and nodes ask W&B for each trial; list `WANDB_API_KEY` under `secrets` "
            "and write it into the profile's `secrets_file`, or `wandb login`",
        )


def check_device(here: RecipeAtSite) -> Iterator[Fault]:
    """Refuse what only GPUs compute at a site that trains on CPUs, and what their kernels cannot compute."""
    recipe, name = here.recipe, here.cluster.name
    if not recipe.trains:
        return
    if here.cluster.gpus.device != "cpu":
        yield from _check_heads(here, recipe.model)
        return
    if recipe.model.attention == "flash":
        message = f"`flash` needs GPUs, and `{name}` trains on CPUs; write `sdpa`"
        yield here.fault("site-limit", "model.attention", message)
    if recipe.precision.dtype == "fp16":
        yield here.fault(
            "site-limit", "precision.dtype", f"`fp16` needs GPUs, and `{name}` trains on CPUs; write `bf16`"
        )


def _check_heads(here: RecipeAtSite, model: Model) -> Iterator[Fault]:
    size = find_head_size(here.config(model.path) or {}) if model.attention == "flex" else None
    if size and size < LEAST_FLEX_HEAD:
        message = (
            f"`flex` needs attention heads of {LEAST_FLEX_HEAD} or more numbers on GPUs, and those of `{model.path}` "
            f"have {size}; write `sdpa`"
        )
        yield here.fault("mismatch", "model.attention", message)


def check_engine(here: RecipeAtSite) -> Iterator[Fault]:
    """Look for the Python of the engine that a recipe names; one in an image is looked for on the node."""
    engine, name = here.recipe.foreign_engine, here.cluster.name
    if engine is None:
        return
    python = here.cluster.engines.get(engine)
    if python is None:
        message = (
            f"the profile of `{name}` names no Python that has {engine}; write `engines: {{{engine}: "
            "/path/to/bin/python}` in it, or another engine here"
        )
        yield here.fault("not-found", "engine", message)
    elif here.cluster.container is None and not here.site.once(is_program, expand(python)):
        message = f"`{python}`, which the profile names as `engines.{engine}`, is no program; correct the path"
        yield here.fault("not-found", "engine", message)


def check_tracking(here: RecipeAtSite) -> Iterator[Fault]:
    """Keep metrics of credentialed data at the site."""
    recipe = here.recipe
    if not recipe.is_tracked or recipe.data_use != "credentialed" or here.cluster.wandb_base_url:
        return
    if recipe.tracking.mode == "online":
        yield here.fault(
            "data-use",
            "tracking.mode",
            "credentialed data must not be tracked at W&B's public server; write `offline` or `disabled`, or name a "
            "W&B server of your own as `wandb_base_url` in the profile",
        )


def _names_in(secrets_file: str | None) -> set[str]:
    """Names of the secrets in a file of NAME=value lines; the values are not kept."""
    if secrets_file is None or not expand(secrets_file).is_file():
        return set()
    lines = expand(secrets_file).read_text(encoding="utf-8").split("\n")
    return {line.partition("=")[0].removeprefix("export ").strip() for line in lines if "=" in line}

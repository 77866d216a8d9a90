"""The name by which other recipes find what a run trained: a link below the profile's folder of models."""

import os
from pathlib import Path

from jobs.rank.atomic_files import sync
from jobs.rank.context import Context
from jobs.rank.publish import refusing_closed, require_writable
from launcher.errors import LauncherError
from launcher.recipe.kinds.training import TrainingRecipe
from launcher.run.record import was_rehearsed


def refuse_taken(context: Context, recipe: TrainingRecipe) -> None:
    """Refuse a name that something else has, or that may not be given, before anything is trained.

    A link whose run was removed does not count, nor does one that a rehearsal left.

    Raises:
        LauncherError: the recipe's `output` is taken, or this user may not write where it goes.
    """
    link = _link(context, recipe)
    if link is None or _is_ours(link, context):
        return
    if link.exists() and not was_rehearsed(link):
        raise LauncherError(f"output: {link} exists already, and not from this run; write another name, or remove it")
    require_writable(link)


def publish_name(context: Context, recipe: TrainingRecipe) -> None:
    """Make the recipe's `output`, if it has one, a name of the run's export."""
    link = _link(context, recipe)
    if link is None or _is_ours(link, context):
        return
    refuse_taken(context, recipe)
    with refusing_closed():
        link.parent.mkdir(parents=True, exist_ok=True)
        staging = link.with_name(f".{link.name}.{context.record.id}")
        staging.unlink(missing_ok=True)
        staging.symlink_to(_target(context))
        os.replace(staging, link)
    sync(link.parent)


def _link(context: Context, recipe: TrainingRecipe) -> Path | None:
    return context.made_path("model", recipe.output) if recipe.output else None


def _is_ours(link: Path, context: Context) -> bool:
    return link.is_symlink() and link.readlink() == _target(context)


def _target(context: Context) -> Path:
    return (context.run.outputs / "model").absolute()

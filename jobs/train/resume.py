"""Where an attempt's training starts, and whether the data is still as long as it was when the run began."""

from jobs.rank.context import Context
from jobs.train.checkpoint import CheckpointStore
from launcher.errors import LauncherError
from launcher.recipe.kinds.training import TrainingRecipe
from launcher.run.identity import RunIdentity
from launcher.run.ledger import append_event, read_attempts


def resume_from(context: Context, recipe: TrainingRecipe, store: CheckpointStore, steps: int) -> int | None:
    """Find the checkpoint to resume from, and note it in the ledger. A collective.

    Args:
        context: The run and this rank.
        recipe: The run's.
        store: Its checkpoints.
        steps: Optimizer steps of the whole training.

    Returns:
        The checkpoint's step, or None to start from scratch.

    Raises:
        LauncherError: the data has grown or shrunk since the checkpoint was saved.
    """
    resumed = store.find_resume()
    fault = _find_other_length(context, recipe, steps) if resumed is not None and store.group.is_main else None
    if fault := store.group.from_main(fault):
        raise LauncherError(fault)
    if store.group.is_main:
        append_event(context.run.ledger, context.attempt, first_step=resumed or 0, total_steps=steps)
    return resumed


def _find_other_length(context: Context, recipe: TrainingRecipe, steps: int) -> str | None:
    """Say that epochs have another number of steps than they had in the attempt before; None if they have not.

    A run keeps its recipe, so it is the data that differs; a length in steps or tokens says nothing of it.
    """
    length = recipe.schedule.length
    attempts = [one for one in read_attempts(context.run.ledger) if one.number < context.attempt]
    noted = [one.total_steps for one in attempts if one.total_steps is not None]
    if length.unit != "epoch" or not noted or noted[-1] == steps:
        return None
    identity = RunIdentity.read(context.run.identity)
    changed = f" ({', '.join(f'`{key}`' for key in identity.changed)})" if identity and identity.changed else ""
    return (
        f"schedule.length: `{length}` was {noted[-1]:,} steps in the attempt before and is {steps:,} now: the data has "
        f"changed{changed}, and the checkpoints belong to what it was; put it back and `launcher resume` the run, or "
        "submit the recipe anew"
    )

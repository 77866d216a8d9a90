"""Tasks that a model is evaluated on while it is trained."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Fraction, Input, Positive, Section
from launcher.recipe.quantities import Length
from launcher.recipe.sections.generation_task import AnyTask

WHOLE = ("ddp", "zero2")
"""Strategies in which every rank holds all weights."""
IN_STEP = ("choice", "perplexity")
"""Tasks for which all ranks can compute equally often, as sharded weights ask for."""


class During(Section):
    """Tasks as in a recipe of `kind: evaluate`, computed by the ranks that train."""

    interval: Length = Length("1 epoch")
    """How often, e.g. `1 epoch` or `500 steps`; also before the first step and after the last."""
    tasks: Annotated[tuple[AnyTask, ...], Field(min_length=1)]
    """Tasks of type `choice`, `perplexity` and, with `ddp` or `zero2`, `generate`. Scores go to evaluations.jsonl and
    to W&B (`validation/TASK/METRIC`)."""
    tokens_per_batch: Positive = 8192
    """Tokens that a rank computes at once, with padding. Write less if a GPU runs out of memory."""
    max_bad_fraction: Fraction = 0.0
    """Unreadable records are counted and left out up to this share of all records; above it the run fails."""

    def inputs(self) -> Iterator[Input]:
        """Give the corpora and files of all tasks."""
        for place, task in enumerate(self.tasks):
            yield from task.inputs(f"during.tasks.{place}")

    @override
    def _conflicts(self) -> Iterator[str]:
        for place, task in enumerate(self.tasks):
            if not task.needs_model:
                yield f"tasks.{place}.type: `{task.type}` does not depend on the model that is trained; remove the task"
            if task.type == "reward":
                yield f"tasks.{place}.type: `reward` needs a model with a head; remove the task"


def task_conflicts(tasks: Sequence[AnyTask], data_use: str, prefix: str = "") -> Iterator[str]:
    """Name tasks whose names are used twice, and those with data under an agreement in an open recipe.

    Args:
        tasks: Of a recipe.
        data_use: The recipe's.
        prefix: Of the tasks' keys in the recipe.
    """
    names = [task.name for task in tasks]
    for place, task in enumerate(tasks):
        if task.name in names[:place]:
            yield f"{prefix}tasks.{place}.name: `{task.name}` is used twice; write another name"
        source = getattr(task, "source", None)
        if data_use == "open" and source and source.format.startswith("mimic"):
            key = f"{prefix}tasks.{place}.source.format"
            yield f"{key}: MIMIC is under a data use agreement; write `data_use: credentialed`"


def during_conflicts(during: During | None, data_use: str, strategy: str, attention: str) -> Iterable[str]:
    """Name what of a training does not go with its tasks.

    Args:
        during: The recipe's section.
        data_use: The recipe's.
        strategy: Of the recipe's `parallel`.
        attention: Of the recipe's `model`.
    """
    if during is None:
        return
    yield from task_conflicts(during.tasks, data_use, "during.")
    if attention == "flex":
        yield (
            "model.attention: `flex` is compiled again for each length of a prompt that `during` scores; write `sdpa`, "
            "or evaluate the exported model with `kind: evaluate`"
        )
    for place, task in enumerate(during.tasks):
        if strategy not in WHOLE and task.type not in IN_STEP:
            yield (
                f"during.tasks.{place}.type: with `{strategy}` each rank holds a part of the weights, so all must "
                f"compute equally often, which `{task.type}` does not do; write `strategy: ddp` or `zero2`, or "
                "evaluate the exported model with `kind: evaluate`"
            )

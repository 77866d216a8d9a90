"""What one training needs and costs, in all detail that closed forms give: for `launcher plan`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.cluster import Cluster
from launcher.gpus import POWER_WATTS, look_up
from launcher.load import LoadedRecipe
from launcher.plan.cost import corpus_sizes, steps_of, uses_gpus
from launcher.plan.flops import tokens_of_step
from launcher.plan.forecast import starting_micro_batch
from launcher.plan.memory import (
    MemoryEstimate,
    estimate_checkpoint,
    estimate_copy,
    estimate_loading,
    estimate_memory,
    estimate_offloaded,
    trained_parameters,
)
from launcher.plan.model_shape import ModelShape, find_shape, scoring_shapes
from launcher.plan.recipe_at_site import at_site
from launcher.plan.step_time import StepTime, estimate_step, measured_at

if TYPE_CHECKING:
    from launcher.recipe.kinds.training import TrainingRecipe

WRITE_BYTES = 1_000_000_000
"""Bytes a second that all nodes together write to a shared file system, where no check of the site says; an
assumption."""
COPY_BYTES = 2_000_000_000
"""Bytes a second that a rank copies to its node's RAM; an assumption."""
SPARE_SECONDS = 60
"""What a stop needs besides the running step and the save: signals, agreement of the ranks, the last rows of logs."""
GPU_HOURS_PER_FAILURE = 54 * 24 * 16_384 / 419
"""Llama 3: 419 unexpected interruptions in 54 days on 16,384 GPUs (https://arxiv.org/abs/2407.21783, section 3.3.4)."""


@dataclass(frozen=True)
class TrainingDetails:
    """Everything about one training; None where something that it follows from is not known."""

    parameters: int
    trained: int | None
    memory: MemoryEstimate | None
    """Of one rank at the peak of a step."""
    loading: int | None
    """Bytes of RAM that a node needs while the model is loaded."""
    offloaded: int | None
    """Bytes of RAM that a node needs while it trains."""
    checkpoint_bytes: int | None
    save_seconds: float | None
    """At what a check of the site measured, or `WRITE_BYTES` a second."""
    copied: int | None
    """Bytes of RAM that a node needs for copies of a checkpoint, if training goes on while they are written."""
    stall_seconds: float | None
    """That training waits for a save: for all of it, or for the copy, at `COPY_BYTES` a second and rank."""
    step: StepTime | None
    tokens_per_second: float | None
    """Of all ranks together."""
    steps: int | None
    """Of the whole run."""
    tokens: int | None
    days: float | None
    """Of training, without waiting in the queue."""
    gpu_hours: float | None
    megawatt_hours: float | None
    """Of the GPUs alone, at their full power."""
    price: float | None
    """By the profile's `gpus.price`, in its currency."""
    wanted_lead: float | None
    """Seconds of warning before a time limit that the longest step and a save need; and another save, which may be
    under way, where training does not wait for saves."""
    is_least: bool
    """Times and costs are lower bounds: sampling is counted as fast as a GPU reads its memory."""
    best_interval: float | None
    """Seconds between checkpoints that lose the least: Young's sqrt(2 x stall x time between failures)
    (https://doi.org/10.1145/361147.361115), but no less than a save takes."""


def detail(loaded: LoadedRecipe, cluster: Cluster) -> TrainingDetails | None:
    """Work out the details of a training; None for another kind, or a model whose sizes are not known here."""
    recipe = loaded.recipe
    if not recipe.trains:
        return None
    here = at_site(loaded, cluster)
    shape = find_shape(recipe, here)
    if shape is None:
        return None
    start = starting_micro_batch(loaded, cluster)
    recipe = recipe if start is None else recipe.sized(start)
    steps = steps_of(recipe, corpus_sizes(recipe, here))
    return detail_shape(recipe, shape, cluster, steps, scoring_shapes(recipe, shape, here))


def detail_shape(
    recipe: "TrainingRecipe",
    shape: ModelShape,
    cluster: Cluster,
    steps: int | None,
    scoring: Sequence[ModelShape] = (),
) -> TrainingDetails:
    """Work out the details of a training whose model, micro batch and length are known."""
    step, saved = estimate_step(recipe, shape, cluster, scoring), estimate_checkpoint(recipe, shape)
    measured = measured_at(cluster)
    rate = measured.write.per_second if measured and measured.write else WRITE_BYTES
    save, copied = None if saved is None else saved / rate, estimate_copy(recipe, shape)
    copying = recipe.resources.ranks_per_node if recipe.parallel.strategy != "ddp" else 1
    stall = save if copied is None else copied / copying / COPY_BYTES
    gpus = recipe.resources.nodes * recipe.resources.gpus_per_node if uses_gpus(recipe, cluster) else 0
    seconds = step.seconds * steps if step and steps else None
    hours, watts = seconds and seconds * gpus / 3600, look_up(POWER_WATTS, cluster.gpus.type or "")
    return TrainingDetails(
        parameters=shape.parameters,
        trained=trained_parameters(recipe, shape),
        memory=estimate_memory(recipe, shape, scoring) if gpus else None,
        loading=estimate_loading(recipe, shape, scoring),
        offloaded=estimate_offloaded(recipe, shape),
        checkpoint_bytes=saved,
        save_seconds=save,
        copied=copied,
        stall_seconds=stall,
        step=step,
        tokens_per_second=tokens_of_step(recipe) / step.seconds if step else None,
        steps=steps,
        tokens=steps and steps * tokens_of_step(recipe),
        days=seconds and seconds / 86400,
        gpu_hours=hours,
        megawatt_hours=hours * watts / 1e6 if hours and watts else None,
        price=hours * cluster.gpus.price if hours and cluster.gpus.price is not None else None,
        wanted_lead=None if step is None or save is None else step.longest + save * (1 + bool(copied)) + SPARE_SECONDS,
        is_least=bool(step and step.rollout),
        best_interval=_best_interval(save, stall, gpus) if save and stall and gpus else None,
    )


def _best_interval(save: float, stall: float, gpus: int) -> float:
    return max(save, math.sqrt(2 * stall * 3600 * GPU_HOURS_PER_FAILURE / gpus))

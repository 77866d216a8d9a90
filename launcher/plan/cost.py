"""What a run costs in GPU-hours: one attempt exactly, the whole run as an estimate at a stated utilisation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from launcher.gpus import flops_per_token, peak_flops
from launcher.plan.model_shape import ModelShape
from launcher.plan.recipe_at_site import RecipeAtSite
from launcher.plan.utilisation import expected_mfu
from launcher.recipe import Recipe

if TYPE_CHECKING:
    from launcher.recipe.kinds.training import TrainingRecipe


@dataclass(frozen=True)
class RunCost:
    """An estimate for a whole run."""

    steps: int
    tokens: int
    gpu_hours: float
    mfu: float
    """The utilisation that was assumed."""


def attempt_gpu_hours(recipe: Recipe) -> float:
    """GPU-hours that one attempt is charged if it runs up to its time limit, on all array elements of a shared work."""
    resources = recipe.resources
    return recipe.shares * resources.nodes * resources.gpus_per_node * resources.time.seconds / 3600


def estimate_run(
    recipe: "TrainingRecipe",
    shape: ModelShape,
    gpu: str | None,
    corpus_sizes: Sequence[int] | None = None,
) -> RunCost | None:
    """Estimate steps, tokens and GPU-hours of a whole run.

    Args:
        recipe: What to train.
        shape: The model.
        gpu: Its name or the site's type for it, e.g. `a100`.
        corpus_sizes: Sequences of each corpus, where they are known; needed for lengths in epochs.

    Returns:
        None if the length or the GPU's peak is not known.
    """
    steps = steps_of(recipe, corpus_sizes)
    peak = peak_flops(gpu, recipe.precision.dtype, recipe.precision.tf32) if gpu else None
    if steps is None or peak is None:
        return None
    tokens = steps * tokens_of_step(recipe)
    mfu = expected_mfu(shape, gpu or "", recipe.batch.sequence_length, recipe.model.activation_checkpointing)
    flops = tokens * flops_of_token(recipe, shape)
    return RunCost(steps, tokens, flops / (peak * mfu) / 3600, mfu)


def tokens_of_step(recipe: "TrainingRecipe") -> int:
    """Tokens of a global batch."""
    return recipe.batch.sequences * recipe.sequences_per_sample * recipe.batch.sequence_length


def flops_of_token(recipe: "TrainingRecipe", shape: ModelShape) -> float:
    """FLOPs of forward and backward for one token; recomputed activations do not count."""
    output_tables = 0 if recipe.predicts == "labels" else 1  # a head takes the place of the output embedding
    computing = shape.parameters - (shape.tables - output_tables) * shape.table_parameters
    width = shape.heads * shape.head_size
    frozen = computing if recipe.adapter else 0
    return flops_per_token(computing, shape.layers, width, recipe.batch.sequence_length, frozen)


def steps_of(recipe: "TrainingRecipe", corpus_sizes: Sequence[int] | None) -> int | None:
    """Optimizer steps of a run, rounded up; None for a length in epochs of corpora of unknown size."""
    length = recipe.schedule.length
    if length.unit == "epoch" and corpus_sizes is None:
        return None
    return recipe.batch.steps(length, Fraction(0) if corpus_sizes is None else recipe.samples_in_epoch(corpus_sizes))


def corpus_sizes(recipe: "TrainingRecipe", here: RecipeAtSite) -> list[int] | None:
    """Training sequences of each corpus, from its manifest; None unless all are known."""
    from launcher.recipe.sections.mixture import Data

    data = getattr(recipe, "data", None)
    if not isinstance(data, Data) or data.packing == "pad":  # padding takes the length of every document
        return None
    counts = [(here.manifest(corpus.name) or {}).get("counts") or {} for corpus in data.corpora]
    unit = "documents" if data.packing == "truncate" else "tokens"
    known = [count for count in (each.get(unit, {}).get("train") for each in counts) if isinstance(count, int)]
    if len(known) < len(counts):
        return None
    return known if unit == "documents" else [math.ceil(tokens / recipe.batch.sequence_length) for tokens in known]

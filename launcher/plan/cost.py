"""What a run costs in GPU-hours: one attempt exactly, the whole run as an estimate at a stated utilisation."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from launcher.gpus import flops_per_token, peak_flops
from launcher.plan.shape import ModelShape
from launcher.recipe import Recipe
from launcher.recipe.training import TrainingRecipe

ASSUMED_MFU = 0.4
"""Utilisation that well-tuned dense models reach on A100s: 46 % (PaLM on TPUs) and 44 to 57 % (Megatron-LM,
https://arxiv.org/abs/2205.05198, table 5) are the published good cases; 40 % leaves room for slower networks."""


@dataclass(frozen=True)
class RunCost:
    """An estimate for a whole run."""

    steps: int
    tokens: int
    gpu_hours: float
    mfu: float
    """The utilisation that was assumed."""


def attempt_gpu_hours(recipe: Recipe) -> float:
    """GPU-hours that one attempt is charged if it runs up to its time limit."""
    resources = recipe.resources
    return resources.nodes * resources.gpus_per_node * resources.time.seconds / 3600


def estimate_run(
    recipe: TrainingRecipe,
    shape: ModelShape,
    gpu: str | None,
    corpus_sizes: Sequence[int] | None = None,
    mfu: float = ASSUMED_MFU,
) -> RunCost | None:
    """Estimate steps, tokens and GPU-hours of a whole run.

    Args:
        recipe: What to train.
        shape: The model.
        gpu: Its name or the site's type for it, e.g. `a100`.
        corpus_sizes: Sequences of each corpus, where they are known; needed for lengths in epochs.
        mfu: Assumed utilisation.

    Returns:
        None if the length or the GPU's peak is not known.
    """
    steps = steps_of(recipe, corpus_sizes)
    peak = peak_flops(gpu, recipe.precision.dtype, recipe.precision.tf32) if gpu else None
    if steps is None or peak is None:
        return None
    batch = recipe.batch
    tokens = steps * batch.sequences * batch.sequence_length
    multiplied_with = 0 if recipe.kind == "classify" else 1  # a head takes the place of the output embedding
    computing = shape.parameters - (shape.tables - multiplied_with) * shape.table_parameters
    width = shape.heads * shape.head_size
    frozen = computing if recipe.adapter else 0
    flops = tokens * flops_per_token(computing, shape.layers, width, batch.sequence_length, frozen)
    return RunCost(steps, tokens, flops / (peak * mfu) / 3600, mfu)


def steps_of(recipe: TrainingRecipe, corpus_sizes: Sequence[int] | None) -> int | None:
    """Optimizer steps of a run, rounded up; None for a length in epochs of corpora of unknown size."""
    length = recipe.schedule.length
    if length.unit == "epoch" and corpus_sizes is None:
        return None
    return recipe.batch.steps(length, Fraction(0) if corpus_sizes is None else recipe.samples_in_epoch(corpus_sizes))

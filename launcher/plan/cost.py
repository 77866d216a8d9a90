"""What a run costs in GPU-hours: one attempt exactly, the whole run as an estimate at a stated utilisation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from launcher.cluster import Cluster
from launcher.gpus import peak_flops
from launcher.plan.flops import flops_of_token, tokens_of_step
from launcher.plan.model_shape import ModelShape
from launcher.plan.recipe_at_site import RecipeAtSite
from launcher.plan.rollout import estimate_rollout
from launcher.plan.utilisation import expected_mfu
from launcher.recipe import Recipe
from launcher.recipe.kinds.recipe_base import RecipeBase

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
    is_least: bool = False
    """The GPU-hours are a lower bound: sampling is counted as fast as a GPU reads its memory."""


def uses_gpus(recipe: RecipeBase, cluster: Cluster) -> bool:
    """Tell whether a recipe runs on GPUs: it asks for some, and the site has them."""
    return cluster.gpus.device == "cuda" and recipe.resources.gpus_per_node > 0


def attempt_gpu_hours(recipe: Recipe, cluster: Cluster | None = None) -> float:
    """GPU-hours that one attempt is charged if it runs up to its time limit, on all array elements of a shared work.

    Args:
        recipe: The recipe.
        cluster: Where it runs, if that is known; on a site without GPUs it is charged none.
    """
    if cluster is not None and not uses_gpus(recipe, cluster):
        return 0.0
    resources = recipe.resources
    return recipe.shares * resources.nodes * resources.gpus_per_node * resources.time.seconds / 3600


def estimate_run(
    recipe: "TrainingRecipe",
    shape: ModelShape,
    gpu: str | None,
    corpus_sizes: Sequence[int] | None = None,
    scoring: Sequence[ModelShape] = (),
) -> RunCost | None:
    """Estimate steps, tokens and GPU-hours of a whole run.

    Args:
        recipe: What to train.
        shape: The model.
        gpu: Its name or the site's type for it, e.g. `a100`.
        corpus_sizes: Sequences of each corpus, where they are known; needed for lengths in epochs.
        scoring: The models that score what it writes.

    Returns:
        None if the length or the GPU's peak is not known.
    """
    steps = steps_of(recipe, corpus_sizes)
    peak = peak_flops(gpu, recipe.precision.dtype, recipe.precision.tf32) if gpu else None
    if steps is None or peak is None:
        return None
    tokens = steps * tokens_of_step(recipe)
    mfu = expected_mfu(shape, gpu or "", recipe.batch.sequence_length, recipe.model.activation_checkpointing)
    flops, rollout = tokens * flops_of_token(recipe, shape), estimate_rollout(recipe, shape, gpu or "", scoring)
    sampling = rollout.per_step * steps * recipe.resources.world_size if rollout else 0.0
    return RunCost(steps, tokens, (flops / (peak * mfu) + sampling) / 3600, mfu, is_least=rollout is not None)


def steps_of(recipe: "TrainingRecipe", corpus_sizes: Sequence[int] | None) -> int | None:
    """Optimizer steps of a run, rounded up; None for a length in epochs of corpora of unknown size."""
    length = recipe.schedule.length
    if length.unit == "epoch" and corpus_sizes is None:
        return None
    return recipe.batch.steps(length, Fraction(0) if corpus_sizes is None else recipe.samples_in_epoch(corpus_sizes))


def _count(manifest: object, unit: str) -> int | None:
    """Read a count of the training part from a manifest; None if it does not say."""
    for key in ("counts", unit, "train"):
        manifest = manifest.get(key) if isinstance(manifest, Mapping) else None
    return manifest if isinstance(manifest, int) else None


def corpus_sizes(recipe: "TrainingRecipe", here: RecipeAtSite) -> list[int] | None:
    """Training sequences of each corpus, from its manifest; None unless all are known."""
    from launcher.recipe.sections.mixture import Data

    data = getattr(recipe, "data", None)
    if not isinstance(data, Data) or data.packing == "pad":  # padding takes the length of every document
        return None
    unit = "documents" if data.packing == "truncate" else "tokens"
    counts = [_count(here.manifest(corpus.name), unit) for corpus in data.corpora]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return None
    return known if unit == "documents" else [math.ceil(tokens / recipe.batch.sequence_length) for tokens in known]

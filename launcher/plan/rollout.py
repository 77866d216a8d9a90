"""How long a policy takes to answer before it is trained on its answers: sampling, and judging what was sampled."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.gpus import LINK_BYTES, MEMORY_BYTES, look_up, peak_flops
from launcher.plan.activations import casts_weights, wide_bytes
from launcher.plan.flops import forward_flops, scoring_flops
from launcher.plan.kv_cache import cache_of_token
from launcher.plan.memory import frozen_bytes, trained_parameters
from launcher.plan.model_shape import ModelShape
from launcher.plan.utilisation import expected_mfu

if TYPE_CHECKING:
    from launcher.recipe.kinds.training import TrainingRecipe
    from launcher.recipe.sections.rollouts import RolloutSize


@dataclass(frozen=True)
class RolloutTime:
    """Seconds of one rollout on each rank, if all completions are as long as they may be."""

    sampling: float
    """As fast as a GPU reads its memory: no library gets there, so that it is a lower bound."""
    judging: float
    """Forward passes of the policy, its reference and the reward models over finished completions."""
    steps: int
    """That it is trained on."""

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.sampling + self.judging

    @property
    def per_step(self) -> float:
        """All of it, divided by the steps."""
        return self.seconds / self.steps


def estimate_rollout(
    recipe: "TrainingRecipe", shape: ModelShape, gpu: str, scoring: Sequence[ModelShape] = ()
) -> RolloutTime | None:
    """Estimate a rollout.

    Args:
        recipe: The training.
        shape: Of the policy.
        gpu: Its name or the site's type for it.
        scoring: Of the models that score completions.

    Returns:
        None if nothing is sampled, or the tables do not know the GPU.
    """
    size, peak = recipe.rollout_size, peak_flops(gpu, recipe.precision.dtype, recipe.precision.tf32)
    if size is None or peak is None:
        return None
    length = recipe.batch.sequence_length
    reached = peak * expected_mfu(shape, gpu, length, "none")
    passes = size.passes * forward_flops(recipe, shape) + sum(scoring_flops(recipe, one) for one in scoring)
    batches = math.ceil(size.completions / size.at_once)
    return RolloutTime(
        sampling=batches * _sampling(recipe, shape, gpu, reached, size),
        judging=size.completions * length * passes / reached,
        steps=size.steps,
    )


def _sampling(recipe: "TrainingRecipe", shape: ModelShape, gpu: str, reached: float, size: "RolloutSize") -> float:
    """Seconds for the completions that are sampled side by side: their prompts, then one token of each at a time.

    Each token takes as long as reading all weights and the cache, or as computing, whichever is longer; and, where a
    rank holds a part of the weights only, as long as fetching the others.
    """
    prompt = recipe.batch.sequence_length - size.new_tokens
    cache = size.at_once * (prompt + size.new_tokens / 2) * cache_of_token(recipe, shape)
    reading = (_read_weights(recipe, shape) + cache) / (look_up(MEMORY_BYTES, gpu) or math.inf)
    fetching = _fetched_weights(recipe, shape, size) / (look_up(LINK_BYTES, gpu) or math.inf)
    computing = size.at_once * forward_flops(recipe, shape) / reached
    return prompt * computing + size.new_tokens * (max(reading, computing) + fetching)


def _all_weights(recipe: "TrainingRecipe", shape: ModelShape) -> int:
    return wide_bytes(recipe) * (trained_parameters(recipe, shape) or 0) + frozen_bytes(recipe, shape)


def _read_weights(recipe: "TrainingRecipe", shape: ModelShape) -> int:
    """Bytes of the weights that each token needs; of an input embedding it is a row. Autocast copies those of fp32."""
    looked_up = wide_bytes(recipe) * (shape.tables - 1) * shape.table_parameters
    read = _all_weights(recipe, shape) - looked_up
    return 4 * read if casts_weights(recipe) else read  # 4 bytes read, 2 written and read again, for each 2


def _fetched_weights(recipe: "TrainingRecipe", shape: ModelShape, size: "RolloutSize") -> int:
    """Bytes of the weights that arrive from other ranks for each token; 0 where all of them stay."""
    parallel = recipe.parallel
    is_kept = size.gathers_weights if parallel.strategy == "zero3" else not parallel.reshard_after_forward
    if recipe.shard_size == 1 or parallel.strategy == "zero2" or is_kept:
        return 0
    return _all_weights(recipe, shape) * (recipe.shard_size - 1) // recipe.shard_size

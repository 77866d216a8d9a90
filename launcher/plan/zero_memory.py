"""What DeepSpeed's ZeRO holds of gradients and of the optimizer's state on a GPU, as DeepSpeed 0.19 does it."""

from typing import TYPE_CHECKING

from launcher.plan.activations import wide_bytes
from launcher.plan.model_shape import ModelShape
from launcher.recipe.deepspeed import REDUCE_BUCKET

if TYPE_CHECKING:
    from launcher.recipe.kinds.training import TrainingRecipe


def left_on_gpu(recipe: "TrainingRecipe", shape: ModelShape, number: int, is_backward: bool) -> tuple[int, int]:
    """Count the bytes of gradients and of the optimizer's state that stay on the GPU.

    With offload gradients leave as soon as a bucket of them is reduced (https://arxiv.org/abs/2101.06840, section 4),
    but for ZeRO-2's where their sum over the micro batches is not in the compute format: it is made on the GPU.

    Args:
        recipe: The recipe.
        shape: Of its model.
        number: Parameters that are trained.
        is_backward: Count what is there in the backward pass, while gradients are reduced.
    """
    part, buckets = number // recipe.shard_size, _buckets(recipe, shape, number, is_backward)
    if recipe.parallel.offload == "none":
        return buckets + 4 * part, 12 * part
    return buckets + (0 if sums_in_ram(recipe) else 4 * part), 0


def sums_in_ram(recipe: "TrainingRecipe") -> bool:
    """Tell where gradients that are offloaded are summed over the micro batches of a step."""
    return recipe.parallel.strategy == "zero3" or recipe.precision.dtype == "fp32"


def _buckets(recipe: "TrainingRecipe", shape: ModelShape, number: int, is_backward: bool) -> int:
    """Gradients that are collected until they are reduced, and those that are being reduced.

    ZeRO-2 makes two buckets in the compute format for each backward pass: one is filled while a copy of the other, and
    the same in fp32, are reduced. ZeRO-3 has one bucket in fp32 all the time, and reduces a copy of it. A matrix that
    is larger than a bucket, as an embedding may be, is reduced by itself: its gradient and the same in fp32.
    """
    wide = wide_bytes(recipe)
    with_fp32 = wide + (4 if wide < 4 else 0)
    is_zero3 = recipe.parallel.strategy == "zero3"
    held = 4 * REDUCE_BUCKET if is_zero3 else 2 * wide * REDUCE_BUCKET * is_backward
    if not is_backward:
        return held
    table = shape.table_parameters if recipe.adapter is None else 0
    alone = table * with_fp32 if table > REDUCE_BUCKET else 0
    return held + max(alone, min(number, REDUCE_BUCKET) * (4 if is_zero3 else with_fp32))

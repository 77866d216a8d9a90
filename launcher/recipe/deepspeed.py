"""What DeepSpeed is told: a pure function of the recipe, so that `launcher render` can show it before a job starts."""

from typing import Any

from launcher.recipe.kinds.training import TrainingRecipe

REDUCE_BUCKET = 50_000_000
"""Gradients that are reduced at a time. DeepSpeed holds room for as many on each GPU, whatever the model's size, and by
default for ten times as many (docs/decisions/training.md)."""


def zero_stage(strategy: str) -> int | None:
    """Return DeepSpeed's stage of a strategy; None where DeepSpeed has no part in it."""
    return {"zero2": 2, "zero3": 3}.get(strategy)


def deepspeed_config(recipe: TrainingRecipe, world_size: int) -> dict[str, Any] | None:
    """Express a recipe in DeepSpeed's terms (https://www.deepspeed.ai/docs/config-json/).

    Args:
        recipe: What to train; its micro batch is a number.
        world_size: Ranks of the attempt.

    Returns:
        None if another library shares the model out.
    """
    stage = zero_stage(recipe.parallel.strategy)
    if stage is None:
        return None
    micro_batch = recipe.batch.least_micro_batch
    return {
        "zero_optimization": _zero(stage, recipe.parallel.offload),
        # torch's AdamW, on the CPU as on the GPU: DeepSpeed's own is compiled on the node, and computes the same.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": recipe.batch.sequences // (micro_batch * world_size),
        "gradient_clipping": recipe.optim.clip_norm or 0.0,
        # DeepSpeed would sum the gradients of micro batches and ranks in the format of the weights.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "bf16": {"enabled": recipe.precision.dtype == "bf16"},
        "fp16": {"enabled": recipe.precision.dtype == "fp16"},
    }


def _zero(stage: int, offload: str) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True}
    zero["reduce_bucket_size"] = REDUCE_BUCKET
    if stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    # Pinned memory is what GPUs read and write without a detour.
    # DeepSpeed 0.19: with ZeRO-2 the fp32 sum of the gradients stays on the GPU even so.
    if offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return zero

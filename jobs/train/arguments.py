"""From the sections of a recipe to transformers' TrainingArguments."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.utils.import_utils import is_torch_tf32_available

from jobs.models.compiled_layers import missing_compiler
from jobs.models.parallel import (
    ParallelLayout,
    accumulation_steps,
    fsdp_mixed_precision,
    silence_deepspeed,
    strategy_arguments,
)
from launcher.errors import LauncherError
from launcher.recipe.kinds.training import TrainingRecipe


def training_arguments(
    recipe: TrainingRecipe,
    layout: ParallelLayout,
    steps: int,
    output: Path,
    arguments_class: type[TrainingArguments] = TrainingArguments,
    **special: Any,
) -> TrainingArguments:
    """Express a recipe in Trainer's terms.

    What Trainer would do besides training is off: saving and stopping at its own discretion,
    reporting, evaluation. Every step is logged; who looks at the log thins it out.

    Args:
        recipe: What to train.
        layout: How ranks share the model.
        steps: Optimizer steps of the whole training.
        output: Where Trainer writes checkpoints before they are published.
        arguments_class: What the trainer takes; TRL's trainers have their own.
        **special: Arguments of Trainer that only this kind of training sets.
    """
    on_cpu = layout.device.type == "cpu"
    optim = recipe.optim
    if layout.zero_stage is not None:
        silence_deepspeed()
    arguments = arguments_class(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=recipe.batch.least_micro_batch,
        gradient_accumulation_steps=accumulation_steps(recipe.batch, layout.world_size),
        optim="adamw_torch_fused",
        learning_rate=optim.lr,
        adam_beta1=optim.betas[0],
        adam_beta2=optim.betas[1],
        adam_epsilon=optim.eps,
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.clip_norm or 0.0,
        bf16=recipe.precision.dtype == "bf16",
        fp16=recipe.precision.dtype == "fp16",
        tf32=recipe.precision.tf32 and is_torch_tf32_available(),
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu else "nccl",
        seed=recipe.seed,
        train_sampling_strategy="sequential",  # the samples are shuffled already, by a function of their index
        remove_unused_columns=False,
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is not a number must be seen
        disable_tqdm=True,
        report_to="none",
        **special,
        activation_checkpointing=False,  # `jobs.models.recompute` does it; TRL's default is True
        **strategy_arguments(layout, recipe),
    )
    if layout.uses_fsdp:
        arguments.fsdp_plugin_args["mixed_precision_policy"] = fsdp_mixed_precision(recipe.precision)
    return arguments


def refuse_impossible(recipe: TrainingRecipe, device: torch.device) -> None:
    """Refuse what this machine cannot do.

    Raises:
        LauncherError: the recipe needs GPUs, or a compiler that is missing.
    """
    if recipe.model.compile and (fault := missing_compiler(device)):
        raise LauncherError(f"model.compile: {fault}")
    if device.type != "cpu":
        return
    if recipe.precision.dtype == "fp16":
        raise LauncherError("precision.dtype: `fp16` needs GPUs, and this attempt runs on CPUs; write `bf16` or `fp32`")
    if recipe.model.attention in ("flash", "flex"):
        raise LauncherError(
            f"model.attention: `{recipe.model.attention}` needs GPUs, and this attempt runs on CPUs; write `sdpa`"
        )

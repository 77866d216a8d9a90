"""An export as weights: safetensors that transformers loads, whole or in a few bits."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.utils.logging import disable_progress_bar

from jobs.export.inputs import ExportPlan, Task
from jobs.models.build import build
from launcher.recipe.sections.common import Model

_WHOLE = "whole"
"""Folder for the weights before they are quantised; removed again."""


def write_weights(plan: ExportPlan, model: PreTrainedModel, folder: Path) -> None:
    """Write a model in the plan's number format, or quantised. The model is converted on the way.

    Args:
        plan: What is made.
        model: In fp32, with all adapters merged.
        folder: There already.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call] # a log file is no terminal
    if plan.recipe.bits is None:
        _save(plan, model, folder)
        return
    whole = folder / _WHOLE
    _save(plan, model, whole)
    options = {"quantization_config": _quantization(plan.recipe.bits, plan.dtype), "dtype": plan.dtype}
    quantised: Any = _auto(plan.task).from_pretrained(whole, use_safetensors=True, **options)
    quantised.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    quantised.save_pretrained(folder, max_shard_size="5GB")
    shutil.rmtree(whole)


def load_weights(plan: ExportPlan, folder: Path, device: torch.device) -> Any:
    """Load what was written, as anybody does."""
    whole = plan.recipe.bits is None
    dtype = torch.float32 if whole else plan.dtype
    model: Any = build(_auto(plan.task), Model(path=plan.recipe.model.path), str(folder), 0, dtype)
    return (model.to(device) if whole else model).eval()


def _save(plan: ExportPlan, model: PreTrainedModel, folder: Path) -> None:
    model.config.dtype = plan.dtype
    if plan.task == "language model":
        model.config.use_cache = True
        model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call] # saving checks it, and published ones are not always consistent
    model.to(plan.dtype).save_pretrained(folder, max_shard_size="5GB")  # type: ignore[arg-type]


def _auto(task: Task) -> Any:
    return AutoModelForCausalLM if task == "language model" else AutoModelForSequenceClassification


def _quantization(bits: int, dtype: torch.dtype) -> BitsAndBytesConfig:
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )

"""What of an adapter a checkpoint and an export hold, wherever its parts lie."""

from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraModel, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

STATE = "adapter.safetensors"
_ALLOCATOR = "allocator/"
_PATTERN = "pattern/"


class RankAllocation(TrainerCallback):
    """Lets AdaLoRA cut ranks, between the optimizer's step and the end of the gradients."""

    def __init__(self, adalora: AdaLoraModel) -> None:
        self._adalora = adalora

    @override
    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Take the step into account."""
        self._adalora.update_and_allocate(state.global_step + 1)


def adapter_callbacks(model: nn.Module) -> list[TrainerCallback]:
    """What an adapter does in each step besides training."""
    tuner = getattr(model, "base_model", None)
    return [RankAllocation(tuner)] if isinstance(tuner, AdaLoraModel) else []


def save_adapter_state(model: PeftModel, folder: Path) -> None:
    """Save all that training changes; peft's own format leaves out the networks that compute prompts."""
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
    save_file({name: tensor.contiguous() for name, tensor in {**tensors, **_allocation(model)}.items()}, folder / STATE)


def load_adapter_state(model: PeftModel, folder: Path) -> None:
    """Load what `save_adapter_state` saved.

    Raises:
        RuntimeError: it is of another adapter.
    """
    saved = load_file(folder / STATE)
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if missing := sorted({*parameters} ^ {name for name in saved if "/" not in name}):
        raise RuntimeError(f"{folder / STATE} is of another adapter: {missing[0]} is in one of both only")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
    _restore_allocation(model, saved)


def gather_adapter(model: nn.Module) -> dict[str, Tensor]:
    """Put the trainable tensors together from the parts that ranks have, in fp32 on the CPU. A collective."""
    return {name: _whole(parameter) for name, parameter in model.named_parameters() if parameter.requires_grad}


def _whole(parameter: nn.Parameter) -> Tensor:
    if isinstance(parameter, DTensor):
        return parameter.full_tensor().detach().float().cpu()
    if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
        from deepspeed.utils import safe_get_full_fp32_param

        precise = safe_get_full_fp32_param(parameter)
        if precise is not None:
            return precise.detach().float().cpu()
    return parameter.detach().float().cpu()


def _allocation(model: PeftModel) -> dict[str, Tensor]:
    """AdaLoRA's memory of how much each weight matters, and what it has cut."""
    if not isinstance(model.base_model, AdaLoraModel):
        return {}
    allocator = model.base_model.rankallocator
    parts = {"ipt": allocator.ipt, "exp_avg_ipt": allocator.exp_avg_ipt, "exp_avg_unc": allocator.exp_avg_unc}
    tensors = {f"{_ALLOCATOR}{part}/{name}": tensor for part, kept in parts.items() for name, tensor in kept.items()}
    pattern = model.peft_config["default"].rank_pattern or {}
    return tensors | {f"{_PATTERN}{name}": torch.tensor(kept) for name, kept in pattern.items()}


def _restore_allocation(model: PeftModel, saved: dict[str, Tensor]) -> None:
    if not isinstance(model.base_model, AdaLoraModel):
        return
    allocator = model.base_model.rankallocator
    for key, tensor in saved.items():
        if key.startswith(_ALLOCATOR):
            part, name = key.removeprefix(_ALLOCATOR).split("/")
            getattr(allocator, part)[name] = tensor.to(next(model.parameters()).device)
    pattern = {key.removeprefix(_PATTERN): kept.tolist() for key, kept in saved.items() if key.startswith(_PATTERN)}
    model.peft_config["default"].rank_pattern = pattern or None

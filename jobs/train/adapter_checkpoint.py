"""What a checkpoint and an export hold of an adapter, wherever its parts lie."""

from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import fsdp_utils
from peft import AdaLoraModel, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from jobs.models.adapters.orthogonal import is_base
from launcher.errors import RunError

STATE = "adapter.safetensors"
_STATE_OF_ACCELERATE, _LOADING_OF_ACCELERATE = fsdp_utils._get_model_state_dict, fsdp_utils._set_model_state_dict
_ALLOCATOR = "allocator/"
_PATTERN = "pattern/"


class RankAllocation(TrainerCallback):
    """Lets AdaLoRA reduce ranks, between the optimizer's step and the reset of the gradients."""

    def __init__(self, adalora: AdaLoraModel) -> None:
        self._adalora = adalora

    @override
    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Reduce ranks if it is time to.

        A step that fp16's loss scale had skipped says nothing about what matters: its infinite gradients would stay in
        the running means for good.

        Raises:
            RunError: ranks are to be fixed, and all steps before were skipped.
        """
        step, allocator = state.global_step + 1, self._adalora.rankallocator
        fixed_at = allocator.peft_config.total_step - allocator.peft_config.tfinal
        if step < fixed_at and (others["optimizer"].step_was_skipped or not self._has_finite_gradients()):
            return
        if step == fixed_at and not allocator.ipt:
            raise RunError(
                f"adapter.tfinal: ranks are fixed in step {step}, and fp16 has skipped all steps before it; write "
                "a smaller `tfinal`, a longer `schedule.length`, or `precision.dtype: bf16`"
            )
        self._adalora.update_and_allocate(step)  # type: ignore[no-untyped-call]

    def _has_finite_gradients(self) -> bool:
        gradients = [one.grad for one in self._adalora.parameters() if one.grad is not None]
        return bool(get_total_norm(gradients, norm_type=inf).isfinite())


def adapter_callbacks(model: nn.Module) -> list[TrainerCallback]:
    """Return what an adapter does in each step besides training."""
    tuner = getattr(model, "base_model", None)
    return [RankAllocation(tuner)] if isinstance(tuner, AdaLoraModel) else []


def adapter_state(model: PeftModel) -> dict[str, Tensor]:
    """Return all that training changes; peft's own format leaves out the networks that compute prompts."""
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {**tensors, **_allocation(model)}


def save_adapter_state(state: dict[str, Tensor], folder: Path) -> None:
    """Save what `adapter_state` returned."""
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / STATE)


def load_adapter_state(model: PeftModel, folder: Path) -> None:
    """Load what `save_adapter_state` saved.

    Raises:
        RuntimeError: it belongs to another adapter.
    """
    saved = load_file(folder / STATE)
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if missing := sorted({*parameters} ^ {name for name in saved if "/" not in name}):
        raise RuntimeError(f"{folder / STATE}: belongs to another adapter: {missing[0]} is only in one of both")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
    _restore_allocation(model, saved)


def checkpoint_trained_parameters() -> None:
    """Have accelerate save and load the trained parameters of a sharded, adapted model.

    It asks peft for them, which finds them by the names of modules; where activations are recomputed, layers are
    wrapped and have other names. Then nothing is saved and nothing loaded, silently (accelerate 1.15, peft 0.21).
    """
    fsdp_utils._get_model_state_dict = _trained_state
    fsdp_utils._set_model_state_dict = _load_trained_state


def _trained_state(model: nn.Module, adapter_only: bool = False, sd_options: Any = None) -> dict[str, Any]:
    if not adapter_only or sd_options is None:
        found: dict[str, Any] = _STATE_OF_ACCELERATE(model, adapter_only, sd_options)
        return found
    tensors = get_model_state_dict(model, options=replace(sd_options, ignore_frozen_params=True))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trained or not tensors.keys() >= {*trained}:
        raise RuntimeError(f"the checkpoint would lack some of the {len(trained)} trained tensors")
    return {name: tensors[name] for name in trained}  # without the second name of tied weights, which torch leaves in


def _load_trained_state(
    model: nn.Module, state_dict: dict[str, Any], adapter_only: bool = False, sd_options: Any = None
) -> Any:
    if not adapter_only or sd_options is None:
        return _LOADING_OF_ACCELERATE(model, state_dict, adapter_only, sd_options)
    return set_model_state_dict(model, state_dict, options=replace(sd_options, strict=False))


def gather_adapter(model: nn.Module) -> dict[str, Tensor]:
    """Gather the adapter's tensors from all ranks, in fp32 on the CPU. A collective.

    Tied ones under all of their names: peft asks for each.
    """
    parameters = [*model.named_parameters(remove_duplicate=False)]
    return {name: whole(one) for name, one in parameters if one.requires_grad or is_base(name)}


def whole(parameter: nn.Parameter) -> Tensor:
    """Gather a parameter from all ranks, in fp32 on the CPU. A collective."""
    if isinstance(parameter, DTensor):
        return parameter.full_tensor().detach().float().cpu()
    if hasattr(parameter, "ds_id") and not parameter.requires_grad:
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().float().cpu().clone()
    if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
        from deepspeed.utils import safe_get_full_fp32_param

        precise: Tensor | None = safe_get_full_fp32_param(parameter)
        if precise is not None:
            return precise.detach().float().cpu()
    return parameter.detach().float().cpu()


def _allocation(model: PeftModel) -> dict[str, Tensor]:
    """AdaLoRA's record of how much each weight matters, and which ranks it has cut."""
    if not isinstance(model.base_model, AdaLoraModel):
        return {}
    allocator = model.base_model.rankallocator
    parts = {"ipt": allocator.ipt, "exp_avg_ipt": allocator.exp_avg_ipt, "exp_avg_unc": allocator.exp_avg_unc}
    tensors = {f"{_ALLOCATOR}{part}/{name}": tensor for part, kept in parts.items() for name, tensor in kept.items()}
    config: Any = model.peft_config["default"]
    return tensors | {f"{_PATTERN}{name}": torch.tensor(kept) for name, kept in (config.rank_pattern or {}).items()}


def _restore_allocation(model: PeftModel, saved: dict[str, Tensor]) -> None:
    if not isinstance(model.base_model, AdaLoraModel):
        return
    allocator = model.base_model.rankallocator
    for key, tensor in saved.items():
        if key.startswith(_ALLOCATOR):
            part, name = key.removeprefix(_ALLOCATOR).split("/")
            getattr(allocator, part)[name] = tensor.to(next(model.parameters()).device)
    pattern = {key.removeprefix(_PATTERN): kept.tolist() for key, kept in saved.items() if key.startswith(_PATTERN)}
    config: Any = model.peft_config["default"]
    config.rank_pattern = pattern or None

"""Adapters of our own in peft's conventions: what some layers compute besides, and ordinary LoRA on the others."""

import math
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from typing_extensions import override

from jobs.models.auxiliary import AuxiliaryLosses

UPDATE = "lora_update"
"""Under which a layer's own tensors are saved."""
_SLOPE_OF_LORA = math.sqrt(5)
"""Of kaiming_uniform_: uniform between -1 / sqrt(inputs) and 1 / sqrt(inputs)."""


def scale_of(alpha: float, r: int, rslora: bool) -> float:
    """The factor of LoRA's updates."""
    return alpha / (math.sqrt(r) if rslora else r)


def widths(layer: nn.Module) -> tuple[int, int]:
    """Return the inputs and outputs of a linear layer, quantised or not.

    Raises:
        ValueError: it is none.
    """
    inputs, outputs = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    if not (isinstance(inputs, int) and isinstance(outputs, int)):
        raise ValueError(f"target module {type(layer).__name__} is no linear layer")
    return inputs, outputs


def low_rank(inputs: int, outputs: int, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Make the factors A and B of an update: A random, B zero, in fp32."""
    a = nn.Parameter(torch.empty(rank, inputs, dtype=torch.float32))
    b = nn.Parameter(torch.zeros(outputs, rank, dtype=torch.float32))
    nn.init.kaiming_uniform_(a, a=_SLOPE_OF_LORA)
    return a, b


class Update(nn.Module):
    """What a layer computes beside its frozen weight; it may add to the model's loss."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = AuxiliaryLosses()

    @property
    def adds_to_loss(self) -> bool:
        """Whether this pass is to be trained on."""
        return self.training and torch.is_grad_enabled()


class BesideLinear(nn.Module, BaseTunerLayer):
    """A linear layer, and what is computed beside it. It has no merged form."""

    adapter_layer_names = (UPDATE,)

    def __init__(self, base_layer: nn.Module, adapter_name: str, update: Update) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_update = nn.ModuleDict({adapter_name: update})

    @override
    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        result: Tensor = self.base_layer(x, *arguments, **options)
        if self.disable_adapters:
            return result
        for name in self.active_adapters:
            result = result + self.lora_update[name](x).to(result.dtype)
        return result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("what is computed beside the layers depends on the input or is not whole here")


def like(x: Tensor, weight: Tensor) -> Tensor:
    """Bring an input to the format of the weights, unless autocast brings both to its own."""
    return x if torch.is_autocast_enabled(x.device.type) else x.to(weight.dtype)


class BesideModel(LoraModel):
    """peft's LoRA, but for the targets that get something else."""

    tuner_layer_cls = BaseTunerLayer

    def __init__(self, model: nn.Module, *arguments: Any, **options: Any) -> None:
        super().__init__(model, *arguments, **options)
        self.auxiliary = AuxiliaryLosses()
        for module in self.modules():
            if isinstance(module, Update):
                module.auxiliary = self.auxiliary

    def make_update(self, config: Any, target_name: str, target: nn.Module) -> Update | None:
        """Make what a target gets instead of LoRA, if it does."""
        raise NotImplementedError

    @override
    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        ours = f".{UPDATE}.{adapter_name}."  # peft looks for the name in the last but one place
        if ours in key:
            return key.replace(ours, f".{UPDATE}.")
        without: str = super()._remove_adapter_name_from_key(key, adapter_name)
        return without

    @override
    def _create_and_replace(
        self,
        lora_config: LoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **options: Any,
    ) -> None:
        update = self.make_update(lora_config, target_name, target)
        if update is not None:
            self._replace_module(parent, target_name, BesideLinear(target, adapter_name, update), target)
        else:
            super()._create_and_replace(lora_config, adapter_name, target, target_name, parent, current_key, **options)

"""Custom adapters in peft's conventions: an update of our own on some layers, ordinary LoRA on the others."""

import math
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from typing_extensions import override

from jobs.models.adapters.auxiliary_loss import AuxiliaryLosses

UPDATE = "lora_update"
"""Name under which a layer's own tensors are saved."""
_SLOPE_OF_LORA = math.sqrt(5)
"""Of kaiming_uniform_: uniform between -1 / sqrt(inputs) and 1 / sqrt(inputs)."""


def scale_of(alpha: float, r: int, rslora: bool) -> float:
    """Return the factor of LoRA's updates."""
    return alpha / (math.sqrt(r) if rslora else r)


def widths(layer: nn.Module) -> tuple[int, int]:
    """Return the inputs and outputs of a linear layer, quantised or not.

    Raises:
        ValueError: it is not a linear layer.
    """
    inputs, outputs = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    if not (isinstance(inputs, int) and isinstance(outputs, int)):
        raise ValueError(f"target module {type(layer).__name__} is not a linear layer")
    return inputs, outputs


def low_rank(inputs: int, outputs: int, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Make the factors A and B of an update: A random, B zero, in fp32."""
    a = nn.Parameter(torch.empty(rank, inputs, dtype=torch.float32))
    b = nn.Parameter(torch.zeros(outputs, rank, dtype=torch.float32))
    nn.init.kaiming_uniform_(a, a=_SLOPE_OF_LORA)
    return a, b


class Update(nn.Module):
    """What a layer adds to the output of its frozen weight; it may also add to the model's loss."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = AuxiliaryLosses()

    @property
    def adds_to_loss(self) -> bool:
        """Whether this forward pass is for training."""
        return self.training and torch.is_grad_enabled()


class CustomLoraLinear(nn.Module, BaseTunerLayer):
    """A linear layer and its update, which has no merged form."""

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
        """Refuse to merge.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("its update depends on the input, or is made of two adapters")


def like(x: Tensor, weight: Tensor) -> Tensor:
    """Cast an input to the format of the weights, unless autocast casts both."""
    return x if torch.is_autocast_enabled(x.device.type) else x.to(weight.dtype)


class CustomLoraModel(LoraModel):
    """peft's LoRA, except for the targets that get another update."""

    tuner_layer_cls = BaseTunerLayer  # type: ignore[assignment] # layers of LoRA, and ours

    def __init__(self, model: nn.Module, *arguments: Any, **options: Any) -> None:
        super().__init__(model, *arguments, **options)
        self.auxiliary = AuxiliaryLosses()
        for module in self.modules():
            if isinstance(module, Update):
                module.auxiliary = self.auxiliary

    def make_update(self, config: Any, target_name: str, target: nn.Module) -> Update | None:
        """Make what a target gets instead of LoRA; None: LoRA."""
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
    def _create_and_replace(  # type: ignore[override] # as LoraModel has it
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
            adapted = CustomLoraLinear(target, adapter_name, update)
            self._replace_module(parent, target_name, adapted, target)  # type: ignore[no-untyped-call]
        else:
            super()._create_and_replace(lora_config, adapter_name, target, target_name, parent, current_key, **options)


def register_method(name: str, config: type[PeftConfig], model: type[CustomLoraModel]) -> None:
    """Let peft know a method, in this process."""
    mappings: list[dict[Any, Any]] = [
        PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING
    ]  # fmt: skip
    for mapping, value in zip(mappings, (config, model, model.prefix), strict=True):
        mapping[name] = value

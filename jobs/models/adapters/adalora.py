"""AdaLoRA's penalty, which keeps the outer factors of its updates orthogonal, once in a step.

    orth_reg_weight * mean over all A and B of |A A^T - I|_F and |B^T B - I|_F

It is eq. 4 of https://arxiv.org/abs/2303.10512 as peft computes it: without squares, and the mean instead of the sum.
peft adds it to the loss of each forward pass. So it would count once for each micro batch of each rank, whose losses
are parts of a sum, and not at all where the loss is computed from the logits.
"""

from typing import Any

import torch
from peft import PeftModel
from peft.tuners.adalora import AdaLoraLayer
from torch import Tensor

from jobs.models.adapters.auxiliary_loss import AuxiliaryLosses


def penalise_once(model: PeftModel) -> None:
    """Have the layers of an AdaLoRA model add the penalty to the loss, instead of peft."""
    adalora: Any = model.base_model
    layers: list[Any] = [module for module in adalora.modules() if isinstance(module, AdaLoraLayer)]
    config: Any = model.peft_config["default"]
    share = config.orth_reg_weight / (2 * len(layers))
    adalora.auxiliary = AuxiliaryLosses()

    def forward(*arguments: Any, **options: Any) -> Any:
        return adalora.model.forward(*arguments, **options)  # as it is when it is called: others replace it, too

    adalora.forward = forward

    def attach(layer: Any, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not (layer.training and torch.is_grad_enabled()):
            return output
        attached: Tensor = adalora.auxiliary.attach(output, share * deviation(layer))
        return attached

    for layer in layers:
        layer.register_forward_hook(attach)


def deviation(layer: AdaLoraLayer) -> Tensor:
    """Return by how much a layer's outer factors deviate from orthogonality, in fp32."""
    a: Any = layer.lora_A["default"]
    b: Any = layer.lora_B["default"]
    with torch.autocast(a.device.type, enabled=False):
        products = a @ a.T, b.T @ b
        total: Tensor = sum((one - torch.eye(len(one), device=one.device)).norm() for one in products)
    return total

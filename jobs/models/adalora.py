"""AdaLoRA's penalty, which keeps the outer factors of its updates orthogonal, once in a step.

    orth_reg_weight * mean over all A and B of |A A^T - I|_F and |B^T B - I|_F

It is eq. 4 of https://arxiv.org/abs/2303.10512 as peft computes it: without squares, and the mean instead of the sum.
peft adds it to the loss of each forward pass. There it would count once for each micro batch of each rank, since the
losses of micro batches are parts of a sum, and not at all where the loss is computed from the logits.
"""

import torch
from peft import PeftModel
from peft.tuners.adalora import AdaLoraLayer
from torch import Tensor, nn

from jobs.models.auxiliary import AuxiliaryLosses


def penalise_once(model: PeftModel) -> None:
    """Have the layers of a model adapted by AdaLoRA add the penalty to the loss, and not peft."""
    adalora = model.base_model
    layers = [module for module in adalora.modules() if isinstance(module, AdaLoraLayer)]
    share = model.peft_config["default"].orth_reg_weight / (2 * len(layers))
    adalora.auxiliary = AuxiliaryLosses()
    adalora.forward = adalora.model.forward

    def attach(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not (layer.training and torch.is_grad_enabled()):
            return output
        attached: Tensor = adalora.auxiliary.attach(output, share * deviation(layer))
        return attached

    for layer in layers:
        layer.register_forward_hook(attach)


def deviation(layer: AdaLoraLayer) -> Tensor:
    """Return by how much the outer factors of a layer are not orthogonal, in fp32."""
    a, b = layer.lora_A["default"], layer.lora_B["default"]
    with torch.autocast(a.device.type, enabled=False):
        products = a @ a.T, b.T @ b
        return sum((one - torch.eye(len(one), device=one.device)).norm() for one in products)

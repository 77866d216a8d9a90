"""Losses that layers compute: their gradients flow with that of the model's loss, their values are kept apart.

A layer's term cannot be an output of the model: decoder layers hand on one tensor, and FSDP2, ZeRO-3 and activation
checkpointing know no other way out of them. So it hangs on the layer's output, which passes unchanged, and its gradient
is let in when that of the output comes by (as Megatron-LM does it with the losses of its experts,
https://github.com/NVIDIA/Megatron-LM/blob/core_v0.12.0/megatron/core/transformer/moe/moe_utils.py). There the
parameters are whole, and it happens once in each backward pass, recomputed activations or not.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from typing_extensions import override


class AuxiliaryLosses:
    """Collects what the layers of one model add to its loss."""

    def __init__(self) -> None:
        self._factor = 1.0
        self._scale: Tensor | float = 1.0
        self._sum: Tensor | None = None

    def attach(self, output: Tensor, term: Tensor) -> Tensor:
        """Return a layer's output, with a term whose gradient flows whenever the output's does.

        Compute the term after the output: then autograd looks at it first, while the layer's parameters are whole.
        """
        attached: Tensor = _Attach.apply(output, term, self)  # type: ignore[no-untyped-call]
        return attached

    def mark(self, loss: Tensor, factor: float) -> Tensor:
        """Return the model's loss; each term of this backward pass counts `factor` times relative to it.

        What happens to the loss afterwards (division by accumulation steps, fp16's loss scale) happens to the terms.
        """
        self._factor = factor
        marked: Tensor = _Mark.apply(loss, self)  # type: ignore[no-untyped-call]
        return marked

    def take(self) -> float | None:
        """Return the sum of all terms since the last call, on this rank; None if there were none."""
        total, self._sum = self._sum, None
        return None if total is None else float(total)

    def see_scale(self, gradient: Tensor) -> None:
        """Note the factor on the loss; its gradient arrives before those of all layers."""
        self._scale = gradient.detach()

    def gradient_of(self, term: Tensor) -> Tensor:
        """Count a term, and return the loss's gradient with respect to it."""
        self._sum = term if self._sum is None else self._sum + term
        return torch.ones_like(term) * self._factor * self._scale


class _Attach(Function):
    @override
    @staticmethod
    def forward(context: Any, output: Tensor, term: Tensor, losses: AuxiliaryLosses) -> Tensor:
        context.term, context.losses = term.detach(), losses
        return output.view_as(output)

    @override
    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        return gradients[0], context.losses.gradient_of(context.term), None


class _Mark(Function):
    @override
    @staticmethod
    def forward(context: Any, loss: Tensor, losses: AuxiliaryLosses) -> Tensor:
        context.losses = losses
        return loss.view_as(loss)

    @override
    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        context.losses.see_scale(gradients[0])
        return gradients[0], None


def auxiliary_losses(model: nn.Module) -> AuxiliaryLosses | None:
    """Return what the layers of an adapted model add to its loss; None if they never do."""
    found = getattr(getattr(model, "base_model", None), "auxiliary", None)
    return found if isinstance(found, AuxiliaryLosses) else None

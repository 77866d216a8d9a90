"""Training without dropout."""

from typing import TypeVar

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

M = TypeVar("M", bound=nn.Module)


def without_dropout(model: M) -> M:
    """Switch off all dropout of a model, that of attention included; return the model."""
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]
    return model

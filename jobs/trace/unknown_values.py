"""Answers to what fake tensors cannot say: their values, and sizes that follow from these."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

aten = torch.ops.aten


class UnknownValues(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A number read from a tensor is 1; a mask chooses everything: no step needs more than one whose tokens all count.

    And there is one CPU: accelerate names it `cpu:0` on each rank, which fake tensors take for another device.
    """

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func is aten._local_scalar_dense.default:
            return 1
        if func is aten.index.Tensor and _is_masked(args[1]):
            return _all_rows(args[0], args[1][0])
        if isinstance(device := options.get("device"), torch.device) and device.type == "cpu":
            options["device"] = torch.device("cpu")
        return func(*args, **options)


def _is_masked(indices: list[torch.Tensor | None]) -> bool:
    return len(indices) == 1 and indices[0] is not None and indices[0].dtype == torch.bool


def _all_rows(tensor: torch.Tensor, mask: torch.Tensor) -> Any:
    return aten.clone.default(aten.reshape.default(tensor, [mask.numel(), *tensor.shape[mask.dim() :]]))

"""What torch does with the contents of tensors outside of its operators, left out where they have none."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp._fully_shard import _fully_shard
from torch.nn.parallel import distributed
from torch.utils._python_dispatch import _disable_current_modes
from transformers import masking_utils


@contextmanager
def without_contents(packs: bool) -> Iterator[None]:
    """Have modules change without exchanging their tensors, DDP not compare and send them, FSDP2 number real ranks.

    Args:
        packs: Whether sequences hold several documents: transformers cannot see it, and would assume it.
    """
    with ExitStack() as changes:
        changes.enter_context(patch.object(nn.Module, "_apply", _apply))
        for name in ("_verify_param_shape_across_processes", "_sync_module_states"):
            changes.enter_context(patch.object(distributed, name, lambda *_, **__: None))
        if not packs:
            changes.enter_context(patch.object(masking_utils, "find_packed_sequence_indices", lambda _: None))
        changes.enter_context(patch.object(_fully_shard, "_init_default_mesh", _real_mesh))
        yield


def _apply(self: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Do what `nn.Module._apply` does; torch 2.13 cannot swap fake tensors that something refers to weakly."""
    for module in self.children() if recurse else ():
        module._apply(change)  # type: ignore[no-untyped-call]
    for parameter in (one for one in self._parameters.values() if one is not None):
        with torch.no_grad():
            changed = change(parameter)
        if changed is not parameter:
            parameter.data = changed
    for name, buffer in self._buffers.items():
        self._buffers[name] = None if buffer is None else change(buffer)
    return self


_default_mesh = _fully_shard._init_default_mesh  # type: ignore[attr-defined]


def _real_mesh(*arguments: Any, **options: Any) -> DeviceMesh:
    with _disable_current_modes():
        return _default_mesh(*arguments, **options)


class FirstBuckets:
    """DDP's reducer, which keeps its first buckets: to order them anew it compares them between ranks."""

    def __init__(self, reducer: Any) -> None:
        self._reducer = reducer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reducer, name)

    def _rebuild_buckets(self) -> bool:
        return False

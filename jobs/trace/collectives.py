"""Counts collectives by kind and by group of ranks, with the bytes that a ring sends for each.

torch's CommDebugMode counts them, but knows neither their bytes nor their groups.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch.distributed._tools.fake_collectives import CollectiveOp, collective_ops, sync_ops
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

_NAMES = {"gather": "all-gather", "scatter": "reduce-scatter", "reduce": "all-reduce", "broadcast": "broadcast"}
"""Names by what those of torch's operations contain; the first that fits. The order matters."""


class Message(NamedTuple):
    """One kind of collective in one group of ranks."""

    name: str
    dimension: str
    ranks: int


class CollectiveCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is sent while it is active.

    Args:
        dimensions: Names of groups of ranks by torch's names for them; another group is `all`.
    """

    def __init__(self, dimensions: Mapping[str, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dimensions = dimensions
        self.counts: Counter[Message] = Counter()
        self.bytes: Counter[Message] = Counter()

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.note(func, args, kwargs or {}, result)
        return result

    def note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Count an operation if it is a collective."""
        if func not in collective_ops or func in sync_ops:
            return
        group = CollectiveOp.get_process_group(func, args)
        name = name_of(func)
        message = Message(name, self._dimensions.get(group.group_name, "all"), group.size())
        size = CollectiveOp.get_comm_tensor_size(func, result, args, kwargs)
        self.counts[message] += 1
        self.bytes[message] += ring_bytes(name, size, group.size())

    def take(self) -> tuple[Counter[Message], Counter[Message]]:
        """Return counts and bytes since the last call."""
        taken = self.counts, self.bytes
        self.counts, self.bytes = Counter(), Counter()
        return taken


def name_of(func: Any) -> str:
    """Name a collective in the words of the field."""
    own = str(func)
    return next((name for part, name in _NAMES.items() if part in own), own)


def ring_bytes(name: str, size: int, ranks: int) -> int:
    """What each rank of a ring sends (https://arxiv.org/abs/1910.02054, section 7)."""
    return (2 if name == "all-reduce" else 1) * size * (ranks - 1) // ranks


def mesh_dimensions(model: torch.nn.Module) -> dict[str, str]:
    """Name the groups of ranks of a sharded model's mesh: `shard` and `replicate`."""
    from torch.distributed.tensor import DTensor

    mesh = next((one.device_mesh for one in model.parameters() if isinstance(one, DTensor)), None)
    if mesh is None:
        return {}
    places = ("replicate", "shard") if mesh.ndim == 2 else ("shard",)
    return {mesh.get_group(place).group_name: name for place, name in enumerate(places)}

"""The rollout that is being trained on, in checkpoints: TRL forgets it, and would sample another after a restart.

Each rank writes its own part: tensors as safetensors, numbers as JSON. Micro batches of a step are numbered over all
ranks, so that other ranks can share them out again: a step then has the same completions at any world size.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from launcher.errors import LauncherError

MicroBatch: TypeAlias = dict[str, Tensor | None]
"""Tensors by name; what has no rows belongs to the rollout as a whole. None is kept, too."""

FILES = ("rollout_{rank}.json", "rollout_{rank}.safetensors")
"""What each rank writes; `{rank}` is its number."""


@dataclass(frozen=True)
class Rollout:
    """A rank's part of a rollout, and how far it is trained on."""

    batches: list[MicroBatch]
    numbers: dict[str, float]
    """What else goes on where it was; the same on all ranks."""


def save_rollout(folder: Path, rank: int, accumulation: int, rollout: Rollout) -> None:
    """Write a rank's part.

    Args:
        folder: Of the checkpoint.
        rank: Of this process.
        accumulation: Micro batches of a step on each rank.
        rollout: Its part.
    """
    tensors = {
        f"{place}/{name}": tensor.detach().cpu().contiguous().clone()
        for place, batch in enumerate(rollout.batches)
        for name, tensor in batch.items()
        if tensor is not None
    }
    absent = [[name for name, tensor in batch.items() if tensor is None] for batch in rollout.batches]
    said = {"numbers": rollout.numbers, "batches": len(rollout.batches), "absent": absent, "accumulation": accumulation}
    save_file(tensors, folder / FILES[1].format(rank=rank))
    (folder / FILES[0].format(rank=rank)).write_text(json.dumps(said) + "\n", encoding="utf-8")


def load_rollout(
    folder: Path, rank: int, world_size: int, accumulation: int, micro_batch: int, device: torch.device
) -> Rollout:
    """Read a rank's part, shared out anew if other ranks, or ranks with other micro batches, saved it.

    Args:
        folder: Of the checkpoint.
        rank: Of this process.
        world_size: Of this attempt.
        accumulation: Micro batches of a step on each rank of this attempt.
        micro_batch: Completions in each of them.
        device: Where to put the tensors.

    Raises:
        LauncherError: the micro batches saved cannot be divided into those of this attempt.
    """
    parts = [_read(folder, number) for number in range(len(list(folder.glob(FILES[0].format(rank="*")))))]
    before = parts[0].accumulation
    batches = parts[rank].rollout.batches if rank < len(parts) else []
    if (len(parts), before) != (world_size, accumulation):
        batches = _shared_out([part.rollout.batches for part in parts], before, rank, world_size, micro_batch)
    on_device = [{name: _to(tensor, device) for name, tensor in batch.items()} for batch in batches]
    return Rollout(on_device, parts[0].rollout.numbers)


@dataclass(frozen=True)
class _Part:
    rollout: Rollout
    accumulation: int


def _to(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)


def _read(folder: Path, rank: int) -> _Part:
    said = json.loads((folder / FILES[0].format(rank=rank)).read_text(encoding="utf-8"))
    batches: list[MicroBatch] = [dict.fromkeys(names) for names in said["absent"]]
    for key, tensor in load_file(folder / FILES[1].format(rank=rank)).items():
        place, _, name = key.partition("/")
        batches[int(place)][name] = tensor
    return _Part(Rollout(batches, said["numbers"]), said["accumulation"])


def _shared_out(
    saved: Sequence[list[MicroBatch]], accumulation: int, rank: int, world_size: int, micro_batch: int
) -> list[MicroBatch]:
    """Share the micro batches of each step out over other ranks, in the order of their numbers."""
    found: list[MicroBatch] = []
    for step in range(len(saved[0]) // accumulation):
        places = range(step * accumulation, (step + 1) * accumulation)
        whole = [piece for place in places for part in saved for piece in _pieces(part[place], micro_batch)]
        found += whole[rank::world_size]
    return found


def _pieces(batch: MicroBatch, size: int) -> list[MicroBatch]:
    """Divide a micro batch into smaller ones."""
    rows = rows_of(batch)
    if rows % size:
        raise LauncherError(
            f"batch.micro_batch: the rollout that was being trained on has micro batches of {rows} completions, which "
            f"cannot be divided into those of {size} of this attempt; write `{rows}`, or a divisor of it"
        )
    cut = [slice(start, start + size) for start in range(0, rows, size)]
    return [{name: one[part] if one is not None and one.dim() else one for name, one in batch.items()} for part in cut]


def rows_of(batch: MicroBatch) -> int:
    """Return how many completions a micro batch has."""
    return next(len(tensor) for tensor in batch.values() if tensor is not None and tensor.dim())

"""What the ranks of an attempt that hangs waited for: torch's flight recorder, as each rank wrote it. Standard library.

The recorder keeps the newest collectives of every process group: what they were, of which sizes, and whether they have
ended; never what was sent. NCCL's own files of a timeout are pickles, which could run code where they are read; these
are JSON, by the same recorder.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.run.numbers import ranks_in_words
from launcher.run.typed import read_object

KEPT = 20
"""Newest collectives of each group that are kept."""


@dataclass(frozen=True)
class NewestCollective:
    """The newest collective that a rank has begun in a group."""

    number: int
    """How many there were in this group; 0: none."""
    name: str = ""
    """`gloo:all_reduce`."""
    has_ended: bool = True


@dataclass(frozen=True)
class OpenCollective:
    """The newest collective of a group, which has not ended."""

    group: str
    number: int
    name: str
    waiting: tuple[int, ...]
    """Ranks that are in it."""
    behind: tuple[int, ...]
    """Ranks that have not come to it."""

    def __str__(self) -> str:
        name = self.name.replace("_", " ").replace(":", " ")
        verb = "waits" if len(self.waiting) == 1 else "wait"
        missing = f", which {ranks_in_words(self.behind)} did not come to" if self.behind else ""
        return f"{ranks_in_words(self.waiting)} {verb} in {name} number {self.number} of group {self.group}{missing}"


def collectives_file(folder: Path, rank: int) -> Path:
    """Where a rank writes, in the folder of `RunDir.collectives`."""
    return folder / f"rank-{rank:05d}.json"


def newest_entries(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the newest of each group, in their order."""
    kept: dict[Any, int] = defaultdict(int)
    chosen = []
    for entry in reversed(entries):
        kept[entry.get("pg_id")] += 1
        if kept[entry.get("pg_id")] <= KEPT:
            chosen.append(entry)
    return chosen[::-1]


def find_waiting(folder: Path, world_size: int) -> list[OpenCollective]:
    """Find which ranks wait in which collective, and which have not come to it.

    Args:
        folder: `RunDir.collectives` of the attempt.
        world_size: Its ranks.

    Returns:
        For each group the newest collective, if it has not ended; none if no rank has written anything.
    """
    found = {rank: _read(collectives_file(folder, rank)) for rank in range(world_size)}
    present = {rank: groups for rank, groups in found.items() if groups is not None}
    names = dict.fromkeys(name for groups in present.values() for name in groups)
    return [one for name in names if (one := _newest(name, present)) is not None]


def _newest(group: str, ranks: Mapping[int, Mapping[str, NewestCollective]]) -> OpenCollective | None:
    own = {rank: groups[group] for rank, groups in ranks.items() if group in groups}
    last = max(one.number for one in own.values())
    waiting = tuple(rank for rank, one in own.items() if one.number == last and not one.has_ended)
    behind = tuple(rank for rank, one in own.items() if one.number < last)
    return OpenCollective(group, last, own[waiting[0]].name, waiting, behind) if waiting else None


def _read(path: Path) -> dict[str, NewestCollective] | None:
    """Read the newest collective of each group of one rank; None if it has written none."""
    try:
        entries = read_object(path)["entries"]
        return {_group_of(entry): _collective(entry) for entry in entries}  # in their order: the last one counts
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _group_of(entry: Mapping[str, Any]) -> str:
    number, description = entry["process_group"]
    return f"{number} ({description})" if description not in ("", "undefined") else str(number)


def _collective(entry: Mapping[str, Any]) -> NewestCollective:
    has_ended = bool(entry["retired"]) or entry["state"] == "completed"
    return NewestCollective(int(entry["collective_seq_id"]), str(entry["profiling_name"]), has_ended)

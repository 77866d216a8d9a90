"""Numbered batches of items: the unit of work and of resuming.

A batch is fixed before any work begins, so what is computed for it depends neither on the number of ranks and array
elements nor on where an attempt was stopped: each finished batch is one file, which appears whole.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from jobs.evaluation.item_progress import ItemProgress
from jobs.rank.atomic_files import naming, write_durably
from jobs.rank.context import Context
from jobs.rank.process_group import RankGroup
from jobs.rank.stop_flag import STOP, StopRequested
from launcher.errors import LauncherError
from launcher.run.record import CorpusShare

Row: TypeAlias = dict[str, Any]
"""What is kept of an item, as JSON; `item` is its number."""


@dataclass(frozen=True)
class Batches:
    """The batches of one task, and how one is worked on."""

    name: str
    """Of the task."""
    identity: str
    """Equal for equal rows: a hash of model, items, prompts and settings."""
    members: Sequence[Sequence[int]]
    """Numbers of the items of each batch; every item is in one batch."""
    work: Callable[[Sequence[int]], list[Row]]
    """Computes the rows of a batch; one for each item, in their order. Raises `StopRequested` if a stop was asked for
    and ended what computes them."""

    @property
    def items(self) -> int:
        """Items in all batches."""
        return sum(map(len, self.members))


class BatchFolder:
    """Finished batches of one task on disk.

    Args:
        root: The run's folder of batches.
        batches: The task's.
    """

    def __init__(self, root: Path, batches: Batches) -> None:
        self._folder = root / f"{batches.name}-{batches.identity[:16]}"
        self.batches = batches

    def done(self) -> frozenset[int]:
        """Return the numbers of the finished batches."""
        if not self._folder.is_dir():
            return frozenset()
        return frozenset(int(path.stem) for path in self._folder.glob("[0-9]*.jsonl"))

    def write(self, number: int, rows: Sequence[Row]) -> None:
        """Publish the rows of a batch."""
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=True) + "\n" for row in rows)
        with naming(self._folder):
            write_durably(self._path(number), text)

    def read(self) -> list[Row]:
        """Return the rows of all items, in the order of the items.

        Raises:
            LauncherError: a batch is missing or damaged.
        """
        rows: dict[int, Row] = {}
        for number, members in enumerate(self.batches.members):
            found = self._read(number)
            if [row["item"] for row in found] != [*members]:
                raise LauncherError(f"{self._path(number)}: is damaged; remove it and resume the run")
            rows |= {row["item"]: row for row in found}
        return [rows[item] for item in sorted(rows)]

    def _read(self, number: int) -> list[Row]:
        try:
            content = self._path(number).read_bytes()
            return [json.loads(line) for line in content.splitlines()]  # of text they end at U+2028 and others, too
        except (FileNotFoundError, ValueError) as error:  # any other answer of the file system may pass
            raise LauncherError(f"{self._path(number)}: {error}; remove it and resume the run") from None

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.jsonl"


def carry_out(
    context: Context, group: RankGroup, folder: BatchFolder, batches: Batches, progress: ItemProgress
) -> None:
    """Work on all batches of this run's share that nobody has finished. A collective.

    Args:
        context: The run and this rank.
        group: All ranks: each works on another batch at a time.
        folder: Where finished batches are.
        batches: The task's.
        progress: Is told how many items are done.

    Raises:
        StopRequested: some rank was asked to stop; what is finished is kept.
    """
    mine = own(batches, context.record.share)
    done = group.from_main(folder.done() if group.is_main else frozenset())
    finished = sum(len(batches.members[number]) for number in mine if number in done)
    progress.tell(batches.name, finished)
    missing = [number for number in mine if number not in done]
    for first in range(0, len(missing), group.world_size):
        if group.any(STOP.is_requested())[0]:
            raise StopRequested
        now = missing[first : first + group.world_size]
        given_up = False
        if group.rank < len(now):
            number = now[group.rank]
            try:
                folder.write(number, batches.work(batches.members[number]))
            except StopRequested:
                given_up = True
        if group.any(given_up)[0]:
            raise StopRequested
        finished += sum(len(batches.members[number]) for number in now)
        progress.tell(batches.name, finished)
    group.barrier()


FILLED = 0.8
"""Share of the longest item's tokens that others in its batch have at least, so that little of it is padding,"""
_SMALL = 512
"""unless the batch has fewer tokens than this: it would take as long with more."""


def own(batches: Batches, share: CorpusShare | None) -> list[int]:
    """Return the numbers of the batches that an array element works on; all of them for a run on its own."""
    return [number for number in range(len(batches.members)) if share is None or number % share.count == share.index]


def count_items(context: Context, folders: Sequence[BatchFolder]) -> tuple[dict[str, int], int]:
    """Count the items that this run has to work on.

    Args:
        context: The run and this rank; folders are read on rank 0 alone.
        folders: Of all tasks.

    Returns:
        How many are finished already, by the name of their task; and how many there are in all.
    """
    finished, total = {}, 0
    for folder in folders:
        batches, done = folder.batches, folder.done() if context.ranks.is_main else frozenset()
        sizes = {number: len(batches.members[number]) for number in own(batches, context.record.share)}
        finished[batches.name] = sum(size for number, size in sizes.items() if number in done)
        total += sum(sizes.values())
    return finished, total


def cut(lengths: Sequence[int], capacity: int, filled: float = FILLED) -> list[tuple[int, ...]]:
    """Cut items into batches of at most so many tokens, padding included; the longest items come first.

    Args:
        lengths: Tokens of each item.
        capacity: Tokens of a batch; an item that is longer has a batch of its own.
        filled: Share of the longest item's tokens that others in its batch have at least.

    Returns:
        Numbers of the items of each batch.
    """
    order = sorted(range(len(lengths)), key=lambda item: (-lengths[item], item))
    batches: list[tuple[int, ...]] = []
    start = 0
    while start < len(order):
        longest = lengths[order[start]]
        last = min(len(order), start + max(1, capacity // max(1, longest)))
        end = start + 1
        while end < last and (lengths[order[end]] >= filled * longest or (end - start) * longest < _SMALL):
            end += 1
        batches.append(tuple(order[start:end]))
        start = end
    return batches

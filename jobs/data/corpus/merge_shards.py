"""The shards of single source files become shards of the corpus: the documents that stay, in the order of the files.

Which inputs a shard takes follows from their documents alone, inputs are only read, and a shard is whole or absent. So
any number of processes, killed at any moment, makes the same bytes.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.data.corpus.shard_writer import ShardWriter
from jobs.data.dedup.decide import Flags
from jobs.rank.atomic_files import staging_path, sync, write_durably
from jobs.rank.watchdog import WATCHDOG
from jobs.rank.worker_pool import run_tasks
from launcher.artifacts.corpus_manifest import IdFormat, Shard, Split
from launcher.run.files import link_or_copy

SHARD_TOKENS = 2**29
"""A shard takes inputs until it has as many: 1 GiB or 2 GiB. So 100 billion tokens are fewer files than a process may
have open, and reads in random order never open one again (see `jobs.data.sampling.corpus_reader.mapped`)."""
_COPIED_AT_ONCE = 2**22


@dataclass(frozen=True)
class ShardInput:
    """The documents of one source file in one split."""

    shard: Shard
    """Its name is below the folder of the parts."""
    stays: Flags
    """Which documents."""


@dataclass(frozen=True)
class Merge:
    """One shard to be made."""

    name: str
    inputs: tuple[ShardInput, ...]

    @property
    def stamp(self) -> str:
        """Checksum of what goes into it."""
        checksum = hashlib.sha256(self.name.encode())
        for one in self.inputs:
            checksum.update(one.shard.model_dump_json().encode())
            checksum.update(np.packbits(one.stays).data)
        return checksum.hexdigest()


class MergedShard(BaseModel):
    """The record of a shard that is in place."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    stamp: str
    code: str
    """Version of the code that made it."""
    shard: Shard


def lay_out(split: Split, inputs: Sequence[ShardInput], parts: Path) -> list[Merge]:
    """Spread inputs over shards: each takes consecutive ones until it has SHARD_TOKENS."""
    merges: list[list[ShardInput]] = []
    tokens = SHARD_TOKENS
    for one in inputs:
        if not one.stays.any():
            continue
        if tokens >= SHARD_TOKENS:
            merges.append([])
            tokens = 0
        merges[-1].append(one)
        tokens += tokens_that_stay(one, parts)
    return [Merge(f"{split}/{number:05d}.ds", tuple(taken)) for number, taken in enumerate(merges)]


def tokens_that_stay(one: ShardInput, parts: Path) -> int:
    """Count the tokens of the documents that stay; the input's shard lies in `parts`."""
    if one.stays.all():
        return one.shard.tokens
    ends = np.fromfile(parts / f"{one.shard.name}.index", "<u8").astype(np.int64)
    return int(np.diff(ends, prepend=0)[one.stays].sum())


@dataclass(frozen=True)
class Merger:
    """Makes the shards of a corpus from those in the folder of the parts."""

    parts: Path
    corpus: Path
    dtype: IdFormat
    code: str

    def run(self, merges: Sequence[Merge], cpus: int, on_progress: Callable[[int, int], None]) -> list[Shard]:
        """Make the shards that no earlier attempt made; return all of them."""
        shards = {number: shard for number, merge in enumerate(merges) if (shard := self.finished(merge))}
        missing = [number for number in range(len(merges)) if number not in shards]
        on_progress(len(shards), len(merges))
        for number, shard in run_tasks(lambda number: self.make(merges[number]), missing, cpus):
            shards[number] = shard
            on_progress(len(shards), len(merges))
            print(f"{merges[number].name}: {shard.documents:,} documents, {shard.tokens:,} tokens", flush=True)
        return [shards[number] for number in range(len(merges))]

    def finished(self, merge: Merge) -> Shard | None:
        """Return the shard, if an earlier attempt of the same code made it of these very documents."""
        try:
            record = MergedShard.model_validate_json(self._record(merge).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return record.shard if (record.stamp, record.code) == (merge.stamp, self.code) else None

    def make(self, merge: Merge) -> Shard:
        """Make a shard and its record."""
        self._record(merge).unlink(missing_ok=True)  # of what was in its place
        whole = merge.inputs[0].shard if len(merge.inputs) == 1 and merge.inputs[0].stays.all() else None
        shard = self._link(whole, merge.name) if whole else self._copy(merge)
        sync((self.corpus / merge.name).parent)
        record = MergedShard(stamp=merge.stamp, code=self.code, shard=shard)
        write_durably(self._record(merge), record.model_dump_json())
        return shard

    def _record(self, merge: Merge) -> Path:
        return self.parts / "merged" / f"{merge.name}.json"

    def _link(self, shard: Shard, name: str) -> Shard:
        """Use a source file's shard as it is, under a second name."""
        for suffix in ("", ".index"):
            target = self.corpus / f"{name}{suffix}"
            staging = staging_path(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            staging.unlink(missing_ok=True)
            link_or_copy(self.parts / f"{shard.name}{suffix}", staging)
            sync(staging)
            os.replace(staging, target)
        return shard.model_copy(update={"name": name})

    def _copy(self, merge: Merge) -> Shard:
        writer = ShardWriter(self.corpus, merge.name, self.dtype)
        for one in merge.inputs:
            for ids, lengths in self._documents(one):
                writer.append(ids, lengths)
                WATCHDOG.heartbeat()
        shard = writer.close()
        assert shard is not None, "inputs hold documents"
        return shard

    def _documents(self, one: ShardInput) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """Give the documents that stay, some at a time: their token ids end to end, and their lengths."""
        path = self.parts / one.shard.name
        ids = np.memmap(path, np.dtype(self.dtype).newbyteorder("<"), mode="r")
        ends = np.fromfile(f"{path}.index", "<u8").astype(np.int64)
        lengths = np.diff(ends, prepend=0)
        for documents in _batches(ends):
            stays = one.stays[documents]
            stop = int(ends[documents][-1])
            batch = ids[stop - int(lengths[documents].sum()) : stop]
            yield batch[np.repeat(stays, lengths[documents])], lengths[documents][stays]


def _batches(ends: NDArray[np.int64]) -> Iterator[slice]:
    """Cut documents into runs of some _COPIED_AT_ONCE tokens, of one document at least."""
    cuts = np.searchsorted(ends, np.arange(0, ends[-1], _COPIED_AT_ONCE)[1:])
    edges = np.unique(np.concatenate(([0], cuts, [len(ends)])))
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        yield slice(first, last)

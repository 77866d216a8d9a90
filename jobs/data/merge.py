"""Parts become shards: the documents that stay, in the parts' order, in files of a size that is good to read.

Which parts a shard takes follows from their documents alone, and a shard is whole or absent: so any number
of processes, killed at any moment, makes the same bytes. Parts are only read.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.data.decide import Flags
from jobs.data.shards import ShardWriter
from jobs.data.workers import run_tasks
from jobs.runtime.durable import staging_path, sync, write_durably
from jobs.runtime.watchdog import WATCHDOG
from launcher.corpus import IdFormat, Shard, Split

SHARD_TOKENS = 2**29
"""A shard takes parts until it has as many: 1 GiB or 2 GiB. So 100 billion tokens are fewer files than a process may
have open, and reads in random order open none anew (see `jobs.data.corpus.mapped`)."""
_COPIED_AT_ONCE = 2**22


@dataclass(frozen=True)
class Piece:
    """One part's documents of a split."""

    shard: Shard
    """Its name is below the parts' folder."""
    stays: Flags
    """Which documents."""


@dataclass(frozen=True)
class Merge:
    """One shard to be made."""

    name: str
    pieces: tuple[Piece, ...]

    @property
    def stamp(self) -> str:
        """Sums up what goes into it."""
        checksum = hashlib.sha256(self.name.encode())
        for piece in self.pieces:
            checksum.update(piece.shard.model_dump_json().encode())
            checksum.update(np.packbits(piece.stays).data)
        return checksum.hexdigest()


class MergedShard(BaseModel):
    """The record of a shard that is in place."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    stamp: str
    code: str
    """Version of the code that made it."""
    shard: Shard


def lay_out(split: Split, pieces: Sequence[Piece], parts: Path) -> list[Merge]:
    """Share the parts out among shards: each takes consecutive ones until it has SHARD_TOKENS."""
    merges: list[list[Piece]] = []
    tokens = SHARD_TOKENS
    for piece in pieces:
        if not piece.stays.any():
            continue
        if tokens >= SHARD_TOKENS:
            merges.append([])
            tokens = 0
        merges[-1].append(piece)
        tokens += tokens_that_stay(piece, parts)
    return [Merge(f"{split}/{number:05d}.ds", tuple(taken)) for number, taken in enumerate(merges)]


def tokens_that_stay(piece: Piece, parts: Path) -> int:
    """Count the tokens of the documents that stay; `parts` is the folder that the piece's shard lies in."""
    if piece.stays.all():
        return piece.shard.tokens
    ends = np.fromfile(parts / f"{piece.shard.name}.index", "<u8").astype(np.int64)
    return int(np.diff(ends, prepend=0)[piece.stays].sum())


@dataclass(frozen=True)
class Merger:
    """Makes shards out of the parts in one folder."""

    parts: Path
    corpus: Path
    dtype: IdFormat
    code: str

    def run(
        self, merges: Sequence[Merge], cpus: int, is_stop_wanted: Callable[[], bool], tell: Callable[[int, int], None]
    ) -> list[Shard] | None:
        """Make the shards that no earlier attempt made; None if a stop was asked for before the end."""
        missing = [number for number, merge in enumerate(merges) if not self.finished(merge)]
        made_before = len(merges) - len(missing)
        tell(made_before, len(merges))
        tasks = run_tasks(lambda number: self.make(merges[number]), missing, cpus, is_stop_wanted)
        for count, (number, shard) in enumerate(tasks, 1):
            tell(made_before + count, len(merges))
            print(f"{merges[number].name}: {shard.documents:,} documents, {shard.tokens:,} tokens", flush=True)
        made = [self.finished(merge) for merge in merges]
        shards = [shard for shard in made if shard]
        return shards if len(shards) == len(merges) else None

    def finished(self, merge: Merge) -> Shard | None:
        """Return the shard, if an earlier attempt of the same code made it of these very documents."""
        try:
            record = MergedShard.model_validate_json(self._record(merge).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return record.shard if (record.stamp, record.code) == (merge.stamp, self.code) else None

    def make(self, merge: Merge) -> Shard:
        """Make a shard and remember it."""
        self._record(merge).unlink(missing_ok=True)  # of what was in its place
        whole = merge.pieces[0].shard if len(merge.pieces) == 1 and merge.pieces[0].stays.all() else None
        shard = self._link(whole, merge.name) if whole else self._copy(merge)
        sync((self.corpus / merge.name).parent)
        record = MergedShard(stamp=merge.stamp, code=self.code, shard=shard)
        write_durably(self._record(merge), record.model_dump_json())
        return shard

    def _record(self, merge: Merge) -> Path:
        return self.parts / "merged" / f"{merge.name}.json"

    def _link(self, shard: Shard, name: str) -> Shard:
        """Take over a part's shard as it is, in no time: the part keeps its own name for it."""
        for suffix in ("", ".index"):
            target = self.corpus / f"{name}{suffix}"
            staging = staging_path(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            staging.unlink(missing_ok=True)
            _link_or_copy(self.parts / f"{shard.name}{suffix}", staging)
            os.replace(staging, target)
        return shard.model_copy(update={"name": name})

    def _copy(self, merge: Merge) -> Shard:
        writer = ShardWriter(self.corpus, merge.name, self.dtype)
        for piece in merge.pieces:
            for ids, lengths in self._documents(piece):
                writer.append(ids, lengths)
                WATCHDOG.beat()
        shard = writer.close()
        assert shard is not None, "pieces hold documents"
        return shard

    def _documents(self, piece: Piece) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """Give the documents that stay, some at a time: their token ids end to end, and their lengths."""
        path = self.parts / piece.shard.name
        ids = np.memmap(path, np.dtype(self.dtype).newbyteorder("<"), mode="r")
        ends = np.fromfile(f"{path}.index", "<u8").astype(np.int64)
        lengths = np.diff(ends, prepend=0)
        for documents in _batches(ends):
            stays = piece.stays[documents]
            stop = int(ends[documents][-1])
            batch = ids[stop - int(lengths[documents].sum()) : stop]
            yield batch[np.repeat(stays, lengths[documents])], lengths[documents][stays]


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # some file systems have no hard links
        shutil.copyfile(source, target)
        sync(target)


def _batches(ends: NDArray[np.int64]) -> Iterator[slice]:
    """Cut documents into runs of some _COPIED_AT_ONCE tokens, of one document at least."""
    cuts = np.searchsorted(ends, np.arange(0, ends[-1], _COPIED_AT_ONCE)[1:])
    edges = np.unique(np.concatenate(([0], cuts, [len(ends)])))
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        yield slice(first, last)

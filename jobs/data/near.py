"""Near duplicates, found by datatrove's MinHash among the documents that no other rule has dropped.

datatrove finds documents that agree in a whole bucket of their signatures (MinhashDedupBuckets) and joins
them to clusters (MinhashDedupCluster); it then keeps any document of a cluster, here it is the first. What
other rules dropped takes no part, so a document never goes in favour of one that goes as well.

Each bucket is a task of its own, done once and then remembered. A task takes 300 MB, and 2 s for a million
documents. Joining takes some 300 bytes for each document that has a near duplicate, in one process.
"""

import contextlib
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster
from loguru import logger
from numpy.typing import NDArray

from jobs.data.decide import KEPT, Judged
from jobs.data.signatures import read_bucket
from jobs.data.workers import run_tasks
from jobs.runtime.durable import move_durably, staging_path
from jobs.runtime.watchdog import WATCHDOG

_CHUNK = 2**21
"""Signatures sorted at once: datatrove merges sorted files, and holds all of them open."""
_WRITTEN_AT_ONCE = 2**16
_LINES = 1024
_DATATROVE = "datatrove.pipeline.dedup"
MAX_DOCUMENTS = 2**32 - 1
"""datatrove numbers documents with 32 bits, and the last number has a meaning of its own."""


@dataclass(frozen=True)
class NearDuplicates:
    """The search for near duplicates in one set of documents."""

    config: MinhashConfig
    signatures: Sequence[Path]
    """Of each part."""
    parts: Sequence[Judged]
    folder: Path
    """Where results lie, of these very documents."""

    def run(
        self, cpus: int, is_stop_wanted: Callable[[], bool], tell: Callable[[int, int], None] = lambda *_: None
    ) -> NDArray[np.uint32] | None:
        """Search all buckets and join what they give.

        Args:
            cpus: CPU cores to use.
            is_stop_wanted: Asked about once a second.
            tell: Told how many steps are done, and how many there are.

        Returns:
            The documents to drop by their places among the written ones of all parts; None if a stop was asked for
            before the end.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        steps, missing = self.config.num_buckets + 1, self.missing_buckets()
        before = self.config.num_buckets - len(missing)
        tell(before, steps)
        for done, _ in enumerate(run_tasks(self.search_bucket, missing, cpus, is_stop_wanted), before + 1):
            tell(done, steps)
            print(f"near duplicates: searched {done} of {self.config.num_buckets} buckets", flush=True)
        if self.missing_buckets():
            return None
        # In a process of its own, which gives back the memory that datatrove takes.
        joined = run_tasks(lambda _: self.later_ones(), [0], 1, is_stop_wanted)
        return next((places for _, places in joined), None)

    def missing_buckets(self) -> list[int]:
        """Numbers of the buckets that are still to be searched."""
        return [bucket for bucket in range(self.config.num_buckets) if not self._pairs(bucket).exists()]

    def search_bucket(self, bucket: int) -> None:
        """Find the documents that agree in one bucket."""
        logger.disable(_DATATROVE)
        scratch = staging_path(self.folder / str(bucket))
        shutil.rmtree(scratch, ignore_errors=True)
        for number, chunk in enumerate(self._chunks(bucket)):
            _write_sorted(scratch / f"bucket_{bucket:03d}" / f"{number:05d}.minhash.sig", chunk)
        WATCHDOG.rest()  # datatrove gives no sign of life
        pairs = scratch / "pairs"
        step = MinhashDedupBuckets(str(scratch), str(pairs), config=self.config, lines_to_buffer=_LINES)
        step.run(None, bucket, self.config.num_buckets)
        move_durably(pairs / self._pairs(bucket).name, self._pairs(bucket))  # empty would mean: none found
        shutil.rmtree(scratch)

    def later_ones(self) -> NDArray[np.uint32]:
        """Join what all buckets found; give all documents of each cluster but the first, by their places."""
        logger.disable(_DATATROVE)
        scratch = staging_path(self.folder / "clusters")
        shutil.rmtree(scratch, ignore_errors=True)
        WATCHDOG.rest()
        step = MinhashDedupCluster(
            str(self.folder), str(scratch), config=self.config, save_cluster_id=True, lines_to_buffer=_LINES
        )
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
            step.run()
        files = sorted(scratch.glob("*.clusters"))
        members = np.concatenate(
            [np.empty((0, 2), "<u4"), *(np.fromfile(file, "<u4").reshape(-1, 2) for file in files)]
        )
        shutil.rmtree(scratch, ignore_errors=True)
        return _all_but_first(members[:, 0], members[:, 1])

    def _pairs(self, bucket: int) -> Path:
        return self.folder / f"{bucket:05d}_00.dups"

    def _chunks(self, bucket: int) -> Iterator[NDArray[np.void]]:
        """Give one bucket of the signatures of all documents that stay, as datatrove's records, in bounded chunks."""
        chunk, filled = np.empty(_CHUNK, _record(self.config)), 0
        for hashes, places in self._blocks(bucket):
            if filled + len(places) > _CHUNK:
                yield chunk[:filled]
                filled = 0
            new = chunk[filled : filled + len(places)]
            new["hashes"], new["place"] = hashes, places
            filled += len(places)
        yield chunk[:filled]

    def _blocks(self, bucket: int) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
        start = 0
        for path, part in zip(self.signatures, self.parts, strict=True):
            done = 0
            for block in read_bucket(path, len(part.keys.signed), self.config, bucket):
                WATCHDOG.beat()
                places = part.keys.signed[done : done + len(block)]
                stays = part.verdicts[places] == KEPT
                yield block[stays], start + places[stays].astype(np.int64)
                done += len(block)
            start += len(part.verdicts)


def _record(config: MinhashConfig) -> np.dtype[np.void]:
    return np.dtype([("hashes", "<u8", (config.hashes_per_bucket,)), ("place", "<u4")])


def _write_sorted(path: Path, records: NDArray[np.void]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    order = np.lexsort(records["hashes"].T[::-1])  # stable: equal ones stay in the order of the documents
    WATCHDOG.beat()
    with path.open("wb") as file:
        for start in range(0, len(order), _WRITTEN_AT_ONCE):
            file.write(records[order[start : start + _WRITTEN_AT_ONCE]].data)


def _all_but_first(places: NDArray[np.uint32], clusters: NDArray[np.uint32]) -> NDArray[np.uint32]:
    order = np.lexsort((places, clusters))
    goes_on = np.append(False, np.diff(clusters[order]) == 0)[: len(order)]
    return np.sort(places[order[goes_on]])

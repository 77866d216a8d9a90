"""Near duplicates, found by datatrove's MinHash among the documents that no other rule has dropped.

datatrove finds documents that agree in a whole bucket of their signatures (MinhashDedupBuckets) and joins them to
clusters (MinhashDedupCluster), of which it keeps any document; here it is the first.

Each bucket is a task of its own whose result is kept. It takes 300 MB, and 2 s for a million documents. Joining takes
some 300 bytes for each document that has a near duplicate, in one process.
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

from jobs.data.dedup.decide import KEPT, DecidedFile
from jobs.data.dedup.minhash import read_bucket
from jobs.rank.atomic_files import move_durably, staging_path
from jobs.rank.watchdog import WATCHDOG
from jobs.rank.worker_pool import run_tasks

_CHUNK = 2**21
"""Signatures sorted at once: datatrove merges sorted files, and holds all of them open."""
_WRITTEN_AT_ONCE = 2**16
_LINES = 1024
_DATATROVE = "datatrove.pipeline.dedup"
MAX_DOCUMENTS = 2**32 - 1
"""datatrove numbers documents with 32 bits, and reserves the last number."""


@dataclass(frozen=True)
class NearDuplicates:
    """The search for near duplicates in one set of documents."""

    config: MinhashConfig
    signatures: Sequence[Path]
    """Of each source file."""
    files: Sequence[DecidedFile]
    folder: Path
    """Holds the results for exactly these documents."""

    def run(self, cpus: int, on_progress: Callable[[int, int], None] = lambda *_: None) -> NDArray[np.uint32]:
        """Search all buckets on so many cores, and join the results.

        Returns:
            The documents to drop, by their numbers among the written ones of all source files.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        steps, missing = self.config.num_buckets + 1, self.missing_buckets()
        before = self.config.num_buckets - len(missing)
        on_progress(before, steps)
        for done, _ in enumerate(run_tasks(self.search_bucket, missing, cpus), before + 1):
            on_progress(done, steps)
            print(f"near duplicates: searched {done} of {self.config.num_buckets} buckets", flush=True)
        # In a process of its own, which gives back the memory that datatrove takes.
        [(_, places)] = run_tasks(lambda _: self.later_ones(), [0], 1)
        return places

    def missing_buckets(self) -> list[int]:
        """Return the buckets that are still to be searched."""
        return [bucket for bucket in range(self.config.num_buckets) if not self._pairs(bucket).exists()]

    def search_bucket(self, bucket: int) -> None:
        """Find the documents that agree in one bucket."""
        logger.disable(_DATATROVE)
        scratch = staging_path(self.folder / str(bucket))
        shutil.rmtree(scratch, ignore_errors=True)
        for number, chunk in enumerate(self._chunks(bucket)):
            _write_sorted(scratch / f"bucket_{bucket:03d}" / f"{number:05d}.minhash.sig", chunk)
        WATCHDOG.pause()  # datatrove gives no heartbeat
        pairs = scratch / "pairs"
        step = MinhashDedupBuckets(str(scratch), str(pairs), config=self.config, lines_to_buffer=_LINES)
        step.run(None, bucket, self.config.num_buckets)
        move_durably(pairs / self._pairs(bucket).name, self._pairs(bucket))  # empty would mean: none found
        shutil.rmtree(scratch)

    def later_ones(self) -> NDArray[np.uint32]:
        """Join the results of all buckets; return the numbers of all documents of each cluster but the first."""
        logger.disable(_DATATROVE)
        scratch = staging_path(self.folder / "clusters")
        shutil.rmtree(scratch, ignore_errors=True)
        WATCHDOG.pause()
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
        """Give one bucket of all documents that stay, as datatrove's records, in bounded chunks."""
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
        for path, file in zip(self.signatures, self.files, strict=True):
            done = 0
            for block in read_bucket(path, len(file.keys.signed), self.config, bucket):
                WATCHDOG.heartbeat()
                places = file.keys.signed[done : done + len(block)]
                stays = file.decisions[places] == KEPT
                yield block[stays], start + places[stays].astype(np.int64)
                done += len(block)
            start += len(file.decisions)


def _record(config: MinhashConfig) -> np.dtype[np.void]:
    return np.dtype([("hashes", "<u8", (config.hashes_per_bucket,)), ("place", "<u4")])


def _write_sorted(path: Path, records: NDArray[np.void]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    order = np.lexsort(records["hashes"].T[::-1])  # stable: equal ones stay in the order of the documents
    WATCHDOG.heartbeat()
    with path.open("wb") as file:
        for start in range(0, len(order), _WRITTEN_AT_ONCE):
            file.write(records[order[start : start + _WRITTEN_AT_ONCE]].data)


def _all_but_first(places: NDArray[np.uint32], clusters: NDArray[np.uint32]) -> NDArray[np.uint32]:
    order = np.lexsort((places, clusters))
    goes_on = np.append(False, np.diff(clusters[order]) == 0)[: len(order)]
    return np.sort(places[order[goes_on]])

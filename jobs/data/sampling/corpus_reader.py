"""Read token ids and positions of any range of a prepared corpus, by memory map."""

import resource
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from launcher.artifacts.corpus_manifest import SPLITS, Manifest, Split, read_manifest
from launcher.artifacts.token_ids import tokenizer_mismatches
from launcher.errors import LauncherError

Ids: TypeAlias = NDArray[np.int64]
_INDEX_FORMAT = "<u8"
_MOST_DESCRIPTORS = 2**16
"""Linux maps as many files in a process by default (vm.max_map_count)."""


def maps_to_keep(descriptors: int) -> int:
    """Return how many files to keep mapped, given the limit of file descriptors: each map holds one.

    Half of them are left for sockets, and for batches from worker processes.
    """
    return (_MOST_DESCRIPTORS if descriptors == resource.RLIM_INFINITY else min(descriptors, _MOST_DESCRIPTORS)) // 2


@dataclass(frozen=True)
class CorpusReader:
    """A published corpus. Cheap to pickle and fork: files are mapped when they are first read."""

    folder: Path
    manifest: Manifest

    def tokens(self, split: Split) -> int:
        """Number of tokens in a split."""
        return self.manifest.counts.tokens[split]

    def read(self, split: Split, start: int, stop: int) -> tuple[Ids, Ids]:
        """Read tokens `start` to `stop` of the split's concatenated documents.

        Returns:
            Token ids and positions; these count from 0 at the start of the range and of each document inside it.
        """
        spans = [self._read_span(*span) for span in self._spans(split, start, stop)]
        if len(spans) == 1:
            return spans[0]
        ids, positions = zip(*spans, strict=True)
        return np.concatenate(ids), np.concatenate(positions)

    def document(self, split: Split, number: int) -> tuple[int, int]:
        """Return where a document starts and ends in the split."""
        documents = self._first_documents[split]
        place = bisect_right(documents, number) - 1
        ends, inner = self._ends(split, place), number - documents[place]
        origin = self._starts[split][place]
        return origin + (int(ends[inner - 1]) if inner else 0), origin + int(ends[inner])

    def lengths(self, split: Split) -> Ids:
        """Tokens of each document of a split, in order."""
        shards = range(len(self.manifest.shards[split]))
        per_shard = [np.diff(self._ends(split, number).astype(np.int64), prepend=0) for number in shards]
        return np.concatenate([np.empty(0, np.int64), *per_shard])

    def check_sizes(self) -> None:
        """Raise LauncherError for the first file that is missing or has another size than in the manifest."""
        for name, size in self.manifest.sizes().items():
            _check_size(self.folder / name, size)

    @cached_property
    def _starts(self) -> dict[Split, list[int]]:
        shards = self.manifest.shards
        return {split: list(accumulate((one.tokens for one in shards[split]), initial=0)) for split in SPLITS}

    @cached_property
    def _first_documents(self) -> dict[Split, list[int]]:
        shards = self.manifest.shards
        return {split: list(accumulate((one.documents for one in shards[split]), initial=0)) for split in SPLITS}

    @cached_property
    def _paths(self) -> dict[Split, list[str]]:
        return {split: [str(self.folder / shard.name) for shard in self.manifest.shards[split]] for split in SPLITS}

    @cached_property
    def _id_format(self) -> str:
        return np.dtype(self.manifest.dtype).newbyteorder("<").str

    def _ends(self, split: Split, number: int) -> NDArray[Any]:
        return mapped(self._paths[split][number] + ".index", _INDEX_FORMAT)

    def _spans(self, split: Split, start: int, stop: int) -> Iterator[tuple[Split, int, int, int]]:
        starts = self._starts[split]
        number = bisect_right(starts, start) - 1
        while start < stop:
            end = min(stop, starts[number + 1])
            yield split, number, start - starts[number], end - starts[number]
            start, number = end, number + 1

    def _read_span(self, split: Split, number: int, start: int, stop: int) -> tuple[Ids, Ids]:
        ids, ends = mapped(self._paths[split][number], self._id_format), self._ends(split, number)
        # Ends after `start` and before `stop`. The bounds are uint64 like the array, which numpy would convert
        # otherwise.
        first, last = ends.searchsorted(np.array((start + 1, stop), np.uint64))
        return ids[start:stop].astype(np.int64), _positions(ends[first:last].astype(np.int64) - start, stop - start)


def open_corpus(folder: Path) -> CorpusReader:
    """Open a published corpus and check the sizes of its files; raise LauncherError if something is wrong."""
    corpus = CorpusReader(folder, read_manifest(folder))
    corpus.check_sizes()
    return corpus


def open_corpora(folders: Iterable[Path], data_use: str, model: Path | None = None) -> list[CorpusReader]:
    """Open the corpora of a recipe with this `data_use`, if its model (a folder) can read them.

    Raises:
        LauncherError: a corpus cannot be opened, is credentialed and the recipe is not, or was made with another
            tokenizer.
    """
    corpora = [open_corpus(folder) for folder in folders]
    for number, message in tokenizer_mismatches(((one.manifest.corpus, one.folder) for one in corpora), model):
        raise LauncherError(f"data.corpora.{number}.name: {message}")
    for corpus in corpora:
        if corpus.manifest.data_use == "credentialed" and data_use != "credentialed":
            raise LauncherError(
                f"data.corpora: `{corpus.manifest.corpus}` holds credentialed data, but the recipe says "
                f"`data_use: {data_use}`; write `data_use: credentialed`"
            )
    return corpora


def _positions(restarts: Ids, length: int) -> Ids:
    positions = np.arange(length)
    if len(restarts):
        lengths = np.append(restarts[1:], length) - restarts
        positions[restarts[0] :] -= np.repeat(restarts, lengths)
    return positions


@lru_cache(maxsize=maps_to_keep(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
def mapped(path: str, dtype: str) -> NDArray[Any]:
    """Map a file of numbers of one format."""
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))  # slicing a memmap itself costs three times as much


def _check_size(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise _damaged(path, "is missing") from None
    if size != expected:
        raise _damaged(path, f"has {size} bytes, not {expected}")


def _damaged(path: Path, what: str) -> LauncherError:
    return LauncherError(f"{path}: {what}; remove the corpus folder and prepare it again")

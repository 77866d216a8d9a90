"""Reading a prepared corpus: token ids and positions of any range, by memory map."""

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

from launcher.corpus import SPLITS, Manifest, Split, read_manifest
from launcher.errors import LauncherError
from launcher.tokens import strangers

Ids: TypeAlias = NDArray[np.int64]
_INDEX_FORMAT = "<u8"
_MOST_DESCRIPTORS = 2**16
"""Linux maps as many files in a process by default (vm.max_map_count)."""


def maps_to_keep(descriptors: int) -> int:
    """Say how many files to keep mapped. Each map holds a file descriptor, though numpy closes the file.

    Half of the descriptors are left to all else: sockets, and batches that worker processes hand over.

    Args:
        descriptors: How many this process may have; `RLIM_INFINITY` if there is no limit.
    """
    return (_MOST_DESCRIPTORS if descriptors == resource.RLIM_INFINITY else min(descriptors, _MOST_DESCRIPTORS)) // 2


@dataclass(frozen=True)
class Corpus:
    """A published corpus. Cheap to pickle and to fork: files are mapped when they are first read."""

    folder: Path
    manifest: Manifest

    def tokens(self, split: Split) -> int:
        """Number of tokens in a split."""
        return self.manifest.counts.tokens[split]

    def read(self, split: Split, start: int, stop: int) -> tuple[Ids, Ids]:
        """Read a range of the split's concatenated documents.

        Args:
            split: Which part of the corpus.
            start: First token, counted from the start of the split.
            stop: One past the last token.

        Returns:
            Token ids and positions. Positions count from 0 at the start of the range and again at the
            start of each document inside it.
        """
        pieces = [self._read_piece(*piece) for piece in self._pieces(split, start, stop)]
        if len(pieces) == 1:
            return pieces[0]
        ids, positions = zip(*pieces, strict=True)
        return np.concatenate(ids), np.concatenate(positions)

    def document(self, split: Split, number: int) -> tuple[int, int]:
        """Return the place of a document in the split: its first token, and one past its last."""
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
        """Compare the sizes of all shards with the manifest's, which is quick.

        Raises:
            LauncherError: naming the first file that is missing or has another size.
        """
        for name, size in self.manifest.sizes().items():
            _check_size(self.folder / name, size)

    @cached_property
    def _starts(self) -> dict[Split, list[int]]:
        return {
            split: list(accumulate((shard.tokens for shard in self.manifest.shards[split]), initial=0))
            for split in SPLITS
        }

    @cached_property
    def _first_documents(self) -> dict[Split, list[int]]:
        return {
            split: list(accumulate((shard.documents for shard in self.manifest.shards[split]), initial=0))
            for split in SPLITS
        }

    @cached_property
    def _paths(self) -> dict[Split, list[str]]:
        return {split: [str(self.folder / shard.name) for shard in self.manifest.shards[split]] for split in SPLITS}

    @cached_property
    def _id_format(self) -> str:
        return np.dtype(self.manifest.dtype).newbyteorder("<").str

    def _ends(self, split: Split, number: int) -> NDArray[Any]:
        return mapped(self._paths[split][number] + ".index", _INDEX_FORMAT)

    def _pieces(self, split: Split, start: int, stop: int) -> Iterator[tuple[Split, int, int, int]]:
        starts = self._starts[split]
        number = bisect_right(starts, start) - 1
        while start < stop:
            end = min(stop, starts[number + 1])
            yield split, number, start - starts[number], end - starts[number]
            start, number = end, number + 1

    def _read_piece(self, split: Split, number: int, start: int, stop: int) -> tuple[Ids, Ids]:
        ids, ends = mapped(self._paths[split][number], self._id_format), self._ends(split, number)
        # Ends after `start` and before `stop`. The bounds are uint64 like the array: of Python's integers numpy would
        # make another type, and convert the whole array to it first.
        first, last = ends.searchsorted(np.array((start + 1, stop), np.uint64))
        return ids[start:stop].astype(np.int64), _positions(ends[first:last].astype(np.int64) - start, stop - start)


def open_corpus(folder: Path) -> Corpus:
    """Open a published corpus and check that its files are there in full length.

    Raises:
        LauncherError: it is not a corpus, or a shard is missing or of the wrong size.
    """
    corpus = Corpus(folder, read_manifest(folder))
    corpus.check_sizes()
    return corpus


def open_corpora(folders: Iterable[Path], data_use: str, model: Path | None = None) -> list[Corpus]:
    """Open what a recipe reads, if the recipe says what it is and its model can read it.

    Args:
        folders: Of the corpora.
        data_use: The recipe's.
        model: Folder of the model, if it has one.

    Raises:
        LauncherError: a corpus cannot be opened, is credentialed and the recipe is not, or was made with another
            tokenizer.
    """
    corpora = [open_corpus(folder) for folder in folders]
    for number, message in strangers(((one.manifest.corpus, one.folder) for one in corpora), model):
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

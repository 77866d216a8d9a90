"""Cut a corpus into sequences, as `data.packing` says."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jobs.data.sampling.corpus_reader import CorpusReader, Ids
from launcher.artifacts.corpus_manifest import Split
from launcher.errors import LauncherError
from launcher.recipe.sections.mixture import Data


class CorpusSequences(Protocol):
    """The training sequences of a corpus."""

    @property
    def corpus(self) -> CorpusReader:
        """The corpus."""

    @property
    def split(self) -> Split:
        """The split of it."""

    @property
    def length(self) -> int:
        """Tokens that a sequence has at most."""

    def __len__(self) -> int: ...

    def span(self, index: int) -> tuple[int, int]:
        """Return where a sequence starts and ends in the split, in tokens."""

    def read(self, index: int) -> tuple[Ids, Ids]:
        """Return token ids and positions of a sequence; positions are 0 at the start of each document."""


@dataclass(frozen=True)
class Windows:
    """Documents laid end to end and cut into windows of equal length; the last one of a split is shorter.

    Every token is in exactly one window. A document that is cut continues in the next window, without its beginning.
    """

    corpus: CorpusReader
    split: Split
    length: int

    def __len__(self) -> int:
        return (self.corpus.tokens(self.split) + self.length - 1) // self.length

    def span(self, index: int) -> tuple[int, int]:
        """Return where window `index` starts and ends."""
        start = index * self.length
        return start, min(start + self.length, self.corpus.tokens(self.split))

    def read(self, index: int) -> tuple[Ids, Ids]:
        """Return the tokens of window `index`."""
        return self.corpus.read(self.split, *self.span(index))


@dataclass(frozen=True, eq=False)  # compared and cached as objects: a manifest has no hash
class DocumentSequences:
    """Single documents: the first tokens of each, or all of it in several sequences of which the last is shorter."""

    corpus: CorpusReader
    split: Split
    length: int
    keeps_tail: bool

    def __len__(self) -> int:
        if not self.keeps_tail:
            return self.corpus.manifest.counts.documents[self.split]
        ends = _sequence_ends(self)
        return int(ends[-1]) if len(ends) else 0

    def span(self, index: int) -> tuple[int, int]:
        """Return where sequence `index` starts and ends."""
        document, part = index, 0
        if self.keeps_tail:
            ends = _sequence_ends(self)
            document = int(np.searchsorted(ends, index, side="right"))
            part = index - (int(ends[document - 1]) if document else 0)
        start, end = self.corpus.document(self.split, document)
        start += part * self.length
        return start, min(start + self.length, end)

    def read(self, index: int) -> tuple[Ids, Ids]:
        """Return the tokens of sequence `index`, at most `length`."""
        return self.corpus.read(self.split, *self.span(index))


@lru_cache(maxsize=32)  # not in the object: it travels to worker processes
def _sequence_ends(sequences: DocumentSequences) -> NDArray[np.int64]:
    """Running number of sequences after each document: 8 bytes a document, unlike windows, which cost nothing."""
    ends: NDArray[np.int64] = np.cumsum(-(-sequences.corpus.lengths(sequences.split) // sequences.length))
    return ends


def cut(corpora: Sequence[CorpusReader], packing: str, split: Split, length: int) -> list[CorpusSequences]:
    """Cut one split of corpora into training sequences of `length` tokens, as `data.packing` says.

    Raises:
        LauncherError: a corpus has no documents in the split.
    """
    if packing == "packed":
        sequences: list[CorpusSequences] = [Windows(corpus, split, length) for corpus in corpora]
    else:
        sequences = [DocumentSequences(corpus, split, length, packing == "pad") for corpus in corpora]
    for one in sequences:
        if not len(one):
            raise LauncherError(
                f"{one.corpus.folder}: has no documents in {split}; prepare more text, or another `validation` share"
            )
    return sequences


def describe_loss(data: Data, sequences: Sequence[CorpusSequences]) -> str | None:
    """Say how much text the recipe's packing leaves out; None if nothing."""
    if data.packing != "truncate":
        return None
    length, lengths = sequences[0].length, np.concatenate([one.corpus.lengths(one.split) for one in sequences])
    total, kept = int(lengths.sum()), int(np.minimum(lengths, length).sum())
    return (
        f"truncate: {kept:,} of {total:,} tokens ({kept / total:.0%}) are within the first {length} of "
        "their document; the rest is not read"
    )

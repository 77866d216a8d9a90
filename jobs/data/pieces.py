"""Pieces: what a corpus is cut into, each one training sequence. How is the recipe's `data.packing`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jobs.data.corpus import Corpus, Ids
from launcher.corpus import Split
from launcher.errors import LauncherError
from launcher.recipe.data import Data


class Pieces(Protocol):
    """The training sequences of a corpus."""

    @property
    def corpus(self) -> Corpus:
        """Where they come from."""

    @property
    def split(self) -> Split:
        """Which part of it."""

    @property
    def length(self) -> int:
        """Tokens that a piece has at most."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[Ids, Ids]:
        """Return token ids and positions of a piece; positions are 0 at the start of each document."""


@dataclass(frozen=True)
class Windows:
    """Documents laid end to end and cut into windows of equal length; the last one of a split is shorter.

    Every token is in exactly one window. A document that a window's edge cuts goes on in another window,
    without its beginning.
    """

    corpus: Corpus
    split: Split
    length: int

    def __len__(self) -> int:
        return (self.corpus.tokens(self.split) + self.length - 1) // self.length

    def read(self, index: int) -> tuple[Ids, Ids]:
        """Return the tokens of window `index`."""
        start = index * self.length
        return self.corpus.read(self.split, start, min(start + self.length, self.corpus.tokens(self.split)))


@dataclass(frozen=True, eq=False)  # compared and cached as objects: a manifest has no hash
class DocumentPieces:
    """Documents by themselves: the first tokens of each, or all of it in pieces; the last is shorter."""

    corpus: Corpus
    split: Split
    length: int
    keeps_tail: bool

    def __len__(self) -> int:
        if not self.keeps_tail:
            return self.corpus.manifest.counts.documents[self.split]
        ends = _piece_ends(self)
        return int(ends[-1]) if len(ends) else 0

    def read(self, index: int) -> tuple[Ids, Ids]:
        """Return the tokens of piece `index`, at most `length`."""
        document, part = index, 0
        if self.keeps_tail:
            ends = _piece_ends(self)
            document = int(np.searchsorted(ends, index, side="right"))
            part = index - (int(ends[document - 1]) if document else 0)
        start, end = self.corpus.document(self.split, document)
        start += part * self.length
        return self.corpus.read(self.split, start, min(start + self.length, end))


@lru_cache(maxsize=32)  # not in the object: it travels to worker processes
def _piece_ends(pieces: DocumentPieces) -> NDArray[np.int64]:
    """Running number of pieces after each document: 8 bytes a document, unlike windows, which cost nothing."""
    ends: NDArray[np.int64] = np.cumsum(-(-pieces.corpus.lengths(pieces.split) // pieces.length))
    return ends


def cut(corpora: Sequence[Corpus], packing: str, split: Split, length: int) -> list[Pieces]:
    """Cut corpora into training sequences.

    Args:
        corpora: The corpora.
        packing: The recipe's `data.packing`.
        split: Which part of them.
        length: Tokens per sequence.

    Raises:
        LauncherError: a corpus has none.
    """
    if packing == "packed":
        pieces: list[Pieces] = [Windows(corpus, split, length) for corpus in corpora]
    else:
        pieces = [DocumentPieces(corpus, split, length, packing == "pad") for corpus in corpora]
    for one in pieces:
        if not len(one):
            raise LauncherError(
                f"{one.corpus.folder}: has no documents in {split}; prepare more text, or another `validation` share"
            )
    return pieces


def describe_loss(data: Data, pieces: Sequence[Pieces]) -> str | None:
    """Say how much text the recipe's packing leaves out; None if nothing."""
    if data.packing != "truncate":
        return None
    lengths = [one.corpus.lengths(one.split) for one in pieces]
    total, kept = (sum(int(each.sum()) for each in some) for some in (lengths, _clipped(lengths, pieces[0].length)))
    return (
        f"truncate: {kept:,} of {total:,} tokens ({kept / total:.0%}) are within the first {pieces[0].length} of their "
        "document; the rest is not read"
    )


def _clipped(lengths: Sequence[Ids], length: int) -> list[Ids]:
    return [np.minimum(each, length) for each in lengths]

"""Held-out text of corpora, in sequences like those of training, and how many bytes it has."""

from collections.abc import Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer

from jobs.data.sampling.corpus_reader import CorpusReader
from jobs.data.sampling.dataset import SequenceSamples
from jobs.data.sampling.order import EvenlySpread
from jobs.data.sampling.sequences import CorpusSequences, cut
from launcher.artifacts.corpus_manifest import TOKENIZER
from launcher.errors import LauncherError


class HeldOutText(SequenceSamples):
    """Sequences of the `validation` splits, in order, evenly spread if there are more than are wanted.

    Args:
        sequences: Of each corpus.
        length: Tokens of a sequence.
        wanted: How many sequences to give at most.
    """

    def __init__(self, sequences: Sequence[CorpusSequences], length: int, wanted: int) -> None:
        sizes = list(map(len, sequences))
        chosen = min(wanted, sum(sizes))
        super().__init__(sequences, EvenlySpread(sizes, chosen), length, chosen)
        self.names = [one.corpus.manifest.corpus for one in sequences]
        """Of the corpora."""

    @property
    def sources(self) -> list[int]:
        """Number of the corpus that each sequence is from."""
        return [self.locate(index)[0] for index in range(len(self))]

    def count_bytes(self, counts: list[float]) -> Iterator[None]:
        """Count the bytes of the sequences' text in UTF-8, as the tokenizer of each corpus decodes it.

        Args:
            counts: One number for each corpus, to which its bytes are added.

        Yields:
            After each sequence.

        Raises:
            LauncherError: the tokenizer of a corpus cannot be read.
        """
        sizes = list(map(_TextSizes, self._sequences))
        for index in range(len(self)):
            source, item = self.locate(index)
            counts[source] += sizes[source].of(item)
            yield


def held_out_text(corpora: Sequence[CorpusReader], packing: str, length: int, wanted: int | None) -> HeldOutText | None:
    """Cut the `validation` splits of corpora as training cuts `train`.

    Args:
        corpora: Those without a `validation` split are left out.
        packing: The recipe's `data.packing`.
        length: Tokens of a sequence.
        wanted: How many sequences to give at most; None: all.

    Returns:
        The sequences; None if no corpus has such a split.
    """
    have = [corpus for corpus in corpora if corpus.manifest.counts.documents["validation"]]
    if not have:
        return None
    sequences = cut(have, packing, "validation", length)
    return HeldOutText(sequences, length, sum(map(len, sequences)) if wanted is None else wanted)


class _TextSizes:
    """Bytes of text in the documents of a split, as the corpus' own tokenizer decodes them."""

    def __init__(self, sequences: CorpusSequences) -> None:
        self._sequences = sequences
        self._corpus, self._split = sequences.corpus, sequences.split
        self._tokenizer = _tokenizer(sequences.corpus)
        self._ends = np.cumsum(self._corpus.lengths(self._split))
        self._last = (-1, 0)

    def of(self, item: int) -> float:
        """Count the bytes of a sequence: a document that is cut counts by the share of its tokens."""
        start, stop = self._sequences.span(item)
        first, last = np.searchsorted(self._ends, (start, stop - 1), side="right").tolist()
        total = 0.0
        for document in range(first, last + 1):
            begin, end = self._corpus.document(self._split, document)
            total += self._whole(document) * (min(stop, end) - max(start, begin)) / (end - begin)
        return total

    def _whole(self, document: int) -> int:
        # Whole documents only: the parts of a cut character decode to something longer. Sequences come in order, so
        # remembering one document is enough to decode each once.
        if self._last[0] != document:
            ids, _ = self._corpus.read(self._split, *self._corpus.document(self._split, document))
            text = self._tokenizer.decode(ids.tolist(), skip_special_tokens=True)
            self._last = (document, len(text.encode()))
        return self._last[1]


def _tokenizer(corpus: CorpusReader) -> Tokenizer:
    path = corpus.folder / TOKENIZER
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library has no narrower type for what it cannot read
        raise LauncherError(f"{path}: {error}; copy the corpus again, or write `evaluation: null`") from None

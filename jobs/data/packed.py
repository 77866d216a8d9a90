"""Packed samples for pretraining: documents laid end to end and cut into windows of equal length.

Every token of a corpus is in exactly one window of each epoch, except the last `tokens mod length`
tokens of the split, which do not fill one. Which window is sample i follows from (seed, i) alone:
no state to save, and the same data order at any world size.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from jobs.data.corpus import Corpus, open_corpus
from jobs.data.manifest import Split
from jobs.data.permutation import Permutation
from launcher.errors import LauncherError
from launcher.recipe.sections import Batch
from launcher.recipe.units import Length

__all__ = ["Corpus", "Mixture", "PackedSamples", "flattening_collator", "open_corpus", "packed_collator", "steps_in"]

IGNORED = -100
"""Label that torch's cross entropy leaves out."""


class Mixture:
    """Deals samples to corpora in fixed proportions.

    After any number of samples each corpus has had its share of them to within one sample per corpus
    before it in the list: the first takes its share of all samples as evenly spread as integers
    allow, the second its share of what is left, and so on.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        exact = [Fraction(str(weight)) for weight in weights]
        self._shares = [share / sum(exact[place:]) for place, share in enumerate(exact)]

    def place(self, index: int) -> tuple[int, int]:
        """Return the corpus that sample `index` comes from, and how many samples that corpus gave before."""
        for corpus, share in enumerate(self._shares):
            given = index * share.numerator // share.denominator
            if (index + 1) * share.numerator // share.denominator > given:
                return corpus, given
            index -= given
        raise AssertionError("the last share is 1")


class PackedSamples(Dataset[dict[str, Tensor]]):
    """Samples of `sequence_length` tokens: `input_ids`, `labels` and `position_ids`.

    `position_ids` restart at each document and there is no `attention_mask`: so transformers keeps
    documents from seeing each other, exactly, and an all-ones mask would switch that off. The first
    token of each document is not predicted (its label is -100): what comes before it is another
    document. A document that a window's edge cuts goes on in another window, without its beginning.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        weights: Sequence[float],
        split: Split,
        sequence_length: int,
        seed: int,
        num_samples: int,
    ) -> None:
        self._corpora = tuple(corpora)
        self._windows = tuple(_windows(corpus, split, sequence_length) for corpus in corpora)
        self._mixture = Mixture(weights)
        self._split: Split = split
        self._length = sequence_length
        self._seed = seed
        self._num_samples = num_samples

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self._num_samples:
            raise IndexError(index)
        corpus, start = self.locate(index)
        ids, positions = self._corpora[corpus].read(self._split, start, start + self._length)
        labels = np.where(positions == 0, IGNORED, ids)
        sample = {"input_ids": ids, "labels": labels, "position_ids": positions}
        return {name: torch.from_numpy(array) for name, array in sample.items()}

    def locate(self, index: int) -> tuple[int, int]:
        """Return the corpus of sample `index` and the place of its first token in the split.

        Each corpus gives all its windows once, in an order of its own for every epoch, before it gives
        one twice.
        """
        corpus, given = self._mixture.place(index)
        epoch, turn = divmod(given, self._windows[corpus])
        key = f"{self._seed}/{self._corpora[corpus].manifest.corpus}/{self._split}/{epoch}"
        return corpus, _permutation(self._windows[corpus], key)(turn) * self._length


def packed_collator(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack samples into a batch; they are of one length, so nothing is padded or masked."""
    batch: dict[str, Tensor] = default_collate(list(samples))
    return batch


def flattening_collator(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Lay a batch's samples end to end in one row, for flash attention.

    transformers' flash attention (5.23, `_is_packed_sequence`) looks for documents in `position_ids` only
    where a batch has one row; in more rows documents would see each other, without a word. The row means
    the same: each sample starts at position 0, so it is a document of its own, and its first label is -100.
    """
    return {name: torch.cat([sample[name] for sample in samples]).unsqueeze(0) for name in samples[0]}


def steps_in(length: Length, batch: Batch, corpora: Sequence[Corpus], split: Split = "train") -> int:
    """Turn a length of training into optimizer steps, rounded up to whole steps.

    An epoch is as many samples as all corpora have windows together. The last step of the last epoch
    is filled up from the next one, so that no window goes unseen.

    Args:
        length: As the recipe says it.
        batch: Global batch and sequence length.
        corpora: What is trained on.
        split: Which part of them.
    """
    if length.unit == "step":
        return length.value
    if length.unit == "token":
        return math.ceil(length.value / (batch.sequences * batch.sequence_length))
    windows = sum(_windows(corpus, split, batch.sequence_length) for corpus in corpora)
    return math.ceil(length.exact * windows / batch.sequences)


def _windows(corpus: Corpus, split: Split, length: int) -> int:
    windows = corpus.windows(split, length)
    if not windows:
        raise LauncherError(
            f"{corpus.folder}: {split} has {corpus.tokens(split)} tokens, too few for one sequence of {length}; "
            "write a smaller `batch.sequence_length` or prepare more text"
        )
    return windows


@lru_cache(maxsize=64)
def _permutation(size: int, key: str) -> Permutation:
    return Permutation(size, key)

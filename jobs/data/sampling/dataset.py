"""Samples for training: sequences of corpora, mixed, in an order that is computed.

Which sequence is sample i follows from (seed, i) alone: no state to save, and the same order at any world size.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from jobs.data.sampling.mixture import Mixture
from jobs.data.sampling.order import Order, Places
from jobs.data.sampling.sequences import CorpusSequences
from jobs.models.labels import IGNORED


class OrderedSamples(Dataset[dict[str, Any]]):
    """Samples in an order that is computed: sample `index` is an item of one of several sources."""

    def __init__(self, order: Places, num_samples: int) -> None:
        self._order = order
        self._num_samples = num_samples

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self._num_samples:
            raise IndexError(index)
        return self.sample(*self.locate(index))

    def locate(self, index: int) -> tuple[int, int]:
        """Return the source of sample `index`, and which of its items it is."""
        return self._order.locate(index)

    @abstractmethod
    def sample(self, source: int, item: int) -> dict[str, Any]:
        """Make a sample of an item of a source."""


class SequenceSamples(OrderedSamples):
    """Samples of `length` tokens: `input_ids`, `labels` and `position_ids`.

    `position_ids` restart at each document and there is no `attention_mask`: so in transformers packed documents cannot
    attend to one another; an all-ones mask would switch that off. The first token of each document is not predicted
    (its label is -100), since what comes before it is another document. A sequence that is too short is padded with EOS
    at its end, which is not predicted either.
    """

    def __init__(self, sequences: Sequence[CorpusSequences], order: Places, length: int, num_samples: int) -> None:
        super().__init__(order, num_samples)
        self._sequences = tuple(sequences)
        self._length = length

    def sample(self, source: int, item: int) -> dict[str, Tensor]:
        """Read a sequence of a corpus."""
        ids, positions = self._sequences[source].read(item)
        labels = np.where(positions == 0, IGNORED, ids)
        if missing := self._length - len(ids):
            eos = self._sequences[source].corpus.manifest.tokenizer.eos
            ids = np.pad(ids, (0, missing), constant_values=eos)
            labels = np.pad(labels, (0, missing), constant_values=IGNORED)
            positions = np.concatenate((positions, positions[-1] + np.arange(1, missing + 1)))
        sample = {"input_ids": ids, "labels": labels, "position_ids": positions}
        return {name: torch.from_numpy(array) for name, array in sample.items()}


class Samples(SequenceSamples):
    """Samples to train on: sequences of corpora, mixed, each corpus in an order of its own."""

    def __init__(
        self, sequences: Sequence[CorpusSequences], mixture: Mixture, length: int, seed: int, num_samples: int
    ) -> None:
        names = [f"{one.corpus.manifest.corpus}/{one.split}" for one in sequences]
        super().__init__(sequences, Order(mixture, list(map(len, sequences)), names, seed), length, num_samples)


def packed_collator(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack samples into a batch; they are of one length, so nothing is padded or masked."""
    batch: dict[str, Tensor] = default_collate(list(samples))
    return batch


def flattening_collator(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Lay a batch's samples end to end in one row, for flash attention.

    transformers' flash attention (5.23, `_is_packed_sequence`) looks for documents in `position_ids` only where a batch
    has one row; in more rows documents would attend to one another. The result is the same: each sample starts at
    position 0 like a document, and its first label is -100.
    """
    return {name: torch.cat([sample[name] for sample in samples]).unsqueeze(0) for name in samples[0]}

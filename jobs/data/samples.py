"""Samples for training: pieces of corpora, mixed, in an order that is computed.

Which piece is sample i follows from (seed, i) alone: no state to save, and the same data order at any
world size.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from jobs.data.mixture import Mixture
from jobs.data.order import Order
from jobs.data.pieces import Pieces

IGNORED = -100
"""Label that torch's cross entropy leaves out."""


class Samples(Dataset[dict[str, Tensor]]):
    """Samples of `length` tokens: `input_ids`, `labels` and `position_ids`.

    `position_ids` restart at each document and there is no `attention_mask`: so transformers keeps
    documents from seeing each other, exactly, and an all-ones mask would switch that off. The first
    token of each document is not predicted (its label is -100): what comes before it is another
    document. A piece that is too short is padded at its end with EOS, which is not predicted either, and
    which nothing before it can see.
    """

    def __init__(self, pieces: Sequence[Pieces], mixture: Mixture, length: int, seed: int, num_samples: int) -> None:
        self._pieces = tuple(pieces)
        names = [f"{one.corpus.manifest.corpus}/{one.split}" for one in pieces]
        self._order = Order(mixture, list(map(len, pieces)), names, seed)
        self._length = length
        self._num_samples = num_samples

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self._num_samples:
            raise IndexError(index)
        corpus, piece = self.locate(index)
        ids, positions = self._pieces[corpus].read(piece)
        labels = np.where(positions == 0, IGNORED, ids)
        if missing := self._length - len(ids):
            eos = self._pieces[corpus].corpus.manifest.tokenizer.eos
            ids = np.pad(ids, (0, missing), constant_values=eos)
            labels = np.pad(labels, (0, missing), constant_values=IGNORED)
            positions = np.concatenate((positions, positions[-1] + np.arange(1, missing + 1)))
        sample = {"input_ids": ids, "labels": labels, "position_ids": positions}
        return {name: torch.from_numpy(array) for name, array in sample.items()}

    def locate(self, index: int) -> tuple[int, int]:
        """Return the corpus of sample `index` and which of its pieces it is."""
        return self._order.locate(index)


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

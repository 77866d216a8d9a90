"""Samples of labelled notes: in a computed order for training, in the order of the tables for prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from jobs.data.labelled.tables import Table
from jobs.data.labelled.windows import Ids, NoteEncoder
from jobs.data.sampling.dataset import OrderedSamples
from jobs.data.sampling.mixture import Mixture
from jobs.data.sampling.order import Order
from jobs.scoring.true_labels import TrueLabels

_MULTIPLE = 8
"""Sequences are padded to a multiple of it, since tensor cores are slow on odd sizes."""


class LabelledWindows(Dataset[dict[str, Any]]):
    """The windows of a split's notes, note by note.

    Args:
        windows: Token ids of each.
        notes: The note of each, ascending.
        labels: Of each note.
    """

    def __init__(self, windows: Sequence[Ids], notes: NDArray[np.int64], labels: TrueLabels) -> None:
        self._windows = windows
        self._labels = torch.from_numpy(labels if labels.ndim == 1 else labels.astype(np.float32))
        self.notes = notes
        self.tokens = sum(map(len, windows))
        """Tokens of all windows."""

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self._windows[index], "labels": self._labels[self.notes[index]]}


def windows_of(table: Table, encoder: NoteEncoder) -> LabelledWindows:
    """Encode the notes of a split."""
    per_note = list(encoder.windows(table.texts))
    notes = np.repeat(np.arange(len(table)), [len(windows) for windows in per_note])
    return LabelledWindows([*chain.from_iterable(per_note)], notes, table.labels)


class TrainingSamples(OrderedSamples):
    """All windows once per epoch, in an order that is a function of the index."""

    def __init__(self, windows: LabelledWindows, seed: int, num_samples: int) -> None:
        super().__init__(Order(Mixture([(0, [Fraction(1)])]), [len(windows)], ["train"], seed), num_samples)
        self._windows = windows

    def sample(self, source: int, item: int) -> dict[str, Any]:  # noqa: ARG002 - there is one source
        """Return a window."""
        return self._windows[item]


@dataclass(frozen=True)
class NoteCollator:
    """Pads windows on the right to the longest of a micro batch."""

    pad: int
    """Id of the padding token."""
    longest: int
    """Most tokens that a window may have."""

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Make a batch of samples."""
        lengths = [len(sample["input_ids"]) for sample in samples]
        width = min(-(-max(lengths) // _MULTIPLE) * _MULTIPLE, max(self.longest, *lengths))
        ids = np.full((len(samples), width), self.pad, np.int64)
        for row, sample, length in zip(ids, samples, lengths, strict=True):
            row[:length] = sample["input_ids"]
        mask = np.arange(width) < np.array(lengths)[:, None]
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
            "labels": torch.stack([sample["labels"] for sample in samples]),
        }


def pooled(logits: NDArray[np.float32], notes: NDArray[np.int64], how: str) -> NDArray[np.float32]:
    """Pool the logits of windows to one row for each note, by `mean` or `max`; `notes` ascend from 0 without gaps."""
    starts = np.flatnonzero(np.diff(notes, prepend=-1))
    if how == "max":
        return np.maximum.reduceat(logits, starts, axis=0)
    counts = np.diff(starts, append=len(notes))[:, None]
    means: NDArray[np.float32] = (np.add.reduceat(logits, starts, axis=0) / counts).astype(np.float32)
    return means


def mean_tokens(windows: LabelledWindows) -> float:
    """Return the average tokens of a window."""
    return windows.tokens / len(windows)

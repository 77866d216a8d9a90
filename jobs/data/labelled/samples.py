"""Samples of labelled notes, for training in a fixed order and for prediction in the order of the tables."""

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

from jobs.data.labelled.tables import Table, Truth
from jobs.data.labelled.windows import Ids, NoteEncoder
from jobs.data.mixture import Mixture
from jobs.data.order import Order

_MULTIPLE = 8
"""Sequences are padded to a multiple of it: matrix products of odd sizes are slow on tensor cores."""


class LabelledWindows(Dataset[dict[str, Any]]):
    """The windows of a split's notes, note by note: what a model predicts from."""

    def __init__(self, windows: Sequence[Ids], notes: NDArray[np.int64], truth: Truth) -> None:
        """Hold windows.

        Args:
            windows: Token ids of each.
            notes: The note of each, ascending.
            truth: What is right for each note.
        """
        self._windows = windows
        self._truth = torch.from_numpy(truth if truth.ndim == 1 else truth.astype(np.float32))
        self.notes = notes
        self.tokens = sum(map(len, windows))
        """Tokens of all windows."""

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self._windows[index], "labels": self._truth[self.notes[index]]}


def windows_of(table: Table, encoder: NoteEncoder) -> LabelledWindows:
    """Encode the notes of a split."""
    per_note = list(encoder.windows(table.texts))
    notes = np.repeat(np.arange(len(table)), [len(windows) for windows in per_note])
    return LabelledWindows([*chain.from_iterable(per_note)], notes, table.truth)


class TrainingSamples(Dataset[dict[str, Any]]):
    """All windows once, in an order of its own for every epoch, before one comes twice: a function of the index."""

    def __init__(self, windows: LabelledWindows, seed: int, num_samples: int) -> None:
        self._windows = windows
        self._order = Order(Mixture([(0, [Fraction(1)])]), [len(windows)], ["train"], seed)
        self._num_samples = num_samples

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self._num_samples:
            raise IndexError(index)
        return self._windows[self._order.locate(index)[1]]


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
    """Make one row of logits for each note of those of its windows.

    Args:
        logits: A row for each window.
        notes: The note of each, ascending from 0, none left out.
        how: `mean` or `max`.
    """
    starts = np.flatnonzero(np.diff(notes, prepend=-1))
    if how == "max":
        return np.maximum.reduceat(logits, starts, axis=0)
    counts = np.diff(starts, append=len(notes))[:, None]
    means: NDArray[np.float32] = (np.add.reduceat(logits, starts, axis=0) / counts).astype(np.float32)
    return means


def mean_tokens(windows: LabelledWindows) -> float:
    """Return the tokens that a window has on average."""
    return windows.tokens / len(windows)

"""Samples for fine-tuning: sequences of prepared examples, in an order that is computed."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from jobs.data.chat.store import Sequences
from jobs.data.order import Places
from jobs.data.samples import IGNORED


class ChatSamples(Dataset[dict[str, Tensor]]):
    """Sequences of one or several examples: `input_ids`, `labels` and `position_ids`, without padding.

    Labels are -100 wherever no answer stands. Isolation is that of `jobs.data.samples.Samples`: positions restart with
    each example, and there is no `attention_mask`.
    """

    def __init__(self, sources: Sequence[Sequences], order: Places, num_samples: int) -> None:
        self._sources = tuple(sources)
        self._order = order
        self._num_samples = num_samples

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self._num_samples:
            raise IndexError(index)
        source, item = self._order.locate(index)
        examples = self._sources[source].read(item)
        ids = np.concatenate([example.ids for example in examples]).astype(np.int64)
        positions = np.concatenate([np.arange(len(example.ids)) for example in examples])
        is_answer = np.concatenate([example.is_answer for example in examples])
        # What comes before the first token of an example is another example.
        labels = np.where(is_answer & (positions > 0), ids, IGNORED)
        sample = {"input_ids": ids, "labels": labels, "position_ids": positions}
        return {name: torch.from_numpy(array) for name, array in sample.items()}


def padding_collator(pad: int) -> Callable[[Sequence[dict[str, Tensor]]], dict[str, Tensor]]:
    """Return a collator that pads sequences at their end to the longest of the batch.

    Positions go on counting there: so padding belongs to the last example, which cannot see what comes after it.

    Args:
        pad: Any token; it is neither seen nor predicted.
    """

    def collate(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        length = max(len(sample["input_ids"]) for sample in samples)
        padded = [_padded(sample, length, pad) for sample in samples]
        return {name: torch.stack([sample[name] for sample in padded]) for name in padded[0]}

    return collate


def _padded(sample: dict[str, Tensor], length: int, pad: int) -> dict[str, Tensor]:
    missing = length - len(sample["input_ids"])
    last = int(sample["position_ids"][-1])
    added = {
        "input_ids": torch.full((missing,), pad),
        "labels": torch.full((missing,), IGNORED),
        "position_ids": torch.arange(last + 1, last + 1 + missing),
    }
    return {name: torch.cat((tensor, added[name])) for name, tensor in sample.items()}

"""Samples for fine-tuning: sequences of prepared examples, in an order that is computed."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from jobs.data.chat.store import Sequences
from jobs.data.sampling.dataset import OrderedSamples
from jobs.data.sampling.order import Places
from jobs.models.labels import IGNORED


class ChatSamples(OrderedSamples):
    """Sequences of one or several examples: `input_ids`, `labels` and `position_ids`, without padding.

    Labels are -100 outside of answers. As in `jobs.data.sampling.dataset.Samples`, positions restart with each example
    and there is no `attention_mask`.
    """

    def __init__(self, sources: Sequence[Sequences], order: Places, num_samples: int) -> None:
        super().__init__(order, num_samples)
        self._sources = tuple(sources)

    def sample(self, source: int, item: int) -> dict[str, Tensor]:
        """Read a sequence of a source."""
        examples = self._sources[source].read(item)
        ids = np.concatenate([example.ids for example in examples]).astype(np.int64)
        positions = np.concatenate([np.arange(len(example.ids)) for example in examples])
        is_answer = np.concatenate([example.is_answer for example in examples])
        # The first token of an example would be predicted from another example.
        labels = np.where(is_answer & (positions > 0), ids, IGNORED)
        sample = {"input_ids": ids, "labels": labels, "position_ids": positions}
        return {name: torch.from_numpy(array) for name, array in sample.items()}


def padding_collator(pad: int, least: int = 0) -> Callable[[Sequence[dict[str, Tensor]]], dict[str, Tensor]]:
    """Return a collator that pads sequences at their end to the longest of the batch, with any token.

    Positions go on counting there: so padding belongs to the last example, which cannot attend to what comes after it.

    Args:
        pad: The token.
        least: Tokens that a padded sequence has at least.
    """

    def collate(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        length = max(least, *(len(sample["input_ids"]) for sample in samples))
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

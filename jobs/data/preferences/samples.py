"""Samples of pairs, in an order that is computed, and the batches that TRL's losses take."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from jobs.data.chat.render import Example
from jobs.data.preferences.store import Pairs
from jobs.data.sampling.dataset import OrderedSamples
from jobs.data.sampling.mixture import Mixture
from jobs.data.sampling.order import EvenlySpread, Order, Places

_SIDES = ("chosen", "rejected")
Collator: TypeAlias = Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]


MISMATCHED = "mismatched_"
"""What the names of tensors begin with that hold answers to other questions."""


class PairSamples(OrderedSamples):
    """Pairs as `chosen` and `rejected` (`Example`), `margin`, and `place`.

    Args:
        sources: The pairs.
        order: In which they are given.
        num_samples: How many to give.
        first: Place of the first pair of the first source; the others follow.
        cycle: If not 0, a sample also has `before`: the sample before it in its global batch of so many; the first one
            has the last one.
    """

    def __init__(
        self, sources: Sequence[Pairs], order: Places, num_samples: int, first: int = 0, cycle: int = 0
    ) -> None:
        super().__init__(order, num_samples)
        self._sources = tuple(sources)
        self._firsts = [first + before for before in accumulate(map(len, sources), initial=0)]
        self._cycle = cycle

    @override
    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        if self._cycle:
            begin = index - index % self._cycle
            sample["before"] = super().__getitem__(begin + (index - begin - 1) % self._cycle)
        return sample

    def sample(self, source: int, item: int) -> dict[str, Any]:
        """Read a pair of a source."""
        pair, place = self._sources[source].read(item), self._firsts[source] + item
        return {"chosen": pair.chosen, "rejected": pair.rejected, "margin": pair.margin, "place": place}


def shuffled_pairs(
    sources: Sequence[Pairs], shares: Sequence[Fraction], seed: int, count: int, cycle: int = 0
) -> PairSamples:
    """Return `count` pairs of a mixture, each source in an order of its own; `cycle` is that of `PairSamples`."""
    order = Order(Mixture([(0, list(shares))]), list(map(len, sources)), [source.name for source in sources], seed)
    return PairSamples(sources, order, count, cycle=cycle)


def all_pairs(sources: Sequence[Pairs], first: int = 0) -> PairSamples:
    """Return each pair once, as they lie."""
    sizes = list(map(len, sources))
    return PairSamples(sources, EvenlySpread(sizes, sum(sizes)), sum(sizes), first)


def mean_tokens(sources: Sequence[Pairs], shares: Sequence[Fraction]) -> float:
    """Return the tokens that a pair of the mixture has on average, on both sides."""
    tokens = [Fraction(source.tokens, len(source)) * share for source, share in zip(sources, shares, strict=True)]
    return float(sum(tokens) / sum(shares))


def reward_collator(pad: int, with_margin: bool) -> Collator:
    """Return a collator for rewards of whole conversations: all chosen sides, then all rejected ones."""

    def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        batch = _padded(_sides(samples), pad)
        if with_margin:
            batch["margin"] = torch.tensor([sample["margin"] for sample in samples], dtype=torch.float32)
        return batch

    return collate


def answer_collator(pad: int) -> Collator:
    """Return a collator for log-probabilities of answers, which `completion_mask` marks; order as in rewards."""

    def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        batch = _answers(_sides(samples), pad)
        batch["place"] = torch.tensor([sample["place"] for sample in samples])
        return batch

    return collate


def single_collator(pad: int, limit: int) -> Collator:
    """Return a collator for answers each by itself, with a `label` (1: chosen) and the number of their `record`.

    Samples that have one before them (`PairSamples`) also give their question with that one's answers.

    Args:
        pad: Token that fills rows up.
        limit: Tokens of a question with an answer to another one.
    """

    def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        places = [(side, record) for side in _SIDES for record, sample in enumerate(samples) if len(sample[side].ids)]
        batch = _answers([samples[record][side] for side, record in places], pad)
        batch["label"] = torch.tensor([int(side == _SIDES[0]) for side, _ in places])
        batch["record"] = torch.tensor([record for _, record in places])
        if "before" in samples[0]:
            other = _answers([one.truncated(limit) for sample in samples for one in _mismatched(sample)], pad)
            batch |= {MISMATCHED + name: tensor for name, tensor in other.items()}
        return batch

    return collate


def _mismatched(sample: dict[str, Any]) -> list[Example]:
    """Put the answers of the sample before this one after this one's question."""
    asked, before = next(sample[side] for side in _SIDES if len(sample[side].ids)), sample["before"]
    question = asked.ids[: int(asked.is_answer.argmax())]
    made = []
    for side in (before[name] for name in _SIDES if len(before[name].ids)):
        begin = int(side.is_answer.argmax())
        marks = np.concatenate((np.zeros(len(question), np.bool_), side.is_answer[begin:]))
        made.append(Example(np.concatenate((question, side.ids[begin:])), marks))
    return made


def _answers(sides: Sequence[Example], pad: int) -> dict[str, Tensor]:
    batch = _padded(sides, pad)
    batch["completion_mask"] = _rows([side.is_answer for side in sides], batch["input_ids"].shape[1], 0)
    return batch


def _sides(samples: Sequence[dict[str, Any]]) -> list[Example]:
    return [sample[side] for side in _SIDES for sample in samples]


def _padded(sides: Sequence[Example], pad: int) -> dict[str, Tensor]:
    longest = max(len(side.ids) for side in sides)
    ids = _rows([side.ids for side in sides], longest, pad)
    return {"input_ids": ids, "attention_mask": _rows([np.ones(len(side.ids)) for side in sides], longest, 0)}


def _rows(rows: Sequence[Any], length: int, fill: int) -> Tensor:
    padded = [np.pad(row.astype(np.int64), (0, length - len(row)), constant_values=fill) for row in rows]
    return torch.from_numpy(np.stack(padded))

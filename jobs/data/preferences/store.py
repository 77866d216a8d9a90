"""Prepared pairs on disk: written once in a run, then mapped by every rank of every attempt.

A pair is a list of numbers: how many tokens the chosen side has, the bits of its margin (float32), and the tokens of
both sides, folded as those of examples are. The lists are stored like the shards of corpora.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jobs.data.chat.render import Example
from jobs.data.chat.store import Lists, PreparedSource, StoredExamples, folded, lists_of, unfolded
from jobs.data.corpus.shard_writer import ShardWriter
from launcher.artifacts.corpus_manifest import SPLITS, Split

_HEADER = 2
"""Numbers before the tokens."""

NOTHING = Example(np.empty(0, np.uint32), np.empty(0, np.bool_))
"""The side of a pair that there is no answer for."""


@dataclass(frozen=True)
class AnswerPair:
    """Two answers to the same conversation, each with that conversation, as tokens; one can be `NOTHING`."""

    chosen: Example
    rejected: Example
    margin: float = 0.0
    """How far apart the rewards should be."""

    @property
    def sides(self) -> dict[str, Example]:
        """The answers that there are, as `chosen` and `rejected`."""
        both = {"chosen": self.chosen, "rejected": self.rejected}
        return {name: side for name, side in both.items() if len(side.ids)}

    @property
    def longest(self) -> int:
        """Tokens of the longer side."""
        return max(len(self.chosen.ids), len(self.rejected.ids))

    @property
    def is_equal(self) -> bool:
        """Whether both sides are the same tokens."""
        return np.array_equal(self.chosen.ids, self.rejected.ids)

    def truncated(self, length: int) -> "AnswerPair":
        """Return the first tokens of both sides."""
        return AnswerPair(self.chosen.truncated(length), self.rejected.truncated(length), self.margin)


@dataclass(frozen=True)
class Pairs:
    """The pairs of one source and split."""

    name: str
    lists: Lists
    tokens: int
    """Of both sides of all pairs."""

    def __len__(self) -> int:
        return len(self.lists)

    def read(self, index: int) -> AnswerPair:
        """Return one of the pairs."""
        numbers = self.lists.read(index)
        middle = _HEADER + int(numbers[0])
        margin = float(numbers[1:_HEADER].view(np.float32)[0])
        return AnswerPair(unfolded(numbers[_HEADER:middle]), unfolded(numbers[middle:]), margin)


class PairWriter:
    """Writes the pairs of one source."""

    def __init__(self, folder: Path, name: str) -> None:
        self._writers = {split: ShardWriter(folder, f"{name}/{split}.pairs", "uint32") for split in SPLITS}
        self._answer_tokens = dict.fromkeys(SPLITS, 0)

    def write(self, split: Split, pair: AnswerPair) -> None:
        """Add a pair."""
        numbers = np.concatenate((_header(pair), folded(pair.chosen), folded(pair.rejected)))
        self._writers[split].append(numbers, np.array([len(numbers)]))
        self._answer_tokens[split] += sum(int(side.is_answer.sum()) for side in (pair.chosen, pair.rejected))

    def close(self) -> StoredExamples:
        """Finish all files."""
        closed = {split: writer.close() for split, writer in self._writers.items()}
        shards = {split: shard for split, shard in closed.items() if shard is not None}
        return StoredExamples(shards, {}, self._answer_tokens)


def open_pairs(folder: Path, sources: Sequence[PreparedSource], split: Split) -> list[Pairs]:
    """Open what was prepared; sources without pairs in a split are left out."""
    shards = [(source.name, source.examples[split]) for source in sources if split in source.examples]
    return [Pairs(name, lists_of(folder, shard), shard.tokens - _HEADER * shard.documents) for name, shard in shards]


def _header(pair: AnswerPair) -> NDArray[np.uint32]:
    return np.array([len(pair.chosen.ids), np.float32(pair.margin).view(np.uint32)], np.uint32)

"""Prepared examples on disk: written once in a run, then mapped by every rank of every attempt.

A source's examples are lists of numbers, one a token: its id and, in the highest bit, whether it is trained on. Beside
them lie the packs: lists of examples that share a sequence. Both are shards in the layout of corpora.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from jobs.data.chat.packing import best_fit_decreasing
from jobs.data.chat.render import Example
from jobs.data.corpus import mapped
from jobs.data.shards import ShardWriter
from launcher.corpus import SPLITS, Shard, SourceFile, Split

_IS_ANSWER = np.uint32(1 << 31)
_DTYPE = "uint32"


class ExamplesTally(BaseModel):
    """What became of the records of one source, and what the examples hold."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    records: int = 0
    bad_records: int = 0
    dropped: dict[str, int] = {}
    """Readable records left out, by reason."""
    trimmed: dict[str, int] = {}
    """Turns left out at the ends of conversations, by kind."""
    truncated: int = 0
    """Examples of which only the first tokens are there."""
    answer_tokens: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    """Tokens that are trained on."""


class PreparedSource(BaseModel):
    """The record of a finished source."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: str
    files: tuple[SourceFile, ...]
    first_bad: tuple[str, ...]
    """The first unreadable records, as `file:line: what is wrong`."""
    tally: ExamplesTally
    examples: dict[Split, Shard]
    packs: dict[Split, Shard] = {}
    """How the examples share sequences; empty if each has its own."""


@dataclass(frozen=True)
class Lists:
    """Lists of numbers, mapped. Cheap to pickle and to fork: files are mapped when they are first read."""

    path: str
    count: int

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> NDArray[np.uint32]:
        """Return one of the lists."""
        ends = mapped(f"{self.path}.index", "<u8")
        return mapped(self.path, "<u4")[int(ends[index - 1]) if index else 0 : int(ends[index])]

    def lengths(self) -> NDArray[np.int64]:
        """Length of each list."""
        ends: NDArray[np.int64] = mapped(f"{self.path}.index", "<u8").astype(np.int64)
        return ends - np.concatenate(([0], ends[:-1]))


@dataclass(frozen=True)
class Sequences:
    """What one source gives to train on: each item is one example, or several that share a sequence."""

    name: str
    examples: Lists
    packs: Lists | None
    tokens: int
    """Of all examples."""

    def __len__(self) -> int:
        return len(self.examples if self.packs is None else self.packs)

    def read(self, index: int) -> list[Example]:
        """Return the examples of one sequence."""
        members = [index] if self.packs is None else self.packs.read(index).tolist()
        return [_unfold(self.examples.read(member)) for member in members]


class ExampleWriter:
    """Writes the examples of one source, and then how they are packed."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._writers = {split: ShardWriter(folder, f"{name}/{split}.examples", _DTYPE) for split in SPLITS}
        self.answer_tokens = dict.fromkeys(SPLITS, 0)

    def write(self, split: Split, example: Example) -> None:
        """Add an example."""
        folded = example.ids | (example.is_answer * _IS_ANSWER)
        self._writers[split].append(folded, np.array([len(folded)]))
        self.answer_tokens[split] += int(example.is_answer.sum())

    def close(self, capacity: int | None) -> tuple[dict[Split, Shard], dict[Split, Shard]]:
        """Put everything in place, durably.

        Args:
            capacity: Tokens of a sequence that several examples may share; None if they may not.

        Returns:
            The shards of the examples, and those of the packs.
        """
        closed = {split: writer.close() for split, writer in self._writers.items()}
        examples = {split: shard for split, shard in closed.items() if shard is not None}
        if capacity is None:
            return examples, {}
        return examples, {split: self._pack(split, shard, capacity) for split, shard in examples.items()}

    def _pack(self, split: Split, shard: Shard, capacity: int) -> Shard:
        writer = ShardWriter(self._folder, f"{self._name}/{split}.packs", _DTYPE)
        writer.write(best_fit_decreasing(_lists(self._folder, shard).lengths(), capacity))
        packs = writer.close()
        assert packs is not None, "a shard that is there has examples"
        return packs


def has_all_bytes(folder: Path, source: PreparedSource) -> bool:
    """Tell whether the files of a source have the sizes that its record says.

    Raises:
        FileNotFoundError: one is not there at all.
    """
    sizes = {}
    for shard in [*source.examples.values(), *source.packs.values()]:
        sizes |= {shard.name: 4 * shard.tokens, f"{shard.name}.index": 8 * shard.documents}
    return all((folder / name).stat().st_size == size for name, size in sizes.items())


def open_sequences(folder: Path, sources: Sequence[PreparedSource], split: Split) -> list[Sequences]:
    """Open what was prepared; sources without examples in a split are left out."""
    return [
        Sequences(
            source.name,
            _lists(folder, source.examples[split]),
            _lists(folder, source.packs[split]) if source.packs else None,
            source.examples[split].tokens,
        )
        for source in sources
        if split in source.examples
    ]


def _lists(folder: Path, shard: Shard) -> Lists:
    return Lists(str(folder / shard.name), shard.documents)


def _unfold(folded: NDArray[np.uint32]) -> Example:
    return Example(folded & ~_IS_ANSWER, folded >= _IS_ANSWER)

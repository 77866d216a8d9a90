"""Prepared examples on disk: written once in a run, then mapped by every rank of every attempt.

An example is a list of numbers, one for each token: its id and, in the highest bit, whether it is trained on. A pack is
a list of the examples that share a sequence. Both are stored like the shards of corpora.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from jobs.data.chat.packing import best_fit_decreasing
from jobs.data.chat.render import Example
from jobs.data.corpus.shard_writer import ShardWriter
from jobs.data.sampling.corpus_reader import mapped
from launcher.artifacts.corpus_manifest import SPLITS, Shard, SourceFile, Split

_IS_ANSWER = np.uint32(1 << 31)
_DTYPE = "uint32"


class ExamplesTally(BaseModel):
    """What became of the records of one source."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    records: int = 0
    bad_records: int = 0
    bad_reasons: dict[str, int] = {}
    """Of them by what is wrong, with N for numbers."""
    dropped: dict[str, int] = {}
    """Readable records left out, by reason."""
    trimmed: dict[str, int] = {}
    """Turns left out at the ends of conversations, by kind."""
    truncated: int = 0
    """Examples that were cut at the end."""
    answer_tokens: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    """Tokens that are trained on."""
    strata: dict[str, dict[Split, int]] = {}
    """Examples of each split by the value of `data.stratify_by`."""
    terminology: dict[str, int] = {}
    """What `data.terminology` did in conversations that are trained on; see TERMINOLOGY_COUNTS."""


class PreparedSource(BaseModel):
    """The record of a finished source."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: str
    files: tuple[SourceFile, ...]
    first_bad: tuple[str, ...]
    """The first unreadable records for each reason, as `file:line: what is wrong`."""
    tally: ExamplesTally
    examples: dict[Split, Shard]
    packs: dict[Split, Shard] = {}
    """Which examples share a sequence; empty if each has its own."""
    values: dict[str, int] | None = None
    """How many records have each value that the source's filter is compared with; None: not counted."""


@dataclass(frozen=True)
class StoredExamples:
    """The files of one source's examples."""

    examples: dict[Split, Shard]
    packs: dict[Split, Shard]
    answer_tokens: dict[Split, int]
    """Tokens that are trained on."""


@dataclass(frozen=True)
class Lists:
    """Lists of numbers in mapped files. Cheap to pickle and fork: files are mapped when they are first read."""

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
    """The training sequences of one source: each is one example, or several that share it."""

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
        return [unfolded(self.examples.read(member)) for member in members]


def folded(example: Example) -> NDArray[np.uint32]:
    """Return an example as a list of numbers, one for each token."""
    return example.ids | (example.is_answer * _IS_ANSWER)


def unfolded(numbers: NDArray[np.uint32]) -> Example:
    """Return the example that a list of numbers is."""
    return Example(numbers & ~_IS_ANSWER, numbers >= _IS_ANSWER)


class ExampleWriter:
    """Writes the examples of one source, and then how they are packed."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._writers = {split: ShardWriter(folder, f"{name}/{split}.examples", _DTYPE) for split in SPLITS}
        self.answer_tokens = dict.fromkeys(SPLITS, 0)

    def write(self, split: Split, example: Example) -> None:
        """Add an example."""
        self._writers[split].append(folded(example), np.array([len(example.ids)]))
        self.answer_tokens[split] += int(example.is_answer.sum())

    def close(self, capacity: int | None) -> StoredExamples:
        """Finish all files; there are packs if sequences have a `capacity`."""
        closed = {split: writer.close() for split, writer in self._writers.items()}
        examples = {split: shard for split, shard in closed.items() if shard is not None}
        packs = {}
        if capacity is not None:
            packs = {split: self._pack(split, shard, capacity) for split, shard in examples.items()}
        return StoredExamples(examples, packs, self.answer_tokens)

    def _pack(self, split: Split, shard: Shard, capacity: int) -> Shard:
        writer = ShardWriter(self._folder, f"{self._name}/{split}.packs", _DTYPE)
        writer.write(best_fit_decreasing(lists_of(self._folder, shard).lengths(), capacity))
        packs = writer.close()
        assert packs is not None, "a shard that is there has examples"
        return packs


def has_all_bytes(folder: Path, source: PreparedSource) -> bool:
    """Tell whether the files of a source have their recorded sizes; raise FileNotFoundError if one is missing."""
    sizes: dict[str, int] = {}
    for shard in [*source.examples.values(), *source.packs.values()]:
        sizes |= {shard.name: 4 * shard.tokens, f"{shard.name}.index": 8 * shard.documents}
    return all((folder / name).stat().st_size == size for name, size in sizes.items())


def open_sequences(folder: Path, sources: Sequence[PreparedSource], split: Split) -> list[Sequences]:
    """Open what was prepared; sources without examples in a split are left out."""
    return [
        Sequences(
            source.name,
            lists_of(folder, source.examples[split]),
            lists_of(folder, source.packs[split]) if source.packs else None,
            source.examples[split].tokens,
        )
        for source in sources
        if split in source.examples
    ]


def lists_of(folder: Path, shard: Shard) -> Lists:
    """Open the lists of a shard."""
    return Lists(str(folder / shard.name), shard.documents)

"""Prompts for reinforcement learning: conversations up to their last answer, tokenised, with that answer as reference.

Rank 0 prepares them once in a run, one Arrow file for each source; every rank of every attempt maps the files.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from typing_extensions import override

from jobs.data.chat.excluded import excluded_records
from jobs.data.chat.render import Example, Renderer
from jobs.data.chat.store import StoredExamples
from jobs.data.chat.tokenised_source import ConversationMaker, prepare_sources
from jobs.data.readers.source_stream import SourceStream
from jobs.data.sampling.mixture import Mixture
from jobs.data.sampling.order import Order
from jobs.rank.atomic_files import sync
from jobs.rank.context import Context
from launcher.artifacts.corpus_manifest import SPLITS, Split
from launcher.recipe.kinds.rl import RlRecipe
from launcher.recipe.sections.chat_sources import ChatSource

_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
_COLUMNS = pa.schema([("prompt", pa.list_(pa.int32())), ("messages", pa.list_(_MESSAGE)), ("reference", pa.string())])
"""Token ids, the messages that they render, and the content of the answer that came next."""


def make_prompts(context: Context, recipe: RlRecipe, folder: Path) -> Iterator[None]:
    """Prepare all sources that no earlier attempt finished; yields often, so that the caller can stop.

    Raises:
        LauncherError: more records are unreadable than the recipe allows, or a source gives no prompt.
    """
    sources = recipe.data.sources

    def maker(number: int, renderer: Renderer) -> _PromptMaker:
        return _PromptMaker(recipe, sources[number], renderer, excluded_records(context, number, sources[number]))

    yield from prepare_sources(context, recipe, folder, maker)


def open_prompts(folder: Path, sources: Sequence[str], split: Split = "train") -> list[Dataset]:
    """Map the prompts of each source, by its name."""
    return [Dataset.from_file(str(_file(folder, name, split))) for name in sources]


def _file(folder: Path, name: str, split: Split) -> Path:
    return folder / name / f"{split}.prompts.arrow"


class _PromptMaker(ConversationMaker):
    """Makes the prompts of one source."""

    def __init__(self, recipe: RlRecipe, source: ChatSource, renderer: Renderer, excluded: frozenset[str]) -> None:
        super().__init__(recipe, source, renderer, excluded)
        self._limit = recipe.batch.sequence_length - recipe.generation.max_new_tokens
        self._paths: dict[Split, Path] = {}
        self._writers: dict[Split, Any] = {}
        self._tokens = dict.fromkeys(SPLITS, 0)

    @override
    def write(self, stream: SourceStream, folder: Path) -> Iterator[None]:
        if not self._paths:
            self._paths = {split: _file(folder, self.source.name, split) for split in SPLITS}
            self._paths["train"].parent.mkdir(parents=True, exist_ok=True)
            self._writers = {split: pa.ipc.new_stream(str(path), _COLUMNS) for split, path in self._paths.items()}
        for batch in self.batches(stream):
            rows: dict[Split, list[dict[str, Any]]] = {split: [] for split in SPLITS}
            for messages, example in batch:
                if ids := self._kept(example):
                    asked, split = self.renderer.completed(messages), self.split(messages)
                    rows[split].append({"prompt": ids, "messages": asked[:-1], "reference": asked[-1]["content"]})
                    self._tokens[split] += len(ids)
            for split, writer in self._writers.items():
                writer.write_batch(pa.RecordBatch.from_pylist(rows[split], _COLUMNS))
            yield

    @override
    def finish(self) -> StoredExamples:
        assert self._paths, "a source has files"
        for split, writer in self._writers.items():
            writer.close()
            sync(self._paths[split])
        return StoredExamples({}, {}, self._tokens)

    def _kept(self, example: Example) -> list[int]:
        """Return the ids before the answer, or their end; none if they are too long."""
        ids: list[int] = example.ids[: int(example.is_answer.argmax())].tolist()
        if len(ids) <= self._limit:
            return ids
        if self.recipe.data.too_long == "drop":
            self.dropped["too_long"] += 1
            return []
        self.truncated += 1
        return ids[-self._limit :]


class PromptOrder:
    """The prompts of all sources, and which of them each rollout has: a function of its number alone."""

    def __init__(self, recipe: RlRecipe, sources: Sequence[Dataset]) -> None:
        sizes, names = list(map(len, sources)), [source.name for source in recipe.data.sources]
        self.rows = concatenate_datasets([*sources])
        self._starts = [0, *itertools.accumulate(sizes)]
        self._places = Order(Mixture([(0, recipe.data.shares(sizes))]), sizes, names, recipe.seed)

    def numbers(self, rollout: int, count: int) -> list[int]:
        """Return the numbers of the rows that a rollout takes.

        Args:
            rollout: Its number, from 0.
            count: Prompts in each.
        """
        found = [self._places.locate(place) for place in range(rollout * count, (rollout + 1) * count)]
        return [self._starts[source] + item for source, item in found]

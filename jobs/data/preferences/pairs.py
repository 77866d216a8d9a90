"""Make the pairs of a recipe's sources: read, render, tokenise, split, write. Messages quote no record."""

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from typing_extensions import override

from jobs.data.chat.records import read_records
from jobs.data.chat.render import Renderer
from jobs.data.chat.source_maker import SourceMaker
from jobs.data.chat.store import StoredExamples
from jobs.data.chat.tokenised_source import prepare_sources
from jobs.data.corpus.shard_writer import split_of, text_hash
from jobs.data.preferences.formats import Preference, preference_of
from jobs.data.preferences.store import NOTHING, AnswerPair, PairWriter
from jobs.data.readers.source_stream import SourceStream
from jobs.rank.context import Context
from launcher.recipe.kinds.preference import PreferenceRecipe
from launcher.recipe.sections.preference_sources import PreferenceSource

_BATCH = 128
"""Pairs tokenised at once."""


def make_pairs(context: Context, recipe: PreferenceRecipe, folder: Path) -> Iterator[None]:
    """Prepare all sources that no earlier attempt finished; yields often, so that the caller can stop.

    Raises:
        LauncherError: more records are unreadable than the recipe allows, or a source has nothing to train on.
    """

    def maker(number: int, renderer: Renderer) -> "_PairMaker":
        return _PairMaker(recipe, recipe.data.sources[number], renderer)

    yield from prepare_sources(context, recipe, folder, maker)


class _PairMaker(SourceMaker):
    """Makes the pairs of one source."""

    def __init__(self, recipe: PreferenceRecipe, source: PreferenceSource, renderer: Renderer) -> None:
        super().__init__(recipe, source, renderer)
        self._preference_source = source
        self._writer: PairWriter | None = None

    @override
    def write(self, stream: SourceStream, folder: Path) -> Iterator[None]:
        self._writer = self._writer or PairWriter(folder, self.source.name)
        preferences = self._preferences(stream)
        while batch := list(itertools.islice(preferences, _BATCH)):
            sides = [side for _, preference in batch for side in preference.conversations()]
            encoded = iter(self.renderer.encode(sides))
            for line, preference in batch:
                chosen, rejected = (
                    NOTHING if text is None else next(encoded) for text in (preference.chosen, preference.rejected)
                )
                if isinstance(chosen, ValueError) or isinstance(rejected, ValueError):
                    stream.record_error(line, str(chosen if isinstance(chosen, ValueError) else rejected))
                    continue
                pair = AnswerPair(chosen, rejected, preference.margin)
                for kept in stream.parsed(line, partial(self._kept, pair)):
                    if kept is not None:
                        question = next(turn["content"] for turn in preference.prompt if turn["role"] == "user")
                        self._writer.write(split_of(text_hash(question), self.recipe.data.validation), kept)
            yield

    @override
    def finish(self) -> StoredExamples:
        assert self._writer is not None, "a source has files"
        return self._writer.close()

    def _preferences(self, stream: SourceStream) -> Iterator[tuple[int, Preference]]:
        for line, _, record in read_records(stream):
            for preference in stream.parsed(line, partial(preference_of, record, self._preference_source)):
                yield line, preference

    def _kept(self, pair: AnswerPair) -> AnswerPair | None:
        """Return what is trained on of a pair; None if it is dropped.

        Raises:
            ValueError: nothing tells its two sides apart any more.
        """
        if pair.is_equal:
            raise ValueError("its two answers become the same tokens")
        limit = self.recipe.batch.sequence_length
        if pair.longest <= limit:
            return pair
        if self.recipe.data.too_long == "drop":
            self.dropped["too_long"] += 1
            return None
        pair = pair.truncated(limit)
        for name, side in pair.sides.items():
            if not side.is_answer.any():
                which = f"{name} answer" if len(pair.sides) == 2 else "answer"
                raise ValueError(f"its {which} is cut away, since it begins after {limit} tokens")
        if pair.is_equal:
            raise ValueError(f"its two answers are equal up to {limit} tokens, where they are cut")
        self.truncated += 1
        return pair

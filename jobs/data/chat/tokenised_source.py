"""Make the examples of a recipe's sources: read, render, tokenise, split, write, pack. Messages quote no record."""

import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path

from pydantic import ValidationError
from typing_extensions import override

from jobs.data.chat.excluded import excluded_records
from jobs.data.chat.formats import Conversation, Message, conversation_of
from jobs.data.chat.records import Record, read_records
from jobs.data.chat.render import Example, Renderer
from jobs.data.chat.source_maker import SourceMaker
from jobs.data.chat.store import ExampleWriter, PreparedSource, StoredExamples, has_all_bytes
from jobs.data.chat.strata import Strata, add_groups, choose_held_out, question_hash, stratum_of
from jobs.data.chat.templates import chat_template
from jobs.data.chat.terminology import ConversationTerms
from jobs.data.corpus.file_list import matching
from jobs.data.corpus.shard_writer import split_of
from jobs.data.readers.bad_records import some_of_each
from jobs.data.readers.source_stream import SourceStream
from jobs.data.terminology.text_steps import load_text_steps
from jobs.models.tokenizer import load_tokenizer
from jobs.rank.atomic_files import clear_leftovers
from jobs.rank.context import Context
from launcher.artifacts.corpus_manifest import SPLITS, TERMINOLOGY_COUNTS, Split
from launcher.errors import LauncherError
from launcher.recipe.kinds.conversations import ConversationRecipe
from launcher.recipe.kinds.sft import SftRecipe
from launcher.recipe.names import names_in
from launcher.recipe.sections.chat_sources import ChatSource

_BATCH = 256
"""Conversations tokenised at once."""


def renderer_of(context: Context, recipe: ConversationRecipe) -> Renderer:
    """Load the tokenizer and the chat template; raise LauncherError if one of them cannot be used."""
    model = recipe.model
    tokenizer = load_tokenizer(context.model_path(model.tokenizer_path), model.tokenizer_path, model.trust_remote_code)
    data, template = recipe.data, chat_template(tokenizer, recipe.data.chat_template)
    renderer = Renderer(tokenizer, template, data.system_prompt, data.last_answer_only)
    renderer.check()
    return renderer


def make_examples(context: Context, recipe: SftRecipe, folder: Path) -> Iterator[None]:
    """Prepare all sources that no earlier attempt finished; yields often, so that the caller can stop.

    Raises:
        LauncherError: more records are unreadable than the recipe allows, or a source has nothing to train on.
    """
    sources, steps = recipe.data.sources, load_text_steps(context, "data.terminology", recipe.data.terminology)
    is_unfinished = any(finished_source(folder, source.name) is None for source in sources)
    strata = (yield from _read_strata(context, recipe, recipe.data.stratify_by)) if is_unfinished else None

    def maker(number: int, renderer: Renderer) -> _Maker:
        terms, source = ConversationTerms(steps) if steps else None, sources[number]
        return _Maker(recipe, source, renderer, excluded_records(context, number, source), terms, strata)

    yield from prepare_sources(context, recipe, folder, maker)


def _read_strata(context: Context, recipe: SftRecipe, key: str | None) -> Generator[None, None, Strata | None]:
    """Choose what is held out of all sources together, also of finished ones: a question of one may be in another."""
    if key is None:
        return None
    groups: dict[int, str] = {}
    for number, source in enumerate(recipe.data.sources):
        paths = matching(context, f"data.sources.{number}.files", source.files)
        yield from add_groups(groups, paths, source, excluded_records(context, number, source), key)
    return Strata(key, groups, choose_held_out(groups, recipe.data.validation))


def prepare_sources(
    context: Context, recipe: ConversationRecipe, folder: Path, maker: Callable[[int, Renderer], SourceMaker]
) -> Iterator[None]:
    """Prepare all sources that no earlier attempt finished, with a maker for each; yields often.

    Raises:
        LauncherError: more records are unreadable than the recipe allows, or a source has nothing to train on.
    """
    clear_leftovers(folder)
    renderer, done = renderer_of(context, recipe), []
    for number, source in enumerate(recipe.data.sources):
        prepared = finished_source(folder, source.name)
        if prepared is None:
            making = maker(number, renderer)
            for path in matching(context, f"data.sources.{number}.files", source.files):
                yield from making.read(path, folder)
            prepared = making.close(folder)
            print(describe(prepared), *prepared.first_bad, sep="\n    ", flush=True)
        done.append(prepared)
        yield
    _check(recipe, done)


def finished_source(folder: Path, name: str) -> PreparedSource | None:
    """Return the record of a finished source, if its files are complete."""
    try:
        source = PreparedSource.model_validate_json((folder / name / "source.json").read_bytes())
        return source if has_all_bytes(folder, source) else None
    except (FileNotFoundError, ValidationError):
        return None


def describe(source: PreparedSource) -> str:
    """Say in one line what became of a source."""
    tally = source.tally
    kept = [
        f"{split} {shard.documents:,} examples, {shard.tokens:,} tokens, {tally.answer_tokens[split]:,} of them answers"
        for split, shard in source.examples.items()
    ]
    packed = [f"in {shard.documents:,} sequences" for split, shard in source.packs.items() if split == "train"]
    dropped = [f"dropped {count:,} ({reason})" for reason, count in tally.dropped.items()]
    trimmed = [f"trimmed {count:,} ({kind})" for kind, count in tally.trimmed.items()]
    cut = [f"{tally.truncated:,} truncated"] if tally.truncated else []
    strata = [
        f"{value}: {', '.join(f'{count:,} {split}' for split, count in its.items())}"
        for value, its in tally.strata.items()
    ]
    terms = [f"{count:,} {TERMINOLOGY_COUNTS[what]}" for what, count in tally.terminology.items()]
    unreadable = f"{tally.bad_records:,} of {tally.records:,} records unreadable"
    return f"{source.name}: {'; '.join([*kept, *packed, *strata, *dropped, *trimmed, *cut, *terms, unreadable])}"


class ConversationMaker(SourceMaker):
    """Makes something of the conversations of one source."""

    def __init__(
        self, recipe: ConversationRecipe, source: ChatSource, renderer: Renderer, excluded: frozenset[str]
    ) -> None:
        super().__init__(recipe, source, renderer)
        self._chat_source = source
        self._excluded = excluded

    def batches(self, stream: SourceStream) -> Iterator[list[tuple[list[Message], Example]]]:
        """Give the conversations of one file in batches, each with its tokens; unreadable ones are counted."""
        conversations = self._conversations(stream)
        while batch := list(itertools.islice(conversations, _BATCH)):
            encoded = self.renderer.encode([self.changed(messages) for _, messages in batch])
            found = []
            for (line, messages), example in zip(batch, encoded, strict=True):
                if isinstance(example, ValueError):
                    stream.record_error(line, str(example))
                else:
                    found.append((messages, example))
            yield found

    def changed(self, messages: list[Message]) -> list[Message]:
        """Return a conversation as it is to be learned; here: as it is."""
        return messages

    def conversation(self, record: Record) -> Conversation | None:
        """Read a record; None if the source leaves it out.

        Raises:
            ValueError: it cannot be used; the message does not quote it.
        """
        return conversation_of(record, self._chat_source)

    def split(self, messages: Sequence[Message]) -> Split:
        """Return the split of a conversation, by a hash of its first question."""
        return split_of(question_hash(messages), self.recipe.data.validation)

    def _conversations(self, stream: SourceStream) -> Iterator[tuple[int, list[Message]]]:
        for line, key, record in read_records(stream):
            stream.count_values([record.get("source")])
            for conversation in stream.parsed(line, partial(self.conversation, record)):
                if conversation is None:
                    self.dropped["other_subset"] += 1
                elif self._excluded and (str(record.get("pubid")) if key is None else key) in self._excluded:
                    self.dropped["excluded"] += 1
                else:
                    self.trimmed.update(conversation.trimmed)
                    yield line, conversation.messages


class _Maker(ConversationMaker):
    """Makes the examples of one source."""

    def __init__(
        self,
        recipe: SftRecipe,
        source: ChatSource,
        renderer: Renderer,
        excluded: frozenset[str],
        terms: ConversationTerms | None,
        strata: Strata | None,
    ) -> None:
        super().__init__(recipe, source, renderer, excluded)
        self._capacity = recipe.batch.sequence_length if recipe.data.packing == "bfd" else None
        self._terms = terms
        self._strata = strata
        self._of_strata = Counter[tuple[str, Split]]()
        self._writer: ExampleWriter | None = None

    @override
    def write(self, stream: SourceStream, folder: Path) -> Iterator[None]:
        self._writer = self._writer or ExampleWriter(folder, self.source.name)
        for batch in self.batches(stream):
            for messages, example in batch:
                if kept := self._kept(example):
                    split = self.split(messages)
                    self._writer.write(split, kept)
                    if self._strata:
                        self._of_strata[self._strata.of[question_hash(messages)], split] += 1
            yield

    @override
    def finish(self) -> StoredExamples:
        assert self._writer is not None, "a source has files"
        return self._writer.close(self._capacity)

    @property
    @override
    def term_counts(self) -> dict[str, int]:
        return dict(sorted(self._terms.counts.items())) if self._terms else {}

    @property
    @override
    def strata(self) -> dict[str, dict[Split, int]]:
        values = sorted({value for value, _ in self._of_strata})
        return {value: {split: self._of_strata[value, split] for split in SPLITS} for value in values}

    @override
    def conversation(self, record: Record) -> Conversation | None:
        found = super().conversation(record)
        if found and self._strata:
            stratum_of(record, self._strata.key)
        return found

    @override
    def changed(self, messages: list[Message]) -> list[Message]:
        """Change the terms of a conversation, unless it is held out."""
        return self._terms.change(messages) if self._terms and self.split(messages) == "train" else messages

    @override
    def split(self, messages: Sequence[Message]) -> Split:
        """Return the split of a conversation; with `stratify`, the one that its stratum gives it."""
        return self._strata.split(question_hash(messages)) if self._strata else super().split(messages)

    def _kept(self, example: Example) -> Example | None:
        """Return the part of an example that is trained on, if any."""
        limit = self.recipe.batch.sequence_length
        if len(example.ids) <= limit:
            return example
        if self.recipe.data.too_long == "drop":
            self.dropped["too_long"] += 1
            return None
        example = example.truncated(limit)
        if not example.is_answer.any():
            self.dropped["no_answer_left"] += 1
            return None
        self.truncated += 1
        return example


def _check(recipe: ConversationRecipe, sources: list[PreparedSource]) -> None:
    bad, records = (sum(getattr(one.tally, what) for one in sources) for what in ("bad_records", "records"))
    allowed = recipe.data.max_bad_fraction
    if bad / max(1, records) > allowed:  # not `bad > allowed * records`: 0.29 * 100 < 29
        first = some_of_each(line for source in sources for line in source.first_bad)
        reasons = sum((Counter(source.tally.bad_reasons) for source in sources), Counter[str]())
        raise LauncherError(
            f"data: {bad:,} of {records:,} records cannot be read, more than `max_bad_fraction: {allowed:g}` allows. "
            f"The first one: {first[0]}; correct the files or raise the limit, and submit again"
            + "".join(f"\n  {line}" for line in first[1:])
            + "".join(f"\n  in all {count:,}: {reason}" for reason, count in reasons.items())
        )
    _check_names(recipe, sources)
    for number, source in enumerate(sources):
        if not source.tally.answer_tokens["train"]:
            raise LauncherError(
                f"data.sources.{number}: nothing is left to train on ({describe(source)}); "
                f"{_fix(source.tally.dropped, recipe.data.too_long)}"
            )


def _check_names(recipe: ConversationRecipe, sources: list[PreparedSource]) -> None:
    """Refuse values of filters that no record has."""
    faults = []
    for number, (source, prepared) in enumerate(zip(recipe.data.sources, sources, strict=True)):
        named = names_in(source)
        if named and prepared.values is not None and (fault := named.fault(prepared.values, recipe.data_use)):
            faults.append(f"data.sources.{number}.{named.key}: {fault}")
    if faults:
        raise LauncherError("\n".join(faults))


def _fix(dropped: dict[str, int], too_long: str) -> str:
    if dropped.get("too_long") or dropped.get("no_answer_left"):
        or_cut = ", or write `too_long: truncate`" if too_long == "drop" else ""
        return f"raise `batch.sequence_length`{or_cut}"
    return "correct `files`"

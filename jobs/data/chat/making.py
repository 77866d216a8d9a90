"""From the recipe's sources to prepared examples: read, render, tokenise, split, write, pack.

Nothing here quotes a record: what is wrong with one is told by its file and line.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import ValidationError

from jobs.data.chat.formats import Message, conversation_of
from jobs.data.chat.records import Record, read_records
from jobs.data.chat.render import Example, Renderer
from jobs.data.chat.store import ExamplesTally, ExampleWriter, PreparedSource, has_all_bytes
from jobs.data.chat.templates import chat_template
from jobs.data.plan import matching, options_of
from jobs.data.readers.intake import Intake
from jobs.data.shards import split_of, text_hash
from jobs.data.tokenize import load_tokenizer
from jobs.runtime.context import Context
from jobs.runtime.durable import write_durably
from launcher.corpus import SourceFile
from launcher.errors import LauncherError
from launcher.recipe.chat import ChatSource, PubMedQaSource
from launcher.recipe.sft import SftRecipe

_BATCH = 256
"""Conversations tokenised at once."""
_SHOWN = 10


def renderer_of(context: Context, recipe: SftRecipe) -> Renderer:
    """Load the tokenizer and the chat template.

    Raises:
        LauncherError: one of them cannot be used.
    """
    model = recipe.model
    tokenizer = load_tokenizer(context.model_path(model.tokenizer_path), model.tokenizer_path, model.trust_remote_code)
    renderer = Renderer(tokenizer, chat_template(tokenizer, recipe.data.chat_template), recipe.data.system_prompt)
    renderer.check()
    return renderer


def make_examples(context: Context, recipe: SftRecipe, folder: Path) -> Iterator[None]:
    """Prepare all sources, but for those that an attempt before has finished; pauses every now and then.

    Raises:
        LauncherError: more is unreadable than the recipe forgives, or a source has nothing to train on.
    """
    renderer, done = renderer_of(context, recipe), []
    for number, source in enumerate(recipe.data.sources):
        prepared = finished_source(folder, source.name)
        if prepared is None:
            maker = _Maker(recipe, source, renderer, _excluded(context, number, source))
            for path in matching(context, f"data.sources.{number}.files", source.files):
                yield from maker.read(path, folder)
            prepared = maker.close(folder)
            print(describe(prepared), *prepared.first_bad, sep="\n    ", flush=True)
        done.append(prepared)
        yield
    _check(recipe, done)


def finished_source(folder: Path, name: str) -> PreparedSource | None:
    """Return the record of a source that was finished, if its files are there in full length."""
    try:
        source = PreparedSource.model_validate_json((folder / name / "source.json").read_bytes())
        return source if has_all_bytes(folder, source) else None
    except (FileNotFoundError, ValidationError):
        return None


def describe(source: PreparedSource) -> str:
    """Say in a line what became of a source."""
    tally = source.tally
    kept = [
        f"{split} {shard.documents:,} examples, {shard.tokens:,} tokens, {tally.answer_tokens[split]:,} of them answers"
        for split, shard in source.examples.items()
    ]
    packed = [f"in {shard.documents:,} sequences" for split, shard in source.packs.items() if split == "train"]
    dropped = [f"dropped {count:,} ({reason})" for reason, count in tally.dropped.items()]
    trimmed = [f"trimmed {count:,} ({kind})" for kind, count in tally.trimmed.items()]
    cut = [f"{tally.truncated:,} truncated"] if tally.truncated else []
    unreadable = f"{tally.bad_records:,} of {tally.records:,} records unreadable"
    return f"{source.name}: {'; '.join([*kept, *packed, *dropped, *trimmed, *cut, unreadable])}"


@dataclass
class _Batch:
    """Conversations that wait to be tokenised, and where they came from."""

    lines: list[int]
    conversations: list[list[Message]]


class _Maker:
    """Makes the examples of one source."""

    def __init__(self, recipe: SftRecipe, source: ChatSource, renderer: Renderer, excluded: frozenset[str]) -> None:
        self._recipe = recipe
        self._source = source
        self._renderer = renderer
        self._excluded = excluded
        self._writer: ExampleWriter | None = None
        self._files: list[SourceFile] = []
        self._first_bad: list[str] = []
        self._dropped, self._trimmed = Counter[str](), Counter[str]()
        self._bad = self._truncated = 0

    def read(self, path: Path, folder: Path) -> Iterator[None]:
        """Make the examples of one file; pauses after each batch."""
        intake = Intake(path)
        self._writer = self._writer or ExampleWriter(folder, self._source.name)
        for batch in self._batches(intake):
            for line, messages, example in zip(
                batch.lines, batch.conversations, self._renderer.encode(batch.conversations), strict=True
            ):
                if isinstance(example, ValueError):
                    intake.spoil(line, str(example))
                elif kept := self._kept(example):
                    question = next(message["content"] for message in messages if message["role"] == "user")
                    self._writer.write(split_of(text_hash(question), self._recipe.data.validation), kept)
            yield
        self._files.append(self._source_file(intake))
        self._first_bad += intake.first_bad
        self._bad += intake.bad

    def close(self, folder: Path) -> PreparedSource:
        """Finish the source, durably."""
        assert self._writer is not None, "a source has files"
        packing = self._recipe.data.packing
        examples, packs = self._writer.close(self._recipe.batch.sequence_length if packing == "bfd" else None)
        tally = ExamplesTally(
            records=sum(file.records for file in self._files),
            bad_records=self._bad,
            dropped=dict(sorted(self._dropped.items())),
            trimmed=dict(sorted(self._trimmed.items())),
            truncated=self._truncated,
            answer_tokens=self._writer.answer_tokens,
        )
        prepared = PreparedSource(
            name=self._source.name,
            files=tuple(self._files),
            first_bad=tuple(self._first_bad[:_SHOWN]),
            tally=tally,
            examples=examples,
            packs=packs,
        )
        write_durably(folder / self._source.name / "source.json", prepared.model_dump_json(indent=1))
        return prepared

    def _batches(self, intake: Intake) -> Iterator[_Batch]:
        conversations = self._conversations(intake)
        while some := list(itertools.islice(conversations, _BATCH)):
            yield _Batch([line for line, _ in some], [messages for _, messages in some])

    def _conversations(self, intake: Intake) -> Iterator[tuple[int, list[Message]]]:
        for line, key, record in read_records(intake):
            try:
                conversation = conversation_of(record, self._source)
            except ValueError as error:
                intake.spoil(line, str(error))
                continue
            if conversation is None:
                self._dropped["other_subset"] += 1
            elif self._excluded and _number(key, record) in self._excluded:
                self._dropped["excluded"] += 1
            else:
                self._trimmed.update(conversation.trimmed)
                yield line, conversation.messages

    def _kept(self, example: Example) -> Example | None:
        """Return what of an example is trained on, if anything."""
        limit = self._recipe.batch.sequence_length
        if len(example.ids) <= limit:
            return example
        if self._recipe.data.too_long == "drop":
            self._dropped["too_long"] += 1
            return None
        example = example.truncated(limit)
        if not example.is_answer.any():
            self._dropped["no_answer_left"] += 1
            return None
        self._truncated += 1
        return example

    def _source_file(self, intake: Intake) -> SourceFile:
        return SourceFile(
            path=str(intake.path),
            format=self._source.format,
            options=options_of(self._source),
            license=self._source.license,
            size=intake.size,
            sha256=intake.sha256,
            records=intake.count,
        )


def _excluded(context: Context, number: int, source: ChatSource) -> frozenset[str]:
    if not isinstance(source, PubMedQaSource) or source.exclude is None:
        return frozenset()
    key, names = f"data.sources.{number}.exclude", set[str]()
    for path in matching(context, key, source.exclude):
        try:
            names |= orjson.loads(path.read_bytes()).keys()
        except (orjson.JSONDecodeError, AttributeError):
            raise LauncherError(
                f"{key}: {path} is not a JSON object; name files like `test_ground_truth.json`"
            ) from None
    return frozenset(names)


def _number(key: str | None, record: Record) -> str:
    return key if key is not None else str(record.get("pubid"))


def _check(recipe: SftRecipe, sources: list[PreparedSource]) -> None:
    bad, records = (sum(getattr(one.tally, what) for one in sources) for what in ("bad_records", "records"))
    allowed = recipe.data.max_bad_fraction
    if bad / max(1, records) > allowed:  # not `bad > allowed * records`: 0.29 * 100 < 29
        first = [line for source in sources for line in source.first_bad][:_SHOWN]
        raise LauncherError(
            f"data: {bad:,} of {records:,} records cannot be read, more than `max_bad_fraction: {allowed:g}` forgives. "
            f"The first one: {first[0]}; mend the files, or raise it, and submit again"
            + "".join(f"\n  {line}" for line in first[1:])
        )
    for number, source in enumerate(sources):
        if not source.tally.answer_tokens["train"]:
            raise LauncherError(
                f"data.sources.{number}: nothing is left to train on ({describe(source)}); "
                f"{_cure(source.tally.dropped)}"
            )


def _cure(dropped: dict[str, int]) -> str:
    if dropped.get("too_long") or dropped.get("no_answer_left"):
        return "raise `batch.sequence_length`, or write `too_long: truncate`"
    if dropped.get("other_subset"):
        return "correct `subsets`: no record has one of them as `source`"
    return "correct `files`"

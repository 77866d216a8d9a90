"""The prompts of a `generate`, read from files and encoded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from jobs.data.chat.formats import Message, question_in, text_in
from jobs.data.chat.records import Record, read_records
from jobs.data.corpus.file_list import matching
from jobs.data.readers.source_stream import SourceStream
from jobs.evaluation.generator import GenerationRequest
from jobs.evaluation.item_ids import check_ids, with_folders
from jobs.evaluation.prompt_encoder import PromptEncoder
from jobs.evaluation.question_files import check_bad
from jobs.evaluation.report import digest, nonzero, text_digest
from jobs.evaluation.wording import word_questions
from jobs.rank.context import Context
from launcher.artifacts.scores import ScoredFile
from launcher.errors import LauncherError
from launcher.recipe.kinds.generate import GenerateRecipe
from launcher.recipe.sections.generation import ConversationPrompts, QuestionPrompts, TextPrompts


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt, and what is told of it beside its text."""

    request: GenerationRequest
    sha256: str
    """Of the prompt, as it stands in the file or as the recipe words it; of a conversation as JSON."""
    prompt: str | list[Message] | None
    """None unless the recipe asks for prompts to be kept."""
    left_answer: bool = False
    """Whether an answer at its end was left out."""


@dataclass(frozen=True)
class PromptSet:
    """The prompts of a run."""

    prompts: tuple[EncodedPrompt, ...]
    files: tuple[ScoredFile, ...]
    counts: dict[str, int]
    """Records that were left out or treated in a special way."""


def read_prompts(context: Context, recipe: GenerateRecipe, encoder: PromptEncoder) -> PromptSet:
    """Read and encode the prompts of a recipe.

    Raises:
        LauncherError: files are missing, too many records cannot be used, or ids occur twice.
    """
    if isinstance(recipe.data, QuestionPrompts):
        return _questions(context, recipe, recipe.data, encoder)
    streams = [SourceStream(path) for path in matching(context, "data.files", recipe.data.files)]
    placed = [(one, stream.path) for stream in streams for one in _read_file(stream, recipe, recipe.data, encoder)]
    check_bad(streams, "data.files", recipe.max_bad_fraction)
    if not placed:
        raise LauncherError(f"data.files: there are no prompts in {', '.join(f'`{one.path.name}`' for one in streams)}")
    files = tuple(ScoredFile(path=str(stream.path), sha256=stream.sha256) for stream in streams)
    names = with_folders([one.request.id for one, _ in placed], [path for _, path in placed])
    found = [replace(one, request=replace(one.request, id=name)) for (one, _), name in zip(placed, names, strict=True)]
    return _set(found, files, {"unusable records": sum(stream.bad for stream in streams)})


def _read_file(
    stream: SourceStream, recipe: GenerateRecipe, data: TextPrompts | ConversationPrompts, encoder: PromptEncoder
) -> Iterator[EncodedPrompt]:
    for line, key, record in read_records(stream):
        name = _name(record, key, f"{stream.path.name}:{line}")
        yield from stream.parsed(line, partial(_encode, record, name, recipe, data, encoder))


def _name(record: Record, key: str | None, place: str) -> str:
    named = record.get("id", key)
    return place if named is None else str(named)


def _encode(
    record: Record,
    name: str,
    recipe: GenerateRecipe,
    data: TextPrompts | ConversationPrompts,
    encoder: PromptEncoder,
) -> EncodedPrompt:
    prompt: str | list[Message]
    if isinstance(data, TextPrompts):
        prompt, left_answer = text_in(record, "prompt"), False
    else:
        prompt, left_answer = question_in(record, data.format)
    return _encoded(name, prompt, recipe, encoder, left_answer)


def _encoded(
    name: str, prompt: str | list[Message], recipe: GenerateRecipe, encoder: PromptEncoder, left_answer: bool = False
) -> EncodedPrompt:
    sha256 = text_digest(prompt) if isinstance(prompt, str) else digest(prompt)
    kept = prompt if recipe.keep_prompts else None
    return EncodedPrompt(encoder.encode(name, prompt), sha256, kept, left_answer)


def _questions(context: Context, recipe: GenerateRecipe, data: QuestionPrompts, encoder: PromptEncoder) -> PromptSet:
    worded = word_questions(context, recipe, data, "data", data.answers)
    found: list[EncodedPrompt] = []
    for one, prompt in zip(worded.questions, worded.prompts, strict=True):
        try:
            found.append(_encoded(one.id, prompt, recipe, encoder))
        except ValueError as error:
            raise LauncherError(
                f"data.files: question `{one.id}`: {error}; "
                "write `too_long: cut` if it is too long, or correct or remove it"
            ) from None
    return _set(found, worded.found.files, worded.found.counts)


def _set(found: Sequence[EncodedPrompt], files: tuple[ScoredFile, ...], counts: dict[str, int]) -> PromptSet:
    check_ids([one.request.id for one in found], "data.files")
    special = {
        "prompts cut at their start": sum(one.request.cut_tokens > 0 for one in found),
        "answers left out": sum(one.left_answer for one in found),
    }
    return PromptSet(tuple(found), files, nonzero(counts | special))

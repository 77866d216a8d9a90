"""Documents whose perplexity is measured: of text files, tokenised here, or of a prepared corpus."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from transformers import BatchEncoding, PreTrainedTokenizerBase

from jobs.data.corpus.file_list import matching
from jobs.data.readers import read
from jobs.data.readers.source_stream import SourceStream
from jobs.data.sampling.corpus_reader import CorpusReader, Ids, open_corpus
from jobs.evaluation.encode import start_of_text
from jobs.evaluation.item_ids import numbered, with_folders
from jobs.evaluation.loaded_model import LoadedModel
from jobs.evaluation.question_files import check_bad
from jobs.evaluation.report import digest, text_digest
from jobs.rank.context import Context
from jobs.rank.watchdog import WATCHDOG
from launcher.artifacts.corpus_manifest import MANIFEST, file_sha256
from launcher.artifacts.scores import ScoredFile
from launcher.artifacts.token_ids import tokenizer_mismatches
from launcher.errors import LauncherError
from launcher.recipe.names import names_in
from launcher.recipe.sections.perplexity_task import PerplexityTask
from launcher.recipe.sections.text_sources import Source

_GAP = re.compile(r"\s+")


class TextSize(NamedTuple):
    """How much text a document is."""

    words: int
    """As lm-eval counts them: pieces between white space, so that white space at an end begins an empty one."""
    bytes: int
    """In UTF-8."""
    sha256: str


class ScoredDocuments(Protocol):
    """The documents of a task, each as token ids of which the first ones are given."""

    files: tuple[ScoredFile, ...]
    counts: dict[str, int]
    """Documents that were treated in a special way."""
    identity: str
    """Equal for equal documents."""
    lead: int
    """Tokens at the start of each that begin a document and are no part of its text: they are given, not predicted."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each, with the given ones."""

    def read(self, number: int) -> Ids:
        """Return the token ids of one."""

    def size(self, number: int) -> TextSize:
        """Measure the text of one."""

    def name(self, number: int) -> tuple[str, str]:
        """Return the id of one, and the group (a patient) that it shares with others; empty if it shares none."""


@dataclass(frozen=True)
class _Text:
    id: str
    group: str
    ids: Ids
    size: TextSize


class TextDocuments:
    """Documents of text files.

    Args:
        texts: The documents.
        files: Where they are from.
        counts: What was left out or cut.
    """

    lead = 1

    def __init__(self, texts: Sequence[_Text], files: tuple[ScoredFile, ...], counts: dict[str, int]) -> None:
        self._texts = texts
        self.files, self.counts = files, counts
        self.identity = digest([(one.id, one.size.sha256, len(one.ids)) for one in texts])

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each document."""
        return [len(one.ids) for one in self._texts]

    def read(self, number: int) -> Ids:
        """Return the token ids of a document."""
        return self._texts[number].ids

    def size(self, number: int) -> TextSize:
        """Measure the text of a document."""
        return self._texts[number].size

    def name(self, number: int) -> tuple[str, str]:
        """Return id and group of a document."""
        return self._texts[number].id, self._texts[number].group


class CorpusDocuments:
    """Documents of one split of a corpus, as their tokens were written: with those that begin and end a document.

    Args:
        corpus: The corpus.
        task: The section; says which documents, and how much of each.
        tokenizer: The model's, which means the same tokens.
    """

    def __init__(self, corpus: CorpusReader, task: PerplexityTask, tokenizer: PreTrainedTokenizerBase) -> None:
        self._corpus, self._split, self._tokenizer = corpus, task.split, tokenizer
        prefix = corpus.manifest.tokenizer.prefix
        self._start = np.array(() if prefix else (start_of_text(tokenizer),), np.int64)
        self.lead = max(1, len(prefix))
        sizes = corpus.lengths(self._split)
        chosen = spread(len(sizes), task.limit)
        whole = [int(sizes[number]) + len(self._start) for number in chosen]
        kept = [min(length, task.max_tokens or length) for length in whole]
        usable = [place for place, length in enumerate(kept) if length > self.lead]
        self._chosen = [chosen[place] for place in usable]
        self.lengths: list[int] = [kept[place] for place in usable]
        manifest = corpus.folder / MANIFEST
        self.files: tuple[ScoredFile, ...] = (ScoredFile(path=str(manifest), sha256=file_sha256(manifest)),)
        self.counts = {
            "empty documents left out": len(chosen) - len(self._chosen),
            "documents cut": sum(kept[place] < whole[place] for place in usable),
        }
        self.identity = digest(corpus.manifest.fingerprint, self._split, task.max_tokens, len(self._chosen), task.limit)

    def read(self, number: int) -> Ids:
        """Return the token ids of a document."""
        ids, _ = self._corpus.read(self._split, *self._corpus.document(self._split, self._chosen[number]))
        return np.concatenate((self._start, ids))[: self.lengths[number]]

    def size(self, number: int) -> TextSize:
        """Measure the text that the tokens of a document are decoded to."""
        return size_of(_decoded(self._tokenizer, self.read(number).tolist()))

    def name(self, number: int) -> tuple[str, str]:
        """Name a document by its place in the split; a corpus does not say whom it is about."""
        return f"{self._split}:{self._chosen[number]}", ""


def open_documents(
    context: Context, task: PerplexityTask, key: str, model: LoadedModel, limit: float
) -> ScoredDocuments:
    """Open the documents of a task.

    Args:
        context: Knows where files and corpora are.
        task: The section.
        key: Of the task in the recipe.
        model: Whose tokenizer counts.
        limit: Share of records that may be unreadable.

    Raises:
        LauncherError: files or corpus are missing or not usable, or there are no documents.
    """
    documents: ScoredDocuments
    if task.corpus:
        corpus = _open_corpus(context, task.corpus, key, model.tokenizer)
        if not corpus.manifest.counts.documents[task.split]:
            there = ", ".join(f"`{split}`" for split, count in corpus.manifest.counts.documents.items() if count)
            raise LauncherError(
                f"{key}.split: the corpus `{task.corpus}` has no documents in `{task.split}`; there are some in "
                f"{there or 'no split'}"
            )
        documents = CorpusDocuments(corpus, task, model.tokenizer)
    else:
        assert task.source is not None
        documents = _read_files(context, task, task.source, f"{key}.source", model.tokenizer, limit)
    if not documents.lengths:
        raise LauncherError(f"{key}: all documents are empty; name others")
    return documents


def size_of(text: str) -> TextSize:
    """Measure a text."""
    return TextSize(len(_GAP.split(text)), len(text.encode()), text_digest(text))


def spread(count: int, limit: int | None) -> list[int]:
    """Choose so many numbers, evenly spread."""
    wanted = min(limit or count, count)
    return [place * count // wanted for place in range(wanted)]


def _open_corpus(context: Context, name: str, key: str, tokenizer: PreTrainedTokenizerBase) -> CorpusReader:
    try:
        corpus = open_corpus(context.corpus_path(name))
    except LauncherError as error:
        raise LauncherError(f"{key}.corpus: {error}") from None
    for _, message in tokenizer_mismatches([(name, corpus.folder)], Path(tokenizer.name_or_path)):
        made = corpus.manifest.tokenizer.path
        raise LauncherError(f"{key}.corpus: {message} (`{tokenizer.name_or_path}`; it was made with `{made}`)")
    if corpus.manifest.tokenizer.vocab_size > len(tokenizer):
        raise LauncherError(
            f"{key}.corpus: `{name}` was made with a tokenizer of {corpus.manifest.tokenizer.vocab_size} tokens "
            f"(`{corpus.manifest.tokenizer.path}`), that of the model (`{tokenizer.name_or_path}`) has "
            f"{len(tokenizer)}; prepare it with the model's own tokenizer"
        )
    if corpus.manifest.data_use == "credentialed" and context.recipe.data_use != "credentialed":
        raise LauncherError(f"{key}.corpus: `{name}` holds credentialed data; write `data_use: credentialed`")
    return corpus


def _read_files(
    context: Context, task: PerplexityTask, source: Source, key: str, tokenizer: PreTrainedTokenizerBase, limit: float
) -> TextDocuments:
    streams = [SourceStream(path) for path in matching(context, f"{key}.files", source.files)]
    found = [one for stream in streams for one in _read_texts(stream, source)]
    check_bad(streams, f"{key}.files", limit)
    _check_names(streams, source, key, context.recipe.data_use)
    placed, counts = _encode([found[number] for number in spread(len(found), task.limit)], task, tokenizer)
    counts["unreadable records"] = sum(stream.bad for stream in streams)
    files = tuple(ScoredFile(path=str(stream.path), sha256=stream.sha256) for stream in streams)
    names = numbered(with_folders([one.id for one, _ in placed], [path for _, path in placed]))
    texts = [replace(one, id=name) for (one, _), name in zip(placed, names, strict=True)]
    return TextDocuments(texts, files, counts)


class _ReadText(NamedTuple):
    id: str
    group: str
    text: str
    path: Path
    """Of its file."""


def _read_texts(stream: SourceStream, source: Source) -> Iterator[_ReadText]:
    for document in read(stream, source):
        WATCHDOG.heartbeat()
        if "drop" not in document.metadata:
            yield _ReadText(document.id, str(document.metadata.get("split_key", "")), document.text, stream.path)


def _check_names(streams: Sequence[SourceStream], source: Source, key: str, data_use: str) -> None:
    named, there = names_in(source), Counter[str]()
    for stream in streams:
        there.update(stream.values or {})
    if named and (fault := named.fault(there, data_use)):
        raise LauncherError(f"{key}.{named.key}: {fault}")


def _encode(
    found: Sequence[_ReadText], task: PerplexityTask, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[tuple[_Text, Path]], dict[str, int]]:
    # lm-eval puts the token that begins a text before whatever the tokenizer makes, even if that begins with it, too.
    start, texts, cut = start_of_text(tokenizer), [], 0
    for name, group, text, path in found:
        WATCHDOG.heartbeat()
        encoded = tokenizer(
            text, add_special_tokens=task.scheme == "lm_eval", return_offsets_mapping=tokenizer.is_fast, verbose=False
        )
        ids = [start, *encoded["input_ids"]]
        if not text or len(ids) == 1:
            continue
        kept = ids[: task.max_tokens]
        if len(kept) < len(ids):
            cut += 1
            text = _beginning(text, encoded, len(kept) - 1, tokenizer)  # noqa: PLW2901 - the part that is scored
        texts.append((_Text(name, group, np.array(kept, np.int64), size_of(text)), path))
    return texts, {"empty documents left out": len(found) - len(texts), "documents cut": cut}


def _beginning(text: str, encoded: BatchEncoding, tokens: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text of so many first tokens."""
    if tokenizer.is_fast:
        return text[: max((end for _, end in encoded["offset_mapping"][:tokens]), default=0)]
    return _decoded(tokenizer, encoded["input_ids"][:tokens])


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

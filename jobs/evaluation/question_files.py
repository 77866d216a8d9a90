"""Questions with options, read from the files of a task: medical sets in their own formats, or `format: choice`."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import orjson

from jobs.data.chat.formats import text_in
from jobs.data.chat.questions import MedicalQuestion, medmcqa_question, medqa_question, pubmedqa_question
from jobs.data.chat.records import Record, read_records
from jobs.data.corpus.file_list import matching
from jobs.data.readers.bad_records import some_of_each
from jobs.data.readers.source_stream import SourceStream
from jobs.data.readers.text_file import csv_text, read_content, read_text_file
from jobs.evaluation.choice_question import ChoiceQuestion, checked
from jobs.evaluation.item_ids import check_ids, text_or_nothing, with_folders
from jobs.evaluation.medcare_files import cblue_record, ccte_record, medcare_record
from jobs.rank.context import Context
from launcher.artifacts.scores import ScoredFile
from launcher.errors import LauncherError
from launcher.recipe.sections.evaluation_tasks import QuestionFiles, QuestionFormat

_NAMED = re.compile(
    r"\b(?:ans(?:wer)?|option|choice)\b\W*(?:is\W*)?[\"'(]*"
    r"([b-d]|a(?!\s+(?!i\W?e\b|because|since|as\b|due|for\b|and\b)(?-i:[a-z])))\b",  # `a rare disease`: an article
    re.IGNORECASE,
)
_ENOUGH = 10
"""Explanations that name a letter; fewer say too little about how options are numbered."""
_MOST = 0.9
"""Share of explanations that must agree."""


@dataclass(frozen=True)
class QuestionSet:
    """The questions of a task."""

    questions: tuple[ChoiceQuestion, ...]
    files: tuple[ScoredFile, ...]
    counts: dict[str, int]
    """Records that were left out or treated in a special way."""


class _Reader(Protocol):
    def __call__(self, record: Record, key: str | None) -> ChoiceQuestion: ...


def read_questions(
    context: Context, section: QuestionFiles, key: str, limit: float, pattern: str | None = None
) -> QuestionSet:
    """Read the questions of a task, or its examples.

    Args:
        context: Knows where files are.
        section: The task.
        key: Of the task's files in the recipe, for messages.
        limit: Share of records that may be unreadable.
        pattern: Other files than the task's `files`.

    Raises:
        LauncherError: files or questions are missing, too many records are unreadable, or ids occur twice.
    """
    paths = matching(context, key, pattern or section.files)
    read = _choose_reader(section, paths, key)
    only = None if pattern else _wanted(context, section, key.rpartition(".")[0])
    streams = [SourceStream(path) for path in paths]
    placed = [(one, stream.path) for stream in streams for one in _read_file(stream, section.format, read)]
    check_bad(streams, key, limit)
    names = with_folders([one.id for one, _ in placed], [path for _, path in placed])
    found = [replace(one, id=name) for (one, _), name in zip(placed, names, strict=True)]
    if only is not None:
        found = _select(found, only, f"{key.rpartition('.')[0]}.only")
    if not found:
        raise LauncherError(f"{key}: there are no questions in {', '.join(f'`{path.name}`' for path in paths)}")
    check_ids([one.id for one in found], key)
    files = tuple(ScoredFile(path=str(stream.path), sha256=stream.sha256) for stream in streams)
    bad = sum(stream.bad for stream in streams)
    return QuestionSet(tuple(found), files, {"unreadable records": bad} if bad else {})


def _read_file(stream: SourceStream, format: QuestionFormat, read: _Reader) -> Iterator[ChoiceQuestion]:
    if format == "mmlu" and ".csv" in stream.path.suffixes:
        yield from _read_mmlu_csv(stream)
        return
    for line, key, record in read_records(stream):
        named = str(record.get("id") or key or f"{stream.path.name}:{line}")
        yield from stream.parsed(line, partial(read, record, named))


def _read_mmlu_csv(stream: SourceStream) -> Iterator[ChoiceQuestion]:
    """The official files: question, options and a letter, without a header; the subject is the file's name."""
    subject = re.sub(r"_(test|dev|val|train)$", "", stream.path.name.partition(".")[0]).replace("_", " ")
    with csv_text(stream.path, read_content(stream)) as text:
        for number, row in enumerate(csv.reader(text), 1):
            stream.count += 1
            name = f"{stream.path.name}:{number}"
            yield from stream.parsed(number, partial(_mmlu_row, row, name, subject))


def _mmlu_row(row: Sequence[str], name: str, subject: str) -> ChoiceQuestion:
    if len(row) < 4:
        raise ValueError(f"has {len(row)} columns; a question, at least two options and a letter are needed")
    question, *options, letter = row
    return checked(name, question, options, letter, subject=subject)


def _mmlu_record(record: Record, key: str | None) -> ChoiceQuestion:
    subject = str(record.get("subject", "")).replace("_", " ")
    return checked(key or "", record.get("question"), record.get("choices"), record.get("answer"), subject=subject)


def _choice_record(record: Record, key: str | None) -> ChoiceQuestion:
    texts = {name: text_or_nothing(record.get(name)) for name in ("context", "group", "subject")}
    return checked(key or "", record.get("question"), record.get("options"), record.get("answer"), **texts)


def _choose_reader(section: QuestionFiles, paths: Sequence[Path], key: str) -> _Reader:
    if section.format == "medmcqa":
        base = _find_base(paths, section, key)
        return lambda record, key: _medical(medmcqa_question(record, base), key)
    return _READERS[section.format]


def _medical(asked: MedicalQuestion, name: str | None) -> ChoiceQuestion:
    number = [*asked.options].index(asked.answer)
    return ChoiceQuestion(name or "", asked.question, tuple(asked.options.values()), number, asked.context)


def _pubmedqa_record(record: Record, key: str | None) -> ChoiceQuestion:
    pubmed = record.get("pubid") or record.get("PMID") or record.get("pmid")
    question = _medical(pubmedqa_question(record), key if pubmed is None else str(pubmed))
    long_answer = record.get("LONG_ANSWER", record.get("long_answer"))
    return replace(question, references=(long_answer,) if isinstance(long_answer, str) else ())


def _answers_record(record: Record, key: str | None) -> ChoiceQuestion:
    """A question whose answer is a text."""
    answers = record.get("answers")
    listed = [answers] if isinstance(answers, str) else answers
    if not isinstance(listed, list) or not listed or not all(isinstance(one, str) and one.strip() for one in listed):
        raise ValueError("its `answers` are not a text, or a list of texts")
    question = text_in(record, "question")
    if not question.strip():
        raise ValueError("has no text as `question`")
    context, group = (text_or_nothing(record.get(name)) for name in ("context", "group"))
    return ChoiceQuestion(key or "", question, (), 0, context, group, references=tuple(listed))


_READERS: dict[str, _Reader] = {
    "medqa": lambda record, key: _medical(medqa_question(record), key),
    "pubmedqa": _pubmedqa_record,
    "mmlu": _mmlu_record,
    "choice": _choice_record,
    "medcare": medcare_record,
    "cblue": cblue_record,
    "ccte": ccte_record,
    "answers": _answers_record,
}


def _find_base(paths: Sequence[Path], section: QuestionFiles, key: str) -> int:
    """Find out whether `cop` counts from 0 or 1: explanations that name a letter tell, and so do its largest values.

    Raises:
        LauncherError: they do not tell, or say something other than the recipe.
    """
    values, agree = Counter[int](), Counter[int]()
    for path in paths:
        for _, _, record in read_records(SourceStream(path)):
            cop, named = record.get("cop"), _NAMED.search(str(record.get("exp") or ""))
            if isinstance(cop, int):
                values[cop] += 1
                if named:
                    agree[cop - "abcd".index(named[1].lower())] += 1
    told = agree[0] + agree[1]
    likely = 1 if agree[1] > agree[0] else 0
    sure = told >= _ENOUGH and agree[likely] >= _MOST * told
    bases = {base for base in (0, 1) if all(cop - base in range(4) for cop in values)}
    found = likely if sure else bases.pop() if len(bases) == 1 else None
    task = key.rpartition(".")[0]
    if found is None and section.cop_base is None:
        raise LauncherError(
            f"{task}.cop_base: neither the values of `cop` nor {told} explanations that name a letter tell whether it "
            "counts from 0 or from 1; write `cop_base: 0` (Hugging Face's copy) or `cop_base: 1` (the authors' files)"
        )
    if found is not None and section.cop_base not in (None, found) and sure:
        raise LauncherError(
            f"{task}.cop_base: {agree[found]} of {told} explanations that name a letter say that `cop` counts from "
            f"{found}; write `cop_base: {found}`, or leave it out"
        )
    return found if section.cop_base is None and found is not None else section.cop_base or 0


def _wanted(context: Context, section: QuestionFiles, task: str) -> dict[str, str] | None:
    """The questions to use, with their decisions."""
    if section.only is None:
        return None
    wanted: dict[str, str] = {}
    for path in matching(context, f"{task}.only", section.only):
        try:
            wanted |= {str(key): str(value) for key, value in orjson.loads(read_text_file(path)).items()}
        except (orjson.JSONDecodeError, AttributeError):
            raise LauncherError(
                f"{task}.only: {path} is not a JSON object; name a file like `test_ground_truth.json`"
            ) from None
    return wanted


def _select(found: Sequence[ChoiceQuestion], wanted: dict[str, str], key: str) -> list[ChoiceQuestion]:
    by_id = {one.id: one for one in found}
    if missing := [name for name in wanted if name not in by_id]:
        raise LauncherError(
            f"{key}: {len(missing):,} of its {len(wanted):,} questions are not in `files`, first `{missing[0]}`; name "
            "the files that it belongs to"
        )
    for name, decision in wanted.items():
        its = by_id[name]
        if its.options[its.answer] != decision:
            raise LauncherError(f"{key}: says `{decision}` for {name}, `files` say `{its.options[its.answer]}`")
    return [by_id[name] for name in wanted]


def check_bad(streams: Sequence[SourceStream], key: str, limit: float) -> None:
    """Refuse files of which more records are unreadable than the recipe allows; else name those in the log.

    Raises:
        LauncherError: says how many, and the first of them.
    """
    bad, records = sum(stream.bad for stream in streams), sum(stream.count for stream in streams)
    if not bad:
        return
    first = some_of_each(line for stream in streams for line in stream.first_bad)
    said = f"{key}: {bad:,} of {records:,} records cannot be read"
    if bad / max(1, records) > limit:
        raise LauncherError(
            f"{said}, more than `max_bad_fraction: {limit:g}` allows; correct the files, or raise it"
            + "".join(f"\n  {line}" for line in first)
        )
    print(f"{said} and are left out", *first, sep="\n    ", flush=True)

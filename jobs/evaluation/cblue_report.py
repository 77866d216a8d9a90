"""The report of a task on CBLUE: right answers from its files, and scores of what the model wrote."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from jobs.data.corpus.file_list import matching
from jobs.data.readers.text_file import read_text_file
from jobs.evaluation.cblue import CBLUE, CblueAnswer, data_set, read_cblue, structured_cblue
from jobs.evaluation.cblue_scores import CblueItem, cblue_scores
from jobs.evaluation.choice_question import ChoiceQuestion
from jobs.evaluation.report import text_digest
from jobs.rank.context import Context
from launcher.artifacts.scores import Score
from launcher.errors import LauncherError
from launcher.recipe.sections.generation_task import GenerateTask


@dataclass(frozen=True)
class CblueAnswers:
    """The right answers of the questions that are asked."""

    questions: Sequence[ChoiceQuestion]
    answers: Sequence[CblueAnswer]

    @property
    def identity(self) -> list[str]:
        """Equal for equal answers."""
        return [said(answer) for answer in self.answers]

    def score(
        self, prompts: Sequence[str], texts: Sequence[str], finishes: Sequence[str], shows_text: bool
    ) -> tuple[dict[str, Score], list[dict[str, Any]]]:
        """Return the scores, and a row for each item.

        Args:
            prompts: Of the questions.
            texts: What was written after each.
            finishes: Why each text ended.
            shows_text: Whether rows may hold texts.
        """
        found = [read_cblue(one.subject, text, one.labels) for one, text in zip(self.questions, texts, strict=True)]
        items = [
            CblueItem(one.subject, answer, read)
            for one, answer, read in zip(self.questions, self.answers, found, strict=True)
        ]
        rows = [
            {
                "id": one.id,
                "group": "",
                "prompt_sha256": text_digest(prompt),
                "prediction": said(item.found) if shows_text else None,
                "answer": said(item.answer) if shows_text else text_digest(said(item.answer)),
                "details": {"data_set": one.subject, "finish": finish, **({"text": text} if shows_text else {})},
                **item.metrics,
            }
            for one, prompt, text, finish, item in zip(self.questions, prompts, texts, finishes, items, strict=True)
        ]
        return cblue_scores(items), rows

    @property
    def notes(self) -> tuple[str, ...]:
        """Names the data sets that are not there: published means are over all."""
        there = {one.subject for one in self.questions}
        absent = [name for name in CBLUE if name not in there]
        return (f"without {', '.join(absent)}: the mean is over {len(there)} data sets",) if absent else ()


def cblue_answers(context: Context, task: GenerateTask, key: str, questions: Sequence[ChoiceQuestion]) -> CblueAnswers:
    """Find the right answers of questions.

    Args:
        context: Knows where files are.
        task: The section.
        key: Of the task in the recipe.
        questions: Those that are asked.

    Raises:
        LauncherError: some have none.
    """
    given = _structured(context, task, key)
    answers: list[CblueAnswer | None] = []
    for one in questions:
        if given is not None:
            answers.append(given.get((one.subject, one.id)))
        else:
            text = one.references[0]
            answers.append(read_cblue(one.subject, text, one.labels) if text.strip() else None)
    known = [answer for answer in answers if answer is not None]
    if len(known) < len(answers):
        first, lacking = questions[answers.index(None)].id, len(answers) - len(known)
        where, fix = f"{key}.files", "name a file of the answers as `answer.structured`, or files that have a `target`"
        if given is not None:
            where, fix = f"{key}.answer.structured", "name the file that belongs to `files`"
        raise LauncherError(
            f"{where}: {lacking:,} of {len(answers):,} questions have no answer, first `{first}`; {fix}"
        )
    return CblueAnswers(questions, known)


def said(answer: CblueAnswer) -> str:
    """Write an answer as JSON, or as the name of its class."""
    if isinstance(answer, str):
        return answer
    if isinstance(answer, dict):
        return json.dumps(answer, ensure_ascii=False)
    return "[" + ", ".join(sorted(answer)) + "]"


def _structured(context: Context, task: GenerateTask, key: str) -> dict[tuple[str, str], CblueAnswer] | None:
    """The answers of the file that the recipe names, by data set and id."""
    if task.answer.structured is None:
        return None
    named, found = f"{key}.answer.structured", dict[tuple[str, str], CblueAnswer]()
    for path in matching(context, named, task.answer.structured):
        try:
            content = orjson.loads(read_text_file(path))
            for name, entries in content.items():
                known = data_set(name)
                for entry in entries if known else ():
                    found[str(known), str(entry["sample_id"])] = structured_cblue(str(known), entry["answer"])
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise LauncherError(
                f"{named}: {path} is no JSON object that has for each data set a list of `sample_id` and `answer` "
                f"({type(error).__name__}); name a file like `CBLUE_structured.json`"
            ) from None
        except ValueError as error:
            raise LauncherError(f"{named}: {path}: {error}") from None
    return found

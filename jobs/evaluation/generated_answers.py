"""Tasks of `type: generate`: the model writes a text, and an answer is read from it.

Scores of questions with options: acc, the share of right answers; macro_f1 over PubMedQA's decisions. A text that no
rule can read is a wrong answer, and counted. With a second pass (`answer.forced`) acc is that of the most likely
option, acc_read that of the rules, and acc_at_3 the share of questions whose right option is one of the three most
likely.
Scores of texts: exact_match and token_f1 as SQuAD's, rouge_l. Those of CBLUE are in `cblue_scores`.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.evaluation.batches import Batches, Row
from jobs.evaluation.cblue_report import cblue_answers
from jobs.evaluation.cblue_scores import rouge_l_of_characters
from jobs.evaluation.choice_question import ChoiceQuestion
from jobs.evaluation.forced_answer import ForcedAnswer
from jobs.evaluation.generation_batches import rows_of
from jobs.evaluation.generator import GenerationRequest, Generator
from jobs.evaluation.loaded_model import LoadedModel
from jobs.evaluation.prompt_encoder import PromptEncoder
from jobs.evaluation.prompts import Prompt
from jobs.evaluation.reading import ReadAnswer, long_answer, read_answer
from jobs.evaluation.report import PreparedTask, TaskReport, TaskSettings, digest, nonzero, text_digest
from jobs.evaluation.text_metrics import best, exact_match, macro_f1, macro_f1_interval, rouge_l, token_f1
from jobs.evaluation.wording import word_questions
from jobs.rank.context import Context
from launcher.artifacts.scores import FIXED_COLUMNS, Score, TaskScores
from launcher.artifacts.standard_errors import share_of
from launcher.errors import LauncherError
from launcher.recipe.sections.generation_task import GenerateTask

_TOP = 3
_TEXT_METRICS = {"exact_match": exact_match, "token_f1": token_f1, "rouge_l": rouge_l}


@dataclass(frozen=True)
class _Written:
    """A question, how it was asked, and what was written."""

    question: ChoiceQuestion
    prompt: str
    request: GenerationRequest
    text: str
    finish: str
    forced: list[float] | None
    """Log-likelihood of each option in the second pass."""
    read: ReadAnswer

    @property
    def chosen(self) -> int | None:
        """Number of the option that is the answer."""
        return self.read.option if self.forced is None else _ranked(self.forced)[0]


def prepare_generate(
    context: Context, recipe: TaskSettings, task: GenerateTask, key: str, model: LoadedModel
) -> PreparedTask:
    """Read the questions of a task and encode them, with room for a text.

    Args:
        context: Knows where files are.
        recipe: The section that the task stands in.
        task: The section.
        key: Of the task in the recipe.
        model: Writes the texts.

    Raises:
        LauncherError: questions or examples cannot be used.
    """
    worded = word_questions(context, recipe, task, key, task.scored)
    wording, questions, prompts = worded.wording, worded.questions, worded.prompts
    cblue = cblue_answers(context, task, key, questions) if task.format == "cblue" else None
    options = [wording.answers(one) if one.options else () for one in questions]
    forced = None
    if task.answer.forced is not None:
        forced = ForcedAnswer(model, task.answer.forced, recipe.tokens_per_batch, key)
    room = forced.room({text for its in options for text in its}) if forced else 0
    encoder, requests = _encode(model, task, key, questions, prompts, room)
    generator = Generator(model, requests, task.decoding, recipe.seed, recipe.tokens_per_batch, encoder.end_of_turn)

    def work(numbers: Sequence[int]) -> list[Row]:
        texts = generator.generate(numbers)
        rows = rows_of(numbers, texts)
        if forced:
            asked = [requests[number] for number in numbers]
            scores = forced.score(asked, [one.text for one in texts], [options[number] for number in numbers])
            rows = [
                row | {"forced": one.likelihoods, "forced_cut": one.cut_tokens}
                for row, one in zip(rows, scores, strict=True)
            ]
        return rows

    items = digest(
        [(one.id, prompt, one.answer, one.references) for one, prompt in zip(questions, prompts, strict=True)]
    )
    items = items if cblue is None else digest(items, cblue.identity)
    identity = digest(generator.identity, items, task.answer.forced, forced and forced.is_shared)

    def report(rows: Sequence[Row]) -> TaskReport:
        written = [
            _Written(one, prompt, request, row["text"], row["finish"], row.get("forced"), _read(task, row["text"], one))
            for one, prompt, request, row in zip(questions, prompts, requests, rows, strict=True)
        ]
        shows_text = context.recipe.data_use == "open"
        if cblue is not None:
            texts, finishes = [one.text for one in written], [one.finish for one in written]
            scores, scored = cblue.score(prompts, texts, finishes, shows_text)
            notes = (*worded.notes, *cblue.notes)
        else:
            scored = [_score(task, one, wording, shows_text) for one in written]
            scores, notes = _scores(task, written, scored), worded.notes
        cut = {"prompts cut in the second pass": sum(row.get("forced_cut", 0) > 0 for row in rows)}
        counts = nonzero({**worded.found.counts, **_count(task, written), **cut})
        its = TaskScores(
            type="generate",
            headline=next(iter(scores)),
            n=len(scored),
            scores=scores,
            counts=counts,
            files=worded.found.files,
            items_sha256=items,
            settings=task.model_dump(mode="json", exclude_none=True),
            notes=notes,
        )
        return TaskReport(its, scored)

    return PreparedTask(Batches(task.name, identity, generator.batches, work), report)


def _encode(
    model: LoadedModel,
    task: GenerateTask,
    key: str,
    questions: Sequence[ChoiceQuestion],
    prompts: Sequence[str],
    more: int,
) -> tuple[PromptEncoder, list[GenerationRequest]]:
    """Encode prompts, with room for the text and `more` tokens; those that are too long lose tokens at their start."""
    encoder = PromptEncoder(model, task.chat, key, task.decoding.max_new_tokens + more, "cut")
    requests = []
    for one, prompt in zip(questions, prompts, strict=True):
        try:
            requests.append(encoder.encode(one.id, prompt))
        except ValueError as error:
            raise LauncherError(f"{key}.files: question `{one.id}`: {error}; correct or remove it") from None
    return encoder, requests


def _read(task: GenerateTask, text: str, question: ChoiceQuestion) -> ReadAnswer:
    return read_answer(text, question, task.rules)


def _score(task: GenerateTask, one: _Written, wording: Prompt, shows_text: bool) -> dict[str, Any]:
    asked = one.question
    prediction, answer = _shown(one, wording, shows_text)
    details: dict[str, Any] = {"rule": one.read.rule, "finish": one.finish}
    if one.forced is not None:
        details["log_likelihoods"] = one.forced
    if shows_text:
        details["text"] = one.text
    return {
        "id": asked.id,
        "group": asked.group,
        "prompt_sha256": text_digest(one.prompt),
        "prediction": prediction,
        "answer": answer,
        "details": details,
        **_metrics(task, one),
    }


def _shown(one: _Written, wording: Prompt, shows_text: bool) -> tuple[str | None, str]:
    """Return prediction and answer of a row; where texts may not be shown, no prediction and the answer's SHA-256."""
    asked, chosen = one.question, one.chosen
    if asked.options:
        names = wording.names(asked, shows_text)
        return None if chosen is None else names[chosen], names[asked.answer]
    answer = asked.references[asked.answer]
    return (one.read.text, answer) if shows_text else (None, text_digest(answer))


def _metrics(task: GenerateTask, one: _Written) -> dict[str, float]:
    asked = one.question
    if task.format == "ccte":
        return {"rouge_l": best(rouge_l_of_characters, one.text, asked.references)}
    if not asked.options:
        text = one.read.text or ""
        return {name: best(score, text, asked.references) for name, score in _TEXT_METRICS.items()}
    scores = {"acc": float(one.chosen == asked.answer)}
    if one.forced is not None:
        scores["acc_read"] = float(one.read.option == asked.answer)
        if len(asked.options) > _TOP:
            scores["acc_at_3"] = float(asked.answer in _ranked(one.forced)[:_TOP])
    if task.answer.long_answer and asked.references:
        text = long_answer(one.text) or ""
        scores |= {name: best(score, text, asked.references) for name, score in _TEXT_METRICS.items()}
        del scores["exact_match"]
    return scores


def _ranked(likelihoods: Sequence[float]) -> list[int]:
    """Numbers of options, the most likely first; of equal ones the first."""
    return sorted(range(len(likelihoods)), key=lambda number: -likelihoods[number])


def _scores(task: GenerateTask, written: Sequence[_Written], scored: Sequence[dict[str, Any]]) -> dict[str, Score]:
    groups = [f"group {item['group']}" if item["group"] else f"item {item['id']}" for item in scored]
    names = [name for name in scored[0] if name not in FIXED_COLUMNS and all(name in item for item in scored)]
    scores = {name: Score.of(share_of([item[name] for item in scored], groups)) for name in names}
    if task.format == "pubmedqa":
        scores["macro_f1"] = _macro_f1(written, groups)
    return scores


def _macro_f1(written: Sequence[_Written], groups: Sequence[Hashable]) -> Score:
    predicted, answers = [one.chosen for one in written], [one.question.answer for one in written]
    classes = len(written[0].question.options)
    low, high = macro_f1_interval(predicted, answers, classes, groups)
    value = macro_f1(predicted, answers, classes)
    clusters = len({*groups}) if len({*groups}) < len(groups) else None
    return Score(value=value, low=low, high=high, n=len(written), clusters=clusters)


def _count(task: GenerateTask, written: Sequence[_Written]) -> dict[str, int]:
    counts = {
        "texts that no rule could read": sum(one.read.rule is None for one in written),
        "texts cut off at max_new_tokens": sum(one.finish == "length" for one in written),
        "prompts cut at their start": sum(one.request.cut_tokens > 0 for one in written),
    }
    if task.answer.long_answer:
        counts["texts without a long answer"] = sum(long_answer(one.text) is None for one in written)
    return counts

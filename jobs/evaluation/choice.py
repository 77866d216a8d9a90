"""Tasks of `type: choice`: the option whose text the model finds most likely after the prompt.

Scores of an option with log-likelihood L: acc L; acc_norm L by characters; acc_bytes L by UTF-8 bytes; acc_tokens L by
tokens, which is the option of least true perplexity; acc_mutual_info L minus its log-likelihood without the question
(lm-eval's `acc_mutual_info`). Of equal options the first one counts, as in lm-eval.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.evaluation.batches import Batches, Row
from jobs.evaluation.choice_question import ChoiceQuestion
from jobs.evaluation.encode import Ids, OptionRequest, PairEncoder
from jobs.evaluation.loaded_model import LoadedModel
from jobs.evaluation.option_scorer import OptionScorer
from jobs.evaluation.report import PreparedTask, TaskReport, TaskSettings, digest, nonzero, text_digest
from jobs.evaluation.wording import WordedQuestions, word_questions
from jobs.rank.context import Context
from launcher.artifacts.scores import Score, TaskScores
from launcher.artifacts.standard_errors import share_of
from launcher.errors import LauncherError
from launcher.recipe.sections.evaluation_tasks import ChoiceTask
from launcher.recipe.sections.task_metrics import CHOICE


@dataclass(frozen=True)
class _OptionQuestion:
    """A question as it is put to the model."""

    question: ChoiceQuestion
    prompt: str
    answers: tuple[str, ...]
    """Texts that are scored, one for each option."""


def prepare_choice(
    context: Context, recipe: TaskSettings, task: ChoiceTask, key: str, model: LoadedModel
) -> PreparedTask:
    """Read the questions of a task and encode them with their options.

    Args:
        context: Knows where files are.
        recipe: The section that the task stands in.
        task: The section.
        key: Of the task in the recipe.
        model: Scores the options.

    Raises:
        LauncherError: questions or examples cannot be used.
    """
    worded = word_questions(context, recipe, task, key, task.scored)
    asked = [
        _OptionQuestion(one, prompt, tuple(f" {text}" for text in worded.wording.answers(one)))
        for one, prompt in zip(worded.questions, worded.prompts, strict=True)
    ]
    encoder = PairEncoder(model.tokenizer, model.max_length)
    requests = [_encode(encoder, number, one, one.prompt, key) for number, one in enumerate(asked)]
    scorer = OptionScorer(model, requests, recipe.tokens_per_batch)
    without_question = _unconditional(model, encoder, asked, key, recipe.tokens_per_batch)

    def work(numbers: Sequence[int]) -> list[Row]:
        scores = scorer.score(numbers)
        return [{"item": number, "scores": its} for number, its in zip(numbers, scores, strict=True)]

    items = digest([(one.question.id, one.prompt, one.answers, one.question.answer) for one in asked])
    identity = digest(model.identity, items, recipe.tokens_per_batch, scorer.is_shared)
    batches = Batches(task.name, identity, scorer.batches, work)

    def report(rows: Sequence[Row]) -> TaskReport:
        bare = without_question()
        shows_text = context.recipe.data_use == "open"
        scored = [
            _score(
                one,
                request,
                row["scores"],
                [bare[text] for text in one.answers],
                worded.wording.names(one.question, shows_text),
            )
            for one, request, row in zip(asked, requests, rows, strict=True)
        ]
        counts = {**worded.found.counts, **_count(asked, requests)}
        return TaskReport(_task_scores(task, worded, scored, counts, items), scored)

    return PreparedTask(batches, report, scorer.forget)


def _encode(encoder: PairEncoder, number: int, asked: _OptionQuestion, prompt: str, key: str) -> OptionRequest:
    try:
        return encoder.encode(number, prompt, asked.answers)
    except ValueError as error:
        raise LauncherError(f"{key}.files: question `{asked.question.id}`: {error}; correct or remove it") from None


def _unconditional(
    model: LoadedModel, encoder: PairEncoder, asked: Sequence[_OptionQuestion], key: str, capacity: int
) -> Callable[[], dict[str, float]]:
    """Return what computes the log-likelihood of each option text without a question."""
    encoded: dict[str, Ids] = {}
    for number, one in enumerate(asked):
        if not encoded.keys() >= {*one.answers}:
            encoded |= zip(one.answers, _encode(encoder, number, one, "", key).options, strict=True)
    texts = sorted(encoded)
    requests = [OptionRequest(number, encoder.start, (encoded[text],)) for number, text in enumerate(texts)]

    def compute() -> dict[str, float]:
        scorer = OptionScorer(model, requests, capacity)
        found: dict[str, float] = {}
        for batch in scorer.batches:
            for number, (value,) in zip(batch, scorer.score(batch), strict=True):
                found[texts[number]] = value
        return found

    return compute


def _count(asked: Sequence[_OptionQuestion], requests: Sequence[OptionRequest]) -> dict[str, int]:
    return {
        "questions with equal options": sum(len({*one.answers}) < len(one.answers) for one in asked),
        "prompts cut at their start": sum(request.cut_tokens > 0 for request in requests),
        "options that join a token of the prompt": sum(request.joined for request in requests),
    }


def _task_scores(
    task: ChoiceTask, worded: WordedQuestions, scored: Sequence[dict[str, Any]], counts: dict[str, int], items: str
) -> TaskScores:
    groups = [(item["group"], "" if item["group"] else item["id"]) for item in scored]
    return TaskScores(
        type="choice",
        headline="acc",
        n=len(scored),
        scores={name: Score.of(share_of([item[name] for item in scored], groups)) for name in CHOICE},
        counts=nonzero(counts),
        files=worded.found.files,
        items_sha256=items,
        settings=task.model_dump(mode="json", exclude_none=True),
        notes=worded.notes,
    )


def _score(
    asked: _OptionQuestion,
    request: OptionRequest,
    likelihoods: Sequence[float],
    without_question: Sequence[float],
    names: Sequence[str],
) -> dict[str, Any]:
    texts = [text.removeprefix(" ") for text in asked.answers]
    by_metric = {
        "acc": likelihoods,
        "acc_norm": [value / len(text) for value, text in zip(likelihoods, texts, strict=True)],
        "acc_bytes": [value / len(text.encode()) for value, text in zip(likelihoods, texts, strict=True)],
        "acc_tokens": [value / len(ids) for value, ids in zip(likelihoods, request.options, strict=True)],
        "acc_mutual_info": [value - bare for value, bare in zip(likelihoods, without_question, strict=True)],
    }
    chosen = {name: max(range(len(values)), key=values.__getitem__) for name, values in by_metric.items()}
    right = asked.question.answer
    return {
        "id": asked.question.id,
        "group": asked.question.group,
        "prompt_sha256": text_digest(asked.prompt),
        "prediction": names[chosen["acc"]],
        "answer": names[right],
        "details": {"log_likelihoods": [*likelihoods]},
        **{name: float(number == right) for name, number in chosen.items()},
    }

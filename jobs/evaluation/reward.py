"""Tasks of `type: reward`: pairs of answers, each judged by a reward model.

accuracy: share of pairs whose chosen answer has the higher reward. margin: mean difference of the rewards. log_loss and
calibration_error: see `jobs.scoring.pairs`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from jobs.data.chat.records import read_records
from jobs.data.chat.render import Example, Renderer
from jobs.data.chat.templates import chat_template
from jobs.data.corpus.file_list import matching
from jobs.data.preferences.formats import Preference, preference_of
from jobs.data.preferences.store import AnswerPair
from jobs.data.readers.source_stream import SourceStream
from jobs.evaluation.batches import Batches, Row, cut
from jobs.evaluation.documents import spread
from jobs.evaluation.item_ids import numbered, with_folders
from jobs.evaluation.loaded_model import UNBOUNDED, LoadedModel
from jobs.evaluation.question_files import check_bad
from jobs.evaluation.report import PreparedTask, TaskReport, TaskSettings, digest, nonzero, text_digest
from jobs.rank.context import Context
from jobs.rank.watchdog import WATCHDOG
from jobs.scoring.pairs import RewardedPairs, score_intervals, score_pairs
from launcher.artifacts.scores import Score, ScoredFile, TaskScores
from launcher.artifacts.standard_errors import mean_of, share_of
from launcher.errors import LauncherError
from launcher.recipe.kinds.reward import PAIR_METRICS
from launcher.recipe.sections.preference_sources import PreferenceSource
from launcher.recipe.sections.reward_task import RewardTask

_SOURCE: TypeAdapter[PreferenceSource] = TypeAdapter(PreferenceSource)
_RESAMPLES = 1000
"""For the interval of the calibration error, which is no mean over pairs."""


@dataclass(frozen=True)
class _JudgedPair:
    id: str
    question: str
    """Pairs of one question are not independent."""
    pair: AnswerPair


def prepare_reward(
    context: Context, recipe: TaskSettings, task: RewardTask, key: str, model: LoadedModel
) -> PreparedTask:
    """Read and tokenise the pairs of a task, and cut them into batches.

    Args:
        context: Knows where files are.
        recipe: The run's.
        task: The section.
        key: Of the task in the recipe.
        model: With a head that computes one number for a sequence.

    Raises:
        LauncherError: the pairs cannot be used.
    """
    streams = [SourceStream(path) for path in matching(context, f"{key}.files", task.files)]
    limit = _limit(task, key, model)
    counts = Counter[str]()
    renderer = _renderer(task, key, model)
    found = [(one, stream.path) for stream in streams for one in _read(stream, task, renderer, limit, counts)]
    check_bad(streams, f"{key}.files", recipe.max_bad_fraction)
    if not found:
        raise LauncherError(f"{key}.files: there are no pairs in `{streams[0].path}`")
    pairs = _named([found[number] for number in spread(len(found), task.limit)])
    counts["unreadable records"] = sum(stream.bad for stream in streams)
    files = tuple(ScoredFile(path=str(stream.path), sha256=stream.sha256) for stream in streams)
    items = digest([(one.id, *(side.ids.tolist() for side in _sides(one))) for one in pairs])
    identity = digest(model.identity, items, recipe.tokens_per_batch)
    members = cut([2 * one.pair.longest for one in pairs], recipe.tokens_per_batch)

    def work(numbers: Sequence[int]) -> list[Row]:
        rewards = _rewards(model, [side for number in numbers for side in _sides(pairs[number])], key)
        both = zip(numbers, rewards[::2], rewards[1::2], strict=True)
        return [{"item": number, "rewards": [chosen, rejected]} for number, chosen, rejected in both]

    def report(rows: Sequence[Row]) -> TaskReport:
        judged = _rewarded(pairs, rows)
        its = _items(pairs, judged)
        scores = TaskScores(
            type="reward",
            headline="accuracy",
            n=len(pairs),
            scores=_scores(its, judged, recipe.seed),
            lower_is_better=tuple(name for name, is_lower in PAIR_METRICS.items() if is_lower),
            counts=nonzero(counts),
            files=files,
            items_sha256=items,
            settings=task.model_dump(mode="json", exclude_none=True) | {"length": limit},
            notes=(*_template_notes(task, renderer), *((f"{len(pairs)} of {len(found)} pairs",) if task.limit else ())),
        )
        return TaskReport(scores, its)

    return PreparedTask(Batches(task.name, identity, members, work), report)


def _limit(task: RewardTask, key: str, model: LoadedModel) -> int:
    if task.length is None and model.max_length == UNBOUNDED:
        raise LauncherError(f"{key}.length: the model does not say how many positions it has; write a `length`")
    if task.length and task.length > model.max_length:
        raise LauncherError(f"{key}.length: {task.length} is more than the model's {model.max_length} positions")
    return task.length or model.max_length


def _renderer(task: RewardTask, key: str, model: LoadedModel) -> Renderer:
    try:
        template = chat_template(model.tokenizer, task.chat_template)
        renderer = Renderer(model.tokenizer, template, task.system_prompt, last_only=True)
        renderer.check()
    except LauncherError as error:
        raise LauncherError(str(error).replace("data.", f"{key}.", 1)) from None
    return renderer


def _template_notes(task: RewardTask, renderer: Renderer) -> Iterator[str]:
    own = renderer.tokenizer.chat_template
    if isinstance(own, str) and own != renderer.template:
        yield f"with `chat_template: {task.chat_template}`, which is not the template that the model was saved with"


def _read(
    stream: SourceStream, task: RewardTask, renderer: Renderer, limit: int, counts: Counter[str]
) -> Iterator[_JudgedPair]:
    source = _SOURCE.validate_python({"format": task.format, "name": task.name, "files": task.files})
    for line, key, record in read_records(stream):
        for preference in stream.parsed(line, partial(preference_of, record, source)):
            for pair in stream.parsed(line, partial(_pair, preference, renderer)):
                cut_pair = pair.truncated(limit)
                if pair.longest > limit and (task.too_long == "drop" or cut_pair.is_equal):
                    counts["pairs left out: too long"] += 1
                    continue
                counts[f"pairs cut to {limit} tokens"] += pair.longest > limit
                question = next(turn["content"] for turn in preference.prompt if turn["role"] == "user")
                name = str(record.get("id") or key or f"{stream.path.name}:{line}")
                yield _JudgedPair(name, text_digest(question), cut_pair)


def _named(placed: Sequence[tuple[_JudgedPair, Path]]) -> list[_JudgedPair]:
    """Make ids of pairs unique: HH-RLHF's files have one name in several folders, other sets an id for a question."""
    names = numbered(with_folders([one.id for one, _ in placed], [path for _, path in placed]))
    return [replace(one, id=name) for (one, _), name in zip(placed, names, strict=True)]


def _pair(preference: Preference, renderer: Renderer) -> AnswerPair:
    chosen, rejected = renderer.encode(preference.conversations())
    for one in (chosen, rejected):
        if isinstance(one, ValueError):
            raise one
    assert not isinstance(chosen, ValueError) and not isinstance(rejected, ValueError)
    pair = AnswerPair(chosen, rejected, preference.margin)
    if pair.is_equal:
        raise ValueError("its two answers become the same tokens")
    return pair


def _sides(one: _JudgedPair) -> tuple[Example, Example]:
    return one.pair.chosen, one.pair.rejected


@torch.inference_mode()
def _rewards(model: LoadedModel, sides: Sequence[Example], key: str) -> list[float]:
    """Return the reward of each conversation; the head looks at the last token that is not padding."""
    WATCHDOG.heartbeat()
    length, pad = max(len(side.ids) for side in sides), model.model.config.pad_token_id
    ids = torch.full((len(sides), length), pad, device=model.device)
    mask = torch.zeros_like(ids)
    for row, side in enumerate(sides):
        ids[row, : len(side.ids)] = torch.from_numpy(side.ids.astype(np.int64))
        mask[row, : len(side.ids)] = 1
    logits = model.model(input_ids=ids, attention_mask=mask).logits[:, 0]
    rewards: list[float] = logits.double().tolist()
    if not np.isfinite(rewards).all():
        raise LauncherError(f"{key}: the model's rewards are not numbers; evaluate in another `model.dtype`")
    return rewards


def _rewarded(pairs: Sequence[_JudgedPair], rows: Sequence[Row]) -> RewardedPairs:
    numbers = {question: number for number, question in enumerate(dict.fromkeys(one.question for one in pairs))}
    questions = np.array([numbers[one.question] for one in pairs], np.int64)
    return RewardedPairs(np.array([row["rewards"] for row in rows], np.float64), questions, [])


def _items(pairs: Sequence[_JudgedPair], judged: RewardedPairs) -> list[dict[str, Any]]:
    margins = judged.margins
    return [
        {
            "id": one.id,
            "group": one.question,
            "prompt_sha256": digest([side.ids.tolist() for side in _sides(one)]),
            "prediction": "chosen" if margins[number] > 0 else "rejected",
            "answer": "chosen",
            "details": dict(zip(("chosen", "rejected"), judged.rewards[number].tolist(), strict=True)),
            "accuracy": float(margins[number] > 0),
            "margin": float(margins[number]),
            "log_loss": float(np.logaddexp(0, -margins[number])),
        }
        for number, one in enumerate(pairs)
    ]


def _scores(its: Sequence[dict[str, Any]], judged: RewardedPairs, seed: int) -> dict[str, Score]:
    groups = [item["group"] for item in its]
    means = {"accuracy": share_of([item["accuracy"] for item in its], groups)}
    means |= {name: mean_of([item[name] for item in its], groups) for name in ("margin", "log_loss")}
    low, high = score_intervals(judged, _RESAMPLES, seed)["calibration_error"]
    calibration = Score(value=score_pairs(judged)["calibration_error"], low=low, high=high, n=len(its))
    return {name: Score.of(mean) for name, mean in means.items()} | {"calibration_error": calibration}

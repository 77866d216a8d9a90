"""Tasks of `type: judgements`: marks that a judge has given to answers, by what is judged.

Scores: the mean of each mark; `mean`, that of all marks of an item. If records have a type, `mean_of_types` is the mean
over types and marks of their means, as MedCare's `cmb_eval.py` computes it (https://github.com/BlueZeros/MedCare,
fcf9a3f): each type counts the same, however many items it has.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jobs.data.chat.records import Record, read_records
from jobs.data.corpus.file_list import matching
from jobs.data.readers.source_stream import SourceStream
from jobs.evaluation.batches import Batches, Row
from jobs.evaluation.item_ids import check_ids, text_or_nothing, with_folders
from jobs.evaluation.question_files import check_bad
from jobs.evaluation.report import PreparedTask, TaskReport, TaskSettings, digest, nonzero, text_digest
from jobs.rank.context import Context
from launcher.artifacts.scores import FIXED_COLUMNS, Score, ScoredFile, TaskScores
from launcher.artifacts.standard_errors import mean_of, mean_of_parts
from launcher.errors import LauncherError
from launcher.recipe.sections.judgement_task import JudgementTask


@dataclass(frozen=True)
class _Judgement:
    id: str
    group: str
    type: str
    marks: Mapping[str, float]

    @property
    def mean(self) -> float:
        return math.fsum(self.marks.values()) / len(self.marks)


def prepare_judgements(context: Context, recipe: TaskSettings, task: JudgementTask, key: str) -> PreparedTask:
    """Read the judgements of a task; there is nothing to compute before its report.

    Args:
        context: Knows where files are.
        recipe: The section that the task stands in.
        task: The section.
        key: Of the task in the recipe.

    Raises:
        LauncherError: the judgements cannot be used.
    """
    streams = [SourceStream(path) for path in matching(context, f"{key}.files", task.files)]
    placed = [(one, stream.path) for stream in streams for one in _read(stream, task)]
    check_bad(streams, f"{key}.files", recipe.max_bad_fraction)
    if not placed:
        raise LauncherError(f"{key}.files: there are no judgements in `{streams[0].path}`")
    ids = with_folders([one.id for one, _ in placed], [path for _, path in placed])
    check_ids(ids, f"{key}.files")
    found = [replace(one, id=name) for (one, _), name in zip(placed, ids, strict=True)]
    names = _names(found, f"{key}.files")
    files = tuple(ScoredFile(path=str(stream.path), sha256=stream.sha256) for stream in streams)
    items = digest(sorted(one.id for one in found))
    identity = digest(items, [one.sha256 for one in files])

    def work(numbers: Sequence[int]) -> list[Row]:
        return [{"item": number} for number in numbers]

    def report(rows: Sequence[Row]) -> TaskReport:
        its = TaskScores(
            type="judgements",
            headline="mean",
            n=len(rows),
            scores=_scores(found, names),
            counts=nonzero({"unreadable records": sum(stream.bad for stream in streams)}),
            files=files,
            items_sha256=items,
            settings=task.model_dump(mode="json", exclude_none=True),
        )
        return TaskReport(its, [_item(one) for one in found])

    return PreparedTask(Batches(task.name, identity, [tuple(range(len(found)))], work), report)


def _read(stream: SourceStream, task: JudgementTask) -> Iterator[_Judgement]:
    for number, (line, key, record) in enumerate(read_records(stream), 1):
        place = f"{stream.path.name}:{number}" if key is None else key
        yield from stream.parsed(line, partial(_judgement, record, place, task))


def _judgement(record: Record, place: str, task: JudgementTask) -> _Judgement:
    more = record.get("additional_info")  # where MedCare keeps what belongs to the question
    told = {**more, **record} if isinstance(more, dict) else record
    marks = record.get("score")
    if not isinstance(marks, dict) or not marks:
        raise ValueError("its `score` is no object of numbers; the judge's answer may not have been JSON")
    if reserved := {*marks} & {*FIXED_COLUMNS, "mean"}:
        raise ValueError(f"its `score` has a mark `{min(reserved)}`, which is the name of another column; rename it")
    for value in marks.values():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("its `score` holds something other than numbers")
        if not task.lowest <= value <= task.highest:
            raise ValueError(f"a mark of it is not from {task.lowest:g} to {task.highest:g}")
    group, described = told.get("group"), told.get("description")
    if group is None and isinstance(described, str) and described.strip():
        group = text_digest(described)[:16]
    identifier = place if told.get("id") is None else str(told["id"])
    its = {name: float(value) for name, value in sorted(marks.items())}
    return _Judgement(identifier, text_or_nothing(group), text_or_nothing(told.get("type")), its)


def _names(found: Sequence[_Judgement], key: str) -> list[str]:
    """Return what is judged, which must be the same for all items."""
    names = [*found[0].marks]
    for one in found:
        if [*one.marks] != names:
            raise LauncherError(
                f"{key}: `{one.id}` is judged by {', '.join(one.marks)}, `{found[0].id}` by {', '.join(names)}; "
                "judge all by the same"
            )
    return names


def _scores(found: Sequence[_Judgement], names: Sequence[str]) -> dict[str, Score]:
    groups = [f"group {one.group}" if one.group else f"item {one.id}" for one in found]
    scores = {"mean": Score.of(mean_of([one.mean for one in found], groups))}
    scores |= {name: Score.of(mean_of([one.marks[name] for one in found], groups)) for name in names}
    types = [one.type for one in found]
    if all(types):
        scores["mean_of_types"] = Score.of(mean_of_parts([one.mean for one in found], types, groups))
    return scores


def _item(one: _Judgement) -> dict[str, Any]:
    return {
        "id": one.id,
        "group": one.group,
        "prompt_sha256": text_digest(one.id),
        "prediction": None,
        "answer": None,
        "details": {"type": one.type},
        "mean": one.mean,
        **one.marks,
    }

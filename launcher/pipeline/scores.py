"""The scores that the stages of a pipeline came to: one table of a whole system."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from launcher.artifacts.scores import find_scores
from launcher.load.sweep_points import shorten_keys
from launcher.pipeline.record import Pipeline
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord

_SPLITS = ("test", "validation", "train")
_UNITS = ("notes", "pairs", "answers")
"""What a split counts its items as: of `classify`, of `reward` and `dpo`, and of answers without partners."""


@dataclass(frozen=True)
class StageScore:
    """One headline of one stage."""

    stage: str
    point: str
    """Of a sweep: the point, `r=8 alpha=4`; of a selection the one that was selected."""
    task: str
    """A task of an `evaluate`, or the split that a `classify` predicts."""
    metric: str
    value: float | None
    """None: undefined."""
    low: float | None
    """Ends of the 95 % interval, where there is one."""
    high: float | None
    n: int
    """Items."""


def read_stage_scores(pipeline: Pipeline) -> tuple[list[StageScore], list[str]]:
    """Read the headlines of all stages that have finished with scores, in the pipeline's order.

    Returns:
        The headlines, and what the stages note: tasks whose files were not there, and what their tasks note, such as
        how many questions were asked.
    """
    found: list[StageScore] = []
    noted: dict[tuple[str, str], list[str]] = {}
    scored = Counter[str]()
    selected = {one.name for one in pipeline.record.stages if one.select}
    for stage in pipeline.record.stages:
        run = pipeline.run_of(stage.name)
        file = find_scores(run.outputs) if run and stage.sweep not in selected else None
        if run is None or file is None:
            continue
        content = json.loads(file.read_text(encoding="utf-8"))
        shown = stage.sweep or stage.name
        point = _values(run) if stage.sweep or stage.select else ""
        found += _of_tasks(shown, point, content) if "tasks" in content else _of_splits(shown, point, content)
        scored[shown] += 1
        for note in _notes(content):
            noted.setdefault((shown, note), []).append(stage.name)
    return found, [
        f"{shown if len(names) == scored[shown] else ', '.join(names)}: {note}"
        for (shown, note), names in noted.items()
    ]


def _notes(content: dict[str, Any]) -> Iterator[str]:
    yield from content.get("notes", ())
    for task, told in content.get("tasks", {}).items():
        yield from (f"`{task}`: {note}" for note in told.get("notes", ()))


def _values(run: RunDir) -> str:
    values = RunRecord.read(run.record).point or {}  # of a run that was submitted by itself there are none
    short = shorten_keys(list(values))
    words = {short[key]: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return " ".join(f"{key}={word}" for key, word in words.items())


def _of_tasks(stage: str, point: str, content: dict[str, Any]) -> Iterator[StageScore]:
    for task, told in content["tasks"].items():
        score = told["scores"].get(told["headline"])
        if score:
            yield StageScore(
                stage, point, task, told["headline"], score["value"], score.get("low"), score.get("high"), score["n"]
            )


def _of_splits(stage: str, point: str, content: dict[str, Any]) -> Iterator[StageScore]:
    """Give the score of the most independent split: AUROC where there is one."""
    splits = content.get("splits", {})
    split = next((name for name in _SPLITS if name in splits), None)
    if split is None or not splits[split]["scores"]:
        return
    scores = splits[split]["scores"]
    metric = "auroc" if "auroc" in scores else next(iter(scores))
    items = next((splits[split][unit] for unit in _UNITS if unit in splits[split]), 0)
    found = scores[metric]
    yield StageScore(stage, point, split, metric, found["value"], found.get("low"), found.get("high"), items)

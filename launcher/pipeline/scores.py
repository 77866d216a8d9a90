"""The scores that the stages of a pipeline came to: one table of a whole system."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from launcher.artifacts.scores import find_scores
from launcher.pipeline.record import Pipeline

_SPLITS = ("test", "validation", "train")


@dataclass(frozen=True)
class StageScore:
    """One headline of one stage."""

    stage: str
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
        The headlines, and what the stages note, such as tasks whose files were not there.
    """
    found: list[StageScore] = []
    notes: list[str] = []
    for name, run in pipeline.runs().items():
        file = find_scores(run.outputs)
        if file is not None:
            content = json.loads(file.read_text(encoding="utf-8"))
            found += _of_tasks(name, content) if "tasks" in content else _of_splits(name, content)
            notes += [f"{name}: {note}" for note in content.get("notes", ())]
    return found, notes


def _of_tasks(stage: str, content: dict[str, Any]) -> Iterator[StageScore]:
    for task, told in content["tasks"].items():
        score = told["scores"].get(told["headline"])
        if score:
            yield StageScore(
                stage, task, told["headline"], score["value"], score.get("low"), score.get("high"), score["n"]
            )


def _of_splits(stage: str, content: dict[str, Any]) -> Iterator[StageScore]:
    """Give the score of the most independent split: AUROC where there is one."""
    splits = content.get("splits", {})
    split = next((name for name in _SPLITS if name in splits), None)
    if split is None or not splits[split]["scores"]:
        return
    scores = splits[split]["scores"]
    metric = "auroc" if "auroc" in scores else next(iter(scores))
    items = splits[split].get("notes", splits[split].get("pairs", 0))
    yield StageScore(
        stage, split, metric, scores[metric]["value"], scores[metric].get("low"), scores[metric].get("high"), items
    )

"""What the stages of a pipeline note about their scores, without carrying one out."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.pipeline.scores import read_stage_scores


def pipeline_of(folder: Path, stages: dict[str, tuple[str | None, list[str]]]) -> Any:
    """A pipeline whose stages evaluate a task; of each the sweep that it is a point of, and what the task notes."""
    runs = {}
    for name, (_, notes) in stages.items():
        outputs = folder / name
        outputs.mkdir()
        score = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 20}
        task = {"headline": "acc", "scores": {"acc": score}, "notes": notes}
        left_out = ["left out, since its files are not there: cmb"] if name == "b" else []
        (outputs / "scores.json").write_text(json.dumps({"tasks": {"medqa": task}, "notes": left_out}))
        runs[name] = SimpleNamespace(outputs=outputs)
    told = [SimpleNamespace(name=name, sweep=sweep, select=None) for name, (sweep, _) in stages.items()]
    return SimpleNamespace(record=SimpleNamespace(stages=told), run_of=runs.get)


def test_what_all_points_of_a_sweep_note_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.pipeline.scores._values", lambda run: run.outputs.name)
    both, first = "20 of 1273 questions", "trained on `pubmed`"
    stages: dict[str, tuple[str | None, list[str]]] = {
        "grid.0": ("grid", [both, first]),
        "grid.1": ("grid", [both]),
        "b": (None, [both]),
    }

    scores, notes = read_stage_scores(pipeline_of(tmp_path, stages))

    assert [(one.stage, one.point, one.n) for one in scores] == [
        ("grid", "grid.0", 20),
        ("grid", "grid.1", 20),
        ("b", "", 20),
    ]
    assert notes == [
        f"grid: `medqa`: {both}",
        f"grid.0: `medqa`: {first}",
        "b: left out, since its files are not there: cmb",
        f"b: `medqa`: {both}",
    ]


@pytest.mark.parametrize("unit", ["notes", "pairs", "answers"])
def test_items_of_a_stage_are_counted_whatever_they_are(tmp_path: Path, unit: str) -> None:
    pipeline = pipeline_of(tmp_path, {"judge": (None, [])})
    split = {unit: 34, "questions": 20, "scores": {"auroc": {"value": 0.6}}}
    (tmp_path / "judge" / "scores.json").write_text(json.dumps({"splits": {"validation": split}}))

    ([score], notes) = read_stage_scores(pipeline)

    assert (score.n, score.task, notes) == (34, "validation", [])

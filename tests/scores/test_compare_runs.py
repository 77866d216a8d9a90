"""`launcher compare` on runs: how they are named, and on two real evaluations of the shipped model."""

import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from launcher.artifacts.scores import ITEMS
from tests.support.command_line import launcher
from tests.support.counting_runs import PROJECT
from tests.support.evaluations import answered, choice_report, write_evaluation
from tests.support.run_histories import History
from tests.support.training_runs import ASSETS

TASKS = {
    "medqa": {"format": "medqa", "files": "./assets/medqa_40.jsonl", "options": "texts"},
    "pubmedqa": {"format": "pubmedqa", "files": "./assets/pubmedqa_60.json.gz"},
}


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(f"name: here\nexecutor: local\nroots: {{runs: {tmp_path}/runs, corpora: c, models: m}}\n")
    return str(path)


def finished(runs, run_id, name, kind="evaluate"):
    history = History.begin(runs, run_id, name).submit("7", at=0).start(0, "7", at=60)
    history.end(0, "finished", "done", at=90)
    record = json.loads(history.run.record.read_text())
    history.run.record.write_text(json.dumps(record | {"kind": kind}))
    return history.run.root


def test_runs_are_named_by_id_by_recipe_and_by_folder(tmp_path, profile):
    roots = [finished(tmp_path / "runs", run, name) for run, name in (("aaa111", "base"), ("bbb222", "tuned"))]
    for root, name in zip(roots, ("base", "tuned"), strict=True):
        write_evaluation(root, {"medqa": choice_report(answered("1100"))}, name, root.name[-6:])

    for names in (("aaa", "bbb222"), ("base", "tuned"), (str(roots[0]), roots[1].name)):
        found = json.loads(launcher("compare", *names, "--json", "--cluster", profile)[0])
        assert [(model["label"], model["run"]) for model in found["models"]] == [
            ("base", "aaa111"),
            ("tuned", "bbb222"),
        ]


def test_runs_without_scores_are_refused_with_the_reason(tmp_path, profile):
    finished(tmp_path / "runs", "aaa111", "training", kind="cpt")
    finished(tmp_path / "runs", "bbb222", "halfway")

    _, said = launcher("compare", "aaa111", "halfway", "nothing", "--cluster", profile, code=2)

    assert "`aaa111`: is a run of `kind: cpt` without scores; name a finished run of `kind: evaluate`; " in said
    assert "`halfway`: is a run of `kind: evaluate` without scores" in said
    assert "`nothing`: no run below" in said


def test_status_shows_the_headlines_of_an_evaluation(tmp_path, profile):
    root = finished(tmp_path / "runs", "aaa111", "base")
    tasks = {f"task{number}": choice_report(answered("1100")) for number in range(6)}
    write_evaluation(root, tasks, "base", "aaa111")

    shown, _ = launcher("status", "aaa111", "--cluster", profile)
    told = json.loads(launcher("status", "aaa111", "--cluster", profile, "--json")[0])

    assert "  scores   task0 acc 0.5000, task1 acc 0.5000, task2 acc 0.5000, task3 acc 0.5000, 2 more: " in shown
    assert [*told["scores"]["tasks"]] == [*tasks]


def test_damaged_scores_do_not_keep_the_status_from_being_shown(tmp_path, profile):
    root = finished(tmp_path / "runs", "aaa111", "base")
    write_evaluation(root, {"medqa": choice_report(answered("1100"))})
    (root / "outputs" / "scores.json").write_text("{")

    shown, _ = launcher("status", "aaa111", "--cluster", profile)

    assert "finished" in shown
    assert "  scores " not in shown


def evaluate(folder, **models):
    """Submit a recipe for each model as a person does, in a home of one's own, and return the run directories."""
    (folder / "assets").symlink_to(ASSETS)
    (folder / "home").mkdir()
    for name, model in models.items():
        recipe = {
            "kind": "evaluate",
            "name": name,
            "model": {"path": "./assets/stories260k", "dtype": "fp32", **model},
            "tasks": [{"name": task, "type": "choice", **fields} for task, fields in TASKS.items()],
            "tracking": {"mode": "disabled"},
            "resources": {"nodes": 1, "cpus_per_task": 1, "time": "10min"},
        }
        (folder / f"{name}.yaml").write_text(json.dumps(recipe))
    recipes = [str(folder / f"{name}.yaml") for name in models]
    argv = [sys.executable, "-m", "launcher", "submit", *recipes, "--cluster", "local", "--wait"]
    environ = {**os.environ, "HOME": str(folder / "home")}
    done = subprocess.run(argv, cwd=PROJECT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = folder / "home" / ".launcher" / "local" / "runs"
    return [run for name in models for run in runs.glob(f"{name}-2*")]


@pytest.mark.slow
def test_two_real_evaluations_are_compared_item_by_item(tmp_path):
    base, tuned = evaluate(tmp_path, base={}, tuned={"adapters": [{"path": "./assets/stories260k_lora"}]})

    found = json.loads(launcher("compare", str(base), str(tuned), "--metric", "all", "--json")[0])

    items = {run: pq.read_table(run / "outputs" / ITEMS).to_pandas().set_index(["task", "id"]) for run in (base, tuned)}
    compared = [row for row in found["rows"] if row["difference"]]
    assert {row["task"] for row in compared} == set(TASKS)
    assert len(compared) == 10
    for row in compared:
        one, other = (table.loc[row["task"]][row["metric"]].sort_index() for table in (items[tuned], items[base]))
        cells = [[((one == mine) & (other == its)).sum() for its in (1.0, 0.0)] for mine in (1.0, 0.0)]
        assert row["difference"]["value"] == pytest.approx(one.mean() - other.mean(), abs=1e-12)
        assert row["difference"]["standard_error"] == pytest.approx((one - other).sem(), abs=1e-12)
        assert row["difference"]["p"] == pytest.approx(mcnemar(cells, exact=True).pvalue)
    assert any(row["significant"] for row in compared)
    assert not all(row["significant"] for row in compared)

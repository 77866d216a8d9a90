"""A sweep from outside: its table, the best point, means over seeds, and commands on some of its points."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.run.ledger import append_event
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from tests.support.command_line import launcher
from tests.support.fake_slurm import FakeSlurm
from tests.support.submissions import MakeCluster, write_profile

RECIPE = {
    "kind": "prepare",
    "name": "abstracts",
    "corpus": "x",
    "sources": [{"format": "pile", "files": "abstracts.jsonl"}],
    "tokenizer": "tokenizer",
    "resources": {"cpus_per_task": 2, "time": "10min"},
    "sweep": {"grid": {"description": ["wide", "deep"]}, "seeds": 2},
}


@pytest.fixture
def site(tmp_path: Path, make_cluster: MakeCluster, fake_slurm: FakeSlurm) -> str:
    """A site where the sweep is queued as job 1001."""
    profile, recipe = write_profile(tmp_path, make_cluster()), tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(RECIPE))
    launcher("submit", str(recipe), "--cluster", str(profile), "--yes")
    return str(profile)


@pytest.fixture
def runs(site: str) -> list[RunDir]:
    return [RunDir(Path(point["folder"])) for point in status(site)["points"]]


def status(site: str, *options: str) -> dict[str, Any]:
    printed, _ = launcher("status", "abstracts", "--cluster", site, "--json", *options)
    found: dict[str, Any] = json.loads(printed)
    return found


def finish(run: RunDir, fake: FakeSlurm, **scores: float) -> None:
    job = RunRecord.read(run.record).submissions[-1].job_id
    append_event(run.ledger, 0, job_id=job, started=9e9, ended=9e9 + 1, reason="finished", action="done")
    run.evaluations.write_text(json.dumps({"step": 1, "time": 1.0, "attempt": 0, **scores}) + "\n")
    fake.forget(job)


def test_the_table_shows_points_best_first_and_marks_the_best(
    site: str, runs: list[RunDir], fake_slurm: FakeSlurm
) -> None:
    for run, loss in zip(runs, (3.0, 2.0, 2.5), strict=False):
        finish(run, fake_slurm, heldout_loss=loss)

    printed, _ = launcher("status", "abstracts", "--cluster", site)

    first, header, best, *others = printed.splitlines()
    assert first == "abstracts: 4 points: 3 finished, 1 queued; by heldout_loss, lower is better"
    assert header.split() == ["id", "description", "seed", "state", "step", "heldout_loss"]
    assert best.split() == ["*", RunRecord.read(runs[1].record).id, "wide", "2", "finished", "2.0000"]
    assert [line.split()[1:3] for line in others] == [["deep", "1"], ["wide", "1"], ["deep", "2"]]


def test_the_metric_that_is_asked_for_decides(site: str, runs: list[RunDir], fake_slurm: FakeSlurm) -> None:
    finish(runs[0], fake_slurm, heldout_loss=3.0, accuracy=0.9)
    finish(runs[1], fake_slurm, heldout_loss=2.0, accuracy=0.8)

    by_loss, by_accuracy = status(site), status(site, "--metric", "accuracy")

    ids = [RunRecord.read(run.record).id for run in runs]
    assert (by_loss["best"], by_loss["lower_is_better"]) == (ids[1], True)
    assert (by_accuracy["best"], by_accuracy["lower_is_better"]) == (ids[0], False)
    _, told = launcher("status", "abstracts", "--cluster", site, "--metric", "f1", code=2)
    assert "no point has it; there are `heldout_loss`, `accuracy`" in told


def test_scores_of_an_evaluation_are_metrics_and_say_their_direction(
    site: str, runs: list[RunDir], fake_slurm: FakeSlurm
) -> None:
    for run, value in zip(runs, (9.0, 7.0), strict=False):
        finish(run, fake_slurm)
        run.outputs.mkdir()
        scores = {"n": {"value": 4}, "ppl": {"value": value}}
        task = {"headline": "ppl", "lower_is_better": ["ppl"], "scores": scores}
        (run.outputs / "scores.json").write_text(json.dumps({"tasks": {"text": task}}))

    found = status(site)

    assert (found["metric"], found["lower_is_better"]) == ("text.ppl", True)
    assert found["best"] == RunRecord.read(runs[1].record).id


def test_compare_gives_means_and_deviations_over_seeds(site: str, runs: list[RunDir], fake_slurm: FakeSlurm) -> None:
    for run, value in zip(runs, (0.5, 0.7, 0.9, 0.8), strict=True):
        finish(run, fake_slurm, accuracy=value)

    printed, _ = launcher("compare", "abstracts", "--cluster", site, "--json")

    [means] = json.loads(printed)["metrics"]
    best, other = means["groups"]
    assert (best["values"], other["values"]) == ({"description": "deep"}, {"description": "wide"})
    assert (best["mean"], other["mean"]) == (pytest.approx(0.85), pytest.approx(0.6))
    assert (best["spread"], other["spread"]) == (pytest.approx(0.005**0.5), pytest.approx(0.02**0.5))
    table, _ = launcher("compare", "abstracts", "--cluster", site)
    assert table.splitlines()[2].split() == ["*", "deep", "2", "0.8500", "±0.0707"]


def test_a_mean_over_seeds_leaves_out_runs_that_go_on(site: str, runs: list[RunDir], fake_slurm: FakeSlurm) -> None:
    for run, value in zip(runs[:3], (0.5, 0.7, 0.9), strict=True):
        finish(run, fake_slurm, accuracy=value)
    runs[3].evaluations.write_text(json.dumps({"step": 1, "time": 1.0, "attempt": 0, "accuracy": 0.1}) + "\n")

    table, _ = launcher("compare", "abstracts", "--cluster", site)

    assert [line.split() for line in table.splitlines()[2:]] == [
        ["*", "deep", "1", "of", "2", "0.9000"],
        ["wide", "2", "0.6000", "±0.1414"],
    ]


def test_an_infinite_metric_is_none_in_means_and_for_the_best_point(
    site: str, runs: list[RunDir], fake_slurm: FakeSlurm
) -> None:
    for run, value in zip(runs, (2.0, float("-inf"), float("inf"), float("inf")), strict=True):
        finish(run, fake_slurm, heldout_loss=value)

    table, _ = launcher("compare", "abstracts", "--cluster", site)

    assert [line.split() for line in table.splitlines()[2:]] == [
        ["*", "wide", "1", "of", "2", "2.0000"],
        ["deep", "0", "of", "2", "-"],
    ]
    assert status(site)["best"] == RunRecord.read(runs[0].record).id


def test_evaluations_of_many_tasks_are_read_whole_and_the_newest_names_the_headline(
    site: str, runs: list[RunDir], fake_slurm: FakeSlurm
) -> None:
    tasks = {f"a task with a long name, number {number}/acc": 0.5 for number in range(200)}
    for run, loss in zip(runs, (3.0, 2.0), strict=False):
        finish(run, fake_slurm, first=0.1, heldout_loss=loss + 1)
        rows = [{"heldout_loss": loss}, tasks, {"heldout_loss": loss - 1}, tasks]
        with run.evaluations.open("a") as file:
            for number, row in enumerate(rows):
                file.write(json.dumps({"step": 2 + number // 2, "time": 1.0, "attempt": 0, **row}) + "\n")

    found = status(site)

    assert found["metric"] == "heldout_loss"
    by_task = status(site, "--metric", [*tasks][7])
    values = {key: value for key, value in by_task["points"][0]["metrics"].items() if key != "loss"}
    assert len(values) == 202 and values["heldout_loss"] == 2.0 and values["first"] == 0.1


def test_the_newest_evaluation_counts_even_if_its_value_is_undefined(
    site: str, runs: list[RunDir], fake_slurm: FakeSlurm
) -> None:
    for run, value in zip(runs, (0.9, 0.7), strict=False):
        finish(run, fake_slurm, auroc=value)
    row = {"step": 2, "time": 2.0, "attempt": 0, "auroc": None}
    runs[0].evaluations.write_text(runs[0].evaluations.read_text() + json.dumps(row) + "\n")

    found = status(site)

    assert [point["metrics"].get("auroc", "none") for point in found["points"]] == [None, 0.7, "none", "none"]
    assert found["best"] == RunRecord.read(runs[1].record).id


def test_cancel_ends_exactly_the_chosen_points(site: str, runs: list[RunDir], fake_slurm: FakeSlurm) -> None:
    told, _ = launcher("cancel", "abstracts", "--where", "description=deep", "--where", "seed=2,3", "--cluster", site)

    assert told.startswith("abstracts: 1 of 1 point cancelled")
    assert [call.argv for call in fake_slurm.calls("scancel")] == [["1001_3"]]
    assert [run.stop_request.exists() for run in runs] == [False, False, False, True]


def test_resume_queues_the_chosen_points_that_are_over_in_one_call(
    site: str, runs: list[RunDir], fake_slurm: FakeSlurm
) -> None:
    finish(runs[0], fake_slurm)
    for place in (1, 2, 3):
        fake_slurm.forget(f"1001_{place}")

    told, _ = launcher("resume", "abstracts", "--where", "description=wide", "--cluster", site)
    everything, _ = launcher("resume", "abstracts", "--cluster", site)

    assert told == "abstracts: 1 of 2 points queued as job 1002\n"
    assert everything == "abstracts: 2 of 4 points queued as job 1003\n"
    assert [call.argv[1:-1] for call in fake_slurm.calls("sbatch")[1:]] == [["--array=1"], ["--array=2,3"]]


def test_stop_takes_waiting_points_out_of_the_queue(site: str, fake_slurm: FakeSlurm) -> None:
    launcher("stop", "abstracts", "--cluster", site)

    [call] = fake_slurm.calls("scancel")
    assert call.argv == [f"1001_{place}" for place in range(4)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cancel", "abstracts", "--where", "lr=1"), "with one of the swept keys `description`, `seed`"),
        (("cancel", "abstracts", "--where", "seed=7"), "no point has this value; there are `1`, `2`"),
        (("cancel", "abstracts", "--where", "seed"), "write `KEY=VALUE`"),
        (("resume", "abstracts"), "no point is over without having finished"),
        (("resume", "abstracts", "--nodes", "2"), "--nodes: is for single runs"),
    ],
)
def test_what_chooses_nothing_is_refused(
    site: str, arguments: tuple[str, ...], said: str, fake_slurm: FakeSlurm
) -> None:
    _, told = launcher(*arguments, "--cluster", site, code=2)

    assert said in told
    assert fake_slurm.calls("scancel") == []


def test_conditions_are_for_sweeps_only(site: str, runs: list[RunDir]) -> None:
    _, told = launcher("cancel", RunRecord.read(runs[0].record).id, "--where", "seed=1", "--cluster", site, code=2)

    assert "chooses points of a sweep" in told


def test_all_runs_are_shown_with_a_line_for_a_sweep(site: str) -> None:
    printed, _ = launcher("status", "--cluster", site)

    assert printed == "sweep abstracts: 4 queued: `launcher status 'abstracts'`\n"


def test_a_thousand_points_are_asked_for_once(site: str, fake_slurm: FakeSlurm) -> None:
    before = len(fake_slurm.calls("squeue"))

    status(site)

    assert len(fake_slurm.calls("squeue")) == before + 1

"""What is told of a large submission, and that people are asked before it."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import typer

from launcher.cli.submit import submit as submit_command
from launcher.load import load_cluster
from launcher.plan.repeated import forecast_repeated
from tests.support.command_line import launcher
from tests.support.fake_slurm import FakeSlurm
from tests.support.submissions import RATES, MakeCluster, loaded, write_profile

GPUS = {"gpus_per_node": 4, "cpus_per_task": 1, "time": "10h"}
SEARCH = {
    "method": "random",
    "space": {"optim.lr": {"low": 1e-5, "high": 1e-2, "scale": "log"}},
    "trials": 5,
    "parallel": 2,
    "metric": "validation_loss",
}
GENERATION = {
    "kind": "generate",
    "name": "texts",
    "model": {"path": "model"},
    "data": {"files": "prompts.jsonl", "format": "prompt"},
    "array_size": 3,
    "resources": GPUS,
}
Write = Callable[..., str]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no profile is found unless it is named."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LAUNCHER_CLUSTER", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def site(tmp_path: Path, make_cluster: MakeCluster, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(
        "launcher.submit.plan_submission.check_each", lambda loaded, *_: [(item, []) for item in loaded]
    )
    profile = write_profile(tmp_path, make_cluster())
    return str(profile)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a person at a terminal is asked, who refuses."""
    questions: list[str] = []

    def refuse(question: str, **_: Any) -> None:
        questions.append(question)
        raise click.Abort

    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr("launcher.cli.large_submission.sys", SimpleNamespace(stdin=terminal, stderr=terminal))
    monkeypatch.setattr(typer, "confirm", refuse)
    return questions


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(recipe: dict[str, Any], **changes: Any) -> str:
        (tmp_path / "recipe.yaml").write_text(json.dumps(recipe | changes))
        return str(tmp_path / "recipe.yaml")

    return written


def test_a_person_is_asked_before_a_search_and_told_what_all_its_trials_may_take(
    site: str, asked: list[str], write: Write, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(RATES, search=SEARCH, resources=GPUS)

    with pytest.raises(click.Abort):
        submit_command([path], cluster=site)

    assert asked == ["submit?"]
    said = capsys.readouterr().err
    assert "rates: 5 trials, 2 at once, by validation_loss: at most 200 GPU-hours, an attempt a trial\n" in said
    assert "would start" in said
    assert all("--test-only" in call.argv for call in fake_slurm.calls("sbatch"))

    submit_command([path], cluster=site, yes=True)
    assert asked == ["submit?"]


def test_nobody_is_asked_before_a_small_run(site: str, asked: list[str], write: Write) -> None:
    submit_command([write(RATES)], cluster=site)

    assert asked == []


def test_array_elements_that_share_the_work_are_all_charged(
    site: str, asked: list[str], write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(click.Abort):
        submit_command([write(GENERATION)], cluster=site)

    assert asked == ["submit?"]
    assert ": at most 120 GPU-hours an attempt\n" in capsys.readouterr().err


def test_a_person_is_asked_before_a_pipeline_of_one_large_stage(
    site: str, asked: list[str], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.pipeline.faults.check_all", lambda *_: [])
    monkeypatch.setattr("launcher.pipeline.faults.find_unstartable", lambda *_: [])
    stages = {"train": {"recipe": RATES | {"resources": GPUS | {"nodes": 2}}}}

    with pytest.raises(click.Abort):
        submit_command([write({"kind": "pipeline", "name": "one", "stages": stages})], cluster=site)

    assert asked == ["submit?"]


def test_validate_tells_what_all_array_elements_and_all_trials_come_to(write: Write) -> None:
    shared, _ = launcher("validate", write(GENERATION))
    searched, _ = launcher("validate", write(RATES, search=SEARCH, resources=GPUS))
    swept, _ = launcher("validate", write(RATES, sweep={"seeds": 3}, resources=GPUS))

    assert "  one attempt: at most 10h, 120 GPU-hours together\n" in shared
    assert "  search: 5 trials, 2 at once, by validation_loss: at most 200 GPU-hours, an attempt each\n" in searched
    assert "3 points like this one: at most 120 GPU-hours, an attempt each\n" in swept


def test_plan_adds_up_the_runs_of_a_sweep_and_counts_those_of_a_search(site: str, write: Write) -> None:
    searched, _ = launcher("plan", write(RATES, search=SEARCH, resources=GPUS), "--cluster", site)
    swept, _ = launcher("plan", write(RATES, sweep={"seeds": 3}, resources=GPUS), "--cluster", site)

    limit = "days without the queue, if each is one attempt up to its time limit"
    assert f"rates: 5 runs, 2 at once: 200 GPU-hours, 1.2 {limit}\n" in searched
    assert f"rates: 3 runs, 3 at once: 120 GPU-hours, 0.4 {limit}\n" in swept


def test_a_recipe_that_is_carried_out_once_is_not_added_up(site: str, make_recipe: Callable[..., Any]) -> None:
    assert [*forecast_repeated(loaded(make_recipe()), load_cluster(site))] == []

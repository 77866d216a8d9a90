"""Submitting a search: checked before it is queued, one array of elements, and afterwards what is missing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.operate.search.ask import ask
from launcher.run.ledger import append_event, read_json_lines
from launcher.run.paths import RunDir
from launcher.run.trials import Owner, SearchDir, read_trials
from tests.support.command_line import launcher
from tests.support.fake_slurm import FakeSlurm, directives
from tests.support.submissions import RATES, MakeCluster, write_profile

SEARCH = {
    "method": "random",
    "space": {"optim.lr": {"low": 1e-5, "high": 1e-2, "scale": "log"}, "optim.weight_decay": [0.0, 0.1]},
    "trials": 4,
    "parallel": 2,
    "metric": "validation_loss",
}


@pytest.fixture
def site(tmp_path: Path, make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(
        "launcher.submit.plan_submission.check_each", lambda loaded, *_: [(item, []) for item in loaded]
    )
    return write_profile(tmp_path, make_cluster())


@pytest.fixture
def submit(tmp_path: Path, site: Path, fake_slurm: FakeSlurm) -> Callable[..., dict[str, Any]]:
    """Submit RATES with some keys of its search replaced, and return what was printed as JSON."""

    def call(*options: str, **changes: Any) -> dict[str, Any]:
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(RATES | {"search": SEARCH | changes}))
        printed, _ = launcher("submit", str(path), "--cluster", str(site), "--json", "--yes", *options)
        report: dict[str, Any] = json.loads(printed)
        return report

    return call


@pytest.fixture
def refuse(tmp_path: Path) -> Callable[..., str]:
    """Validate RATES with some keys of its search replaced, and return the faults."""

    def call(**changes: Any) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(RATES | {"search": SEARCH | changes}, sort_keys=False))
        _, said = launcher("validate", str(path), code=2)
        return said.replace(str(path), "recipe.yaml")

    return call


Submit = Callable[..., dict[str, Any]]


def finish(search: SearchDir, number: int, loss: float, reason: str = "finished") -> None:
    """Write what a trial leaves that ended."""
    run = RunDir(search.runs_root / read_trials(search)[number].run)
    run.evaluations.write_text(json.dumps({"step": 10, "validation_loss": loss}) + "\n")
    append_event(run.ledger, 0, job_id="1001_0", started=1.0, last_step=10, total_steps=10)
    action = "done" if reason == "finished" else "stop"
    append_event(run.ledger, 0, ended=2.0, reason=reason, action=action, message="said")


def test_a_search_is_one_array_whose_elements_know_it(submit: Submit, fake_slurm: FakeSlurm) -> None:
    report = submit()

    assert (report["jobs"], report["elements"], report["left"]) == (["1001"], 2, 4)
    wanted = directives(fake_slurm.script("1001"))
    assert (wanted["array"], wanted["job-name"]) == ("0-1", "rates")
    [submission] = SearchDir(Path(report["folder"])).submissions()
    assert read_json_lines(submission.manifest) == [{"search": report["folder"]}] * 2


def test_submitting_again_queues_what_is_missing(submit: Submit, fake_slurm: FakeSlurm, site: Path) -> None:
    search = SearchDir(Path(submit()["folder"]))
    assert submit()["jobs"] == [], "its elements are in the queue"
    [first] = search.submissions()
    for number in range(4):
        ask(search, Owner("1001_0"), first)
        finish(search, number, loss=float(number))
    launcher("cancel", "rates", "--cluster", str(site))

    assert submit()["jobs"] == []
    more = submit(trials=5)

    assert (more["elements"], more["left"]) == (1, 1)
    assert "array" not in directives(fake_slurm.script(more["jobs"][0]))


def test_a_search_of_something_else_needs_another_name(submit: Submit, site: Path, tmp_path: Path) -> None:
    submit()
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(RATES | {"optim": {"lr": 1e-3, "clip_norm": 2.0}, "search": SEARCH}))

    _, said = launcher("submit", str(path), "--cluster", str(site), code=2)

    assert "the search `rates` tries another recipe, space or metric" in said


def test_status_shows_trials_by_the_metric_and_marks_the_best(submit: Submit, site: Path) -> None:
    search = SearchDir(Path(submit()["folder"]))
    assert launcher("status", "rates", "--cluster", str(site))[0] == (
        "rates: 0 of 4 trials: none has started; by validation_loss, lower is better\n"
    )
    [submission] = search.submissions()
    for number, (loss, reason) in enumerate([(3.0, "finished"), (2.0, "finished"), (5.0, "pruned")]):
        ask(search, Owner("1001_0"), submission)
        finish(search, number, loss, reason)

    head, titles, *rows = launcher("status", "rates", "--cluster", str(site))[0].splitlines()

    assert head == "rates: 3 of 4 trials: 2 finished, 1 pruned; by validation_loss, lower is better"
    assert titles.split() == ["id", "lr", "weight_decay", "state", "step", "validation_loss"]
    assert [(row.startswith("*"), row.split()[-1]) for row in rows] == [
        (True, "2.0000"),
        (False, "3.0000"),
        (False, "5.0000"),
    ]
    launcher("cancel", "rates", "--cluster", str(site))
    assert "no element" not in launcher("status", "rates", "--where", "weight_decay=0,0.1", "--cluster", str(site))[0]
    told = json.loads(launcher("status", "rates", "--json", "--cluster", str(site))[0])
    assert "no element is queued or running" in told["notes"][0]
    assert (told["search"], told["trials"], told["metric"]) == ("rates", 4, "validation_loss")
    assert told["best"] == told["points"][1]["id"]


def test_resume_tries_again_what_failed_and_cancel_ends_all(submit: Submit, site: Path, fake_slurm: FakeSlurm) -> None:
    search = SearchDir(Path(submit()["folder"]))
    for number in range(3):
        ask(search, Owner("1001_0"), search.submissions()[0])
        finish(search, number, loss=1.0, reason="error")
    said, _ = launcher("cancel", "rates", "--cluster", str(site))
    assert said.endswith("`launcher resume rates` continues\n")
    assert search.stop_request.exists()
    assert "note: no element is queued or running: `launcher resume rates` queues some" in status(site)

    said, _ = launcher("resume", "rates", "--cluster", str(site))

    assert said == "rates: 4 trials left: 2 elements in job 1002\n"
    assert not search.stop_request.exists()
    again = ask(search, Owner("1002_0"), search.submissions()[-1]).trial
    assert again is not None and again.number == 0


def test_what_is_rendered_is_what_is_queued(submit: Submit, site: Path, tmp_path: Path, fake_slurm: FakeSlurm) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(RATES | {"search": SEARCH}))
    rendered, _ = launcher("render", str(path), "--cluster", str(site))
    submit()

    assert rendered == fake_slurm.script("1001")


def test_a_search_is_submitted_by_itself(site: Path, tmp_path: Path) -> None:
    path, other = tmp_path / "recipe.yaml", tmp_path / "other.yaml"
    path.write_text(json.dumps(RATES | {"search": SEARCH}))
    other.write_text(json.dumps(RATES | {"name": "other"}))

    _, said = launcher("submit", str(path), str(other), "--cluster", str(site), code=2)

    assert "is a search; submit it by itself" in said


@pytest.mark.parametrize(
    ("option", "fix"),
    [("--rerun", "write another `name`"), ("--follow", "`launcher logs TRIAL --follow`"), ("--test-only", "--dry-run")],
)
def test_options_that_make_no_sense_say_what_to_do_instead(site: Path, tmp_path: Path, option: str, fix: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(RATES | {"search": SEARCH}))

    _, said = launcher("submit", str(path), option, "--cluster", str(site), code=2)

    assert said.startswith(f"{option}: ")
    assert fix in said


def test_fewer_elements_than_the_recipe_says_can_be_queued(submit: Submit, fake_slurm: FakeSlurm) -> None:
    assert submit("--max-parallel", "1", parallel=3)["elements"] == 1
    assert submit(parallel=3)["elements"] == 2, "a later submission adds the others"


def test_a_search_starts_when_a_run_has_finished(
    submit: Submit, tmp_path: Path, site: Path, fake_slurm: FakeSlurm
) -> None:
    path = tmp_path / "first.yaml"
    path.write_text(json.dumps(RATES | {"name": "first"}))
    launcher("submit", str(path), "--cluster", str(site), "--yes")

    submit("--after", "first")

    assert "--dependency=afterok:1001" in fake_slurm.calls("sbatch")[-1].argv


def test_waiting_for_a_search_ends_with_its_elements(
    submit: Submit, site: Path, tmp_path: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, alive = tmp_path / "recipe.yaml", [["1001_0"], []]
    search = SearchDir(Path(submit()["folder"]))
    monkeypatch.setattr("launcher.cli.search.POLL_SECONDS", (0.0, 0.0))
    monkeypatch.setattr("launcher.submit.searches.alive_elements", lambda *_: alive.pop(0) if alive else [])

    _, said = launcher("submit", str(path), "--wait", "--cluster", str(site), code=1)
    assert "rates: 0 of 4 trials are over\n" in said

    for number in range(4):
        ask(search, Owner("1001_0"), search.submissions()[0])
        finish(search, number, loss=1.0)
    _, said = launcher("submit", str(path), "--wait", "--cluster", str(site))
    assert "rates: 4 of 4 trials are over\n" in said


def status(site: Path) -> str:
    return launcher("status", "rates", "--cluster", str(site))[0]


def test_without_optuna_only_what_needs_none_is_queued(submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.submit.searches.find_spec", lambda _: None)
    with pytest.raises(AssertionError, match="this Python has no `optuna`"):
        submit(method="tpe")
    with pytest.raises(AssertionError, match="this Python has no `optuna`"):
        submit(pruner={"min_step": 4})
    assert submit()["elements"] == 2


def test_a_stopped_search_is_resumed_when_its_elements_are_gone(
    submit: Submit, site: Path, fake_slurm: FakeSlurm
) -> None:
    search = SearchDir(Path(submit()["folder"]))
    search.stop_request.touch()

    _, said = launcher("resume", "rates", "--cluster", str(site), code=2)

    assert said == "`rates`: was stopped, and job 1001_0 is still saving or ending; try again in a minute\n"
    assert search.stop_request.exists()


def test_a_trial_does_not_take_its_job_with_it(submit: Submit, site: Path, fake_slurm: FakeSlurm) -> None:
    search = SearchDir(Path(submit()["folder"]))
    trial = ask(search, Owner("1001_0"), search.submissions()[0]).trial
    assert trial is not None
    run = RunDir(search.runs_root / trial.run)

    _, said = launcher("cancel", str(run.root), "--cluster", str(site), code=2)
    assert "is a trial of `rates`, whose job goes on with others; `launcher stop" in said
    launcher("stop", str(run.root), "--cluster", str(site))

    assert not fake_slurm.calls("scancel")
    assert run.stop_request.exists()
    launcher("cancel", "rates", "--cluster", str(site))
    _, said = launcher("resume", str(run.root), "--cluster", str(site), code=2)
    assert "is a trial of `rates`; `launcher resume rates` takes it up again" in said


def test_a_dry_run_writes_and_queues_nothing(tmp_path: Path, site: Path, fake_slurm: FakeSlurm) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(RATES | {"search": SEARCH}))

    script, said = launcher("submit", str(path), "--cluster", str(site), "--dry-run")

    assert directives(script)["array"] == "0-1"
    assert said.splitlines()[-2:] == [
        "rates: 4 trials, 2 at once, by validation_loss",
        "nothing was written or queued",
    ]
    assert not (tmp_path / "runs").exists() and not fake_slurm.calls("sbatch")


def test_a_metric_that_the_kind_does_not_report_is_refused(refuse: Callable[..., str]) -> None:
    assert refuse(metric="validation_los") == (
        "recipe.yaml:30: search.metric: `validation_los` is not reported by this recipe; write one of "
        "`validation_loss`, `loss`, `token_perplexity`, `byte_perplexity`\n"
    )
    assert "`validation_loss` is the better the lower; write `minimize`" in refuse(direction="maximize")


def test_what_cannot_be_searched_is_refused(refuse: Callable[..., str]) -> None:
    assert "search.space.resources.nodes: `resources.nodes` is the same for all trials" in refuse(
        space={"resources.nodes": [1, 2]}
    )
    assert "unknown key; did you mean `lr`?" in refuse(space={"optim.lrr": [1e-3]})
    assert "`grid` needs a list for `optim.lr`" in refuse(method="grid")
    assert "`grid` has 2 combinations; write at most 2" in refuse(method="grid", space={"optim.weight_decay": [0, 1]})
    assert "4 are more than `trials`" in refuse(trials=2, parallel=4)


def test_each_end_of_the_space_is_checked(refuse: Callable[..., str]) -> None:
    said = refuse(space={"optim.lr": {"low": -1.0, "high": 1.0}, "batch.micro_batch": [1, 5]})

    assert "optim.lr: `-1.0` is not valid here; write a number greater than 0 (at the point optim.lr=-1.0" in said
    assert "optim.lr: `1.0` is not valid here; write a number less than 1 (at the point optim.lr=1.0" in said
    said = refuse(space={"optim.lr": [1e-3], "batch.micro_batch": [1, 5]})
    assert "batch.global_batch: 16 sequences are not a multiple" in said and "micro_batch=5" in said

"""Searches whose values a sweep of W&B gives: what is refused before the queue, and that they are queued as others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.recipe.sections.search import Search
from launcher.run.ledger import append_event
from launcher.run.paths import RunDir
from launcher.run.trials import Owner, SearchDir, Trial, claim
from launcher.submit.search_record import SearchRecord
from tests.support.command_line import launcher
from tests.support.fake_slurm import FakeSlurm, directives
from tests.support.submissions import RATES, MakeCluster, write_profile

SWEEP = "lab/rates/abc"
SEARCH = {"method": "wandb", "sweep": SWEEP, "trials": 4, "parallel": 2, "metric": "validation_loss"}
TRACKING = {"mode": "online", "project": "rates", "entity": "lab"}
SPACE = {"optim.lr": [1e-3, 1e-4]}
Run = Callable[..., tuple[str, str]]


@pytest.fixture(autouse=True)
def no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def profile(tmp_path: Path, make_cluster: MakeCluster) -> Path:
    return write_profile(tmp_path, make_cluster())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Call a command with RATES, some keys of its search and of itself replaced."""

    def call(*command: str, code: int = 0, search: dict[str, Any] | None = None, **changes: Any) -> tuple[str, str]:
        written = {key: value for key, value in (SEARCH | (search or {})).items() if value is not None}
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(RATES | {"tracking": TRACKING, "search": written} | changes))
        first, *others = command
        return launcher(first, str(path), *others, code=code)

    return call


@pytest.mark.parametrize(
    ("search", "tracking", "said"),
    [
        ({"sweep": None}, {}, "search.sweep: `wandb` needs the sweep that gives the values; write `ENTITY/PROJECT/ID`"),
        ({"sweep": "abc"}, {}, "search.sweep: `abc` is no sweep of W&B; write `ENTITY/PROJECT/ID`"),
        ({"space": SPACE}, {}, "search.space: the sweep at W&B has the space; remove this key"),
        ({"pruner": {"min_step": 2}}, {}, "search.pruner: is not for `wandb`"),
        ({"method": "random", "space": SPACE}, {}, "search.sweep: `random` chooses values itself"),
        ({"method": "random", "sweep": None}, {}, "search.space: `random` needs the values of at least one key"),
        ({}, {"mode": "offline"}, f"tracking.mode: trials are runs of the sweep `{SWEEP}`; write `online`"),
        ({}, {"project": "other"}, f"tracking.project: trials are runs of the sweep `{SWEEP}`; write `rates`"),
        ({}, {"entity": None}, f"tracking.entity: trials are runs of the sweep `{SWEEP}`; write `lab`"),
    ],
)
def test_keys_that_contradict_each_other_say_what_to_write(
    run: Run, search: dict[str, Any], tracking: dict[str, Any], said: str
) -> None:
    _, printed = run("validate", code=2, search=search, tracking=TRACKING | tracking)

    assert said in printed


def test_a_sweep_of_wandb_is_valid_and_counted(run: Run) -> None:
    printed, _ = run("validate")

    assert "search: 4 trials, 2 at once, by validation_loss" in printed


def test_a_fault_of_the_recipe_names_no_point(run: Run) -> None:
    _, printed = run("validate", code=2, optim={"lr": -1.0})

    assert "optim.lr: `-1.0` is not valid here; write a number greater than 0\n" in printed


def test_without_a_key_nothing_is_queued(run: Run, profile: Path, tmp_path: Path, fake_slurm: FakeSlurm) -> None:
    asked = ("validate", "--cluster", str(profile))
    assert "search.sweep: there is no key for api.forge.coreweave.com here" in run(*asked, code=2)[1]
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine api.forge.coreweave.com login user password {'k' * 40}\n")
    netrc.chmod(0o600)

    assert "no key" not in run(*asked, code=2)[1]
    assert "secrets.0: `WANDB_API_KEY` is neither in" in run(*asked, code=2, secrets=["WANDB_API_KEY"])[1]


def test_it_is_queued_as_other_searches_are(
    run: Run, profile: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "launcher.submit.plan_submission.check_each", lambda loaded, *_: [(item, []) for item in loaded]
    )

    report = json.loads(run("submit", "--cluster", str(profile), "--json", "--yes")[0])

    assert (report["elements"], report["left"]) == (2, 4)
    assert directives(fake_slurm.script(report["jobs"][0]))["array"] == "0-1"
    section = json.loads(SearchDir(Path(report["folder"])).record.read_bytes())["section"]
    assert (section["sweep"], section["space"]) == (SWEEP, {})
    assert "rates: 0 of 4 trials" in launcher("status", "rates", "--cluster", str(profile))[0]
    _, said = run("submit", "--cluster", str(profile), "--yes", code=2, search={"sweep": "lab/rates/other"})
    assert "the search `rates` tries another recipe, space or metric" in said
    assert "continues" in launcher("cancel", "rates", "--cluster", str(profile))[0]


def test_waiting_ends_when_the_sweep_has_ended_before_its_time(
    run: Run, profile: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "launcher.submit.plan_submission.check_each", lambda loaded, *_: [(item, []) for item in loaded]
    )
    monkeypatch.setattr("launcher.cli.search.POLL_SECONDS", (0.0, 0.0))
    report = json.loads(run("submit", "--cluster", str(profile), "--json", "--yes")[0])
    search = SearchDir(Path(report["folder"]))
    assert claim(search, Trial(0, "rates-0", {"optim.lr": 1e-3}, "", Owner("1001_0"), "first"))
    trial = RunDir(search.runs_root / "rates-0")
    trial.root.mkdir()
    append_event(trial.ledger, 0, job_id="1001_0", started=1.0, ended=2.0, reason="finished", action="done")

    def alive(*_: object) -> list[str]:
        """The elements leave when W&B has said that there is no more."""
        is_first = SearchRecord.read(search.record).search.trials == 4
        SearchRecord.read(search.record).ending_at(1).write(search.record)
        return ["1001_0"] if is_first else []

    monkeypatch.setattr("launcher.submit.searches.alive_elements", alive)
    launcher_alive = ["submit", str(profile.with_name("recipe.yaml")), "--wait", "--yes", "--cluster", str(profile)]
    _, said = launcher(*launcher_alive)

    assert "rates: 1 of 1 trials are over\n" in said


def test_searches_by_other_methods_are_written_as_before_so_that_they_can_go_on() -> None:
    """Records and the identities of stages compare the section as it is dumped."""
    search = Search.model_validate_json(json.dumps({"space": SPACE, "trials": 2, "metric": "validation_loss"}))

    keys = ["method", "space", "trials", "parallel", "metric", "direction", "seed", "pruner"]
    assert [*search.model_dump(mode="json")] == [*json.loads(search.model_dump_json())] == keys


def test_wandbs_client_has_to_be_there(run: Run, profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "launcher.submit.plan_submission.check_each", lambda loaded, *_: [(item, []) for item in loaded]
    )
    monkeypatch.setattr("launcher.submit.searches.find_spec", lambda _: None)

    _, said = run("submit", "--cluster", str(profile), "--yes", code=2)

    assert "this Python has no `wandb`, which nodes need to choose values; install it with `pip install" in said

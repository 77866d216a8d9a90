"""Searches whose values a sweep of W&B gives: W&B's real client, against a server on this machine."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import RunError
from launcher.monitor.trials import read_past
from launcher.operate.search import ask as asking
from launcher.operate.search.ask import ask
from launcher.run.ledger import append_event
from launcher.run.record import RunRecord
from launcher.run.trials import Owner, SearchDir, Trial, claim, read_trials
from launcher.submit.search_record import SearchRecord
from tests.support.searches import Element, check_whole, make_search, start
from tests.support.submissions import MakeCluster, MakeRecipe
from tests.support.waiting import PATIENCE
from tests.support.wandb_server import WandbServer, wandb_server

pytestmark = pytest.mark.slow

SWEEP = "tester/tests/abc"
TRACKING = {"mode": "online", "project": "tests", "entity": "tester"}
KEY = "local-" + "k" * 40
Make = Callable[..., Element]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    environ = {"WANDB_API_KEY": KEY, "WANDB_ERROR_REPORTING": "false", "NO_PROXY": "127.0.0.1", "HOME": str(tmp_path)}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("launcher.operate.search.wandb_sweep.POLL_SECONDS", 0)
    monkeypatch.setattr("launcher.operate.search.wandb_sweep.WAIT_SECONDS", 0)
    monkeypatch.chdir(tmp_path)
    with wandb_server() as serving:
        monkeypatch.setenv("WANDB_BASE_URL", serving.url)
        yield serving
        if "wandb" in sys.modules:
            sys.modules["wandb"].teardown()


@pytest.fixture
def make(tmp_path: Path, make_cluster: MakeCluster, make_cpt: MakeRecipe) -> Make:
    def call(cluster: dict[str, Any] | None = None, recipe: dict[str, Any] | None = None, **section: Any) -> Element:
        section = {"method": "wandb", "space": {}, "sweep": SWEEP} | section
        trained = make_cpt(tracking=TRACKING, **recipe or {})
        return Element(*make_search(tmp_path, make_cluster(**cluster or {}), trained, **section))

    return call


def give(server: WandbServer, *runs: str) -> None:
    """Let the sweep give these runs, each with another learning rate, and then no more."""
    for number, run in enumerate(runs):
        server.give(SWEEP, run, optim__lr=1e-3 / (number + 1), optim__weight_decay=0.1)
    server.end_sweep(SWEEP)


def names(search: SearchDir) -> list[str | None]:
    return [trial.wandb_id for trial in read_trials(search)]


def test_a_trial_has_the_values_and_the_run_that_the_sweep_gave(make: Make, server: WandbServer) -> None:
    element = make(trials=2)
    give(server, "first")

    trial = element.ask().trial

    assert trial is not None
    assert (trial.values, trial.wandb_id) == ({"optim.lr": 1e-3, "optim.weight_decay": 0.1}, "first")
    record = RunRecord.read(element.run_of(trial).record)
    assert (record.wandb_id, record.wandb_sweep, record.point) == ("first", "abc", trial.values)
    assert json.loads(element.run_of(trial).recipe.read_bytes())["optim"]["weight_decay"] == 0.1
    assert server.runs == {}, "the trial itself starts the run"


def test_a_trial_that_was_left_goes_on_as_the_same_run_and_nothing_is_asked(make: Make, server: WandbServer) -> None:
    element = make(trials=2)
    give(server, "first", "second")
    dead = Owner("local-7", host=os.uname().nodename, started="1")
    first = ask(element.search, dead, element.submission).trial
    assert first is not None
    append_event(element.run_of(first).ledger, 0, job_id="local-7", started=1.0, nodes=[dead.host])

    again = element.ask().trial

    assert again == first
    assert RunRecord.read(element.run_of(first).record).wandb_id == "first"
    assert server.operations.count("Heartbeat") == 1


def test_so_does_one_whose_element_died_right_after_the_claim(make: Make, server: WandbServer) -> None:
    element = make(trials=1)
    dead = Owner("local-7", host=os.uname().nodename, started="1")
    values = {"optim.lr": 1e-3, "optim.weight_decay": 0.1}
    assert claim(element.search, Trial(0, "rates-20260921-120000-abc123", values, "", dead, "first"))

    trial = element.ask().trial

    assert trial is not None
    record = RunRecord.read(element.run_of(trial).record)
    assert (record.wandb_id, record.wandb_sweep) == ("first", "abc")
    assert server.operations == []


def test_a_search_whose_sweep_has_ended_is_done_with_what_there_is(make: Make, server: WandbServer) -> None:
    element = make(trials=9, parallel=4, recipe={"output": "tuned"})
    give(server, "first", "second")
    for _ in range(2):
        trial = element.ask().trial
        assert trial is not None
        (element.run_of(trial).outputs / "model").mkdir(parents=True)
        element.carry_out(trial)

    offer = element.ask()

    assert (offer.trial, offer.is_done) == (None, True)
    assert offer.why.startswith(f"the sweep `{SWEEP}` has ended at W&B; `tuned` is what trial 0 made")
    assert SearchRecord.read(element.search.record).search.budget == 2
    assert element.ask().why.startswith("all 2 trials are taken")


def test_a_sweep_that_gave_nothing_at_all_leaves_the_search_undone(make: Make, server: WandbServer) -> None:
    element = make(trials=3)
    give(server)

    offer = element.ask()

    assert (offer.why, offer.is_done) == (f"the sweep `{SWEEP}` has ended at W&B", False)
    assert SearchRecord.read(element.search.record).search.budget == 3


def test_a_sweep_that_is_paused_ends_no_search(make: Make, server: WandbServer) -> None:
    server.sweeps[SWEEP] = []

    offer = make(trials=3).ask()

    assert (offer.trial, offer.is_done) == (None, False)
    assert "the sweep is paused, or W&B is away" in offer.why


def test_a_sweep_that_is_not_there_is_named(make: Make, server: WandbServer) -> None:
    with pytest.raises(RunError, match=f"W&B gives no runs of `{SWEEP}`"):
        make(trials=3).ask()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("optim.lrr", 1e-3, "`optim.lrr` is no key of this recipe"),
        ("optim", {"lr": 1e-3}, "write them with dots, as `optim.KEY`"),
        ("data_use", "open", "`data_use` is the same for all trials"),
        ("tracking.project", "other", "`tracking.project` is the same for all trials"),
        ("seed.first", 1, "leads nowhere in this recipe"),
    ],
)
def test_a_parameter_that_is_no_key_of_the_recipe_is_named(
    make: Make, server: WandbServer, key: str, value: object, said: str
) -> None:
    element = make(trials=3)
    server.give(SWEEP, "first", **{key: value})

    with pytest.raises(RunError, match=said):
        element.ask()

    assert names(element.search) == []
    assert server.runs["first"].exit_codes == [1], "W&B knows that nothing comes of it"


def test_values_that_do_not_go_together_are_told_to_wandb_and_others_taken(make: Make, server: WandbServer) -> None:
    element = make(trials=3)
    server.give(SWEEP, "first", batch__micro_batch=5)
    server.give(SWEEP, "second", batch__micro_batch=4)

    trial = element.ask().trial

    assert trial is not None and trial.wandb_id == "second", "16 sequences are no multiple of 5"
    failed = server.runs["first"]
    assert (failed.exit_codes, failed.sweep, failed.project) == ([1], "abc", "tests")
    assert json.loads(failed.config)["batch.micro_batch"]["value"] == 5


def test_an_element_gives_up_in_time_and_tells_wandb_of_the_last_run(
    make: Make, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each refusal may take a minute, and the batch process does not wait for 20 of them."""
    monkeypatch.setattr(asking, "PATIENCE_SECONDS", 0.0)
    element = make(trials=3)
    server.give(SWEEP, "first", batch__micro_batch=5)
    server.give(SWEEP, "second", batch__micro_batch=4)

    with pytest.raises(RunError, match=r"once values were chosen that do not go together; the last time: .*multiple"):
        element.ask()

    assert [*server.runs] == ["first"] and server.runs["first"].exit_codes == [1]
    assert names(element.search) == []


def test_a_run_that_is_given_twice_is_one_trial(
    make: Make, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.operate.search.wandb_sweep.WAIT_SECONDS", PATIENCE)
    element = make(trials=3)
    give(server, "first", "first", "second")
    for _ in range(2):
        trial = element.ask().trial
        assert trial is not None
        element.carry_out(trial)

    assert names(element.search) == ["first", "second"]


@pytest.mark.parametrize(("trials", "codes"), [(1, [1]), (2, [])])
def test_what_was_given_for_a_number_that_another_has_claimed_gets_the_next(
    make: Make, server: WandbServer, monkeypatch: pytest.MonkeyPatch, trials: int, codes: list[int]
) -> None:
    element, other = make(trials=trials), Owner("local-7", host="far", started="1")
    give(server, "first")

    def be_late(folder: SearchDir, trial: Trial) -> bool:
        monkeypatch.setattr(asking, "claim", claim)
        assert claim(folder, replace(trial, run="other", owner=other, wandb_id="others"))
        return claim(folder, trial)

    monkeypatch.setattr(asking, "claim", be_late)
    offer = element.ask()

    assert names(element.search) == ["others", "first"][:trials]
    assert offer.is_done == (trials == 1)
    assert (server.runs["first"].exit_codes if codes else []) == codes, "no number was left for it"


def test_two_elements_at_once_make_a_trial_of_each_run(make: Make, server: WandbServer) -> None:
    element, runs = make(trials=9), [f"run{number}" for number in range(5)]
    give(server, *runs)

    processes = [start(element) for _ in range(2)]
    for process in processes:
        process.join(PATIENCE)

    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(map(str, names(element.search))) == runs
    check_whole(element.search, 5)
    assert [one.state for one in read_past(element.search, "validation_loss")] == ["finished"] * 5


def test_the_key_comes_from_the_secrets_file_and_stands_in_no_other(
    make: Make, server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    secrets = tmp_path / "secrets"
    secrets.write_text(f"WANDB_API_KEY={KEY}\nOTHER=1\n")
    secrets.chmod(0o600)
    element = make(trials=3, cluster={"secrets_file": str(secrets)}, recipe={"secrets": ["WANDB_API_KEY"]})
    server.give(SWEEP, "first", batch__micro_batch=5)
    server.give(SWEEP, "second", optim__lr=1e-4)

    assert element.ask().trial is not None

    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != secrets]
    assert len(files) > 5
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []

"""Elements of a search in local mode: real batch processes that ask what comes next, and ranks that are a formula."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir
from launcher.run.trials import read_trials
from tests.support.counting_runs import run_batch, start_batch, summary
from tests.support.searches import StagedSearch, stage_search
from tests.support.submissions import MakeCluster, MakeRecipe
from tests.support.waiting import PATIENCE, wait_for
from tests.support.wandb_server import wandb_server

pytestmark = pytest.mark.slow

GOOD, BAD = 1e-3, 1e-1


@pytest.fixture
def stage(tmp_path: Path, make_cluster: MakeCluster, make_cpt: MakeRecipe) -> Callable[..., StagedSearch]:
    def make(*rates: float, **section: Any) -> StagedSearch:
        cluster = make_cluster(executor="local", gpus={"device": "cpu"})
        return stage_search(tmp_path, cluster, make_cpt(), rates, **section)

    return make


def test_an_element_carries_out_one_trial_after_the_other(stage: Callable[..., StagedSearch]) -> None:
    staged = stage(GOOD, BAD)

    code, said = run_batch(staged.submission)

    assert code == 0, said
    assert [summary(staged.run(number)) for number in range(2)] == [[("finished", "done")]] * 2
    assert "all 2 trials are taken" in said


def test_a_killed_element_leaves_its_trial_to_the_next_one(stage: Callable[..., StagedSearch]) -> None:
    staged = stage(BAD, GOOD)
    hold = staged.hold(0)
    first = start_batch(staged.submission)
    wait_for(lambda: staged.waits(0), "the first trial")
    kill(first, staged.run(0))

    hold.unlink()
    code, said = run_batch(staged.submission)

    assert code == 0, said
    assert [attempt.reason for attempt in read_attempts(staged.run(0).ledger)] == ["killed", "finished"]
    assert [trial.values["optim.lr"] for trial in read_trials(staged.search)] == [BAD, GOOD]


def test_a_stopped_search_starts_no_further_trial(stage: Callable[..., StagedSearch]) -> None:
    staged = stage(GOOD, BAD)
    hold = staged.hold(0)
    element = start_batch(staged.submission)
    wait_for(lambda: staged.waits(0), "the first trial")
    staged.search.stop_request.touch()
    hold.unlink()

    said, _ = element.communicate(timeout=PATIENCE)

    assert element.returncode == 75, said
    assert len(read_trials(staged.search)) == 1
    assert summary(staged.run(0)) == [("finished", "done")], "what was under way goes on"


def test_a_trial_that_is_left_behind_ends_early_and_frees_its_place(stage: Callable[..., StagedSearch]) -> None:
    staged = stage(GOOD, BAD, 2e-3, pruner={"min_step": 1, "factor": 2})
    staged.hold(1)

    code, said = run_batch(staged.submission)

    assert code == 0, said
    assert [summary(staged.run(number)) for number in (0, 1)] == [[("finished", "done")], [("pruned", "stop")]]
    assert "other trials were better at step" in staged.run(1).batch_log(0).read_text()
    assert len(read_trials(staged.search)) == 3, "the next trial got its place"


def test_a_whole_search_is_what_a_sweep_of_wandb_gives_and_a_killed_trial_is_still_one_run(
    tmp_path: Path, make_cluster: MakeCluster, make_cpt: MakeRecipe
) -> None:
    """The element asks with W&B's own client, and the ranks track with it."""
    cluster = make_cluster(executor="local", gpus={"device": "cpu"})
    recipe = make_cpt(tracking={"mode": "online", "project": "tests", "entity": "tester"})
    staged = stage_search(tmp_path, cluster, recipe, (), method="wandb", space={}, sweep="tester/tests/abc", trials=9)
    key, hold = "local-" + "k" * 40, staged.hold(0)
    with wandb_server() as server:
        for run, rate in (("first", BAD), ("second", GOOD)):
            server.give("tester/tests/abc", run, optim__lr=rate)
        server.end_sweep("tester/tests/abc")
        environ = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": key, "NO_PROXY": "127.0.0.1", "HOME": str(tmp_path)}
        killed = start_batch(staged.submission, **environ)
        wait_for(lambda: staged.waits(0), "the first trial")
        kill(killed, staged.run(0))
        hold.unlink()
        code, said = run_batch(staged.submission, **environ)

    assert code == 0, said
    assert "no further trial: the sweep `tester/tests/abc` has ended at W&B" in said
    assert [trial.wandb_id for trial in read_trials(staged.search)] == ["first", "second"] == [*server.runs]
    assert [one for one, _ in summary(staged.run(0))] == ["killed", "finished"]
    for run, rate in (("first", BAD), ("second", GOOD)):
        stored = server.runs[run]
        assert (stored.sweep, stored.group, stored.exit_codes[-1]) == ("abc", "pretrain", 0)
        assert json.loads(stored.config)["optim.lr"]["value"] == rate
        assert {row["train/global_step"] for row in stored.history if "validation/loss" in row} == {*range(1, 7)}
    assert server.operations.count("Heartbeat") == 3
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if key.encode() in path.read_bytes()] == []


def kill(batch: "subprocess.Popen[str]", run: RunDir) -> None:
    """Kill a batch process, and its rank, as a node does that goes down."""
    ranks = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if os.fsencode(run.root) in read(path) and b"--attempt" in read(path)
    ]
    batch.kill()
    batch.communicate()
    for rank in ranks:
        if Path(f"/proc/{rank}").exists():
            os.kill(rank, signal.SIGKILL)


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""

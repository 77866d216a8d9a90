"""Runs without Slurm below a folder that several machines share: what one machine says of a run on another."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.monitor.elsewhere import Sighting, find_elsewhere, sight
from launcher.monitor.run_state import read_state
from launcher.monitor.status import RunStatus, read_statuses
from launcher.operate.stop import cancel, resume, stop
from launcher.run.heartbeat import Bound
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir, SubmissionDir
from launcher.run.record import CorpusShare
from launcher.run.signs_of_life import END_SECONDS, UNWATCHED_SECONDS, seen_lately
from launcher.slurm.local_queue import LocalQueue
from tests.support.run_histories import History

HANG = 1000.0


@pytest.fixture
def here(make_cluster: Callable[..., Cluster]) -> Cluster:
    return make_cluster(executor="local")


@pytest.fixture
def running(here: Cluster) -> History:
    """A run whose only attempt is at work on a machine called `far`."""
    history = History.begin(Path(here.roots.runs)).submit("local-999999999", at=0)
    history.start(0, "local-999999999", at=10, nodes=("far",)).log(0, 0, "step 1")
    return history


def age(run: RunDir, attempt: int, seconds: float) -> None:
    """Let everything that an attempt has written be so old."""
    folder, when = run.attempt_logs(attempt), time.time() - seconds
    for path in (*folder.glob("*"), folder):
        os.utime(path, (when, when))


def status_of(run: RunDir, cluster: Cluster) -> RunStatus:
    [status], _ = read_statuses(cluster, [run])
    return status


def test_a_run_that_writes_on_another_machine_runs_there(running: History, here: Cluster) -> None:
    status = status_of(running.run, here)

    assert (status.state, status.nodes) == ("running", ("far",))
    assert status.why.startswith("on `far`, where it last wrote something")


def test_one_that_has_been_silent_for_longer_than_a_hang_is_lost(running: History, here: Cluster) -> None:
    age(running.run, 0, UNWATCHED_SECONDS + 60)

    assert status_of(running.run, here).state == "lost"


def test_nor_is_a_run_of_this_machine_anywhere_else(here: Cluster) -> None:
    history = History.begin(Path(here.roots.runs)).submit("local-999999999", at=0)
    history.start(0, "local-999999999", at=10, nodes=(os.uname().nodename,)).log(0, 0, "step 1")

    assert status_of(history.run, here).state == "lost"


def test_it_is_neither_resumed_nor_cancelled_here_but_can_be_asked_to_stop(running: History, here: Cluster) -> None:
    with pytest.raises(RunError, match=r"is running as job local-999999999; nothing to resume; it is on `far`"):
        resume(running.run, here)
    with pytest.raises(RunError, match=r"runs on `far`, .*; type this on `far`, or `launcher stop tiny-cpt-"):
        cancel(running.run, here)
    assert not running.run.stop_request.exists()
    assert read_attempts(running.run.ledger)[0].ended is None

    assert stop(running.run, here) == "asked"

    assert running.run.stop_request.exists()
    assert status_of(running.run, here).why.startswith("asked to stop, on `far`")


@pytest.fixture
def waiting(running: History) -> History:
    """A task that waits for its turn behind the run on `far`, whose process carries out both."""
    running.record.group = running.run.root.name
    running.record.write(running.run.record)
    found = History(running.run.share(1))
    found.run.root.mkdir(parents=True)
    found.run.recipe.write_text("{}")
    found.record = replace(running.record, share=CorpusShare(1, 2))
    found.record.write(found.run.record)
    return found


def test_tasks_that_wait_for_their_turn_wait_where_the_others_are(
    running: History, waiting: History, here: Cluster
) -> None:
    seen = find_elsewhere(read_state(waiting.run))

    assert seen is not None and seen.host == "far"
    assert status_of(waiting.run, here).why == "waits for its turn on `far`"
    age(running.run, 0, UNWATCHED_SECONDS + 60)
    assert find_elsewhere(read_state(waiting.run)) is None


def test_between_two_tasks_their_process_has_a_moment(running: History, waiting: History) -> None:
    running.end(0, "finished", "done", at=20)

    assert find_elsewhere(read_state(running.run)) is None
    assert find_elsewhere(read_state(waiting.run)) is not None
    age(running.run, 0, END_SECONDS + 20)
    assert find_elsewhere(read_state(waiting.run)) is None


def test_an_attempt_that_is_started_again_at_once_is_still_there(running: History) -> None:
    running.end(0, "hang", "restart", at=20)

    assert find_elsewhere(read_state(running.run)) is not None


def test_tasks_that_were_stopped_on_another_machine_can_be_resumed_here(
    running: History, waiting: History, here: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"run": str(one.run.root)} for one in (waiting, running)]
    submission = SubmissionDir(Path(running.record.submissions[-1].folder))
    submission.manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    started: list[SubmissionDir] = []
    monkeypatch.setattr(LocalQueue, "add", lambda _, which: started.append(which) or "local-999999998")

    assert stop(running.run, here) == "asked"
    with pytest.raises(RunError, match="is making what its tasks did not"):
        resume(running.run, here)
    assert status_of(waiting.run, here).state == "stopped"
    running.end(0, "stopped", "stop", at=20)

    assert [status_of(one.run, here).state for one in (running, waiting)] == ["stopped", "stopped"]
    assert find_elsewhere(read_state(waiting.run)) is None
    assert resume(running.run, here) == ["local-999999998"]

    assert started == [submission]
    assert not running.run.stop_request.exists() and not waiting.run.stop_request.exists()


@pytest.mark.parametrize(("bound", "silence", "is_seen"), [(20, 200, True), (20, 400, False), (HANG, 400, True)])
def test_how_long_an_attempt_may_be_silent_is_what_its_batch_process_would_bear(
    running: History, bound: float, silence: float, is_seen: bool
) -> None:
    Bound(bound, "training", 1.0).write(running.run.heartbeat(0))
    age(running.run, 0, silence)

    assert (seen_lately(running.run, 0, HANG) is not None) == is_seen
    assert 200 < 20 + HANG / 10 + END_SECONDS < 400


def test_what_a_run_was_made_for_counts_before_its_first_attempt(here: Cluster) -> None:
    run = History.begin(Path(here.roots.runs)).run

    seen = sight(run, None, "far")

    assert isinstance(seen, Sighting) and seen.host == "far"
    assert sight(run, None, "") is None
    assert sight(run, None, os.uname().nodename) is None

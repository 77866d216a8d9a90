"""Cancelling runs whose process is gone, or whose process's number another run has by now."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launcher.cluster import Cluster
from launcher.monitor.status import read_statuses
from launcher.operate.stop import cancel
from launcher.run.ledger import append_event, read_attempts
from launcher.run.paths import RunDir, SubmissionDir
from launcher.run.record import RunRecord
from launcher.slurm.local_queue import LocalQueue
from launcher.submit.plan_submission import SubmitOptions
from tests.support.fake_slurm import FakeSlurm
from tests.support.run_histories import MIDNIGHT, History
from tests.support.submissions import MakeCluster, MakeRecipe, loaded, submit

GONE = "local-999999999"


@pytest.fixture
def here(make_cluster: Callable[..., Cluster]) -> Cluster:
    return make_cluster(executor="local")


@contextmanager
def batch_process(submission: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that looks like the one that carries out a submission; it ends with code 0 if nobody ends it."""
    program = "import sys; print(flush=True); sys.stdin.read()"
    argv = [sys.executable, "-c", program, "-m", "jobs.batch.main", str(submission), "--local"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.communicate()


def begin(cluster: Cluster, run_id: str, job: str) -> History:
    """A run on this machine, all of whose files were last written a minute after it had started."""
    history = History.begin(Path(cluster.roots.runs), run_id, f"run {run_id}").submit(job, at=0)
    history.start(0, job, at=10, nodes=(os.uname().nodename,)).log(0, 0, "step 1")
    leave_alone(history.run, MIDNIGHT + 70)
    return history


def leave_alone(run: RunDir, since: float) -> None:
    for path in (run.ledger, *run.logs.glob("*/*")):
        os.utime(path, (since, since))


def test_a_process_that_carries_out_another_submission_is_not_the_run_of_its_number(here: Cluster) -> None:
    other = Path(here.roots.runs) / ".submissions" / "of another run"
    with batch_process(other) as process:
        job = f"local-{process.pid}"
        mine = begin(here, "aaaaa1", job)  # its folder is called after the job

        [status], _ = read_statuses(here, [mine.run])
        cancel(mine.run, here)

    assert status.state == "lost"
    assert process.returncode == 0
    assert read_attempts(mine.run.ledger)[0].reason == "stopped"


def test_the_process_of_the_run_itself_is_found_by_another_path_to_its_folder(here: Cluster, tmp_path: Path) -> None:
    runs = Path(here.roots.runs)
    runs.mkdir()
    (tmp_path / "link").symlink_to(runs)
    with batch_process(tmp_path / "link" / ".submissions" / "mine") as process:
        history = begin(here, "aaaaa1", f"local-{process.pid}")
        history.record.submissions[-1].folder = str(runs / ".submissions" / "mine")
        history.record.write(history.run.record)

        [status], _ = read_statuses(here, [history.run])

        assert status.state == "running"
        assert LocalQueue(here).jobs_of(SubmissionDir(runs / ".submissions" / "mine")) == [f"local-{process.pid}"]


def test_a_lost_run_that_is_cancelled_ended_when_it_last_wrote_something(here: Cluster) -> None:
    run = begin(here, "aaaaa1", GONE).run

    assert cancel(run, here) == [GONE]

    [attempt] = read_attempts(run.ledger)
    assert (attempt.ended, attempt.reason, attempt.action) == (MIDNIGHT + 70, "stopped", "stop")


def test_so_did_an_attempt_whose_job_waits_in_the_queue_again(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    [run] = submit(loaded(make_recipe()), cluster, SubmitOptions())
    job = RunRecord.read(run.record).submissions[-1].job_id
    run.attempt_logs(0).mkdir(parents=True)
    append_event(run.ledger, 0, job_id=job, started=MIDNIGHT, nodes=["a1"])
    leave_alone(run, MIDNIGHT + 70)

    cancel(run, cluster)

    assert [call.argv for call in fake_slurm.calls("scancel")] == [[job]]
    assert read_attempts(run.ledger)[0].ended == MIDNIGHT + 70

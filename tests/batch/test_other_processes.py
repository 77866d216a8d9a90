"""What the batch process of a local run takes for an attempt that is alive: on another machine, or under its number."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cluster import Cluster
from launcher.run.ledger import append_event, read_attempts
from launcher.run.paths import RunDir, SubmissionDir
from launcher.run.record import RunRecord, Submitted
from tests.support.counting_runs import Play, run_batch, stage, summary

pytestmark = pytest.mark.slow


@pytest.fixture
def staged(tmp_path: Path, make_cluster: Callable[..., Cluster]) -> tuple[SubmissionDir, RunDir]:
    submission, [run] = stage(tmp_path, make_cluster(executor="local", gpus={"device": "cpu"}), [Play()])
    return submission, run


def test_an_attempt_on_another_machine_is_left_alone_as_long_as_it_writes(staged: tuple[SubmissionDir, RunDir]) -> None:
    submission, run = staged
    append_event(run.ledger, 0, job_id="local-999999999", nodes=["far"], started=1.0, world_size=2)
    run.rank_log(0, 0).parent.mkdir(parents=True)
    run.rank_log(0, 0).touch()

    code, said = run_batch(submission)

    assert (code, summary(run)) == (1, [(None, None)])
    assert "attempt 0 is running as job local-999999999 on far; a run is never started twice at once" in said

    for path in (run.rank_log(0, 0), run.attempt_logs(0)):
        os.utime(path, (2.0, 2.0))
    run_batch(submission)

    assert summary(run) == [("killed", "stop"), ("finished", "done")]
    assert read_attempts(run.ledger)[0].ended == 2.0


def test_the_process_of_another_submission_is_not_the_attempt_that_had_its_number(
    staged: tuple[SubmissionDir, RunDir],
) -> None:
    submission, run = staged
    program = "import sys; print(flush=True); sys.stdin.read()"
    argv = [sys.executable, "-c", program, "-m", "jobs.batch.main", f"{submission.root}-2", "--local"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        job = f"local-{other.pid}"
        record = RunRecord.read(run.record)
        record.submissions.append(Submitted(job, str(submission.root), 1.0))
        record.write(run.record)
        append_event(run.ledger, 0, job_id=job, nodes=[os.uname().nodename], started=1.0, world_size=2)
        run_batch(submission)
        other.communicate()

    assert summary(run) == [("killed", "stop"), ("finished", "done")]

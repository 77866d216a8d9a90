"""A run that a person resumed while its next job waited in the queue has all its budgets again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.batch.slurm import RESUBMITTED_BY
from launcher.cluster import Cluster
from launcher.run.ledger import append_event, read_attempts
from launcher.run.paths import RunDir, SubmissionDir
from tests.support.counting_runs import Play, run_batch, stage, summary

pytestmark = pytest.mark.slow

OTHER = "local-999999999"
CRASH = {"at_step": 1, "exit_code": 1}


@pytest.fixture
def failed(tmp_path: Path, make_cluster: Callable[..., Cluster]) -> tuple[SubmissionDir, RunDir]:
    """A run that another job queued again after its third failure, each of them further on; its next start fails."""
    cluster = make_cluster(executor="local", gpus={"device": "cpu"})
    submission, [run] = stage(tmp_path / "staged", cluster, [Play(acts={"3": CRASH})])
    for number in range(3):
        append_event(run.ledger, number, job_id=OTHER, started=1.0 + number, first_step=number)
        end = {"ended": 1.5 + number, "reason": "error", "action": "requeue", "message": "failed"}
        append_event(run.ledger, number, last_step=number + 1, **end)
    return submission, run


def test_whoever_resumes_a_run_whose_job_was_cancelled_in_the_queue_resets_its_budgets(
    failed: tuple[SubmissionDir, RunDir],
) -> None:
    submission, run = failed

    code, said = run_batch(submission)

    ends = [("error", "requeue")] * 2 + [("error", "stop"), ("error", "requeue"), ("finished", "done")]
    assert (code, summary(run)) == (0, ends), said
    assert read_attempts(run.ledger)[2].message.startswith("failed; resumed by job local-")


def test_a_job_that_was_queued_by_the_one_before_resets_nothing(failed: tuple[SubmissionDir, RunDir]) -> None:
    submission, run = failed

    code, said = run_batch(submission, **{RESUBMITTED_BY: OTHER})

    assert (code, summary(run)) == (1, [("error", "requeue")] * 3 + [("error", "stop")]), said
    assert "4 failures are more than limits.max_failures (3) allows" in read_attempts(run.ledger)[-1].message

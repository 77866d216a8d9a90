"""The guardian on a real Slurm: a run whose batch process is killed comes back, once, and under its budgets."""

import os
import shlex
import signal
import sys
from pathlib import Path

import pytest

from launcher.devcluster import DevCluster
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir, SubmissionDir, published_steps
from launcher.run.record import RunRecord
from tests.slurm.test_batch import Stage
from tests.support.counting_runs import PROJECT, Play
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slurm

BLOCKED = {"rank": 0, "at_step": 3, "block": True}
"""This rank counts no further: the attempt lasts until somebody ends it."""


@pytest.fixture
def on_stage(devcluster: DevCluster, tmp_path: Path) -> Stage:
    return Stage(devcluster, tmp_path)


def batch_process(run: RunDir) -> int:
    """Find the batch process of a run by what Slurm executes."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "jobs.batch.main" in words and any(word.startswith(str(run.root.parent)) for word in words):
            return int(process.name)
    raise AssertionError(f"no batch process of {run.root}")


def test_a_run_whose_batch_process_is_killed_comes_back_once(on_stage: Stage) -> None:
    job, [run] = on_stage.play(Play(steps=6, save_every=2, acts={"0": BLOCKED}), guardian=True)
    on_stage.wait_until_counting(run, ranks=2)
    wait_for(lambda: 2 in published_steps(run), "a checkpoint")
    wait_for(lambda: "guardian: job" in run.batch_log(0).read_text(), "the guardian")

    os.kill(batch_process(run), signal.SIGKILL)

    assert on_stage.wait_for_end(run) == [("killed", "requeue"), ("finished", "done")]
    killed, resumed = read_attempts(run.ledger)
    assert (killed.job_id, resumed.first_step) == (job, 2)
    assert resumed.job_id != job
    assert [one.job_id for one in RunRecord.read(run.record).submissions][-1] == resumed.job_id
    wait_for(lambda: not on_stage.devcluster.slurm("squeue", "--noheader", "--format=%i"), "an empty queue")
    assert len(read_attempts(run.ledger)) == 2


def test_a_cancelled_run_and_one_that_failed_are_left_alone(on_stage: Stage) -> None:
    cancelled, [first] = on_stage.play(Play(steps=6, acts={"0": BLOCKED}), guardian=True)
    _, [second] = on_stage.play(Play(acts={"0": {"at_step": 1, "exit_code": 78}}), guardian=True)
    on_stage.wait_until_counting(first, ranks=2)
    wait_for(lambda: "guardian: job" in first.batch_log(0).read_text(), "the guardian")

    on_stage.devcluster.slurm("scancel", cancelled)

    assert on_stage.wait_for_end(second) == [("bad_recipe", "stop")]
    wait_for(lambda: not on_stage.devcluster.slurm("squeue", "--noheader", "--format=%i"), "an empty queue")
    assert [len(read_attempts(run.ledger)) for run in (first, second)] == [1, 1]


def test_each_job_that_a_run_is_submitted_anew_as_has_a_guardian_of_its_own(on_stage: Stage) -> None:
    play = Play(steps=6, acts={"0": {"at_step": 1, "exit_code": 1}, "1": BLOCKED})
    _, [run] = on_stage.play(play, guardian=True, requeue="resubmit")
    on_stage.wait_until_counting(run, attempt=1, ranks=2)
    wait_for(lambda: "guardian: job" in run.batch_log(1).read_text(), "the second job's guardian")

    os.kill(batch_process(run), signal.SIGKILL)

    assert on_stage.wait_for_end(run) == [("error", "resubmit"), ("killed", "resubmit"), ("finished", "done")]
    jobs = [one.job_id for one in read_attempts(run.ledger)]
    assert len(set(jobs)) == 3
    assert [one.job_id for one in RunRecord.read(run.record).submissions] == jobs[1:]
    wait_for(lambda: not on_stage.devcluster.slurm("squeue", "--noheader", "--format=%i"), "an empty queue")
    assert len(read_attempts(run.ledger)) == 3


def test_the_guardian_tells_others_of_a_run_whose_batch_process_was_killed_when_it_had_finished(
    on_stage: Stage,
) -> None:
    job, [run] = on_stage.play(Play(steps=20, seconds=0.2), guardian=True)
    waits = (f"--dependency=afterok:{job}", "--kill-on-invalid-dep=no", "--output=/dev/null", "--wrap=true")
    next_job = on_stage.devcluster.slurm("sbatch", "--parsable", *waits)
    on_stage.wait_until_counting(run, ranks=2)
    wait_for(lambda: "guardian: job" in run.batch_log(0).read_text(), "the guardian")

    batch = batch_process(run)
    os.kill(batch, signal.SIGSTOP)
    wait_for(lambda: read_attempts(run.ledger)[0].reason == "finished", "the end of the ranks")
    os.kill(batch, signal.SIGKILL)

    assert on_stage.wait_for_end(run) == [("finished", "done")]
    wait_for(lambda: on_stage.job(next_job)["JobState"] == "COMPLETED", "what waits for the run")
    assert "was killed when the run had finished" in run.batch_log(0).read_text()
    wait_for(lambda: not on_stage.devcluster.slurm("squeue", "--noheader", "--format=%i"), "an empty queue")


def test_a_job_that_the_batch_process_had_queued_before_it_was_killed_is_found(on_stage: Stage, tmp_path: Path) -> None:
    job, [run] = on_stage.play(Play(steps=6, acts={"0": BLOCKED}))
    on_stage.wait_until_counting(run, ranks=2)
    os.kill(batch_process(run), signal.SIGKILL)
    wait_for(lambda: on_stage.job(job)["JobState"] == "FAILED", "the end of the job")
    submission = SubmissionDir(run.root.parent / ".submissions" / "1")
    queued = on_stage.devcluster.slurm("sbatch", "--parsable", "--hold", str(submission.script))

    argv = [sys.executable, "-m", "jobs.batch.guardian", str(run.root), str(submission.root), "--job", job]
    wrap = f"--wrap=PYTHONPATH={shlex.quote(str(PROJECT))} exec {shlex.join(argv)}"
    on_stage.devcluster.slurm("sbatch", "--wait", f"--output={tmp_path}/guardian.log", wrap)

    said = f"guardian: the batch process of job {job} had queued job {queued}"
    assert said in run.batch_log(0).read_text(), (tmp_path / "guardian.log").read_text()
    assert [one.job_id for one in RunRecord.read(run.record).submissions] == [queued]
    on_stage.devcluster.slurm("scancel", queued)

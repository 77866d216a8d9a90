"""What the batch process makes of signals while ranks run, where no Slurm is needed to see it."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from jobs.batch.allocation import BatchJob, find_job
from jobs.batch.attempt import open_attempt
from jobs.batch.end_reason import find_end_reason
from jobs.batch.evidence import EndReason
from jobs.batch.launch import Outcome
from jobs.batch.supervise import Signals, supervise
from launcher.cluster import Cluster
from launcher.run.ledger import StopRequest, append_event, read_attempts
from tests.support.counting_runs import Play, stage


class Deaf:
    """Ranks that go on whatever they are asked."""

    def poll(self) -> None:
        return None

    def wait(self, seconds: float) -> None:
        assert seconds > 0

    def ask_to_stop(self) -> str:
        return "USR2 sent to all ranks"

    def kill(self, at_once: bool = False) -> None:
        raise AssertionError(f"Slurm is ending these ranks, nobody else (at once: {at_once})")


class Obedient:
    """Ranks that save and leave when they are asked."""

    outcome: Outcome | None = None

    def poll(self) -> Outcome | None:
        return self.outcome

    def wait(self, seconds: float) -> None:
        assert seconds > 0

    def ask_to_stop(self) -> str:
        self.outcome = Outcome(75)
        return "USR2 sent to all ranks"


@pytest.fixture
def job(tmp_path: Path, make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch) -> BatchJob:
    """A job on one node of a Slurm whose commands are missing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("jobs.batch.supervise.SrunRanks", lambda *_: Deaf())
    submission, _ = stage(tmp_path / "staged", make_cluster(gpus={"device": "cpu"}), [Play()])
    return find_job(submission, {"SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "localhost"}, local=False)


def end_at_the_time_limit(job: BatchJob, **event: object) -> EndReason:
    """Let Slurm end a job for good, after rank 0 has told the ledger an event."""
    attempt, signals = open_attempt(job, []), Signals()
    append_event(job.run.ledger, attempt.number, **event)
    when = datetime.now().isoformat(timespec="seconds")
    job.slurm_log("5").write_text(f"slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT {when} DUE TO TIME LIMIT ***\n")
    signals.seen.append("SIGTERM")
    return find_end_reason(supervise(job, attempt, signals, lambda _: None))


def test_who_is_out_of_time_does_not_wait_for_the_ranks(job: BatchJob) -> None:
    end = end_at_the_time_limit(job)

    assert end.reason == "killed"
    assert end.stop == StopRequest("time_limit", 0)


def test_a_person_who_wanted_a_stop_before_the_time_was_out_is_heard(job: BatchJob) -> None:
    StopRequest("user").write(job.run.stop_request)

    assert end_at_the_time_limit(job).stop == StopRequest("user")


def test_a_run_that_finished_just_before_the_time_was_out_has_finished(job: BatchJob) -> None:
    assert end_at_the_time_limit(job, reason="finished").reason == "finished"


@pytest.mark.parametrize(("state", "reason"), [("RUNNING", "preempted"), ("COMPLETING", "stopped")])
def test_a_node_that_ends_its_processes_is_no_person_who_cancels_the_job(
    job: BatchJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, reason: str
) -> None:
    monkeypatch.setattr("jobs.batch.supervise.SrunRanks", lambda *_: Obedient())
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\n[ "$2" = job ] && echo "JobId=5 JobState={state} Restarts=0"\n')
    (tmp_path / "scontrol").chmod(0o755)
    attempt, signals = open_attempt(job, []), Signals()
    signals.seen.append("SIGTERM")

    end = find_end_reason(supervise(job, attempt, signals, lambda _: None))

    assert (end.exit_code, end.reason, end.source) == (75, reason, "SIGTERM")


def test_slurms_answer_counts_where_the_run_directory_cannot_be_read(
    job: BatchJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, said = Obedient(), list[str]()
    killed.outcome = Outcome(137)
    monkeypatch.setattr("jobs.batch.supervise.SrunRanks", lambda *_: killed)
    (tmp_path / "scontrol").write_text('#!/bin/sh\n[ "$2" = job ] && echo "JobId=5 JobState=PREEMPTED Restarts=0"\n')
    (tmp_path / "scontrol").chmod(0o755)
    attempt = open_attempt(job, [])
    job.run.ledger.unlink()
    job.run.ledger.mkdir()

    end = find_end_reason(supervise(job, attempt, Signals(), said.append))

    assert (end.reason, end.source) == ("preempted", "scontrol")
    assert "the run directory cannot be read: [Errno 21] Is a directory" in said[-1]


@pytest.mark.parametrize(("source", "starts"), [("SIGTERM", True), ("STOP", False)])
def test_a_job_that_comes_back_was_not_cancelled(job: BatchJob, tmp_path: Path, source: str, starts: bool) -> None:
    append_event(job.run.ledger, 0, job_id="5", reason="stopped", source=source, ended=2.0, action="stop")
    job.run.attempt_logs(0).mkdir(parents=True)
    environ = {**os.environ, **job.environ, "SLURM_RESTART_COUNT": "1"}

    argv = [sys.executable, "-m", "jobs.batch.main", str(job.submission.root)]
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)

    assert ("not started again" in done.stdout) == (not starts)
    assert len(read_attempts(job.run.ledger)) == 1 + starts


def test_ranks_that_were_started_before_one_could_not_be_are_ended(
    tmp_path: Path, make_cluster: Callable[..., Cluster]
) -> None:
    cluster = make_cluster(executor="local", gpus={"device": "cpu"})
    submission, [run] = stage(tmp_path / "staged", cluster, [Play(steps=10_000)])
    job = find_job(submission, {}, local=True)
    attempt = open_attempt(job, [])
    run.rank_log(attempt.number, 1).mkdir()
    others = psutil.Process(os.getpid()).children()

    end = find_end_reason(supervise(job, attempt, Signals(), lambda _: None))

    assert "the ranks cannot be started: [Errno 21] Is a directory" in end.detail
    assert psutil.Process(os.getpid()).children() == others

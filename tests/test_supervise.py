"""What the batch process makes of signals while tasks run, where no Slurm is needed to see it."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from jobs.runtime.attempt import open_attempt
from jobs.runtime.job import Job, find_job
from jobs.runtime.supervise import Signals, supervise
from jobs.runtime.tasks import Outcome
from jobs.runtime.verdict import Ending
from launcher.cluster import Cluster
from launcher.ledger import StopRequest, append_event, read_attempts
from tests.plays import Play, stage


class Deaf:
    """Tasks that go on whatever they are asked."""

    def poll(self) -> None:
        return None

    def ask_to_stop(self) -> str:
        return "USR2 sent to all tasks"

    def kill(self, at_once: bool = False) -> None:
        raise AssertionError(f"Slurm is ending these tasks, nobody else (at once: {at_once})")


class Obedient:
    """Tasks that save and leave when they are asked."""

    outcome: Outcome | None = None

    def poll(self) -> Outcome | None:
        return self.outcome

    def ask_to_stop(self) -> str:
        self.outcome = Outcome(75)
        return "USR2 sent to all tasks"


@pytest.fixture
def job(tmp_path: Path, make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job on one node of a Slurm whose commands are missing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("jobs.runtime.supervise.SrunTasks", lambda *_: Deaf())
    submission, _ = stage(tmp_path / "staged", make_cluster(gpus={"device": "cpu"}), [Play()])
    return find_job(submission, {"SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "localhost"}, local=False)


def end_at_the_time_limit(job: Job, **event: object) -> Ending:
    """Let Slurm end a job for good, after rank 0 has told the ledger an event."""
    attempt, signals = open_attempt(job), Signals()
    append_event(job.run.ledger, attempt.number, **event)
    when = datetime.now().isoformat(timespec="seconds")
    job.slurm_log("5").write_text(f"slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT {when} DUE TO TIME LIMIT ***\n")
    signals.seen.append("SIGTERM")
    return supervise(job, attempt, signals, lambda _: None)


def test_who_is_out_of_time_does_not_wait_for_the_tasks(job: Job) -> None:
    ending = end_at_the_time_limit(job)

    assert (ending.cause and ending.cause.reason, ending.finished) == ("killed", False)
    assert ending.stop == StopRequest("time_limit", 0)


def test_a_person_who_wanted_a_stop_before_the_time_was_out_is_heard(job: Job) -> None:
    StopRequest("user").write(job.run.stop_request)

    assert end_at_the_time_limit(job).stop == StopRequest("user")


def test_a_run_that_finished_just_before_the_time_was_out_has_finished(job: Job) -> None:
    assert end_at_the_time_limit(job, reason="finished").finished


@pytest.mark.parametrize(("state", "reason"), [("RUNNING", "preempted"), ("COMPLETING", "stopped")])
def test_a_node_that_ends_its_processes_is_no_person_who_cancels_the_job(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, reason: str
) -> None:
    monkeypatch.setattr("jobs.runtime.supervise.SrunTasks", lambda *_: Obedient())
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\n[ "$2" = job ] && echo "JobId=5 JobState={state} Restarts=0"\n')
    (tmp_path / "scontrol").chmod(0o755)
    attempt, signals = open_attempt(job), Signals()
    signals.seen.append("SIGTERM")

    ending = supervise(job, attempt, signals, lambda _: None)

    assert ending.cause is not None
    assert (ending.exit_code, ending.cause.reason, ending.cause.source) == (75, reason, "SIGTERM")


@pytest.mark.parametrize(("source", "starts"), [("SIGTERM", True), ("STOP", False)])
def test_a_job_that_comes_back_was_not_cancelled(job: Job, tmp_path: Path, source: str, starts: bool) -> None:
    append_event(job.run.ledger, 0, job_id="5", reason="stopped", source=source, ended=2.0, action="stop")
    job.run.attempt_logs(0).mkdir(parents=True)
    environ = {**os.environ, **job.environ, "SLURM_RESTART_COUNT": "1"}

    argv = [sys.executable, "-m", "jobs.runtime.batch", str(job.submission.root)]
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)

    assert ("not started again" in done.stdout) == (not starts)
    assert len(read_attempts(job.run.ledger)) == 1 + starts


def test_tasks_that_were_started_before_one_could_not_be_are_ended(
    tmp_path: Path, make_cluster: Callable[..., Cluster]
) -> None:
    cluster = make_cluster(executor="local", gpus={"device": "cpu"})
    submission, [run] = stage(tmp_path / "staged", cluster, [Play(steps=10_000)])
    job = find_job(submission, {}, local=True)
    attempt = open_attempt(job)
    run.rank_log(attempt.number, 1).mkdir()
    others = psutil.Process(os.getpid()).children()

    ending = supervise(job, attempt, Signals(), lambda _: None)

    assert ending.cause is not None
    assert "the tasks cannot be started: [Errno 21] Is a directory" in ending.cause.detail
    assert psutil.Process(os.getpid()).children() == others

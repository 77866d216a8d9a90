"""Why an attempt ended, read from what Slurm answers and from what it left in the logs."""

import os
import time
from datetime import datetime
from pathlib import Path

import pytest

from jobs.runtime.cause import cause_before, cause_in_job, cause_in_logs, last_sign_of_life, parse_accounting, unix_time
from jobs.runtime.slurm import hostnames, parse_fields
from launcher.ledger import Attempt, Reason

STARTED = datetime(2026, 11, 21, 4, 40, 0).timestamp()
ATTEMPT = Attempt(1, job_id="12", restart_count=1, nodes=["a100-01", "a100-02"], started=STARTED)

# As Slurm 22.05.8 prints it; a comment and a path may hold anything.
JOB = (
    "JobId=12 JobName=play UserId=root(0) JobState={state} Reason=None Dependency=(null) Requeue=1 Restarts=1 "
    "StartTime=2026-11-21T04:40:00 PreemptEligibleTime=2026-11-21T04:40:00 PreemptTime={preempted} "
    "Comment=launcher a=b c Command=/tmp/x y/submission.sh Power="
)


def job(state: str = "RUNNING", preempted: str = "None") -> dict[str, str]:
    return parse_fields(JOB.format(state=state, preempted=preempted))


def test_fields_with_spaces_are_read_whole() -> None:
    assert job()["Command"] == "/tmp/x y/submission.sh"
    assert job()["Power"] == ""


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (job(preempted="2026-11-21T04:41:00"), "preempted"),
        (job(preempted="2026-11-21T04:39:00"), None),  # of the attempt before
        (job("PREEMPTED"), "preempted"),
        (job("CANCELLED"), "stopped"),
        (job("NODE_FAIL"), "node_failure"),
        (job("OUT_OF_MEMORY"), "out_of_memory"),
        (job("TIMEOUT"), "killed"),
        (job("RUNNING"), None),
        (job("COMPLETING"), None),
        ({}, None),
    ],
)
def test_the_answer_of_scontrol_is_understood(fields: dict[str, str], reason: Reason | None) -> None:
    cause = cause_in_job(fields, ATTEMPT)

    assert (cause.reason if cause else None) == reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("slurmstepd-a100-01: error: *** JOB 12 ON a100-01 CANCELLED AT 2026-11-21T04:41:00 DUE TO PREEMPTION ***",
         "preempted"),
        ("slurmstepd: error: *** JOB 12 ON a100-01 CANCELLED AT 2026-11-21T04:41:00 DUE TO JOB REQUEUE ***",
         "preempted"),
        ("slurmstepd: error: *** JOB 12 ON a100-01 CANCELLED AT 2026-11-21T04:41:00 DUE TO NODE FAILURE, SEE SLURMCTLD "
         "LOG FOR DETAILS ***", "node_failure"),
        ("slurmstepd: error: *** JOB 12 ON a100-01 CANCELLED AT 2026-11-21T04:41:00 DUE TO TIME LIMIT ***", "killed"),
        ("slurmstepd: error: *** JOB 12 ON a100-01 CANCELLED AT 2026-11-21T04:41:00 ***", "stopped"),
        ("slurmstepd: error: *** STEP 12.0 ON a100-01 CANCELLED AT 2026-11-21T04:41:00 ***", None),
        ("[...] error: *** JOB 12 ON a100-01 CANCELLED AT 2026-11-21T04:41:00 DUE to SIGNAL Terminated ***", "stopped"),
        ("[...] error: *** STEP 12.0 ON a100-01 CANCELLED AT 2026-11-21T04:41:00 DUE to SIGNAL Terminated ***", None),
        ("[...] error: *** STEP 12.0 ON a100-01 CANCELLED AT 2026-11-21T04:41:00 DUE TO TASK FAILURE ***", None),
        ("slurmstepd: error: *** JOB 12 ON a100-01 CANCELLED AT 2026-11-21T04:30:00 DUE TO PREEMPTION ***", None),
        ("2026-11-21 04:41:00 srun: error: Node failure on a100-02", "node_failure"),
        ("2026-11-21 04:41:00 srun: error: a100-02: task 3: Out Of Memory", "out_of_memory"),
        ("2026-11-21 04:41:00 srun: error: a100-[01-02]: tasks 0-3: Out Of Memory", "out_of_memory"),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=12.0. Some of your processes may have been killed",
         "out_of_memory"),
        ("2026-11-21 04:41:00 srun: error: a100-02: task 3: Exited with exit code 1", None),
    ],
)  # fmt: skip
def test_what_slurm_left_in_the_log_is_understood(tmp_path: Path, line: str, reason: Reason | None) -> None:
    log = tmp_path / "batch.log"
    log.write_text(f"2026-11-21 04:40:00 attempt 1\n{line}\n")

    cause = cause_in_logs([tmp_path / "missing.log", log], ATTEMPT)

    assert (cause.reason if cause else None) == reason


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
@pytest.mark.parametrize(("number", "reason"), [(0, "preempted"), (1, None), (2, "stopped"), (3, None)])
def test_what_slurmd_says_in_another_time_zone_is_of_the_attempt_in_which_it_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str, number: int, reason: Reason | None
) -> None:
    log, marker = tmp_path / "slurm-12.log", "slurmstepd: error: *** JOB 12 ON a100-01 CANCELLED AT 2026-11-21T04:"
    starts = [f"2026-11-20 2{number}:30:00 attempt {number} of run-abc123: job 12 on a100-01\n" for number in range(4)]
    log.write_text(
        f"{starts[0]}{marker}35:00 DUE TO JOB REQUEUE ***\n{starts[1]}{starts[2]}{marker}45:00 ***\n{starts[3]}"
    )
    monkeypatch.setenv("TZ", zone)
    time.tzset()

    cause = cause_in_logs([log], Attempt(number, job_id="12", started=STARTED))
    monkeypatch.undo()
    time.tzset()

    assert (cause.reason if cause else None) == reason


@pytest.mark.parametrize(
    ("why", "was_asked", "reason"),
    [("JOB REQUEUE", True, "preempted"), ("JOB REQUEUE", False, None), ("PREEMPTION", False, "preempted")],
)
def test_a_requeue_that_nobody_had_announced_was_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str, was_asked: bool, reason: Reason | None
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without Slurm's commands
    log = tmp_path / "slurm-12.log"
    log.write_text(f"slurmstepd: error: *** JOB 12 ON a100-01 CANCELLED AT 2026-11-21T04:41:00 DUE TO {why} ***\n")

    cause = cause_before(ATTEMPT, [log], was_asked)

    assert (cause.reason if cause else None) == reason


def test_a_log_that_cannot_be_read_says_nothing_and_hides_no_other(tmp_path: Path) -> None:
    log = tmp_path / "batch.log"
    log.write_text("2026-11-21 04:41:00 srun: error: Node failure on a100-02\n")

    cause = cause_in_logs([tmp_path, log], ATTEMPT)

    assert cause is not None
    assert cause.reason == "node_failure"


def test_what_srun_said_counts_only_in_the_attempts_own_log(tmp_path: Path) -> None:
    of_all_attempts = tmp_path / "slurm-12.log"
    of_all_attempts.write_text("2026-11-21 04:41:00 srun: error: Node failure on a100-02\n")

    assert cause_in_logs([of_all_attempts], ATTEMPT) is None


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("2026-11-21T04:00:00|NODE_FAIL|2026-11-21T04:20:00\n2026-11-21T04:39:59|PREEMPTED|2026-11-21T04:50:00",
         "preempted"),
        ("2026-11-21T04:39:59|CANCELLED by 0|2026-11-21T04:50:00", "stopped"),
        ("2026-11-21T04:39:59|NODE_FAIL|2026-11-21T04:50:00\n2026-11-21T05:00:00|RUNNING|Unknown", "node_failure"),
        ("2026-11-21T04:39:59|FAILED|2026-11-21T04:50:00", None),
        ("2026-11-21T05:00:00|PREEMPTED|2026-11-21T05:10:00", None),
        ("Unknown|PENDING|Unknown", None),
        ("", None),
    ],
)  # fmt: skip
def test_accounting_is_asked_for_the_right_start_of_a_requeued_job(rows: str, reason: Reason | None) -> None:
    cause = parse_accounting(rows, ATTEMPT)

    assert (cause.reason if cause else None) == reason


@pytest.mark.parametrize("text", ["", "None", "Unknown", "N/A"])
def test_a_time_that_slurm_does_not_know_is_no_time(text: str) -> None:
    assert unix_time(text) is None


def test_the_last_sign_of_life_is_the_newest_log(tmp_path: Path) -> None:
    for name, when in (("rank-00000.log", 1000), ("rank-00001.log", 2000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (when, when))

    assert last_sign_of_life(tmp_path) == 2000


def test_a_node_list_is_expanded_without_slurm_where_nothing_is_to_expand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert hostnames("gpu1,gpu2") == ["gpu1", "gpu2"]
    assert hostnames("gpu[1-2]") == []

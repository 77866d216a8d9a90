"""What Slurm and srun write about an end, in logs and in accounting."""

import time
from datetime import datetime
from pathlib import Path

import pytest

from jobs.batch.slurm_traces import parse_accounting, search_logs
from launcher.run.ledger import Attempt, Reason

STARTED = datetime(2026, 11, 21, 4, 40, 0).timestamp()
ATTEMPT = Attempt(1, job_id="12", restart_count=1, nodes=["a100-01", "a100-02"], started=STARTED)


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

    found = search_logs([tmp_path / "missing.log", log], ATTEMPT)

    assert (found.reason if found else None) == reason


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

    found = search_logs([log], Attempt(number, job_id="12", started=STARTED))
    monkeypatch.undo()
    time.tzset()

    assert (found.reason if found else None) == reason


def test_a_log_that_cannot_be_read_says_nothing_and_hides_no_other(tmp_path: Path) -> None:
    log = tmp_path / "batch.log"
    log.write_text("2026-11-21 04:41:00 srun: error: Node failure on a100-02\n")

    found = search_logs([tmp_path, log], ATTEMPT)

    assert found is not None
    assert found.reason == "node_failure"


def test_what_srun_said_counts_only_in_the_attempts_own_log(tmp_path: Path) -> None:
    of_all_attempts = tmp_path / "slurm-12.log"
    of_all_attempts.write_text("2026-11-21 04:41:00 srun: error: Node failure on a100-02\n")

    assert search_logs([of_all_attempts], ATTEMPT) is None


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
    found = parse_accounting(rows, ATTEMPT)

    assert (found.reason if found else None) == reason

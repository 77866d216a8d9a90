"""Why an attempt ended: which evidence counts before which."""

import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.batch import slurm
from jobs.batch.attempt import last_sign_of_life
from jobs.batch.end_reason import find_end_reason
from jobs.batch.evidence import EndReason, Evidence
from jobs.batch.slurm import hostnames
from launcher.run.ledger import Attempt, Reason, StopRequest
from launcher.run.slurm_text import parse_fields

STARTED = datetime(2026, 11, 21, 4, 40, 0).timestamp()
ATTEMPT = Attempt(1, job_id="12", restart_count=1, nodes=["a100-01", "a100-02"], started=STARTED)


@pytest.fixture(autouse=True)
def _without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


# As Slurm 22.05.8 prints it; a comment and a path may hold anything.
JOB = (
    "JobId=12 JobName=play UserId=root(0) JobState={state} Reason=None Dependency=(null) Requeue=1 Restarts=1 "
    "StartTime=2026-11-21T04:40:00 PreemptEligibleTime=2026-11-21T04:40:00 PreemptTime={preempted} "
    "Comment=launcher a=b c Command=/tmp/x y/submission.sh Power="
)


def job(state: str = "RUNNING", preempted: str = "None") -> dict[str, str]:
    return parse_fields(JOB.format(state=state, preempted=preempted))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (job(preempted="2026-11-21T04:41:00"), "preempted"),
        (job(preempted="2026-11-21T04:39:00"), "error"),  # of the attempt before
        (job("PREEMPTED"), "preempted"),
        (job("CANCELLED"), "stopped"),
        (job("NODE_FAIL"), "node_failure"),
        (job("OUT_OF_MEMORY"), "out_of_memory"),
        (job("TIMEOUT"), "killed"),
        (job("RUNNING"), "error"),
        (job("COMPLETING"), "error"),
        ({}, "error"),
    ],
)
def test_the_answer_of_scontrol_is_understood(
    fields: dict[str, str], reason: Reason, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "show_job", lambda _: fields)

    assert find_end_reason(Evidence([ATTEMPT], 1)).reason == reason


PREEMPTED, LOST, CANCELLED, TIMEOUT = (job(state) for state in ("PREEMPTED", "NODE_FAIL", "CANCELLED", "TIMEOUT"))
RUNNING, COMPLETING, OUT_OF_MEMORY = (job(state) for state in ("RUNNING", "COMPLETING", "OUT_OF_MEMORY"))
REQUEUED = {**job("PENDING"), "Restarts": "2"}
USER, TIME_LIMIT = StopRequest("user"), StopRequest("time_limit", 1)
HANG = "no heartbeat for 30min"
TERM = ("SIGUSR1", "SIGTERM")
UNFIT = {"message": "a100-02: 3 of 4 GPUs are visible", "unfit": ["a100-02"]}
NOT_STARTED = EndReason("node_failure", "rendezvous", "a100-01 does not resolve")
OUT_OF_TIME = EndReason("killed", "Slurm's log", "too late")


@pytest.mark.parametrize(
    ("exit_code", "known", "fields", "reason", "source"),
    [
        (0, {}, {}, "finished", "exit code 0"),
        (0, {"stop": USER}, PREEMPTED, "finished", "exit code 0"),
        (75, {}, {}, "preempted", "exit code 75"),
        (75, {}, TIMEOUT, "preempted", "exit code 75"),
        (75, {}, PREEMPTED, "preempted", "scontrol"),
        (75, {"stop": TIME_LIMIT}, {}, "time_limit", "STOP"),
        (75, {"stop": TIME_LIMIT}, TIMEOUT, "time_limit", "STOP"),
        (75, {"stop": TIME_LIMIT, "signals": TERM}, TIMEOUT, "time_limit", "STOP"),
        (75, {"stop": TIME_LIMIT, "hang": HANG}, {}, "time_limit", "STOP"),
        (75, {"stop": TIME_LIMIT}, PREEMPTED, "preempted", "scontrol"),
        (75, {"stop": TIME_LIMIT}, REQUEUED, "preempted", "scontrol"),
        (75, {"stop": TIME_LIMIT}, CANCELLED, "stopped", "scontrol"),
        (75, {"stop": TIME_LIMIT}, LOST, "node_failure", "scontrol"),
        (75, {"stop": TIME_LIMIT, "signals": TERM}, RUNNING, "preempted", "SIGTERM"),
        (75, {"stop": TIME_LIMIT, "signals": TERM}, COMPLETING, "stopped", "SIGTERM"),
        (75, {"stop": USER}, {}, "stopped", "STOP"),
        (75, {"stop": USER}, PREEMPTED, "stopped", "STOP"),
        (78, {}, {}, "bad_recipe", "exit code 78"),
        (78, {"preflight": UNFIT}, PREEMPTED, "bad_recipe", "exit code 78"),
        (1, {}, {}, "error", "exit code 1"),
        (1, {"stop": TIME_LIMIT}, {}, "error", "exit code 1"),
        (1, {"stop": USER}, {}, "error", "exit code 1"),
        (1, {}, LOST, "node_failure", "scontrol"),
        (1, {}, OUT_OF_MEMORY, "out_of_memory", "scontrol"),
        (1, {"preflight": UNFIT}, PREEMPTED, "node_failure", "preflight"),
        (1, {"seen": NOT_STARTED}, PREEMPTED, "node_failure", "rendezvous"),
        (137, {"seen": OUT_OF_TIME, "stop": TIME_LIMIT}, PREEMPTED, "killed", "Slurm's log"),
        (1, {"hang": HANG}, {}, "hang", "watchdog"),
        (137, {"hang": HANG, "stop": USER}, {}, "hang", "watchdog"),
        (137, {"hang": HANG}, PREEMPTED, "preempted", "scontrol"),
        (137, {"hang": HANG, "signals": TERM}, COMPLETING, "stopped", "SIGTERM"),
        (76, {"hang": HANG}, {}, "error", "exit code 76"),
        (137, {}, {}, "killed", "exit code 137"),
        (137, {}, PREEMPTED, "preempted", "scontrol"),
        (143, {}, CANCELLED, "stopped", "scontrol"),
        (143, {"stop": USER}, {}, "stopped", "STOP"),
        (140, {"stop": TIME_LIMIT}, {}, "time_limit", "STOP"),
        (139, {"stop": TIME_LIMIT}, {}, "killed", "exit code 139"),
        (None, {"witnessed": False}, PREEMPTED, "killed", "no word of its end"),
    ],
)
def test_the_first_source_that_knows_names_the_reason(
    exit_code: int | None,
    known: dict[str, Any],
    fields: dict[str, str],
    reason: Reason,
    source: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slurm, "show_job", lambda _: fields)

    end = find_end_reason(Evidence([ATTEMPT], exit_code, **known))

    assert (end.reason, end.source) == (reason, source)
    assert (end.exit_code, end.stop) == (exit_code, known.get("stop"))


@pytest.mark.parametrize("exit_code", [0, 1, 75, 137])
@pytest.mark.parametrize("known", [{}, {"hang": HANG}, {"stop": USER, "signals": TERM}, {"seen": OUT_OF_TIME}])
def test_a_run_whose_rank_0_said_that_it_finished_has_finished(exit_code: int, known: dict[str, Any]) -> None:
    end = find_end_reason(Evidence([replace(ATTEMPT, reason="finished")], exit_code, **known))

    assert (end.reason, end.source) == ("finished", "ledger")


def test_slurm_is_asked_once_and_not_at_all_about_an_end_that_the_ranks_explain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(slurm, "show_job", lambda job_id: asked.append(job_id) or job("COMPLETING"))

    for exit_code in (0, 78):
        find_end_reason(Evidence([ATTEMPT], exit_code, signals=TERM))
    assert asked == []
    find_end_reason(Evidence([replace(ATTEMPT, job_id="local-5")], 1, signals=TERM))
    assert asked == []
    find_end_reason(Evidence([ATTEMPT], 143, signals=TERM))
    assert asked == ["12"]


def test_what_a_rank_said_of_the_end_is_the_detail() -> None:
    faulty = [replace(ATTEMPT, fault="rank 0 on n1: data: is gone")]

    assert find_end_reason(Evidence(faulty, 78, failed_rank="Exited with 78")).detail == "rank 0 on n1: data: is gone"
    assert find_end_reason(Evidence([ATTEMPT], 1, failed_rank="rank 3 on n2: Killed")).detail == "rank 3 on n2: Killed"
    hang = find_end_reason(Evidence(faulty, 137, failed_rank="rank 3 on n2: Killed", hang=HANG))
    assert hang.detail == f"rank 3 on n2: Killed; {HANG}"
    assert find_end_reason(Evidence(faulty, 75, failed_rank="rank 3 on n2: Exited")).detail == ""


def test_an_unfit_node_is_named() -> None:
    assert find_end_reason(Evidence([ATTEMPT], 1, preflight=UNFIT)).unfit == ("a100-02",)


def too_large(micro_batch: int | None, number: int = 0, limit: int | None = None) -> Attempt:
    return Attempt(number, job_id="local-1", micro_batch=micro_batch, max_micro_batch=limit)


@pytest.mark.parametrize(
    ("attempts", "exit_code", "reason"),
    [
        ([too_large(8)], 76, "does_not_fit"),
        ([too_large(8, 0, limit=4), too_large(4, 1, limit=2), too_large(2, 2)], 76, "does_not_fit"),
        ([too_large(8)], 137, "killed"),
        ([too_large(1)], 76, "error"),
        ([too_large(None)], 76, "error"),  # it never told its micro batch
        ([too_large(8, 0, limit=4), too_large(8, 1)], 76, "error"),  # the limit was not heeded
    ],
)
def test_only_a_micro_batch_that_can_be_halved_does_not_fit(
    attempts: list[Attempt], exit_code: int, reason: Reason
) -> None:
    assert find_end_reason(Evidence(attempts, exit_code)).reason == reason


@pytest.mark.parametrize(
    ("fields", "reason"), [(OUT_OF_MEMORY, "out_of_memory"), (PREEMPTED, "preempted"), (RUNNING, "does_not_fit")]
)
def test_what_slurm_explains_is_no_micro_batch(
    fields: dict[str, str], reason: Reason, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "show_job", lambda _: fields)  # the kernel may have killed a rank for its RAM

    assert find_end_reason(Evidence([replace(ATTEMPT, micro_batch=8)], 76)).reason == reason


@pytest.mark.parametrize(
    ("why", "was_asked", "reason"),
    [("JOB REQUEUE", True, "preempted"), ("JOB REQUEUE", False, "killed"), ("PREEMPTION", False, "preempted")],
)
def test_a_requeue_that_nobody_had_announced_was_our_own(
    tmp_path: Path, why: str, was_asked: bool, reason: Reason
) -> None:
    log = tmp_path / "slurm-12.log"
    log.write_text(f"slurmstepd: error: *** JOB 12 ON a100-01 CANCELLED AT 2026-11-21T04:41:00 DUE TO {why} ***\n")

    stop = StopRequest("time_limit", ATTEMPT.number) if was_asked else StopRequest("time_limit", 0)

    end = find_end_reason(Evidence([ATTEMPT], None, logs=(log,), stop=stop, witnessed=False))

    assert end.reason == reason


def test_the_last_sign_of_life_is_the_newest_log(tmp_path: Path) -> None:
    for name, when in (("rank-00000.log", 1000), ("rank-00001.log", 2000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (when, when))

    assert last_sign_of_life(tmp_path, 0.0) == 2000


def test_a_node_list_is_expanded_without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    assert hostnames("gpu[01-02],gpu7") == ["gpu01", "gpu02", "gpu7"]
    assert hostnames("gpu[a-b]") == [], "nobody knows what that is"

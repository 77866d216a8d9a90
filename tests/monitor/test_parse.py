"""Parsing what Slurm prints. All samples were printed by Slurm 22.05.8 (Debian 12), with accounting."""

from datetime import datetime

import pytest

from launcher.slurm.parse import (
    expand_job_ids,
    parse_allocation,
    parse_sacct,
    parse_scontrol_jobs,
    parse_squeue,
)
from launcher.slurm.reasons import explain_reason

SQUEUE = """\
4_1|CANCELLED|2026-11-21T04:10:59|N/A|a100-01|None
4_3|PENDING|N/A|N/A||JobArrayTaskLimit
5|PENDING|2027-11-21T04:11:07|N/A||Resources
6|PENDING|N/A|N/A||DependencyNeverSatisfied
2|FAILED|2026-11-21T04:10:59|2026-11-21T04:11:02|a100-01|NonZeroExitCode
9_2|RUNNING|2026-11-21T04:10:59|2026-11-21T04:20:59|a100-[01-02]|None
"""

SACCT = """\
3|PREEMPTED|0:0|2026-11-21T04:10:59|2026-11-21T04:11:45|a100-01|None
9_0|CANCELLED by 0|0:0|2026-11-21T04:10:59|2026-11-21T04:11:30|a100-[01-02]|None
9_2|FAILED|15:0|2026-11-21T04:10:59|2026-11-21T04:11:30|a100-[01-02]|None
3|RUNNING|0:0|2026-11-21T04:11:51|Unknown|a100-03|BeginTime
4_[2-9%2]|PENDING|0:0|Unknown|Unknown|None assigned|JobArrayTaskLimit
10_[1,3,5-7,11,21,31,41,51,61,71,81,91,101,111,121,131,141,151,1...%1]\
|PENDING|0:0|Unknown|Unknown|None assigned|JobHeldUser
"""

SCONTROL_JOBS = """\
JobId=20 ArrayJobId=20 ArrayTaskId=1-2%1 ArrayTaskThrottle=1 JobName=x JobState=COMPLETED
   UserId=root(0) GroupId=root(0) MCS_label=N/A
   Priority=4294901748 Nice=0 Account=root QOS=normal
   JobState=PENDING Reason=JobArrayTaskLimit Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0
   RunTime=00:00:00 TimeLimit=UNLIMITED TimeMin=N/A
   StartTime=Unknown EndTime=Unknown Deadline=N/A
   NodeList=
   StdOut=/dev/null
   Power=
\x20\x20\x20

JobId=21 ArrayJobId=20 ArrayTaskId=0 ArrayTaskThrottle=1 JobName=x JobState=COMPLETED
   UserId=root(0) GroupId=root(0) MCS_label=N/A
   Priority=4294901748 Nice=0 Account=root QOS=normal
   JobState=FAILED Reason=NonZeroExitCode Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=143:0
   RunTime=00:00:02 TimeLimit=UNLIMITED TimeMin=N/A
   StartTime=2026-11-21T04:15:19 EndTime=2026-11-21T04:15:21 Deadline=N/A
   NodeList=a100-[01-02]
   BatchHost=a100-01
   Power=
\x20\x20\x20

"""


def local(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_squeue_tells_state_reason_start_and_nodes() -> None:
    jobs = {job.id: job for job in parse_squeue(SQUEUE)}

    assert {job_id: job.phase for job_id, job in jobs.items()} == {
        "4_1": "over", "4_3": "queued", "5": "queued", "6": "queued", "2": "over", "9_2": "running",
    }  # fmt: skip
    assert jobs["5"].start == local("2027-11-21T04:11:07")
    assert jobs["5"].explanation == "waits for free nodes (Resources)"
    assert jobs["9_2"].nodes == "a100-[01-02]"
    assert jobs["9_2"].reason == ""
    assert jobs["9_2"].end == local("2026-11-21T04:20:59")
    assert jobs["4_3"].start is None


def test_squeue_output_that_is_no_table_has_no_jobs() -> None:
    assert parse_squeue("") == []
    assert parse_squeue("slurm_load_jobs error: Invalid job id specified\n") == []


def test_sacct_tells_each_start_of_a_requeued_job_oldest_first() -> None:
    starts = [job for job in parse_sacct(SACCT) if job.id == "3"]

    assert [(job.state, job.start) for job in starts] == [
        ("PREEMPTED", local("2026-11-21T04:10:59")),
        ("RUNNING", local("2026-11-21T04:11:51")),
    ]
    assert starts[0].end == local("2026-11-21T04:11:45")
    assert starts[1].end is None


def test_sacct_tells_the_pending_elements_of_an_array() -> None:
    jobs = {job.id: job for job in parse_sacct(SACCT)}

    assert {f"4_{index}" for index in range(2, 10)} <= jobs.keys()
    assert jobs["4_9"].phase == "queued"
    assert jobs["9_0"].state == "CANCELLED"
    assert jobs["9_2"].exit_code == "15:0"


def test_scontrol_tells_elements_and_is_not_misled_by_a_job_name() -> None:
    jobs = {job.id: job for job in parse_scontrol_jobs(SCONTROL_JOBS)}

    assert [*jobs] == ["20_1", "20_2", "20_0"]
    assert jobs["20_1"].state == "PENDING"
    assert jobs["20_1"].reason == "JobArrayTaskLimit"
    assert jobs["20_0"].state == "FAILED"
    assert jobs["20_0"].exit_code == "143:0"
    assert jobs["20_0"].nodes == "a100-[01-02]"
    assert jobs["20_0"].end == local("2026-11-21T04:15:21")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("salloc: Pending job allocation 23\nsalloc: job 23 queued and waiting for resources\n", "23"),
        ("salloc: Granted job allocation 24\n", "24"),
        ("salloc: error: Job submit/allocate failed: Invalid account\n", None),
    ],
)
def test_salloc_tells_the_job_it_made(said: str, expected: str | None) -> None:
    assert parse_allocation(said) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("123", ("123",)),
        ("123_4", ("123_4",)),
        ("123_[4-6%2]", ("123_4", "123_5", "123_6")),
        ("123_[0,3,5-7]", ("123_0", "123_3", "123_5", "123_6", "123_7")),
        ("123_[1-7:3%1]", ("123_1", "123_4", "123_7")),
        ("10_[1,3,151,1...%1]", ("10_1", "10_3", "10_151")),
        (
            "10_[1,3,5-7,11,21,31,41,51,61,7",
            ("10_1", "10_3", "10_5", "10_6", "10_7", *(f"10_{n}1" for n in range(1, 7))),
        ),
    ],
)
def test_elements_of_an_array_are_expanded(text: str, expected: tuple[str, ...]) -> None:
    assert expand_job_ids(text) == expected


def test_a_state_newer_than_the_table_is_unknown_not_over() -> None:
    [job] = parse_squeue("7|DREAMING|N/A|N/A||None\n")

    assert job.phase == "unknown"
    assert job.explanation == "has the state DREAMING"


@pytest.mark.parametrize(
    "reason",
    [
        *("JobHeldUser", "JobHeldAdmin", "JobHoldMaxRequeue"),
        *("job requeued in held state", "launch failed requeued held", "launch_failed_requeued_held"),
    ],
)
def test_a_held_job_tells_the_command_that_lets_it_go(reason: str) -> None:
    [job] = parse_squeue(f"7_3|PENDING|N/A|N/A||{reason}\n")

    assert job.is_held
    assert job.explanation.startswith("held") and "`scontrol release 7_3`" in job.explanation


@pytest.mark.parametrize(("state", "reason"), [("PENDING", "Priority"), ("RUNNING", "None"), ("PENDING", "Dependency")])
def test_a_job_that_waits_or_runs_is_not_held(state: str, reason: str) -> None:
    [job] = parse_squeue(f"7|{state}|N/A|N/A||{reason}\n")

    assert not job.is_held and "release" not in job.explanation


def test_a_reason_without_words_is_shown_as_it_is() -> None:
    assert explain_reason("QOSMaxUnicorns") == "QOSMaxUnicorns"
    assert explain_reason("ReqNodeNotAvail, UnavailableNodes:gpu[1-2]").endswith("(ReqNodeNotAvail)")

"""Parsing what Slurm prints. All samples were printed by Slurm 22.05.8 (Debian 12), with accounting."""

from datetime import datetime

import pytest

from launcher.slurm.parse import (
    STATES,
    expand_job_ids,
    explain_reason,
    parse_allocation,
    parse_nodes,
    parse_sacct,
    parse_scontrol_jobs,
    parse_squeue,
    parse_test_only,
    parse_time,
)

SQUEUE = """\
4_1|CANCELLED|2026-11-21T04:10:59|a100-01|None
4_3|PENDING|N/A||JobArrayTaskLimit
5|PENDING|2027-11-21T04:11:07||Resources
6|PENDING|N/A||DependencyNeverSatisfied
2|FAILED|2026-11-21T04:10:59|a100-01|NonZeroExitCode
9_2|RUNNING|2026-11-21T04:10:59|a100-[01-02]|None
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

NODE = """\
NodeName=a100-04 Arch=x86_64 CoresPerSocket=1\x20
   CPUAlloc=0 CPUEfctv=16 CPUTot=16 CPULoad=0.08
   AvailableFeatures=(null)
   ActiveFeatures=(null)
   Gres=gpu:a100:4
   NodeAddr=127.0.0.1 NodeHostName=vm Port=31446 Version=22.05.8
   OS=Linux 6.1.0 #1 SMP PREEMPT_DYNAMIC @0\x20
   RealMemory=16000 AllocMem=0 FreeMem=23026 Sockets=16 Boards=1
   State=IDLE+DRAIN ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A
   Partitions=preempt,high\x20
   AllocTRES=
   Reason=bad cable, ask the admins [root@2026-11-21T04:15:19]

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


def test_a_node_is_read_with_its_address_and_reason() -> None:
    [node] = parse_nodes(NODE)

    assert (node.name, node.address, node.state) == ("a100-04", "127.0.0.1", "IDLE+DRAIN")
    assert (node.gres, node.cpus, node.memory_mib) == ("gpu:a100:4", 16, 16000)
    assert node.partitions == ("preempt", "high")
    assert node.reason == "bad cable, ask the admins [root@2026-11-21T04:15:19]"


def test_test_only_tells_start_nodes_and_partition() -> None:
    said = (
        "sbatch: Job 17 to start at 2026-12-04T07:52:07 using 64 processors on nodes a100-[01-04]"
        " in partition preempt\n"
    )

    estimate = parse_test_only(said)

    assert estimate is not None
    assert estimate.start == local("2026-12-04T07:52:07")
    assert (estimate.nodes, estimate.partition) == ("a100-[01-04]", "preempt")
    assert parse_test_only("allocation failure: Requested node configuration is not available\n") is None


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


def test_every_state_of_slurm_22_05_has_a_meaning() -> None:
    documented = """
        BOOT_FAIL CANCELLED COMPLETED CONFIGURING COMPLETING DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PENDING PREEMPTED
        RUNNING RESV_DEL_HOLD REQUEUE_FED REQUEUE_HOLD REQUEUED RESIZING REVOKED SIGNALING SPECIAL_EXIT STAGE_OUT
        STOPPED SUSPENDED TIMEOUT
    """

    assert [state for state in documented.split() if state not in STATES] == []


def test_a_state_newer_than_the_table_is_unknown_not_over() -> None:
    [job] = parse_squeue("7|DREAMING|N/A||None\n")

    assert job.phase == "unknown"
    assert job.explanation == "has the state DREAMING"


def test_a_reason_without_words_is_shown_as_it_is() -> None:
    assert explain_reason("QOSMaxGRESPerUser") == "QOSMaxGRESPerUser"
    assert explain_reason("ReqNodeNotAvail, UnavailableNodes:gpu[1-2]").endswith("(ReqNodeNotAvail)")


@pytest.mark.parametrize("text", ["N/A", "Unknown", "None", "", "(null)"])
def test_a_time_that_is_none_is_none(text: str) -> None:
    assert parse_time(text) is None

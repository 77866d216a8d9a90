"""Whether a node can be spared when a job goes back into the queue, by what the other nodes of its partition have.

The outputs are Slurm's, of 22.05.8 and in the words of later versions, with the names and numbers of an invented site.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.batch.able_nodes import wanted_of
from jobs.batch.allocation import BatchJob
from jobs.batch.attempt import Journal
from jobs.batch.requeue import nodes_to_exclude
from jobs.batch.slurm import fields_of
from launcher.cluster import Cluster
from launcher.run.able_nodes import UnknownNodesError, WantedNode
from launcher.run.paths import RunDir, SubmissionDir
from launcher.run.record import RunRecord
from tests.support.counting_runs import Play, write_run

JOB_22 = (
    "JobId=5 JobName=pubmed-cpt UserId=ann(1000) GroupId=ann(1000) MCS_label=N/A Priority=4294901759 Nice=0 "
    "Account=(null) QOS=(null) JobState=RUNNING Reason=None Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 "
    "Reboot=0 ExitCode=0:0 RunTime=00:00:12 TimeLimit=02:00:00 TimeMin=N/A SubmitTime=2026-12-01T08:46:10 "
    "EligibleTime=2026-12-01T08:46:10 AccrueTime=2026-12-01T08:46:10 StartTime=2026-12-01T08:46:10 "
    "EndTime=2026-12-01T10:46:10 Deadline=N/A PreemptEligibleTime=2026-12-01T08:46:10 PreemptTime=None "
    "SuspendTime=None SecsPreSuspend=0 LastSchedEval=2026-12-01T08:46:10 Scheduler=Main Partition=gpu "
    "AllocNode:Sid=head:4711 ReqNodeList=(null) ExcNodeList=(null) NodeList=gpu[1-2] BatchHost=gpu1 NumNodes=2 "
    "NumCPUs=32 NumTasks=8 CPUs/Task=4 ReqB:S:C:T=0:0:*:* TRES=cpu=32,mem=128G,node=2,billing=32,gres/gpu=8 "
    "Socks/Node=* NtasksPerN:B:S:C=4:0:*:* CoreSpec=* MinCPUsNode=16 MinMemoryNode=64G MinTmpDiskNode=0 "
    "Features=(null) DelayBoot=00:00:00 OverSubscribe=OK Contiguous=0 Licenses=(null) Network=(null) "
    "Command=/runs/.submissions/1/script.sh WorkDir=/runs/.submissions/1 Comment=pubmed-cpt ab12cd "
    "StdErr=/runs/.submissions/1/slurm-5.log StdIn=/dev/null StdOut=/runs/.submissions/1/slurm-5.log Power= "
    "TresPerNode=gres:gpu:a100:4"
)
LATER = {
    "TRES=cpu=32,mem=128G,node=2,billing=32,gres/gpu=8": (
        "ReqTRES=cpu=32,mem=128G,node=2,billing=32,gres/gpu=8,gres/gpu:a100=8 "
        "AllocTRES=cpu=32,mem=128G,node=2,billing=32,gres/gpu=8,gres/gpu:a100=8"
    ),
    "PreemptEligibleTime=2026-12-01T08:46:10 PreemptTime=None ": "",
    "Power= TresPerNode=gres:gpu:a100:4": "TresPerNode=gres/gpu:a100:4 TresPerTask=cpu=4",
}


def edited(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


JOB_24 = edited(JOB_22, LATER)
JOB_26 = edited(
    JOB_24,
    {
        "Licenses=(null) Network": "Licenses=(null) LicensesAlloc=(null) Network",
        " WorkDir=": " SubmitLine=sbatch --parsable /runs/.submissions/1/script.sh WorkDir=",
    },
)


def line(name: str, gres: str = "gpu:a100:4(S:0-1)", state: str = "mixed", features: str = "nvlink,ib") -> str:
    return f"gpu*|{name}|{state}|{gres}|{features}|64|512000\n"


ALIKE = "".join(line(f"gpu{number}") for number in range(1, 5))
TWO_TYPES = line("gpu1") + line("gpu2") + line("gpu3", "gpu:v100:4") + line("gpu4", "gpu:v100:4")

SCONTROL = """#!/bin/bash
PATH=/usr/bin:/bin
case "$2" in
  job) cat {folder}/job ;;
  partition) echo "PartitionName=gpu Nodes=gpu1,gpu2,gpu3,gpu4" ;;
  node) for i in 1 2 3 4; do echo "NodeName=gpu$i State=IDLE"; done ;;
  reservation) cat {folder}/reservation ;;
  hostnames) sed 's/\\[\\([0-9]\\)-\\([0-9]\\)\\]/\\1,gpu\\2/' <<<"$3" | tr , "\\n" ;;
esac
"""


class Partition:
    """Slurm's answers about a job on gpu1 and gpu2 and about its partition; gpu1 was unfit."""

    def __init__(self, folder: Path, job: BatchJob) -> None:
        self.folder = folder
        self.job = job
        self.say = Journal(folder / "batch.log")

    def excluded(self, shown: str, nodes: str | None, reservation: str = "") -> str | None:
        (self.folder / "job").write_text(shown)
        (self.folder / "nodes").write_text(nodes or "")
        (self.folder / "reservation").write_text(reservation)
        (self.folder / "sinfo").write_text(
            f'#!/bin/bash\nPATH=/usr/bin:/bin\necho "$@" >{self.folder}/asked\n'
            + ("exit 1\n" if nodes is None else f"cat {self.folder}/nodes\n")
        )
        (self.folder / "sinfo").chmod(0o755)
        return nodes_to_exclude(self.job, ["gpu1"], self.say)


@pytest.fixture
def partition(tmp_path: Path, make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch) -> Partition:
    (tmp_path / "scontrol").write_text(SCONTROL.format(folder=tmp_path))
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    run = RunDir(tmp_path / "run")
    recipe = Play(nodes=2).recipe.model_dump(mode="json")
    write_run(run, recipe, make_cluster())
    environ = {"SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "gpu1,gpu2"}
    job = BatchJob(SubmissionDir(tmp_path), run, recipe, RunRecord.read(run.record), environ, local=False)
    return Partition(tmp_path, job)


@pytest.mark.parametrize("shown", [JOB_22, JOB_24, JOB_26], ids=["22.05", "24.11", "26.05"])
def test_nodes_with_other_gpus_do_not_count(partition: Partition, shown: str) -> None:
    assert partition.excluded(shown, ALIKE) == "gpu1"
    asked = (partition.folder / "asked").read_text().strip()
    assert asked == "--noheader --Node --partition=gpu --format=%P|%N|%T|%G|%f|%c|%m"

    assert partition.excluded(shown, TWO_TYPES) is None, "only gpu2 has A100s"
    assert "gpu1 not excluded: the partition has too few other nodes" in partition.say.path.read_text()
    assert partition.excluded(shown.replace("a100:4", "4"), TWO_TYPES) == "gpu1", "any GPUs will do"


@pytest.mark.parametrize(
    ("changes", "nodes"),
    [
        ({"Features=(null)": "Features=nvlink&ib"}, line("gpu3", features="ib") + line("gpu4", features="(null)")),
        ({}, line("gpu3", state="drained") + line("gpu4", state="down*")),
        ({}, line("gpu3", state="maint") + line("gpu4", state="reserved")),
        ({"a100:4": "a100:8"}, line("gpu3") + line("gpu4")),
        ({"MinCPUsNode=16": "MinCPUsNode=80"}, line("gpu3") + line("gpu4")),
        ({"MinMemoryNode=64G": "MinMemoryNode=600G"}, line("gpu3") + line("gpu4")),
        ({"MinMemoryNode=64G": "MinMemoryCPU=40G"}, line("gpu3") + line("gpu4")),
    ],
    ids=["features", "broken", "reserved", "GPUs", "CPUs", "memory", "memory of a CPU"],
)  # fmt: skip
def test_nor_do_nodes_that_lack_something_else(partition: Partition, changes: dict[str, str], nodes: str) -> None:
    large = "gpu:a100:8|nvlink,ib|128|1024000\n"
    own = "".join(f"gpu*|{name}|mixed|{large}" for name in ("gpu1", "gpu2"))
    shown = edited(JOB_22, changes)

    assert partition.excluded(shown, own + nodes) is None
    assert partition.excluded(shown, own + nodes + f"gpu*|gpu5|mixed|{large}") == "gpu1"


def test_the_nodes_of_a_reservation_count_for_a_job_that_has_one(partition: Partition) -> None:
    shown = edited(JOB_22, {" OverSubscribe=": " Reservation=course OverSubscribe="})
    nodes = line("gpu1") + line("gpu2") + line("gpu3", state="reserved") + line("gpu4")
    reservation = "ReservationName=course StartTime=2026-12-01T08:00:00 Nodes={} NodeCnt=3 State=ACTIVE"

    assert partition.excluded(shown, nodes, reservation.format("gpu1,gpu2,gpu3")) == "gpu1"
    assert partition.excluded(shown, nodes, reservation.format("gpu1,gpu2")) is None
    assert partition.excluded(shown, nodes, reservation.format("(null)")) == "gpu1", "nobody knows its nodes"


def test_a_node_that_the_job_asks_for_by_name_is_not_excluded(partition: Partition) -> None:
    assert partition.excluded(edited(JOB_22, {"ReqNodeList=(null)": "ReqNodeList=gpu[1-2]"}), ALIKE) is None
    assert partition.excluded(edited(JOB_22, {"ReqNodeList=(null)": "ReqNodeList=gpu2"}), ALIKE) == "gpu1"


def test_all_nodes_of_a_job_are_of_one_partition(partition: Partition) -> None:
    shown = edited(JOB_22, {"Partition=gpu": "Partition=gpu,old"})
    other = line("gpu3").replace("gpu*", "old")

    assert partition.excluded(shown, line("gpu1") + line("gpu2") + other) is None
    assert partition.excluded(shown, line("gpu1") + line("gpu2") + other + other.replace("gpu3", "gpu4")) == "gpu1"


@pytest.mark.parametrize(
    ("changes", "nodes"),
    [
        ({}, None),
        ({}, ""),
        ({"Features=(null)": "Features=[nvlink|pcie]"}, TWO_TYPES),
        ({"TresPerNode=gres:gpu:a100:4": "TresPerNode=gres:gpu:a100:2,gres:gpu:v100:2"}, TWO_TYPES),
        ({"TresPerNode=gres:gpu:a100:4": "TresPerJob=gres:gpu:a100:8"}, TWO_TYPES),
        ({"a100:4": "A100_SXM:4"}, TWO_TYPES),
    ],
    ids=["no answer", "no node", "constraint", "two types", "GPUs of the job", "the job's own nodes seem unable"],
)
def test_where_nobody_can_tell_all_working_nodes_of_the_partition_count(
    partition: Partition, changes: dict[str, str], nodes: str | None
) -> None:
    assert partition.excluded(edited(JOB_22, changes), nodes) == "gpu1"


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, WantedNode(4, 16, 65536, "a100")),
        ({"MinCPUsNode=16": "MinCPUsNode=1"}, WantedNode(4, 16, 65536, "a100")),
        ({"gres:gpu:a100:4": "gpu:4"}, WantedNode(4, 16, 65536)),
        ({"gres:gpu:a100:4": "gres:gpu"}, WantedNode(1, 16, 65536)),
        ({"gres:gpu:a100:4": "gres:gpu:a100:4,gres:nvme:1"}, WantedNode(4, 16, 65536, "a100")),
        ({"TresPerNode=gres:gpu:a100:4": ""}, WantedNode(0, 16, 65536)),
        ({"MinMemoryNode=64G": "MinMemoryNode=64001M"}, WantedNode(4, 16, 64001, "a100")),
        ({"MinMemoryNode=64G": "MinMemoryNode=1T"}, WantedNode(4, 16, 1048576, "a100")),
        ({"MinMemoryNode=64G": "MinMemoryNode=0"}, WantedNode(4, 16, 0, "a100")),
        ({"MinMemoryNode=64G": "MinMemoryCPU=4G"}, WantedNode(4, 16, 65536, "a100")),
        ({"MinMemoryNode=64G": "MinMemoryTRES=10G"}, WantedNode(4, 16, 40960, "a100")),
        ({"Features=(null)": "Features=a&(b|c)"}, WantedNode(4, 16, 65536, "a100", "a&(b|c)")),
        ({" OverSubscribe=": " Reservation=x OverSubscribe="}, WantedNode(4, 16, 65536, "a100", None, True)),
    ],
)
def test_what_a_job_wants_of_a_node_is_read_from_scontrol(changes: dict[str, str], wanted: WantedNode) -> None:
    assert wanted_of(fields_of(edited(JOB_22, changes))) == wanted


@pytest.mark.parametrize("field", ["TresPerJob", "TresPerSocket", "TresPerTask"])
def test_gpus_that_are_not_asked_for_by_node_cannot_be_counted(field: str) -> None:
    with pytest.raises(UnknownNodesError, match=field):
        wanted_of(fields_of(edited(JOB_24, {"TresPerTask=cpu=4": f"{field}=gres/gpu:2"})))

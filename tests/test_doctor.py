"""`launcher doctor`: Slurm's words and a profile in, findings out; and the command as typed, without a Slurm."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster import Cluster
from launcher.doctor import Finding
from launcher.doctor.examine import judge_slurm, local_gpu_finding
from launcher.doctor.limits import partitions_of
from launcher.doctor.machine import (
    Folder,
    environment_findings,
    filesystem_of,
    folder_findings,
    look_at,
    other_folder_findings,
    python_finding,
    python_findings,
    wandb_findings,
)
from launcher.doctor.preemption import Preemption, preemption_of
from launcher.slurm.doctor import SlurmFacts, parse_associations, parse_features, parse_qos, parse_seconds
from launcher.slurm.site import parse_site
from tests.command_line import launcher
from tests.loading import profile, write

# Slurm 22.05.8 of a dev cluster with accounting: captured, lines that matter here.
CONFIG = """\
Configuration data as of 2026-11-21T06:54:29
AccountingStorageType   = accounting_storage/slurmdbd
AuthInfo                = socket=/run/munge/socket,cred_expire=5
ClusterName             = dev
JobRequeue              = 1
JobSubmitPlugins        = (null)
KillWait                = 5 sec
MaxArraySize            = 1001
MaxJobCount             = 20000
MinJobAge               = 300 sec
PreemptMode             = REQUEUE
PreemptType             = preempt/partition_prio
PreemptExemptTime       = 00:00:00
ProctrackType           = proctrack/linuxproc
RequeueExit             = (null)
RequeueExitHold         = (null)
SelectType              = select/cons_tres
SlurmctldParameters     = (null)
SLURM_VERSION           = 22.05.8
TaskPlugin              = task/none

Slurmctld(primary) at head is UP
"""
PARTITIONS = """\
PartitionName=preempt AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A \
DefaultTime=NONE GraceTime=10 Hidden=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0 Nodes=a100-[01-02] \
PriorityJobFactor=1 PriorityTier=1 PreemptMode=REQUEUE State=UP TotalCPUs=32 TotalNodes=2 \
TRES=cpu=32,mem=32000M,node=2,billing=32,gres/gpu=8
PartitionName=high AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=NO QoS=N/A \
DefaultTime=NONE GraceTime=0 Hidden=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0 Nodes=a100-[01-02] \
PriorityJobFactor=1 PriorityTier=10 PreemptMode=OFF State=UP TotalCPUs=32 TotalNodes=2 \
TRES=cpu=32,mem=32000M,node=2,billing=32,gres/gpu=8
"""
NODES = "preempt|gpu:a100:4|2\nhigh|gpu:a100:4|2\n"
FEATURES = "preempt|(null)|127.0.0.1\nhigh|(null)|127.0.0.1\n"
QOS = "normal|00:00:00|cluster||\n"
ASSOCIATIONS = "root||normal||\n"

# How Slurm 25.11.4 words the same lines: plugins that are off are `(null)`, and keys are there that 22.05 lacks.
CONFIG_25_11 = """\
AccountingStorageType   = accounting_storage/slurmdbd
AuthInfo                = (null)
ClusterName             = linux
JobRequeue              = 1
JobSubmitPlugins        = lua
KillWait                = 30 sec
MaxArraySize            = 1001
MaxBatchRequeue         = 5
MaxJobCount             = 10000
MinJobAge               = 300 sec
PreemptMode             = OFF
PreemptParameters       = (null)
PreemptType             = (null)
PreemptExemptTime       = 00:00:00
ProctrackType           = proctrack/linuxproc
RequeueExitHold         = (null)
SelectType              = select/cons_tres
SLURM_VERSION           = 25.11.4
TaskPlugin              = task/affinity
"""


def edited(text: str, **values: str) -> str:
    """A capture with some values replaced: made up, not captured. Keys of partitions are changed in the first one."""
    for key, value in values.items():
        text, found = re.subn(
            rf"^(.*?\b{key}\s*=\s?)\S.*?(?= \w+=|$)", rf"\g<1>{value}", text, count=1, flags=re.M | re.S
        )
        assert found, key
    return text


def facts(config: str = CONFIG, partitions: str = PARTITIONS, nodes: str = NODES, **others: Any) -> SlurmFacts:
    """What the dev cluster said, or an edited version of it."""
    given = {"qos": parse_qos(QOS), "associations": parse_associations(ASSOCIATIONS)}
    given |= {"features": parse_features(FEATURES), **others}
    return SlurmFacts(parse_site(config, partitions, nodes, "root"), **given)


def site(tmp_path: Path, slurm: str = "{partition: preempt}", gpus: str = "{type: a100, per_node: 4}") -> Cluster:
    text = f"name: dev\nroots: {{runs: ./r, corpora: ./c, models: ./m}}\nslurm: {slurm}\ngpus: {gpus}\n"
    return profile(tmp_path, text)


def preemption(said: SlurmFacts, cluster: Cluster) -> Preemption:
    (partition,) = partitions_of(cluster, said.site)
    return preemption_of(said, partition, cluster)


def judge(said: SlurmFacts, cluster: Cluster) -> dict[str, Finding]:
    """Findings by topic."""
    preemptions = [preemption_of(said, one, cluster) for one in partitions_of(cluster, said.site)]
    return {finding.topic: finding for finding in judge_slurm(said, preemptions, cluster)}


def levels(found: dict[str, Finding]) -> dict[str, str]:
    return {topic: finding.level for topic, finding in found.items()}


def test_a_dev_cluster_has_no_problem(tmp_path: Path) -> None:
    found = judge(facts(), site(tmp_path))

    assert levels(found) == {
        "partition": "ok",
        "GPUs": "ok",
        "time limit": "ok",
        "preemption": "note",
        "requeue": "ok",
        "arrays": "ok",
        "accounting": "ok",
        "cores": "note",
    }
    assert "at least 10 s (GraceTime) + 5 s (KillWait) to save" in found["preemption"].what
    assert (
        "6 s later at the earliest: we requeue it once it has saved; if it has not, Slurm does" in found["requeue"].what
    )


def test_a_site_of_slurm_25_without_preemption_says_so(tmp_path: Path) -> None:
    found = judge(facts(CONFIG_25_11), site(tmp_path))

    assert found["preemption"] == Finding("preemption", "ok", "none: the site preempts no jobs")
    assert "121 s later" in found["requeue"].what
    assert found["site rules"].level == "note"
    assert "cores" not in found


def test_without_a_grace_time_only_kill_wait_is_left_to_save(tmp_path: Path) -> None:
    said = facts(partitions=edited(PARTITIONS, GraceTime="0"))

    found = judge(said, site(tmp_path))

    assert preemption(said, site(tmp_path)).seconds_to_save == 5
    assert found["preemption"].level == "note"
    assert "no grace time (GraceTime=0), 5 s (KillWait) to save" in found["preemption"].what


def test_a_long_grace_time_is_fine(tmp_path: Path) -> None:
    found = judge(facts(partitions=edited(PARTITIONS, GraceTime="600")), site(tmp_path))

    assert found["preemption"].level == "ok"


@pytest.mark.parametrize(
    ("tracker", "helpers"), [("proctrack/linuxproc", True), ("proctrack/pgid", True), ("proctrack/cgroup", False)]
)
def test_helpers_are_signalled_where_slurm_signals_whole_trees(tmp_path: Path, tracker: str, helpers: bool) -> None:
    found = judge(facts(edited(CONFIG, ProctrackType=tracker)), site(tmp_path))

    assert ("helpers" in found["preemption"].what) is helpers


@pytest.mark.parametrize(
    "config",
    [
        edited(CONFIG, SlurmctldParameters="preempt_send_user_signal"),
        CONFIG + "PreemptParameters = send_user_signal\n",
    ],
    ids=["22.05", "newer"],
)
def test_a_site_that_sends_the_users_signal_reaches_the_batch_process(tmp_path: Path, config: str) -> None:
    found = judge(facts(config), site(tmp_path))

    assert found["preemption"].what.startswith("USR1 reaches the batch process, USR2 then every task")


def test_with_preempt_mode_cancel_an_unsaved_run_is_over(tmp_path: Path) -> None:
    found = judge(facts(partitions=edited(PARTITIONS, PreemptMode="CANCEL")), site(tmp_path))

    assert found["requeue"].level == "note"
    assert "one that has not is over (PreemptMode=CANCEL of partition `preempt`)" in found["requeue"].what
    assert "launcher resume" in found["requeue"].fix


def test_resubmit_turns_slurms_requeue_into_a_cancellation(tmp_path: Path) -> None:
    cluster = site(tmp_path, "{partition: preempt, requeue: resubmit}")

    found = judge(facts(), cluster)

    assert preemption(facts(), cluster).mode == "CANCEL"
    assert "we queue a new job for it" in found["requeue"].what
    assert "write `slurm.requeue: requeue`" in found["requeue"].fix


def test_never_means_that_nothing_comes_back(tmp_path: Path) -> None:
    found = judge(facts(), site(tmp_path, "{partition: preempt, requeue: never}"))

    assert found["requeue"].level == "note"
    assert "stays stopped" in found["requeue"].what


def test_suspended_runs_are_not_saved(tmp_path: Path) -> None:
    found = judge(facts(partitions=edited(PARTITIONS, PreemptMode="GANG,SUSPEND")), site(tmp_path))

    assert "halted in memory" in found["preemption"].what


def test_the_highest_partition_is_not_preempted(tmp_path: Path) -> None:
    found = judge(facts(), site(tmp_path, "{partition: high}"))

    assert found["preemption"].what == "none: no partition has a higher PriorityTier than `high`"


def test_several_partitions_are_told_apart(tmp_path: Path) -> None:
    cluster = site(tmp_path, "{partition: 'preempt,high'}")
    preemptions = [preemption_of(facts(), one, cluster) for one in partitions_of(cluster, facts().site)]

    told = [
        found.what.split(":")[0] for found in judge_slurm(facts(), preemptions, cluster) if found.topic == "requeue"
    ]

    assert told == ["`preempt`", "`high`"]


@pytest.mark.parametrize(
    ("rows", "mode", "grace"),
    [
        ("normal|00:00:00|cluster||\nscavenge|00:02:00|cluster||\nurgent|00:00:00|cluster|scavenge|\n", "REQUEUE", 120),
        ("scavenge|00:02:00|cancel||\nurgent|00:00:00|cluster|scavenge|\n", "CANCEL", 120),
        ("scavenge|00:02:00|cancel||\n", "OFF", 0),
        ("normal|00:00:00|cluster||\n", "REQUEUE", 0),
    ],
    ids=["the site's mode", "its own mode", "preempted by none", "unknown QOS"],
)
def test_where_qos_preempt_the_qos_says_how(tmp_path: Path, rows: str, mode: str, grace: int) -> None:
    said = facts(edited(CONFIG, PreemptType="preempt/qos"), qos=parse_qos(rows))

    how = preemption(said, site(tmp_path, "{partition: preempt, qos: scavenge}"))

    assert (how.mode, how.grace_seconds) == (mode, grace)


def test_a_user_may_have_another_default_qos_than_normal(tmp_path: Path) -> None:
    said = facts(
        edited(CONFIG, PreemptType="preempt/qos"),
        qos=parse_qos("normal|00:00:00|cluster||\nlow|00:01:00|cancel||\nhigh|00:00:00|cluster|low|\n"),
        associations=parse_associations("root||low,normal|low|\n"),
    )

    assert preemption(said, site(tmp_path)).mode == "CANCEL"


@pytest.mark.parametrize(("held", "is_problem"), [("75", True), ("1-80", True), ("1-9,90", False), ("(null)", False)])
def test_a_site_that_holds_our_exit_code_is_a_problem(tmp_path: Path, held: str, is_problem: bool) -> None:
    found = judge(facts(edited(CONFIG, RequeueExitHold=held)), site(tmp_path))

    assert ("exit codes" in found) is is_problem


@pytest.mark.parametrize(
    ("slurm", "topic", "said"),
    [
        ("{partition: gpu}", "partition", "the site has no `gpu`"),
        ("{account: other}", "account", "you may not charge `other`"),
        ("{qos: long}", "QOS", "the site has no `long`"),
        ("{reservation: course}", "reservation", "the site has no `course`"),
        ("{constraint: 'a100&nvlink'}", "constraint", "no node of the partition has `a100`"),
    ],
)
def test_what_the_profile_names_must_exist(tmp_path: Path, slurm: str, topic: str, said: str) -> None:
    found = judge(facts(), site(tmp_path, slurm))[topic]

    assert (found.level, found.what) == ("problem", said)
    assert found.fix


def test_names_that_exist_are_fine(tmp_path: Path) -> None:
    said = facts(
        features=parse_features("preempt|a100,nvlink|gpu01\n"),
        qos=parse_qos("long|00:00:00|cluster||\n"),
        associations=parse_associations("bio||long||\n"),
        reservation="ReservationName=course StartTime=2026-11-21T00:00:00 EndTime=2026-11-28T00:00:00 State=ACTIVE",
    )
    cluster = site(tmp_path, "{account: bio, qos: long, reservation: course, constraint: 'a100&nvlink'}")

    found = judge(said, cluster)

    assert [found[topic].level for topic in ("account", "QOS", "reservation", "constraint")] == ["ok"] * 4


def test_a_closed_partition_is_a_problem(tmp_path: Path) -> None:
    found = judge(facts(partitions=edited(PARTITIONS, State="DRAIN")), site(tmp_path))

    assert found["partition"].what == "`preempt` starts no jobs now"


def test_a_partition_that_refuses_the_account_is_a_problem(tmp_path: Path) -> None:
    found = judge(facts(partitions=edited(PARTITIONS, AllowAccounts="bio,chem")), site(tmp_path))

    assert found["account"].what == "partition `preempt` does not take `root`"


@pytest.mark.parametrize(("limit", "level"), [("00:04:00", "problem"), ("1-00:00:00", "ok"), ("UNLIMITED", "ok")])
def test_the_lead_must_fit_into_the_partitions_time(tmp_path: Path, limit: str, level: str) -> None:
    found = judge(facts(partitions=edited(PARTITIONS, MaxTime=limit)), site(tmp_path))

    assert found["partition"].level == level


@pytest.mark.parametrize(
    ("gpus", "nodes", "level", "fix"),
    [
        ("{type: h100}", NODES, "problem", "write `gpus.type`: one of a100"),
        ("{type: a100}", "preempt|gpu:4|2\n", "problem", "leave `gpus.type` out of the profile"),
        ("{per_node: 8}", NODES, "problem", "write `gpus.per_node: 4`"),
        ("{per_node: 2}", NODES, "note", "write `gpus.per_node: 4` to use them all"),
        ("{}", "preempt|(null)|2\n", "problem", "write another `slurm.partition`, or `gpus.device: cpu`"),
        ("{device: cpu}", "preempt|(null)|2\n", "ok", ""),
        ("{}", NODES + "preempt|gpu:v100:2|9\n", "note", "write `gpus.type` in the profile"),
    ],
)
def test_gpus_must_be_there_as_asked_for(tmp_path: Path, gpus: str, nodes: str, level: str, fix: str) -> None:
    found = judge(facts(nodes=nodes), site(tmp_path, gpus=gpus))["GPUs"]

    assert (found.level, found.fix) == (level, fix)


def test_gpus_per_node_needs_cons_tres(tmp_path: Path) -> None:
    cluster = site(tmp_path, gpus="{style: gpus-per-node}")
    said = facts(edited(CONFIG, SelectType="select/linear"))

    assert "problem" in [found.level for found in judge_slurm(said, [], cluster) if found.topic == "GPUs"]


def test_arrays_are_bounded_by_the_site_and_by_the_user(tmp_path: Path) -> None:
    mine = facts(associations=parse_associations("root||normal||50\n"))

    assert "you may have 50 jobs" in judge(mine, site(tmp_path))["arrays"].what
    assert judge(facts(edited(CONFIG, MaxArraySize="0")), site(tmp_path))["arrays"].level == "note"


def test_without_sacct_status_has_other_sources(tmp_path: Path) -> None:
    found = judge(facts(sacct_complaint="Slurm accounting storage is disabled"), site(tmp_path))

    assert found["accounting"].level == "note"
    assert "squeue, then scontrol, which forgets jobs 300 s after their end" in found["accounting"].what


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:00:00", 0),
        ("00:02:00", 120),
        ("1-00:00:00", 86400),
        ("30", 1800),
        ("10:30", 630),
        ("1-12", 129600),
        ("", 0),
    ],
)
def test_slurms_durations_are_read(text: str, seconds: int) -> None:
    assert parse_seconds(text) == seconds


GOOD = Folder(Path("/scratch/runs"), True, True, 5 * 10**12, 10**7, "lustre")


@pytest.mark.parametrize(
    ("folder", "elsewhere", "expected"),
    [
        (GOOD, True, ["ok", "ok"]),
        (Folder(GOOD.path, False, False, 5 * 10**12, 10**7, "lustre"), True, ["problem"]),
        (Folder(GOOD.path, True, True, 10**10, 10**7, "lustre"), True, ["ok", "note"]),
        (Folder(GOOD.path, True, True, 5 * 10**12, 20, "lustre"), True, ["ok", "note"]),
        (Folder(GOOD.path, True, True, 5 * 10**12, None, "ext4"), True, ["note", "ok"]),
        (Folder(GOOD.path, True, True, 5 * 10**12, None, "ext4"), False, ["ok", "ok"]),
    ],
    ids=["fine", "not writable", "full", "no inodes", "a local disk", "nodes are here"],
)
def test_runs_need_a_shared_folder_with_room(folder: Folder, elsewhere: bool, expected: list[str]) -> None:
    assert [found.level for found in folder_findings(folder, elsewhere)] == expected


def test_a_missing_folder_is_judged_by_the_one_above_it(tmp_path: Path) -> None:
    found = look_at(tmp_path / "new" / "runs", "")

    assert (found.exists, found.is_writable) == (False, True)
    assert not look_at(write(tmp_path, "", "file") / "runs", "").is_writable


def test_folders_with_unset_variables_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCRATCH", raising=False)
    cluster = profile(tmp_path, "name: dev\nroots: {runs: $SCRATCH/runs, corpora: ., models: .}\n")

    (found,) = other_folder_findings(cluster)

    assert (found.level, found.what) == ("problem", "`runs: $SCRATCH/runs`: SCRATCH is not set in this shell")


def test_the_innermost_mount_holds_a_path() -> None:
    mounts = "root / ext4 rw 0 0\nnas:/x /scratch nfs4 rw 0 0\nlocal /scratch/my\\040tmp xfs rw 0 0\n"

    assert filesystem_of(Path("/home/me"), mounts) == "ext4"
    assert filesystem_of(Path("/scratch/me/runs"), mounts) == "nfs4"
    assert filesystem_of(Path("/scratch/my tmp/x"), mounts) == "xfs"


def test_pythons_are_judged(tmp_path: Path) -> None:
    cluster = site(tmp_path)

    assert python_finding("p", (3, 10), [], cluster).level == "problem"
    assert "lacks torch" in python_finding("p", (3, 12), ["torch"], cluster).what
    with_modules = cluster.model_copy(update={"modules": ("pytorch",)})
    assert python_finding("p", (3, 12), ["torch"], with_modules).level == "note"
    assert python_finding("p", (3, 12), [], cluster).level == "ok"


def test_the_profiles_python_is_asked(tmp_path: Path) -> None:
    here, nowhere = (site(tmp_path).model_copy(update={"python": name}) for name in (sys.executable, "/nowhere/python"))

    (found,) = python_findings(here)
    (missing,) = python_findings(nowhere)

    assert found.what.startswith(f"{sys.version_info[0]}.{sys.version_info[1]}, ")
    assert "does not run on this machine" in missing.what


def test_variables_that_would_change_jobs_are_named() -> None:
    scrubbed, along = environment_findings({"SBATCH_QOS": "x", "SLURM_JOB_ID": "1", "NCCL_DEBUG": "INFO", "HOME": "/h"})

    assert scrubbed.what.endswith(": SBATCH_QOS, SLURM_JOB_ID")
    assert along.what == "goes into every job: NCCL_DEBUG"
    assert [found.level for found in environment_findings({"SLURM_CONF": "/etc/x"})] == ["ok"]


def test_the_key_of_wandb_is_found_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    secrets = write(tmp_path, "export WANDB_API_KEY=0123456789\n", "secrets")
    secrets.chmod(0o600)
    plain, with_file = site(tmp_path), site(tmp_path).model_copy(update={"secrets_file": str(secrets)})
    rc = write(tmp_path, "machine api.wandb.ai login user password 0123456789\n", "rc")
    rc.chmod(0o600)

    found = [
        next(wandb_findings(plain, {"WANDB_API_KEY": "0123456789"})),
        next(wandb_findings(with_file, {})),
        next(wandb_findings(plain, {"NETRC": str(rc)})),
    ]

    assert [one.level for one in found] == ["ok"] * 3
    assert not any("0123456789" in one.what + one.fix for one in found)
    assert next(wandb_findings(plain, {})).level == "note"
    own = plain.model_copy(update={"wandb_base_url": "https://wandb.uni.example"})
    assert "wandb.uni.example" in next(wandb_findings(own, {"NETRC": str(rc)})).what
    assert (
        next(wandb_findings(plain, {"NETRC": str(rc), "WANDB_BASE_URL": "https://wandb.uni.example"})).level == "note"
    )


@pytest.mark.parametrize(
    ("gpus", "has", "level"),
    [("{device: cpu}", 0, "ok"), ("{}", 0, "problem"), ("{per_node: 4}", 2, "problem"), ("{per_node: 4}", 4, "ok")],
)
def test_gpus_of_this_machine_are_counted(tmp_path: Path, gpus: str, has: int, level: str) -> None:
    assert local_gpu_finding(site(tmp_path, gpus=gpus), has).level == level


LOCAL = "name: here\nexecutor: local\nroots: {runs: ./r, corpora: ., models: .}\ngpus: {device: cpu}\n"


def test_a_local_profile_is_examined_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = write(tmp_path, LOCAL, "cluster.yaml")

    said, _ = launcher("doctor", "--cluster", str(path), environ={"COLUMNS": "80"})
    printed, _ = launcher("doctor", "--cluster", str(path), "--json")

    assert "here, no Slurm" in said
    assert max(map(len, said.splitlines())) <= 80
    told = json.loads(printed)
    assert (told["slurm"], told["problems"]) == (None, 0)
    assert {"runs are", "requeue", "runs", "python", "W&B"} <= {found["topic"] for found in told["findings"]}


def test_a_problem_is_exit_code_1(tmp_path: Path) -> None:
    path = write(tmp_path, LOCAL.replace("./r", "./file"), "cluster.yaml")
    write(tmp_path, "", "file")

    said, _ = launcher("doctor", "--cluster", str(path), code=1)

    assert "problem  runs" in said
    assert "1 problem" in said


def test_without_slurm_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = write(tmp_path, LOCAL.replace("executor: local\n", ""), "cluster.yaml")

    said, complaint = launcher("doctor", "--cluster", str(path), code=2)

    assert said == ""
    assert complaint.count("\n") == 1
    assert "`scontrol` is not on PATH" in complaint

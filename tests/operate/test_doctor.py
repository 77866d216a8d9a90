"""`launcher doctor`: Slurm's words and a profile in, findings out."""

import json
from pathlib import Path

import pytest

from launcher.cluster import Cluster
from launcher.doctor import Finding
from launcher.doctor.examine import TRIED_SLURM, judge_slurm, version_finding
from launcher.doctor.limits import partitions_of
from launcher.doctor.preemption import Preemption, preemption_of
from launcher.site.limits import SlurmReport, parse_associations, parse_features, parse_qos
from launcher.slurm.parse import parse_seconds
from tests.support.slurm_reports import (
    CONFIG,
    CONFIG_25_11,
    NODES,
    PARTITIONS,
    edited,
    facts,
    site,
)

DOCS = Path(__file__).parents[2] / "docs"


def preemption(said: SlurmReport, cluster: Cluster) -> Preemption:
    (partition,) = partitions_of(cluster, said.site)
    return preemption_of(said, partition, cluster)


def judge(said: SlurmReport, cluster: Cluster) -> dict[str, Finding]:
    """Findings by topic."""
    preemptions = [preemption_of(said, one, cluster) for one in partitions_of(cluster, said.site)]
    return {finding.topic: finding for finding in judge_slurm(said, preemptions, cluster)}


def levels(found: dict[str, Finding]) -> dict[str, str]:
    return {topic: finding.level for topic, finding in found.items()}


def test_a_dev_cluster_has_no_problem(tmp_path: Path) -> None:
    found = judge(facts(), site(tmp_path))

    assert levels(found) == {
        "Slurm": "ok",
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


def test_the_versions_that_were_tried_are_those_on_record() -> None:
    on_record = json.loads((DOCS / "slurm-versions.json").read_text(encoding="utf-8"))

    here = "22.05"  # that of Debian 12, on which all of these tests run
    assert sorted({here, *(version.rpartition(".")[0] for version in on_record)}) == sorted(TRIED_SLURM)
    assert {version: version_finding(version).level for version in ("22.05.8", "23.02.6", "2.05")} == {
        "22.05.8": "ok",
        "23.02.6": "note",
        "2.05": "note",
    }


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
    assert "halted for longer than `limits.hang` fails" in found["preemption"].what


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


@pytest.mark.parametrize(
    ("constraint", "missing"),
    [
        ("80gb&a100", None),
        ("[rack1*2&rack2*1]", None),
        ("(80gb|nvlink-4)&a100", None),
        ("[rack1|rack2],a100*2", None),
        ("40gb", "40gb"),
        ("a100&[rack1*2&rack9*1]", "rack9"),
    ],
)
def test_each_feature_of_a_constraint_must_exist(tmp_path: Path, constraint: str, missing: str | None) -> None:
    said = facts(features=parse_features("preempt|a100,80gb,rack1,rack2,nvlink-4|gpu01\n"))

    found = judge(said, site(tmp_path, f"{{constraint: '{constraint}'}}"))["constraint"]

    told = ("problem", f"no node of the partition has `{missing}`") if missing else ("ok", f"`{constraint}`")
    assert (found.level, found.what) == told


def test_accounts_and_qualities_of_service_may_be_written_in_capitals(tmp_path: Path) -> None:
    """sacctmgr keeps them in lower case, and Slurm does not tell them apart."""
    said = facts(
        partitions=edited(PARTITIONS, AllowAccounts="bio", AllowQos="long"),
        qos=parse_qos("normal|00:00:00|cluster||\nlong|00:10:00|cluster||3\n"),
        associations=parse_associations("bio||long||\nchem||normal||\n"),
    )
    cluster = site(tmp_path, "{account: BIO, qos: Long}")

    found = judge(said, cluster)

    assert [found[topic].level for topic in ("account", "QOS")] == ["ok", "ok"]
    assert "you may have 3 jobs" in found["arrays"].what


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

"""`launcher doctor` at real sites: with accounting and without, and where preempted jobs are cancelled."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.artifacts.site_measurements import measurements_of_site
from launcher.devcluster import DevCluster
from launcher.run.ledger import read_attempts
from tests.slurm.site import Site
from tests.support.recipe_files import write

pytestmark = pytest.mark.slurm


@pytest.fixture
def cancelling(devcluster: DevCluster) -> Iterator[DevCluster]:
    """A site without accounting that cancels what it preempts, at once."""
    devcluster.slurm("scontrol", "update", "PartitionName=preempt", "PreemptMode=CANCEL", "GraceTime=0")
    yield devcluster
    devcluster.slurm("scontrol", "update", "PartitionName=preempt", "PreemptMode=REQUEUE", "GraceTime=10")


def examine(cluster: DevCluster, exit_code: int = 0, **environment: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `launcher doctor --json` says, and its findings by topic."""
    site = Site(cluster, environment)
    told: dict[str, Any] = json.loads(site.launcher("doctor", "--json", exit_code=exit_code))
    return told, {found["topic"]: found for found in told["findings"]}


def test_a_site_without_accounting_is_described(devcluster: DevCluster) -> None:
    told, found = examine(devcluster, SBATCH_PARTITION="high")

    assert told["problems"] == 0
    assert [(one["mode"], one["grace_seconds"], one["seconds_to_save"]) for one in told["preemptions"]] == [
        ("REQUEUE", 10, 15)
    ]
    assert "if it has not, Slurm does" in found["requeue"]["what"]
    assert "accounting storage is disabled" in found["accounting"]["what"]
    assert found["environment"]["what"].endswith(": SBATCH_PARTITION")
    assert found["STOP file"]["level"] == "ok"


def test_a_site_with_accounting_answers_sacct(accounting_cluster: DevCluster) -> None:
    told, found = examine(accounting_cluster)

    assert told["problems"] == 0
    assert found["accounting"]["level"] == "ok"


def test_accounts_and_qos_are_checked_where_there_is_accounting(accounting_cluster: DevCluster) -> None:
    text = accounting_cluster.profile.read_text().replace(
        "partition: preempt", "partition: preempt\n  account: nobodys\n  qos: longest\n  reservation: course"
    )
    path = write(accounting_cluster.layout.folder, text, "wrong.yaml")

    printed = Site(accounting_cluster).launcher("doctor", "--json", "--cluster", path, exit_code=1)

    wrong = [found["topic"] for found in json.loads(printed)["findings"] if found["level"] == "problem"]
    assert wrong == ["account", "QOS", "reservation"]


def test_a_reservation_is_found(devcluster: DevCluster) -> None:
    argv = ("ReservationName=course", "StartTime=now", "Duration=60", "Users=root", "Nodes=ALL", "Flags=IGNORE_JOBS")
    devcluster.slurm("scontrol", "create", "reservation", *argv)
    text = devcluster.profile.read_text().replace("partition: preempt", "partition: preempt\n  reservation: course")
    path = write(devcluster.layout.folder, text, "reserved.yaml")

    printed = Site(devcluster).launcher("doctor", "--cluster", path)
    devcluster.slurm("scontrol", "delete", "ReservationName=course")

    assert "`course` until 20" in printed


def test_a_site_that_cancels_is_described(cancelling: DevCluster) -> None:
    told, found = examine(cancelling)

    assert [(one["mode"], one["seconds_to_save"]) for one in told["preemptions"]] == [("CANCEL", 5)]
    assert "no grace time" in found["preemption"]["what"]
    assert "one that has not is over (PreemptMode=CANCEL" in found["requeue"]["what"]


def test_a_dead_controller_is_one_line_and_exit_code_1(devcluster: DevCluster, tmp_path: Path) -> None:
    conf = devcluster.layout.slurm_conf.read_text()
    nobody = write(
        tmp_path, "\n".join(line for line in conf.splitlines() if not line.startswith("SlurmctldPort")), "conf"
    )
    text = devcluster.profile.read_text().replace(str(devcluster.layout.slurm_conf), str(nobody))
    path = write(tmp_path, text, "cluster.yaml")

    assert Site(devcluster).launcher("doctor", "--cluster", path, exit_code=1) == ""


def test_a_submitted_check_measures_is_stopped_and_comes_back(devcluster: DevCluster) -> None:
    """The recipe is "site_check.yaml"."""
    profile = yaml.safe_load(devcluster.profile.read_text())
    profile["gpus"]["per_node"] = 1
    path = write(devcluster.layout.folder, yaml.safe_dump(profile), "small_nodes.yaml")

    printed = Site(devcluster).launcher("doctor", "--submit", "--rehearse", "--json", "--cluster", path)

    found = {one["topic"]: one for one in json.loads(printed)["findings"]}
    assert [found[topic]["level"] for topic in ("rendezvous", "between nodes", "stop request", "requeue")] == ["ok"] * 4
    assert found["rendezvous"]["what"].startswith("2 nodes x 1 ranks on CPU")
    kept = measurements_of_site(Path(profile["roots"]["runs"]))
    assert kept is not None and kept.network
    assert read_attempts(Path(profile["roots"]["runs"], kept.run, "attempts.jsonl"))[0].reason == "time_limit"

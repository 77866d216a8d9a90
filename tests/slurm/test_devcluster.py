"""The dev cluster as its users meet it: real daemons, real jobs, real preemptions and node failures."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launcher.cli.devcluster import app
from launcher.devcluster import DevCluster, Shape
from launcher.devcluster.nodes import node_pids
from launcher.devcluster.processes import Process, all_pids
from launcher.errors import LauncherError
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slurm

# Two tasks on each of two nodes; each task says that it started and when it gets SIGTERM, and goes on regardless.
STUBBORN = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=2 --gres=gpu:a100:1 --output=/dev/null --requeue
srun bash -c 'mark=$SLURM_PROCID-$SLURMD_NODENAME-${{SLURM_RESTART_COUNT:-0}}
    trap "touch {folder}/term-$mark" TERM; touch {folder}/start-$mark; while true; do sleep 0.2; done'
"""


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder near the root: pytest's own are too deep for Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="dc-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def second_cluster(devcluster: DevCluster, short_folder: Path) -> Iterator[DevCluster]:
    """A small cluster beside the shared one."""
    cluster = DevCluster(short_folder / "second")
    cluster.up(Shape(nodes=1, gpus=1))
    yield cluster
    cluster.down()


@pytest.fixture
def stubborn_job(devcluster: DevCluster, tmp_path: Path) -> Iterator[str]:
    """A running job of two nodes whose tasks ignore SIGTERM."""
    script = tmp_path / "stubborn.sh"
    script.write_text(STUBBORN.format(folder=tmp_path))
    job = devcluster.slurm("sbatch", "--parsable", str(script))
    wait_for(lambda: len(list(tmp_path.glob("start-*"))) == 4, "four tasks to start")
    yield job
    devcluster.slurm("scancel", job)
    wait_for(lambda: not devcluster.slurm("squeue", "--noheader"), "an empty queue")


def job_field(cluster: DevCluster, job: str, field: str) -> str:
    """Return one field of `scontrol show job`, such as Restarts."""
    words = cluster.slurm("scontrol", "show", "job", "--oneliner", job).split()
    return dict(word.split("=", 1) for word in words if "=" in word)[field]


def node_state(cluster: DevCluster, node: str) -> str:
    return (cluster.status().node_states or {})[node]


def pids_of_cluster(folder: Path) -> list[int]:
    """Return all living processes whose command line or environment names the cluster's folder."""
    found = []
    for pid in all_pids():
        try:
            said = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if bytes(folder) in said and Process.of(pid) is not None and pid != os.getpid():
            found.append(pid)
    return found


def test_an_array_of_two_nodes_with_two_tasks_each_runs(devcluster: DevCluster, tmp_path: Path) -> None:
    said = "$SLURM_ARRAY_TASK_ID $SLURM_PROCID $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"
    devcluster.slurm(
        *("sbatch", "--wait", "--array=0-1", "--nodes=2", "--ntasks-per-node=2", "--gres=gpu:a100:2"),
        *("--output=/dev/null", f"--wrap=srun --output={tmp_path}/%j-%t.txt bash -c 'echo {said}'"),
    )

    rows = sorted(path.read_text().split() for path in tmp_path.iterdir())

    assert [row[:2] for row in rows] == [[str(element), str(rank)] for element in range(2) for rank in range(4)]
    assert [len({node for element, _, node, _ in rows if element == which}) for which in "01"] == [2, 2]
    assert {gpus for _, _, _, gpus in rows} <= {"0,1", "2,3"}


def test_preemption_sends_sigterm_to_the_tasks_and_requeues_the_job(
    devcluster: DevCluster, stubborn_job: str, tmp_path: Path
) -> None:
    devcluster.preempt(stubborn_job)

    wait_for(lambda: len(list(tmp_path.glob("term-*-0"))) == 4, "SIGTERM in four tasks")
    wait_for(lambda: len(list(tmp_path.glob("start-*-1"))) == 4, "the second start of four tasks")
    assert job_field(devcluster, stubborn_job, "Restarts") == "1"


def test_preemption_without_a_victim_is_refused(devcluster: DevCluster) -> None:
    wait_for(lambda: not devcluster.slurm("squeue", "--noheader"), "an empty queue")

    with pytest.raises(LauncherError, match="partition `preempt` runs on no node; submit a job"):
        devcluster.preempt()


def test_a_killed_node_goes_down_its_job_moves_and_the_node_comes_back(
    devcluster: DevCluster, stubborn_job: str, tmp_path: Path
) -> None:
    victim, survivor = sorted({path.name[8:15] for path in tmp_path.glob("start-*")})

    killed = devcluster.kill_node(victim)

    assert killed >= 4, "slurmd, slurmstepd and two tasks"
    assert not [pid for pid in node_pids(victim, None, devcluster.layout) if Process.of(pid)]
    assert node_pids(survivor, None, devcluster.layout)
    wait_for(lambda: node_state(devcluster, victim).startswith("down"), f"{victim} to be marked DOWN")
    wait_for(lambda: len(list(tmp_path.glob("start-*-1"))) == 4, "the second start of four tasks")
    assert not list(tmp_path.glob(f"start-*-{victim}-1"))

    devcluster.revive_node(victim)

    assert node_state(devcluster, victim) == "idle"


def test_an_announced_power_cut_is_known_at_once_and_undone_by_revive(devcluster: DevCluster) -> None:
    devcluster.kill_node("a100-04", announce=True)
    state_after_the_cut = node_state(devcluster, "a100-04")

    devcluster.revive_node("a100-04")

    assert state_after_the_cut.startswith("down")
    assert node_state(devcluster, "a100-04") == "idle"


def test_an_unknown_node_is_refused_with_the_known_ones(devcluster: DevCluster) -> None:
    with pytest.raises(LauncherError, match="no node `a100-09`; write one of a100-01, a100-02"):
        devcluster.kill_node("a100-09")


def test_up_on_a_running_cluster_changes_nothing(devcluster: DevCluster) -> None:
    said: list[str] = []
    before = devcluster.status()

    DevCluster(devcluster.layout.folder, said.append).up(Shape())

    assert said == ["already running: 4 nodes x 4 GPUs, no accounting"]
    assert devcluster.status().daemons == before.daemons


def test_up_with_another_shape_explains_how_to_change_it(devcluster: DevCluster) -> None:
    with pytest.raises(LauncherError, match=r"runs with 4 nodes x 4 GPUs.*first run `launcher devcluster down --dir"):
        devcluster.up(Shape(nodes=2))


def test_status_shows_daemons_and_nodes(devcluster: DevCluster) -> None:
    shown = CliRunner().invoke(app, ["status", "--dir", str(devcluster.layout.folder)]).output

    assert "running" in shown
    assert "slurmctld" in shown
    assert all(f"slurmd-a100-0{number}" in shown for number in range(1, 5))
    assert "idle" in shown


def test_down_of_one_cluster_ends_all_it_started_and_nothing_of_another(
    devcluster: DevCluster, second_cluster: DevCluster
) -> None:
    second_cluster.slurm("sbatch", "--output=/dev/null", "--wrap=srun sleep 1000 & sleep 1000")
    wait_for(lambda: node_state(second_cluster, "a100-01") == "mixed", "the job to run")
    others = devcluster.status()

    second_cluster.down()

    assert pids_of_cluster(second_cluster.layout.folder) == []
    assert devcluster.status().daemons == others.daemons
    assert devcluster.slurm("sinfo", "--noheader", "--format=%D", "--partition=preempt").split() == ["4"]


def test_up_after_a_crash_starts_again_and_keeps_the_queue(second_cluster: DevCluster) -> None:
    job = second_cluster.slurm("sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true")
    for daemon in second_cluster.status().daemons:
        assert daemon.pid is not None
        os.kill(daemon.pid, signal.SIGKILL)
    wait_for(lambda: pids_of_cluster(second_cluster.layout.folder) == [], "the daemons to be gone")

    second_cluster.up(Shape(nodes=1, gpus=1))

    assert second_cluster.slurm("squeue", "--noheader", "--format=%i") == job
    assert node_state(second_cluster, "a100-01") == "idle"


def test_a_cluster_comes_up_in_another_shape_after_down(second_cluster: DevCluster) -> None:
    second_cluster.down()

    second_cluster.up(Shape(nodes=2, gpus=2))

    assert second_cluster.status().node_states == {"a100-01": "idle", "a100-02": "idle"}
    assert "gpu:a100:2" in second_cluster.slurm("scontrol", "show", "node", "a100-01")


def test_purge_removes_the_folder(second_cluster: DevCluster) -> None:
    second_cluster.down(purge=True)

    assert not second_cluster.layout.folder.exists()


def test_accounting_answers(accounting_cluster: DevCluster) -> None:
    job = accounting_cluster.slurm("sbatch", "--parsable", "--wait", "--output=/dev/null", "--wrap=true").splitlines()[
        0
    ]

    wanted = ("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=state")
    state = wait_for(lambda: accounting_cluster.slurm(*wanted), "the job in the accounts")

    assert state == "COMPLETED"


# PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL (man 2 prctl): the daemons get no right that an ordinary user lacks.
ORDINARY_USER = """
import ctypes, os, subprocess, sys
from pathlib import Path
from launcher.devcluster import DevCluster, Shape
ctypes.CDLL(None).prctl(47, 4, 0, 0, 0)
cluster = DevCluster(Path(sys.argv[1]), print)
cluster.up(Shape(nodes=2, gpus=1))
try:
    cluster.slurm("sbatch", "--wait", "--nodes=2", "--chdir=/", f"--output={sys.argv[1]}/job.txt", "--wrap=srun id -u")
    cluster.kill_node("a100-02", announce=True)
    cluster.revive_node("a100-02")
finally:
    cluster.down()
print(Path(sys.argv[1], "job.txt").read_text())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: all other tests here already run as an ordinary user")
def test_an_ordinary_user_can_run_a_cluster(short_folder: Path) -> None:
    user = pwd.getpwnam("daemon").pw_uid  # Slurm 26.05 refuses `nobody`
    os.chown(short_folder, user, user)
    # The right to read all files lets the user start this very Python, which may lie in root's home.
    identity = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups")
    rights = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")

    done = subprocess.run(
        [*identity, *rights, sys.executable, "-c", ORDINARY_USER, str(short_folder / "cluster")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if line.isdigit()] == [str(user), str(user)]
    assert pids_of_cluster(short_folder) == []

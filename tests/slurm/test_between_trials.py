"""An element of a search that is told to go between two trials, by a real Slurm."""

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.devcluster import DevCluster
from launcher.load import load_cluster
from launcher.run.slurm_text import parse_fields
from tests.slurm.site import preempt_mode
from tests.support.counting_runs import PROJECT
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slurm

ELEMENT = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {project!r})
from jobs.batch.search import come_back
from jobs.batch.supervise import Signals
from launcher.run.paths import SubmissionDir

signals, folder = Signals(), Path({folder!r})
signals.install()
count = len(list(folder.glob("started-*")))
(folder / f"started-{{count}}").write_text(str(os.getpid()))
while not signals.seen:
    time.sleep(0.05)
come_back(folder / "search", SubmissionDir(folder), os.environ, signals.seen)
(folder / "decided").touch()
sys.exit(75)
"""


@dataclass(frozen=True)
class Waiting:
    """A job that waits to be told to go, as an element does between two trials."""

    devcluster: DevCluster
    folder: Path
    job: str

    def shown(self) -> dict[str, str]:
        return parse_fields(self.devcluster.slurm("scontrol", "show", "job", "--oneliner", self.job))

    def started(self, count: int) -> Path:
        path = self.folder / f"started-{count}"
        wait_for(lambda: path.exists() and path.stat().st_size, f"start {count} of the element")
        return path


@pytest.fixture
def waiting(devcluster: DevCluster, tmp_path: Path) -> Callable[[str], Waiting]:
    def start(requeue: str) -> Waiting:
        (tmp_path / "search").mkdir()
        (tmp_path / "search" / "search.json").write_text(json.dumps({"cluster": {"slurm": {"requeue": requeue}}}))
        (tmp_path / "element.py").write_text(ELEMENT.format(project=str(PROJECT), folder=str(tmp_path)))
        partition = load_cluster(str(devcluster.profile)).slurm.partition
        options = (f"--partition={partition}", "--ntasks=1", "--open-mode=append")
        head = f"#!/bin/bash\n#SBATCH --output={tmp_path}/log\n"  # in the script, which is submitted again, too
        (tmp_path / "submission.sh").write_text(
            f"{head}exec {shlex.join([sys.executable, str(tmp_path / 'element.py')])}\n"
        )
        script = str(tmp_path / "submission.sh")
        job = devcluster.slurm("sbatch", "--parsable", "--requeue", "--exclude=a100-04", *options, script)
        element = Waiting(devcluster, tmp_path, job)
        element.started(0)
        return element

    return start


def test_one_that_a_person_cancels_does_not_come_back(waiting: Callable[[str], Waiting]) -> None:
    element = waiting("requeue")

    element.devcluster.slurm("scancel", element.job)

    wait_for(lambda: element.shown()["JobState"] == "CANCELLED", "the end of the job")
    wait_for((element.folder / "decided").exists, "its decision")
    assert "scontrol requeue" not in (element.folder / "log").read_text()
    assert element.shown()["PreemptTime"] == "None"


def test_one_that_is_preempted_comes_back(waiting: Callable[[str], Waiting]) -> None:
    element = waiting("requeue")
    with preempt_mode(element.devcluster, "CANCEL", 10):
        element.devcluster.preempt(element.job)
        element.started(1)

    element.devcluster.slurm("scancel", element.job)


def test_one_whose_node_ends_its_processes_comes_back_as_a_new_job_on_the_nodes_it_may_use(
    waiting: Callable[[str], Waiting],
) -> None:
    element = waiting("resubmit")

    os.kill(int(element.started(0).read_text()), signal.SIGTERM)

    element.started(1)
    [new] = element.devcluster.slurm("squeue", "--noheader", "--states=RUNNING", "--format=%i").split()
    assert new != element.job
    shown = parse_fields(element.devcluster.slurm("scontrol", "show", "job", "--oneliner", new))
    assert shown["ExcNodeList"] == "a100-04"
    element.devcluster.slurm("scancel", new)

"""A search on a real Slurm, with trials of two nodes whose ranks are a formula: preempted, killed, and none is lost."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from launcher.cluster import Cluster
from launcher.devcluster import DevCluster
from launcher.load import load_cluster
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from launcher.run.trials import read_trials
from tests.slurm.site import Site
from tests.support.searches import StagedSearch, stage_search
from tests.support.submissions import MakeRecipe
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slurm

RATES = (1e-1, 1e-2, 1e-3)
TWO_NODES = {"nodes": 2, "gpus_per_node": 1, "cpus_per_task": 1, "time": "10min"}


@pytest.fixture
def staged(devcluster: DevCluster, tmp_path: Path, make_cpt: MakeRecipe) -> StagedSearch:
    profile = load_cluster(str(devcluster.profile))
    roots = profile.roots.model_copy(update={"runs": str(tmp_path / "runs")})
    slurm = profile.slurm.model_copy(update={"options": {**profile.slurm.options, "exclusive": True}})
    cluster: Cluster = profile.model_copy(update={"roots": roots, "slurm": slurm})
    return stage_search(tmp_path, cluster, make_cpt(resources=TWO_NODES), RATES, elements=2)


def test_a_preempted_trial_resumes_as_itself_and_a_killed_element_leaves_its_own_to_another(
    devcluster: DevCluster, staged: StagedSearch
) -> None:
    wait_for(lambda: not devcluster.slurm("squeue", "--noheader"), "an empty queue")
    site, holds = Site(devcluster), [staged.hold(0), staged.hold(1)]
    devcluster.slurm("sbatch", "--array=0-1", str(staged.submission.script))
    wait_for(lambda: staged.waits(0) and staged.waits(1), "two trials at once")
    first, second = staged.run(0), staged.run(1)
    assert {job_of(first).partition("_")[2], job_of(second).partition("_")[2]} == {"0", "1"}

    devcluster.preempt(job_of(first))
    site.wait_for_attempt(first, 1)
    os.kill(batch_process(staged, job_of(second)), signal.SIGKILL)
    wait_for(lambda: job_of(second) not in jobs(devcluster), "the end of the killed element")
    for hold in holds:
        hold.unlink()
    wait_for(lambda: not jobs(devcluster), "the end of the other element")

    runs = [staged.run(number) for number in range(3)]
    attempts = [read_attempts(run.ledger) for run in runs]
    assert [[one.reason for one in its][-1] for its in attempts] == ["finished"] * 3
    assert [len(its) for its in attempts] == [2, 2, 1]
    assert attempts[0][0].reason == "preempted"
    assert attempts[0][1].first_step == 2, "it goes on from what it had saved"
    assert [trial.values["optim.lr"] for trial in read_trials(staged.search)] == [*RATES]
    assert {job_of(run) for run in runs} == {job_of(first)}, "one element carried out all that was left"
    assert all(len(attempt.nodes) == 2 for run in runs for attempt in read_attempts(run.ledger))


def job_of(run: RunDir) -> str:
    return RunRecord.read(run.record).submissions[-1].job_id


def batch_process(staged: StagedSearch, job: str) -> int:
    """Find the process of an element on this machine."""
    index = b"SLURM_ARRAY_TASK_ID=" + job.rpartition("_")[2].encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if os.fsencode(staged.submission.root) in words and b"jobs.batch.main" in words:
                found += [int(folder.name)] if index in (folder / "environ").read_bytes().split(b"\0") else []
    [process] = found
    return process


def jobs(devcluster: DevCluster) -> list[str]:
    return devcluster.slurm("squeue", "--noheader", "--array", "--format=%i").split()

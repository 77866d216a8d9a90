"""Which nodes a run is not given again, by what Slurm says of the job and its partition."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.runtime.attempt import Journal
from jobs.runtime.comeback import nodes_to_exclude
from jobs.runtime.job import Job
from launcher.cluster import Cluster
from launcher.paths import RunDir, SubmissionDir
from launcher.record import RunRecord
from tests.plays import Play, write_run

SCONTROL = """#!/bin/bash
PATH=/usr/bin:/bin
case "$2" in
  job) echo "JobId=5 Partition=gpu ExcNodeList={excluded}" ;;
  partition) echo "PartitionName=gpu Nodes=gpu1,gpu2,gpu3,gpu4" ;;
  hostnames) tr , "\\n" <<<"$3" ;;
esac
"""


@pytest.fixture
def say(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "batch.log")


@pytest.fixture
def job_on(tmp_path: Path, make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    def make(nodes: str, excluded: str | None = "(null)") -> Job:
        if excluded is not None:
            (tmp_path / "scontrol").write_text(SCONTROL.format(excluded=excluded))
            (tmp_path / "scontrol").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        run = RunDir(tmp_path / "run")
        recipe = Play().recipe.model_dump(mode="json")
        write_run(run, recipe, make_cluster(slurm={"exclude": "gpu9"}))
        environ = {"SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": nodes}
        return Job(SubmissionDir(tmp_path), run, recipe, RunRecord.read(run.record), environ, local=False)

    return make


def test_an_unfit_node_joins_those_that_the_job_excludes_already(job_on: Callable[..., Job], say: Journal) -> None:
    assert nodes_to_exclude(job_on("gpu1", "(null)"), ["gpu1"], say) == "gpu1"


def test_nodes_that_were_excluded_before_stay_excluded(job_on: Callable[..., Job], say: Journal) -> None:
    assert nodes_to_exclude(job_on("gpu1,gpu2", "gpu4"), ["gpu2"], say) == "gpu4,gpu2"


def test_the_profiles_own_list_is_kept_when_slurm_does_not_tell(job_on: Callable[..., Job], say: Journal) -> None:
    assert nodes_to_exclude(job_on("gpu1", None), ["gpu1"], say) == "gpu9,gpu1"


def test_a_name_that_is_none_of_the_jobs_nodes_is_not_excluded(job_on: Callable[..., Job], say: Journal) -> None:
    assert nodes_to_exclude(job_on("gpu1"), ["node 3"], say) is None


def test_a_fault_that_all_nodes_have_is_not_theirs(job_on: Callable[..., Job], say: Journal) -> None:
    assert nodes_to_exclude(job_on("gpu1,gpu2"), ["gpu1", "gpu2"], say) is None
    assert "all of them have the fault" in say.path.read_text()


def test_a_job_is_not_left_without_nodes(job_on: Callable[..., Job], say: Journal) -> None:
    job = job_on("gpu1,gpu2", "gpu3")

    assert nodes_to_exclude(job, ["gpu1"], say) == "gpu3,gpu1"
    (say.path.parent / "scontrol").write_text(SCONTROL.format(excluded="gpu3,gpu4"))
    assert nodes_to_exclude(job, ["gpu1"], say) is None
    assert "the partition has too few other nodes" in say.path.read_text()

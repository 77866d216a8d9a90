"""Which nodes a run is not given again, and what waits for it, by what Slurm says."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.batch.allocation import BatchJob
from jobs.batch.attempt import Journal
from jobs.batch.dependents import repoint_dependents
from jobs.batch.requeue import nodes_to_exclude, requeue_run
from jobs.batch.restart_policy import RestartDecision
from launcher.cluster import Cluster
from launcher.run.ledger import Action, Attempt
from launcher.run.paths import RunDir, SubmissionDir
from launcher.run.record import RunRecord
from tests.support.counting_runs import Play, write_run

SCONTROL = """#!/bin/bash
PATH=/usr/bin:/bin
case "$2" in
  job) echo "JobId=5 Partition=gpu ExcNodeList={excluded}" ;;
  partition) echo "PartitionName=gpu Nodes=gpu1,gpu2,gpu3,gpu4" ;;
  node) cat {states} ;;
  hostnames) tr , "\\n" <<<"$3" ;;
esac
"""


@pytest.fixture
def say(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "batch.log")


@pytest.fixture
def job_on(
    tmp_path: Path, make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., BatchJob]:
    def make(nodes: str, excluded: str | None = "(null)") -> BatchJob:
        if excluded is not None:
            (tmp_path / "states").touch()
            (tmp_path / "scontrol").write_text(SCONTROL.format(excluded=excluded, states=tmp_path / "states"))
            (tmp_path / "scontrol").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        run = RunDir(tmp_path / "run")
        recipe = Play().recipe.model_dump(mode="json")
        write_run(run, recipe, make_cluster(slurm={"exclude": "gpu9"}))
        environ = {"SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": nodes}
        return BatchJob(SubmissionDir(tmp_path), run, recipe, RunRecord.read(run.record), environ, local=False)

    return make


def test_an_unfit_node_joins_those_that_the_job_excludes_already(job_on: Callable[..., BatchJob], say: Journal) -> None:
    assert nodes_to_exclude(job_on("gpu1", "(null)"), ["gpu1"], say) == "gpu1"


def test_nodes_that_were_excluded_before_stay_excluded(job_on: Callable[..., BatchJob], say: Journal) -> None:
    assert nodes_to_exclude(job_on("gpu1,gpu2", "gpu4"), ["gpu2"], say) == "gpu4,gpu2"


def test_the_profiles_own_list_is_kept_when_slurm_does_not_tell(job_on: Callable[..., BatchJob], say: Journal) -> None:
    assert nodes_to_exclude(job_on("gpu1", None), ["gpu1"], say) == "gpu9,gpu1"


def test_a_name_that_is_none_of_the_jobs_nodes_is_not_excluded(job_on: Callable[..., BatchJob], say: Journal) -> None:
    assert nodes_to_exclude(job_on("gpu1"), ["node 3"], say) is None


def test_a_fault_that_all_nodes_have_is_not_theirs(job_on: Callable[..., BatchJob], say: Journal) -> None:
    assert nodes_to_exclude(job_on("gpu1,gpu2"), ["gpu1", "gpu2"], say) is None
    assert "all of them have the same fault" in say.path.read_text()


def test_a_job_is_not_left_without_nodes(job_on: Callable[..., BatchJob], say: Journal) -> None:
    job = job_on("gpu1,gpu2", "gpu3")

    assert nodes_to_exclude(job, ["gpu1"], say) == "gpu3,gpu1"
    states = say.path.parent / "states"
    states.write_text("NodeName=gpu2 State=ALLOCATED\nNodeName=gpu3 State=IDLE\nNodeName=gpu4 State=DOWN*+DRAIN\n")
    assert nodes_to_exclude(job, ["gpu1"], say) is None, "gpu2 alone is left"
    states.write_text("NodeName=gpu4 State=IDLE+CLOUD+POWERED_DOWN\n")
    assert nodes_to_exclude(job, ["gpu1"], say) == "gpu3,gpu1"
    (say.path.parent / "scontrol").write_text(SCONTROL.format(excluded="gpu3,gpu4", states=states))
    assert nodes_to_exclude(job, ["gpu1"], say) is None
    assert "the partition has too few other nodes" in say.path.read_text()


@pytest.mark.parametrize(("excluded", "option"), [("gpu[3-4]", ["--exclude=gpu[3-4]"]), ("(null)", [])])
@pytest.mark.parametrize("action", ["requeue", "resubmit"])
def test_a_new_job_is_not_given_the_nodes_that_the_one_before_excluded(
    job_on: Callable[..., BatchJob], say: Journal, action: Action, excluded: str, option: list[str]
) -> None:
    job, handler = job_on("gpu1,gpu2", excluded), signal.getsignal(signal.SIGTERM)
    (say.path.parent / "sbatch").write_text(f'#!/bin/bash\necho "$@" >{say.path.parent}/argv\necho 6\n')
    (say.path.parent / "sbatch").chmod(0o755)
    scontrol = SCONTROL.format(excluded=excluded, states="/dev/null").replace(
        'case "$2"', '[ "$1" != requeue ] || exit 1\ncase "$2"'
    )
    (say.path.parent / "scontrol").write_text(scontrol)

    assert requeue_run(job, Attempt(0), [], RestartDecision(action, "preempted"), say)
    signal.signal(signal.SIGTERM, handler)

    argv = (say.path.parent / "argv").read_text().split()
    expected = ["--parsable", "--dependency=afterany:5", "--nodes=2", *option, str(job.submission.script)]
    assert argv == expected


@pytest.mark.parametrize(("count", "option"), [("3", ["--nodes=3"]), (None, [])])
def test_a_new_job_for_nodes_whose_names_nobody_can_read_has_as_many_as_the_job_had(
    job_on: Callable[..., BatchJob], say: Journal, count: str | None, option: list[str]
) -> None:
    (say.path.parent / "sbatch").write_text(f'#!/bin/bash\necho "$@" >{say.path.parent}/argv\necho 6\n')
    (say.path.parent / "sbatch").chmod(0o755)
    job = job_on("gpu[a-c]", None)
    environ = dict(job.environ) | ({"SLURM_JOB_NUM_NODES": count} if count else {})

    requeue_run(replace(job, environ=environ), Attempt(0), [], RestartDecision("resubmit", "preempted"), say)

    argv = (say.path.parent / "argv").read_text().split()
    assert argv == ["--parsable", "--dependency=afterany:5", *option, str(job.submission.script)]


def test_others_are_told_which_job_goes_on_and_the_new_job_itself_waits_for_the_old_one(
    tmp_path: Path, say: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = (
        "7|afterok:5(unfulfilled),afterok:4(unfulfilled)|next\n6_[3]|afterany:5_3(unfulfilled)|run\n"
        "8_[0-3]|afterok:5_3|next\n9|afternotok:5(unfulfilled)|guardian-run\n10|afternotok:5(unfulfilled)|mail-me\n"
    )
    (tmp_path / "squeue").write_text(f"#!/bin/bash\necho '{waiting}'\n")
    (tmp_path / "scontrol").write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/asked\n[ $2 != JobId=8 ] || exit 1\n')
    for name in ("squeue", "scontrol"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    repoint_dependents("5", "6_3", say)
    repoint_dependents("5_3", "6_3", say)

    assert (tmp_path / "asked").read_text().splitlines() == [
        "update JobId=7 Dependency=afterok:6_3,afterok:4",
        "update JobId=10 Dependency=afternotok:6_3",
        "update JobId=8 Dependency=afterok:6_3",
    ]
    assert "scontrol update Dependency=afterok:6_3 of job 8: scontrol: exit code 1" in say.path.read_text()


def test_it_is_said_when_slurm_does_not_tell_what_waits(
    tmp_path: Path, say: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    repoint_dependents("5", "6", say)

    assert "squeue does not tell which jobs depend on job 5" in say.path.read_text()

"""What an attempt tells later jobs of its nodes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.batch.allocation import BatchJob, find_job
from jobs.batch.evidence import EndReason, Evidence
from jobs.batch.node_memory import remember_nodes
from launcher.cluster import Cluster
from launcher.run.ledger import Attempt
from launcher.run.stragglers import Straggler
from launcher.run.suspects import find_suspects, read_reports
from tests.support.counting_runs import Play, stage

NODES = ["gpu01", "gpu02", "gpu03"]


@pytest.fixture
def job(tmp_path: Path, make_cluster: Callable[..., Cluster]) -> BatchJob:
    submission, _ = stage(tmp_path / "runs", make_cluster(), [Play(nodes=3)])
    return find_job(submission, {"SLURM_JOB_ID": "7"}, local=False)


def remembered(job: BatchJob, end: EndReason, hung: tuple[str, ...] = (), nodes: list[str] = NODES) -> list[str]:
    said: list[str] = []
    remember_nodes(job, Evidence([Attempt(0, "7", 0, nodes)], 1, hung=hung), end, said.append)
    found = [f"{one.node} {one.trouble}" for one in read_reports(job.submission.root.parents[1])]
    assert [line.partition(":")[0] for line in said] == found
    return found


def test_the_unfit_node_of_a_preflight_is_remembered(job: BatchJob) -> None:
    end = EndReason("node_failure", "preflight", "gpu02: cannot write and read `/runs/of-a-patient`", ("gpu02",))

    assert remembered(job, end) == ["gpu02 failed the preflight check"]
    [path] = (job.submission.root.parents[1] / ".nodes").iterdir()
    assert "patient" not in path.read_text()


def test_the_node_that_the_others_waited_for_is_remembered(job: BatchJob) -> None:
    assert remembered(job, EndReason("hang", "watchdog"), ("gpu03",)) == ["gpu03 hung"]


def test_a_node_whose_rank_was_slow_is_remembered_though_the_run_finished(job: BatchJob) -> None:
    job.run.attempt_logs(0).mkdir(parents=True)
    Straggler(4, "gpu02", 40, 0.5, 2.0, 1.0, "computing").append(job.run.stragglers(0))

    assert remembered(job, EndReason("finished", "ledger")) == ["gpu02 was slow"]


def test_what_all_nodes_have_is_not_their_fault(job: BatchJob) -> None:
    end = EndReason("node_failure", "preflight", "no shared folder", tuple(NODES))

    assert remembered(job, end) == []


def test_the_only_node_of_a_job_is_avoided_by_others_once_a_second_attempt_found_it_unfit(job: BatchJob) -> None:
    """What no other node of the job has passed may be the fault of the run: its packages, its quota."""
    unfit, runs_root = EndReason("node_failure", "preflight", "", ("gpu01",)), job.submission.root.parents[1]

    assert remembered(job, unfit, nodes=["gpu01"]) == ["gpu01 failed the preflight check as the only node"]
    assert [one.is_avoided for one in find_suspects(runs_root, 3600)] == [False]

    remember_nodes(job, Evidence([Attempt(1, "7", 0, ["gpu01"])], 1), unfit, lambda _: None)
    assert [one.is_avoided for one in find_suspects(runs_root, 3600)] == [True]


def test_a_shortage_and_an_error_of_the_run_say_nothing_of_nodes(job: BatchJob) -> None:
    assert remembered(job, EndReason("node_failure", "preflight", "no space")) == []
    assert remembered(job, EndReason("error", "exit code 1"), ("gpu03",)) == []


def test_a_folder_that_cannot_be_written_harms_nothing(job: BatchJob) -> None:
    (job.submission.root.parents[1] / ".nodes").touch()
    said: list[str] = []

    end = EndReason("node_failure", "preflight", "", ("gpu02",))
    remember_nodes(job, Evidence([Attempt(0, "7", 0, NODES)], 1), end, said.append)

    assert "cannot be remembered" in said[0]

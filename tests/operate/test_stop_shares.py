"""Stopping, cancelling and resuming a `prepare` in several tasks."""

import os
from pathlib import Path

import pytest

from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.operate.stop import cancel, resume, stop
from launcher.run.ledger import append_event
from launcher.run.paths import RunDir, list_shares
from launcher.run.record import RunRecord
from launcher.submit.plan_submission import SubmitOptions
from tests.support.fake_slurm import FakeSlurm
from tests.support.submissions import MakeCluster, MakeRecipe, loaded, submit


@pytest.fixture
def cluster(fake_slurm: FakeSlurm, make_cluster: MakeCluster) -> Cluster:
    """A site whose squeue tells what the fake queue holds, all of it waiting."""
    squeue = fake_slurm.bin / "squeue"
    squeue.rename(fake_slurm.bin / "squeue.fake")
    squeue.write_text(
        "#!/bin/sh\ncase \"$*\" in\n*%r*) sed 's/|.*/|PENDING|N\\/A|N\\/A||Dependency/' "
        f'{fake_slurm.state}/queue;;\n*) exec "$0.fake" "$@";;\nesac\n'
    )
    squeue.chmod(0o755)
    return make_cluster()


@pytest.fixture
def run(cluster: Cluster, make_recipe: MakeRecipe) -> RunDir:
    """A group of four tasks, two at a time."""
    [run] = submit(loaded(make_recipe(tasks=4)), cluster, SubmitOptions(max_parallel=2))
    return run


def end(run: RunDir, job: str, reason: str, fake: FakeSlurm) -> None:
    action = "done" if reason == "finished" else "stop"
    append_event(run.ledger, 0, started=9e9, job_id=job, reason=reason, action=action, ended=9e9)
    fake.forget(job)


def jobs_of(runs: list[RunDir]) -> list[str]:
    return [RunRecord.read(run.record).submissions[-1].job_id for run in runs]


def test_all_of_a_waiting_group_is_taken_out_of_the_queue(run: RunDir, cluster: Cluster, fake_slurm: FakeSlurm) -> None:
    assert stop(run, cluster) == "removed from the queue"

    assert all(one.stop_request.exists() for one in (run, *list_shares(run)))
    [call] = fake_slurm.calls("scancel")
    assert call.argv == ["1002", "1001_0", "1001_1", "1001_2", "1001_3"]


def test_cancelling_a_group_ends_all_its_jobs_but_those_that_are_over(
    run: RunDir, cluster: Cluster, fake_slurm: FakeSlurm
) -> None:
    end(list_shares(run)[1], "1001_1", "finished", fake_slurm)

    assert cancel(run, cluster) == ["1002", "1001_0", "1001_2", "1001_3"]

    assert [call.argv for call in fake_slurm.calls("scancel")] == [["1002", "1001_0", "1001_2", "1001_3"]]
    assert not list_shares(run)[1].stop_request.exists()


def test_resuming_queues_the_tasks_that_failed_and_lets_the_last_run_wait_for_them(
    run: RunDir, cluster: Cluster, fake_slurm: FakeSlurm
) -> None:
    shares = list_shares(run)
    end(shares[0], "1001_0", "finished", fake_slurm)
    for index in (1, 3):
        end(shares[index], f"1001_{index}", "error", fake_slurm)
        shares[index].stop_request.touch()
    run.stop_request.touch()

    assert resume(run, cluster) == ["1003"]

    assert fake_slurm.calls("sbatch")[-1].argv[1:-1] == ["--array=1,3%2"]
    assert fake_slurm.calls("scontrol")[-1].argv == ["update", "JobId=1002", "Dependency=afterany:1003:1001"]
    assert jobs_of(shares) == ["1001_0", "1003_1", "1001_2", "1003_3"]
    assert not any(one.stop_request.exists() for one in (run, *shares))


def test_resuming_a_cancelled_group_queues_all_that_did_not_finish(
    run: RunDir, cluster: Cluster, fake_slurm: FakeSlurm
) -> None:
    shares = list_shares(run)
    end(shares[2], "1001_2", "finished", fake_slurm)
    cancel(run, cluster)
    for job in fake_slurm.queue():
        fake_slurm.forget(job)

    assert resume(run, cluster) == ["1003", "1004"]

    options = [call.argv[1:-1] for call in fake_slurm.calls("sbatch")[2:]]
    assert options == [["--array=0,1,3%2"], ["--dependency=afterany:1003"]]
    assert jobs_of([*shares, run]) == ["1003_0", "1003_1", "1001_2", "1003_3", "1004"]


def test_a_last_run_that_failed_alone_is_queued_without_waiting(
    run: RunDir, cluster: Cluster, fake_slurm: FakeSlurm
) -> None:
    for index, share in enumerate(list_shares(run)):
        end(share, f"1001_{index}", "finished", fake_slurm)
    end(run, "1002", "error", fake_slurm)

    resume(run, cluster)

    assert fake_slurm.calls("sbatch")[-1].argv[1:-1] == []


def test_there_is_nothing_to_resume_while_all_of_it_waits_or_when_it_is_finished(
    run: RunDir, cluster: Cluster, fake_slurm: FakeSlurm
) -> None:
    with pytest.raises(RunError, match="all that is missing is queued or running"):
        resume(run, cluster)
    with pytest.raises(RunError, match=r"is one task of `\w+`; `launcher resume \w+` queues what is missing"):
        resume(list_shares(run)[0], cluster)

    end(run, "1002", "finished", fake_slurm)

    with pytest.raises(RunError, match="is finished"):
        resume(run, cluster)


def test_without_slurm_a_group_is_resumed_as_one_process(make_cluster: MakeCluster, make_recipe: MakeRecipe) -> None:
    cluster = make_cluster(executor="local", python="/bin/true")
    [run] = submit(loaded(make_recipe(tasks=2)), cluster, SubmitOptions())
    [first, second] = list_shares(run)
    wait_for_process(*jobs_of([run]))
    append_event(first.ledger, 0, started=9e9, reason="finished", action="done")

    [job] = resume(run, cluster)

    wait_for_process(job)
    assert jobs_of([second, run]) == [job, job] != jobs_of([first, first])


def wait_for_process(job: str) -> None:
    os.waitpid(int(job.removeprefix("local-")), 0)
    assert not Path(f"/proc/{job.removeprefix('local-')}").exists()

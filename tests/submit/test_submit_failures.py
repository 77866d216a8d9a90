"""Submitting that fails on the way, or is killed: nothing is left behind, and nothing is queued twice."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cluster import Cluster, Roots
from launcher.errors import LauncherError, RecipeError, RunError, SlurmError
from launcher.recipe import Recipe
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from launcher.submit.plan_submission import SubmitOptions, plan_submission
from launcher.submit.queue_all import submit as submit_recipes
from launcher.submit.resubmit import resubmit
from tests.support.fake_slurm import FakeSlurm
from tests.support.submissions import MakeCluster, MakeRecipe, all_runs, all_submissions, loaded, submit


def test_a_refused_sbatch_leaves_nothing(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    fake_slurm.fail("sbatch", 1, "sbatch: error: invalid partition specified: nope")

    with pytest.raises(SlurmError, match="invalid partition specified: nope"):
        submit(loaded(make_recipe()), cluster, SubmitOptions())

    assert (all_runs(cluster), all_submissions(cluster)) == ([], [])


def test_a_failing_second_sbatch_cancels_the_first(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    fake_slurm.limit_arrays(2)
    fake_slurm.fail("sbatch", 2, "sbatch: error: QOSMaxSubmitJobPerUserLimit")

    with pytest.raises(SlurmError, match="QOSMaxSubmitJobPerUserLimit"):
        submit(loaded(*[make_recipe()] * 5), cluster, SubmitOptions())

    assert fake_slurm.queue() == []
    assert (all_runs(cluster), all_submissions(cluster)) == ([], [])


def test_a_job_that_was_queued_although_sbatch_failed_is_cancelled(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    fake_slurm.fail("sbatch", 1, "sbatch: error: Socket timed out on send/recv operation", queued=True)

    with pytest.raises(SlurmError, match="Socket timed out"):
        submit(loaded(make_recipe()), make_cluster(), SubmitOptions())

    assert fake_slurm.queue() == []


def test_runs_of_other_calls_survive_a_failure(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    (earlier,) = submit(loaded(make_recipe()), cluster, SubmitOptions())
    fake_slurm.fail("sbatch", 2, "sbatch: error: no")

    with pytest.raises(SlurmError):
        submit(loaded(make_recipe()), cluster, SubmitOptions())

    assert (all_runs(cluster), fake_slurm.queue()) == ([earlier.root], ["1001"])


def test_of_two_calls_at_once_the_later_one_leaves_the_jobs_of_the_other_alone(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster, recipes = make_cluster(), loaded(make_recipe())
    plan = plan_submission(recipes, cluster, SubmitOptions())
    submit(recipes, cluster, SubmitOptions())

    with pytest.raises(LauncherError, match="another `launcher submit` has just queued the same recipes"):
        submit_recipes(plan)

    assert (len(all_runs(cluster)), fake_slurm.queue()) == (1, ["1001"])


def test_jobs_of_the_same_recipe_below_another_root_are_other_jobs(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    here, there = make_cluster(), make_cluster(roots=make_cluster().roots.model_dump() | {"runs": str(tmp_path / "b")})
    (run,) = submit(loaded(make_recipe()), here, SubmitOptions())
    fake_slurm.fail("sbatch", 2, "sbatch: error: no")

    with pytest.raises(SlurmError):
        submit(loaded(make_recipe()), there, SubmitOptions())
    (other,) = submit(loaded(make_recipe()), there, SubmitOptions())
    fake_slurm.forget("1003")

    assert fake_slurm.queue() == ["1001"]
    assert resubmit(other, there) == "1004"
    with pytest.raises(RunError, match="queued or running as job 1001"):
        resubmit(run, here)


def test_what_cannot_be_cancelled_stays_and_is_named(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    recipes = [make_recipe(name="a"), make_recipe(name="b", resources={"time": "1h"})]
    fake_slurm.fail("sbatch", 2, "sbatch: error: no")
    fake_slurm.fail("squeue", 1, "squeue: error: Unable to contact slurm controller")

    with pytest.raises(SlurmError, match=r"(?s)error: no.*job 1001.*Unable to contact slurm controller.*scancel 1001"):
        submit(loaded(*recipes), cluster, SubmitOptions())

    assert [RunRecord.read(RunDir(path).record).name for path in all_runs(cluster)] == ["a"]


def test_an_interrupted_submit_is_taken_back(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make_cluster()
    monkeypatch.setattr("launcher.submit.queue_all.freeze_submission", lambda *_: signal.raise_signal(signal.SIGINT))

    with pytest.raises(KeyboardInterrupt):
        submit(loaded(make_recipe()), cluster, SubmitOptions())

    assert (all_runs(cluster), all_submissions(cluster), fake_slurm.queue()) == ([], [], [])


def test_after_a_kill_before_sbatch_the_run_can_be_queued_once(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    kill_submit(cluster, make_recipe(), "signal.raise_signal(signal.SIGKILL)")
    (run,) = map(RunDir, all_runs(cluster))
    assert RunRecord.read(run.record).submissions == []

    job_id = resubmit(run, cluster)

    assert fake_slurm.queue() == [job_id] == [RunRecord.read(run.record).submissions[0].job_id]


def test_after_a_kill_between_sbatch_and_its_record_the_run_is_not_queued_twice(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    kill_submit(cluster, make_recipe(), "add(*a, **k); signal.raise_signal(signal.SIGKILL)")
    (run,) = map(RunDir, all_runs(cluster))

    with pytest.raises(RunError, match="queued or running as job 1001"):
        resubmit(run, cluster)

    assert fake_slurm.queue() == ["1001"]
    assert [entry.job_id for entry in RunRecord.read(run.record).submissions] == ["1001"]


def kill_submit(cluster: Cluster, recipe: Recipe, instead_of_sbatch: str) -> None:
    """Run `submit` in a process that kills itself (-9) around its sbatch."""
    code = f"""
import signal, sys
from pathlib import Path
from launcher.cluster import Cluster
from launcher.load import LoadedRecipe
from launcher.recipe import read_recipe
from launcher.slurm.queue import SlurmQueue
from launcher.submit.plan_submission import SubmitOptions
from launcher.submit.queue_all import submit
from launcher.submit.plan_submission import plan_submission
add = SlurmQueue.add
def die(*a, **k):
    {instead_of_sbatch}
SlurmQueue.add = die
cluster, recipe = Cluster.model_validate_json(sys.argv[1]), read_recipe(sys.argv[2])
submit(plan_submission([LoadedRecipe(recipe, Path("recipe.yaml"), "")], cluster, SubmitOptions()))
"""
    argv = [sys.executable, "-c", code, cluster.model_dump_json(), recipe.model_dump_json()]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_without_sbatch_submitting_says_where_to_go(
    tmp_path: Path, make_cluster: MakeCluster, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make_cluster()
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(SlurmError, match="`sbatch` is not on PATH"):
        submit(loaded(make_recipe()), cluster, SubmitOptions())

    assert all_runs(cluster) == []


def test_a_recipe_that_cannot_work_is_refused_before_anything_is_written(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    recipes = [make_recipe(tokenizer="nowhere"), make_recipe(sources=[{"format": "pile", "files": "none.jsonl"}])]

    with pytest.raises(RecipeError, match=r"(?s)tokenizer: `nowhere` is not below.*no file matches"):
        submit(loaded(*recipes), cluster, SubmitOptions())

    assert not Path(cluster.roots.runs).exists()


def test_a_runs_folder_that_slurm_cannot_write_logs_to_is_refused(
    make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    roots = make_cluster().roots.model_dump() | {"runs": "/scratch\\new"}
    cluster = Cluster(name="site", roots=Roots(**roots))

    with pytest.raises(LauncherError, match="below a folder with a backslash; write another folder"):
        submit(loaded(make_recipe()), cluster, SubmitOptions())

"""What a real Slurm makes of our scripts: quoting, arrays, limits, dependencies, refusals."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster import Cluster
from launcher.devcluster import DevCluster
from launcher.errors import RecipeError, SlurmError
from launcher.load import LoadedRecipe, load_cluster
from launcher.recipe import Recipe
from launcher.run.paths import RunDir, SubmissionDir, submissions_root
from launcher.run.record import RunRecord
from launcher.slurm.queue import SlurmQueue
from launcher.submit.plan_submission import SubmitOptions, plan_submission
from launcher.submit.queue_all import submit as submit_recipes
from launcher.submit.resubmit import resubmit
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slurm
MakeCluster = Callable[..., Cluster]
MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def make_site(devcluster: DevCluster, make_cluster: MakeCluster) -> Iterator[MakeCluster]:
    """Make profiles of the dev cluster; what was queued through them is cancelled afterwards."""
    made: list[Cluster] = []

    def make(**changes: Any) -> Cluster:
        ours = load_cluster(str(devcluster.profile)).model_dump(mode="json", exclude={"roots"})
        slurm = ours["slurm"] | changes.pop("slurm", {})
        made.append(make_cluster(**ours | {"slurm": slurm} | changes))
        return made[-1]

    yield make
    for cluster in made:
        for folder in submissions_root(Path(cluster.roots.runs)).glob("*-*"):
            SlurmQueue(cluster).cancel(SubmissionDir(folder))


def submit(recipes: list[LoadedRecipe], cluster: Cluster, options: SubmitOptions) -> list[RunDir]:
    return [frozen.folder for frozen in submit_recipes(plan_submission(recipes, cluster, options))]


def loaded(*recipes: Recipe) -> list[LoadedRecipe]:
    return [LoadedRecipe(recipe, Path("recipe.yaml"), f"name: {recipe.name}\n") for recipe in recipes]


def jobs_of(runs: list[RunDir]) -> list[str]:
    return [RunRecord.read(run.record).submissions[-1].job_id for run in runs]


def shown(devcluster: DevCluster, job_id: str, field: str) -> str:
    """One line of `scontrol show job`."""
    lines = devcluster.slurm("scontrol", "show", "job", job_id).splitlines()
    return next(found for line in lines if (found := line.strip().partition(f"{field}=")[2]))


def log_of(run: RunDir) -> str:
    """What Slurm wrote for the run's submission so far."""
    logs = Path(RunRecord.read(run.record).submissions[-1].folder).glob("slurm-*.log")
    return "\n".join(log.read_text(encoding="utf-8") for log in logs)


def test_slurm_stores_the_bytes_that_were_rendered(
    devcluster: DevCluster, make_site: MakeCluster, make_recipe: MakeRecipe
) -> None:
    recipes, cluster = loaded(make_recipe()), make_site()
    (rendered,) = plan_submission(recipes, cluster, SubmitOptions(check=False)).submissions

    (run,) = submit(recipes, cluster, SubmitOptions())

    stored = devcluster.slurm("scontrol", "write", "batch_script", *jobs_of([run]), "-")
    assert stored.strip("\n") == rendered.script.strip("\n") == run.submission.read_text().strip("\n")


def test_slurm_gets_the_options_of_the_profile(
    devcluster: DevCluster, make_site: MakeCluster, make_recipe: MakeRecipe
) -> None:
    options = {"nice": 7, "mem-per-cpu": "50M", "exclusive": True, "wckey": "a b"}

    [job] = jobs_of(submit(loaded(make_recipe()), make_site(slurm={"options": options}), SubmitOptions()))

    assert shown(devcluster, job, "Nice").startswith("7 ")
    assert shown(devcluster, job, "MinMemoryCPU").startswith("50M ")
    assert shown(devcluster, job, "OverSubscribe").startswith("NO ")


def test_what_the_partition_can_never_start_is_refused(
    devcluster: DevCluster, make_site: MakeCluster, make_cpt: MakeRecipe
) -> None:
    partition = load_cluster(str(devcluster.profile)).slurm.partition
    wanted = {"time": "2h", "gpus_per_node": 5, "nodes": 5}
    recipe = make_cpt(resources=wanted, batch={"global_batch": "25 sequences", "sequence_length": 64})
    devcluster.slurm("scontrol", "update", f"PartitionName={partition}", "MaxTime=1:30:00")
    try:
        with pytest.raises(RecipeError) as caught:
            plan_submission(loaded(recipe), make_site(gpus={}), SubmitOptions())
    finally:
        devcluster.slurm("scontrol", "update", f"PartitionName={partition}", "MaxTime=INFINITE")

    said = {fault.key.removeprefix("resources."): fault.message for fault in caught.value.faults}
    assert "write at most `1h30min`" in said["time"]
    assert "(at most 4 GPUs)" in said["gpus_per_node"]
    assert "has 4 nodes with 4 GPUs, not 5" in said["nodes"]


@pytest.mark.parametrize("name", ['it\'s "a" test', "a; touch pwned", "$(x) `y` # z", "back\\slash", "two\nlines"])
def test_a_hostile_name_is_the_jobs_name(
    name: str, devcluster: DevCluster, make_site: MakeCluster, make_recipe: MakeRecipe
) -> None:
    runs = submit(loaded(make_recipe(name=name)), make_site(), SubmitOptions())

    assert shown(devcluster, *jobs_of(runs), "JobName") == name.replace("\n", "-")


def test_a_hostile_runs_folder_gets_its_logs(
    hostile_path: Path, make_site: MakeCluster, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "in $PWD with $GREETING: $@"\n')
    python.chmod(0o755)
    cluster = make_site(python=str(python), environment={"GREETING": "it's\n$(me)"})
    roots = cluster.roots.model_copy(update={"runs": str(hostile_path)})

    (run,) = submit(loaded(make_recipe()), cluster.model_copy(update={"roots": roots}), SubmitOptions())

    said = wait_for(lambda: log_of(run), "the job's log")
    folder = RunRecord.read(run.record).submissions[0].folder
    assert said == f"in {folder} with it's\n$(me): -u -m jobs.batch.main {folder}\n"


def test_resources_arrive_as_asked(devcluster: DevCluster, make_site: MakeCluster, make_cpt: MakeRecipe) -> None:
    wants = {"nodes": 2, "gpus_per_node": 2, "cpus_per_task": 3, "memory": "1GiB", "time": "1d2h"}
    queue = SlurmQueue(make_site())
    (one,) = plan_submission(loaded(make_cpt(resources=wants)), queue.cluster, SubmitOptions(check=False)).submissions
    one.folder.root.mkdir(parents=True)
    one.folder.script.write_text(one.script)

    job = queue.add(one.folder, ["--hold"])

    assert shown(devcluster, job, "NumNodes").startswith("2")
    assert shown(devcluster, job, "NtasksPerN:B:S:C").startswith("2:")
    assert shown(devcluster, job, "TresPerNode").replace("gres/", "gres:") == "gres:gpu:a100:2"  # `/` since 24.11
    assert shown(devcluster, job, "MinCPUsNode").startswith("6 MinMemoryNode=1G")
    assert "TimeLimit=1-02:00:00" in devcluster.slurm("scontrol", "show", "job", job)


def test_three_recipes_are_one_sbatch_and_three_run_directories(
    devcluster: DevCluster, make_site: MakeCluster, make_recipe: MakeRecipe
) -> None:
    runs = submit(loaded(*(make_recipe(name=name) for name in "abc")), make_site(), SubmitOptions(max_parallel=1))

    base = jobs_of(runs)[0].partition("_")[0]
    assert jobs_of(runs) == [f"{base}_0", f"{base}_1", f"{base}_2"]
    assert len({run.root for run in runs if run.record.exists()}) == 3
    assert "ArrayTaskThrottle=1" in devcluster.slurm("scontrol", "show", "job", base)


def test_1200_recipes_on_a_site_with_arrays_of_1001_are_two_jobs(
    devcluster: DevCluster, make_site: MakeCluster, make_recipe: MakeRecipe
) -> None:
    recipe = make_recipe()

    runs = submit(loaded(*[recipe] * 1200), make_site(python="/bin/true"), SubmitOptions(max_parallel=1))

    bases = [job.partition("_")[0] for job in jobs_of(runs)]
    assert [bases.count(base) for base in sorted(set(bases), key=int)] == [1001, 199]


def test_a_run_waits_for_another_and_dies_with_it(
    devcluster: DevCluster, make_site: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_site(python="/bin/false")
    submit(loaded(make_recipe(name="first")), cluster, SubmitOptions())

    (second,) = submit(loaded(make_recipe(name="second")), cluster, SubmitOptions(after=("first",)))

    (job,) = jobs_of([second])
    wait_for(lambda: "JobState=CANCELLED" in devcluster.slurm("scontrol", "show", "job", job), "the cancellation")


def test_an_unknown_partition_leaves_nothing(make_site: MakeCluster, make_recipe: MakeRecipe) -> None:
    cluster = make_site(slurm={"partition": "nowhere"})

    with pytest.raises(SlurmError, match=r"(?i)invalid partition"):
        submit(loaded(make_recipe()), cluster, SubmitOptions())

    assert {path.name for path in Path(cluster.roots.runs).iterdir()} == {".submissions", ".code"}
    assert list(submissions_root(Path(cluster.roots.runs)).iterdir()) == []


def test_a_refused_second_call_cancels_the_first(
    devcluster: DevCluster, make_site: MakeCluster, make_recipe: MakeRecipe
) -> None:
    fits, never = make_recipe(name="fits"), make_recipe(name="never", resources={"time": "1h", "memory": "900TB"})

    with pytest.raises(SlurmError, match=r"(?i)memory specification can not be satisfied|not available"):
        submit(loaded(fits, never), make_site(), SubmitOptions())

    assert "fits" not in devcluster.slurm("squeue", "--noheader", "--states=PENDING,RUNNING", "--format=%j")


def test_slurm_estimates_the_start_of_a_script_without_queueing_it(
    devcluster: DevCluster, make_site: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_site()
    (one,) = plan_submission(loaded(make_recipe(name="estimated")), cluster, SubmitOptions()).submissions

    words = SlurmQueue(cluster).estimate_start(one.script)

    assert words.startswith("would start ")
    assert words.endswith("(partition preempt)")
    assert "estimated" not in devcluster.slurm("squeue", "--noheader", "--format=%j")


def test_overrides_of_the_shell_do_not_change_the_job(
    devcluster: DevCluster, make_site: MakeCluster, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "high")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")

    runs = submit(loaded(make_recipe()), make_site(), SubmitOptions())

    assert "Partition=preempt" in devcluster.slurm("scontrol", "show", "job", *jobs_of(runs))
    assert "TimeLimit=00:10:00" in devcluster.slurm("scontrol", "show", "job", *jobs_of(runs))


def test_one_element_is_queued_again_under_its_index(
    devcluster: DevCluster, make_site: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_site(python="/bin/false")
    runs = submit(loaded(make_recipe(name="a"), make_recipe(name="b")), cluster, SubmitOptions())
    queue = SlurmQueue(cluster)
    submission = SubmissionDir(Path(RunRecord.read(runs[1].record).submissions[0].folder))
    wait_for(lambda: not queue.jobs_of(submission), "the end of both elements")

    job = resubmit(runs[1], cluster)

    assert job.endswith("_1")
    assert "ArrayTaskId=1" in devcluster.slurm("scontrol", "show", "job", job)

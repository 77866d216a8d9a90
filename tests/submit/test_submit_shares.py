"""Submitting a `prepare` in several tasks: an array of shares, and the run that waits for them."""

import json
import os
from pathlib import Path

import pytest
import yaml

from launcher.cluster import Cluster
from launcher.errors import SlurmError
from launcher.run.ledger import read_json_lines
from launcher.run.paths import RunDir, list_shares, submissions_root
from launcher.run.record import CorpusShare, RunRecord
from launcher.submit.plan_submission import SubmitOptions, plan_submission
from tests.support.command_line import launcher
from tests.support.fake_slurm import FakeSlurm, directives
from tests.support.submissions import MakeCluster, MakeRecipe, all_runs, all_submissions, loaded, submit


def records(runs: list[RunDir]) -> list[RunRecord]:
    return [RunRecord.read(run.record) for run in runs]


def submission_of(run: RunDir) -> Path:
    return Path(RunRecord.read(run.record).submissions[-1].folder)


def test_several_tasks_are_an_array_of_shares_and_a_run_that_waits_for_them(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()

    (run,) = submit(loaded(make_recipe(tasks=3)), cluster, SubmitOptions(max_parallel=2))

    shares, record = list_shares(run), RunRecord.read(run.record)
    assert all_runs(cluster) == [run.root]
    assert [one.id for one in records(shares)] == [f"{record.id}_{index}" for index in range(3)]
    assert [one.share for one in records(shares)] == [CorpusShare(index, 3) for index in range(3)]
    assert {one.group for one in records([run, *shares])} == {record.id}
    assert {one.fingerprint for one in records([run, *shares])} == {record.fingerprint}
    assert record.share is None
    assert [one.submissions[0].job_id for one in records([*shares, run])] == ["1001_0", "1001_1", "1001_2", "1002"]
    assert [call.argv[1:-1] for call in fake_slurm.calls("sbatch")] == [[], ["--dependency=afterany:1001"]]
    assert directives(fake_slurm.script("1001"))["array"] == "0-2%2"
    assert directives(fake_slurm.script("1002"))["job-name"] == "abstracts-finalise"


def test_the_run_of_a_share_holds_all_that_a_node_reads(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    (run,) = submit(loaded(make_recipe(tasks=2)), make_cluster(), SubmitOptions())

    first, second = list_shares(run)
    assert second.group == run
    assert second.recipe.read_bytes() == run.recipe.read_bytes()
    assert (second.code / "jobs" / "kinds" / "prepare.py").is_file()
    assert not second.code.readlink().is_absolute()
    manifest = read_json_lines(submission_of(second) / "manifest.jsonl")
    assert [row["run"] for row in manifest] == [str(first.root), str(second.root)]


def test_one_task_is_one_run(fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe) -> None:
    (run,) = submit(loaded(make_recipe(tasks=1)), make_cluster(), SubmitOptions())

    record = RunRecord.read(run.record)
    assert (record.group, record.share, fake_slurm.queue()) == (None, None, ["1001"])
    assert list_shares(run) == []


def test_shares_are_cut_at_the_sites_limit_and_all_are_waited_for(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    fake_slurm.limit_arrays(4)

    (run,) = submit(loaded(make_recipe(tasks=9)), make_cluster(), SubmitOptions())

    jobs = [one.submissions[0].job_id for one in records(list_shares(run))]
    assert jobs == [*(f"1001_{i}" for i in range(4)), *(f"1002_{i}" for i in range(4)), "1003"]
    assert "--dependency=afterany:1001,afterany:1002,afterany:1003" in fake_slurm.calls("sbatch")[-1].argv


def test_recipes_in_one_task_and_in_several_go_together(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    recipes = [make_recipe(name="a", tasks=2), make_recipe(name="b"), make_recipe(name="c", tasks=2)]

    runs = submit(loaded(*recipes), make_cluster(), SubmitOptions())

    assert [(one.name, one.submissions[0].job_id) for one in records(runs)] == [
        ("a", "1003"),
        ("b", "1001"),
        ("c", "1005"),
    ]
    options = [call.argv[1:-1] for call in fake_slurm.calls("sbatch")]
    assert options == [[], [], ["--dependency=afterany:1002"], [], ["--dependency=afterany:1004"]]


def test_what_waits_for_another_run_waits_for_it_and_its_tasks(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    submit(loaded(make_recipe(name="first", tasks=2)), cluster, SubmitOptions())

    submit(loaded(make_recipe(name="second", tasks=2)), cluster, SubmitOptions(after=("first",)))

    options = [call.argv[1:-1] for call in fake_slurm.calls("sbatch")]
    kill = "--kill-on-invalid-dep=yes"
    assert options[2:] == [["--dependency=afterok:1002", kill], ["--dependency=afterok:1002,afterany:1003", kill]]


@pytest.mark.parametrize("call", [1, 2])
def test_a_failure_between_two_calls_leaves_nothing(
    call: int, fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    fake_slurm.fail("sbatch", call, "sbatch: error: QOSMaxSubmitJobPerUserLimit")

    with pytest.raises(SlurmError, match="QOSMaxSubmitJobPerUserLimit"):
        submit(loaded(make_recipe(tasks=3)), cluster, SubmitOptions())

    assert (fake_slurm.queue(), all_runs(cluster), all_submissions(cluster)) == ([], [], [])


def test_shares_that_cannot_be_cancelled_keep_their_folders(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    fake_slurm.fail("sbatch", 2, "sbatch: error: no")
    for call in (1, 2):
        fake_slurm.fail("squeue", call, "squeue: error: Unable to contact slurm controller")

    with pytest.raises(SlurmError, match=r"(?s)error: no.*job 1001.*could not be cancelled.*scancel 1001"):
        submit(loaded(make_recipe(tasks=2)), cluster, SubmitOptions())

    [left] = all_runs(cluster)
    jobs = [one.submissions[0].job_id for one in records(list_shares(RunDir(left)))]
    assert jobs == ["1001_0", "1001_1"]


def test_credentialed_shares_are_for_nobody_elses_eyes(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    (run,) = submit(loaded(make_recipe(tasks=2, data_use="credentialed")), make_cluster(), SubmitOptions())

    folders = [run.root, run.shares, *(share.root for share in list_shares(run))]
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}


def test_a_plan_holds_the_scripts_that_are_sent(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    recipes, cluster = loaded(make_recipe(tasks=3)), make_cluster()
    scripts = [one.script for one in plan_submission(recipes, cluster, SubmitOptions()).submissions]

    submit(recipes, cluster, SubmitOptions())

    assert scripts == [fake_slurm.script("1001"), fake_slurm.script("1002")]


def test_without_slurm_one_process_carries_out_all_of_them_in_turn(
    make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster: Cluster = make_cluster(executor="local", python="/bin/true")

    (run,) = submit(loaded(make_recipe(tasks=2)), cluster, SubmitOptions())

    members = [*list_shares(run), run]
    (job,) = {one.submissions[0].job_id for one in records(members)}
    os.waitpid(int(job.removeprefix("local-")), 0)
    (submission,) = submissions_root(Path(cluster.roots.runs)).iterdir()
    rows = [json.loads(line)["run"] for line in (submission / "manifest.jsonl").read_text().splitlines()]
    assert rows == [str(member.root) for member in members]


@pytest.fixture
def typed(fake_slurm: FakeSlurm, make_cluster: MakeCluster, tmp_path: Path) -> tuple[str, ...]:
    """`launcher submit` of a recipe in three tasks, as typed."""
    profile, recipe = tmp_path / "cluster.yaml", tmp_path / "recipe.yaml"
    profile.write_text(yaml.safe_dump(make_cluster().model_dump(mode="json", exclude_defaults=True)))
    recipe.write_text(
        "kind: prepare\nname: corpus\ncorpus: a\ntokenizer: tokenizer\ntasks: 3\n"
        "sources: [{format: pile, files: abstracts.jsonl}]\nresources: {time: 1h, cpus_per_task: 2}\n"
    )
    return "submit", str(recipe), "--cluster", str(profile)


def test_a_dry_run_shows_both_scripts_and_tells_tasks_and_cpus(typed: tuple[str, ...], fake_slurm: FakeSlurm) -> None:
    printed, said = launcher(*typed, "--dry-run")

    assert printed.count("#SBATCH --job-name=") == 2
    assert [line.partition(": ")[2] for line in printed.splitlines() if line.startswith("# ^ ")] == [
        "corpus, tasks 0 to 2",
        "corpus, finalise",
    ]
    assert "1 run in 2 jobs (3 tasks x 2 CPUs, then 1 that finalises, 1h)" in said
    assert fake_slurm.calls("sbatch") == []


def test_test_only_tells_when_the_tasks_would_start(typed: tuple[str, ...]) -> None:
    assert launcher(*typed, "--test-only")[0].splitlines() == [
        "corpus, tasks 0 to 2: would start Fri 02 Jan 03:04 on n[1-2] (partition gpu)",
        "corpus, finalise: starts when its tasks are over",
    ]


def test_submit_prints_the_run_and_its_tasks_in_a_line(typed: tuple[str, ...]) -> None:
    run, tasks = launcher(*typed)[0].splitlines()

    run_id, name, job, _ = run.split()
    assert (name, job) == ("corpus", "1002")
    assert tasks == f"  after its 3 tasks, {run_id}_0 to {run_id}_2, in job 1001"

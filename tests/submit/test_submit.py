"""Submitting: what is made, what sbatch gets, and queueing a run again."""

import json
import os
import shutil
from pathlib import Path

import pytest

from launcher.cluster import Cluster
from launcher.errors import LauncherError, RecipeError, RunError
from launcher.recipe import read_recipe
from launcher.run.ledger import append_event, read_json_lines
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord, fingerprint
from launcher.submit.plan_submission import SubmitOptions
from launcher.submit.queue_all import submit as submit_recipes
from launcher.submit.resubmit import resubmit
from tests.support.command_line import launcher
from tests.support.fake_slurm import FakeSlurm
from tests.support.submissions import (
    MakeCluster,
    MakeRecipe,
    all_runs,
    all_submissions,
    loaded,
    make_model,
    submit,
    write_profile,
)
from tests.support.waiting import wait_for


def test_a_run_directory_holds_all_that_a_node_reads(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    recipe, cluster = make_recipe(name="Bio abstracts"), make_cluster()

    (run,) = submit(loaded(recipe), cluster, SubmitOptions(rehearsal=True))

    record = RunRecord.read(run.record)
    assert run.root.name.startswith("Bio-abstracts-")
    assert run.root.name.endswith(record.id)
    assert run.recipe_as_written.read_text() == "name: Bio abstracts  # as written\n"
    assert read_recipe(run.recipe.read_text()) == recipe
    assert record.fingerprint == fingerprint(json.loads(run.recipe.read_text()))
    assert (record.name, record.kind, record.rehearsal) == ("Bio abstracts", "prepare", True)
    assert Cluster.model_validate_json(json.dumps(record.cluster)) == cluster
    assert (record.recipe_folder, [entry.job_id for entry in record.submissions]) == ("/somewhere", ["1001"])
    assert not run.code.readlink().is_absolute()
    assert (run.code / "launcher" / "submit" / "queue_all.py").read_bytes() == Path(
        submit_recipes.__code__.co_filename
    ).read_bytes()
    assert {path.name for path in run.root.iterdir()} == {
        "recipe.yaml", "recipe.json", "run.json", "submission.sh", "code",
    }  # fmt: skip


def test_a_run_knows_before_it_starts_how_large_its_checkpoints_will_be(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe, make_cpt: MakeRecipe, tmp_path: Path
) -> None:
    model, corpus = tmp_path / "models" / "model", tmp_path / "corpora" / "abstracts"
    for folder in (model, corpus):
        folder.mkdir(parents=True)
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 1000, **sizes}))
    (corpus / "manifest.json").write_text('{"data_use": "open"}')
    parameters = 2 * 1000 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64

    runs = submit(loaded(make_cpt(), make_recipe(corpus="more")), make_cluster(gpus={"device": "cpu"}), SubmitOptions())

    assert [RunRecord.read(run.record).checkpoint_bytes for run in runs] == [12 * parameters, None]


def test_sbatch_gets_the_script_of_the_run_directory(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    (run,) = submit(loaded(make_recipe()), make_cluster(), SubmitOptions())

    (call,) = fake_slurm.calls("sbatch")
    assert call.argv[:-1] == ["--parsable"]
    assert fake_slurm.script("1001") == run.submission.read_text()


def test_overrides_of_the_calling_shell_do_not_reach_sbatch(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "wrong")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("HF_HOME", "/kept")

    submit(loaded(make_recipe()), make_cluster(slurm={"conf": "/etc/dev/slurm.conf"}), SubmitOptions())

    environment = fake_slurm.calls("sbatch")[0].environment
    assert not {"SBATCH_PARTITION", "SLURM_JOB_ID"} & environment.keys()
    assert (environment["HF_HOME"], environment["SLURM_CONF"]) == ("/kept", "/etc/dev/slurm.conf")


def test_several_recipes_are_one_array_with_a_manifest(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    recipes = [make_recipe(name=name) for name in ("a", "b", "c")]

    runs = submit(loaded(*recipes), make_cluster(), SubmitOptions(max_parallel=2))

    assert len(fake_slurm.calls("sbatch")) == 1
    records = [RunRecord.read(run.record) for run in runs]
    assert [record.name for record in records] == ["a", "b", "c"]
    assert [record.submissions[0].job_id for record in records] == ["1001_0", "1001_1", "1001_2"]
    manifest = read_json_lines(Path(records[0].submissions[0].folder, "manifest.jsonl"))
    assert manifest == [
        {"run": str(run.root), "fingerprint": r.fingerprint} for run, r in zip(runs, records, strict=True)
    ]


def test_recipes_that_want_different_resources_are_separate_jobs_in_the_order_given(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    recipes = [
        make_recipe(name=name, resources={"time": time}) for name, time in (("a", "1h"), ("b", "2h"), ("c", "1h"))
    ]

    runs = submit(loaded(*recipes), make_cluster(), SubmitOptions())

    jobs = {RunRecord.read(run.record).name: RunRecord.read(run.record).submissions[0].job_id for run in runs}
    assert jobs == {"a": "1001_0", "b": "1002", "c": "1001_1"}


def test_arrays_are_cut_at_the_sites_limit(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    fake_slurm.limit_arrays(3)

    submit(loaded(*[make_recipe()] * 7), make_cluster(), SubmitOptions())

    assert fake_slurm.queue() == [*(f"1001_{i}" for i in range(3)), *(f"1002_{i}" for i in range(3)), "1003"]
    assert len(fake_slurm.calls("scontrol")) == 1


def test_arrays_are_cut_at_the_limit_of_the_scheduler_if_that_is_lower(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    fake_slurm.limit_tasks(4)

    submit(loaded(*[make_recipe()] * 5), make_cluster(), SubmitOptions())

    assert fake_slurm.queue() == [*(f"1001_{i}" for i in range(4)), "1002"]


def test_run_ids_are_unique_and_folders_sort_by_time(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    runs = submit(loaded(*[make_recipe()] * 50), make_cluster(), SubmitOptions())

    records = [RunRecord.read(run.record) for run in runs]
    assert len({record.id for record in records}) == len({record.wandb_id for record in records}) == 50


def test_credentialed_runs_are_for_nobody_elses_eyes(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()

    (run,) = submit(loaded(make_recipe(data_use="credentialed")), cluster, SubmitOptions())

    assert [path.stat().st_mode & 0o777 for path in (run.root, *all_submissions(cluster))] == [0o700, 0o700]


def test_a_hostile_runs_folder_works(
    fake_slurm: FakeSlurm, hostile_path: Path, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    roots = cluster.roots.model_dump() | {"runs": str(hostile_path)}

    (run,) = submit(loaded(make_recipe()), make_cluster(roots=roots), SubmitOptions())

    assert RunRecord.read(run.record).submissions[0].job_id == "1001"
    assert (run.code / "jobs" / "__init__.py").exists()
    assert not list(hostile_path.parent.glob("**/pwned"))
    with pytest.raises(RunError, match="is queued or running as job 1001"):
        resubmit(run, make_cluster(roots=roots))


def test_resuming_one_run_of_an_array_queues_only_its_element_with_the_same_script(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    runs = submit(loaded(*[make_recipe()] * 3), cluster, SubmitOptions())
    fake_slurm.forget("1001_1")
    runs[1].stop_request.touch()

    job_id = resubmit(runs[1], cluster)

    assert job_id == "1002_1"
    assert fake_slurm.queue() == ["1001_0", "1001_2", "1002_1"]
    assert fake_slurm.script("1002") == fake_slurm.script("1001")
    assert [entry.job_id for entry in RunRecord.read(runs[1].record).submissions] == ["1001_1", "1002_1"]
    assert not runs[1].stop_request.exists()


def test_a_stopped_run_whose_job_slurm_is_still_cleaning_up_is_resumed_later(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    (run,) = submit(loaded(make_recipe()), cluster, SubmitOptions())
    append_event(run.ledger, 0, job_id="1001", started=1.0, ended=2.0, reason="stopped", action="stop")

    with pytest.raises(RunError, match="still cleaning up job 1001; try again"):
        resubmit(run, cluster)

    assert fake_slurm.queue() == ["1001"]


def test_a_queued_run_is_not_queued_again(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    runs = submit(loaded(*[make_recipe()] * 12), cluster, SubmitOptions())
    fake_slurm.forget("1001_1")

    with pytest.raises(RunError, match="queued or running as job 1001_11"):
        resubmit(runs[11], cluster)

    assert resubmit(runs[1], cluster) == "1002_1"


def test_a_queued_run_is_not_queued_again_by_another_way_to_its_folder(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    cluster = make_cluster()
    [run] = submit(loaded(make_recipe()), cluster, SubmitOptions())
    link = tmp_path / "scratch"
    link.symlink_to(run.root.parent)

    with pytest.raises(RunError, match="is queued or running as job 1001"):
        resubmit(RunDir(link / run.root.name), cluster)
    record = json.loads(run.record.read_text())
    run.record.write_text(json.dumps(record | {"submissions": []}))  # as after a kill
    with pytest.raises(RunError, match="is queued or running as job 1001"):
        resubmit(RunDir(link / run.root.name), cluster)
    fake_slurm.forget("1001")

    assert resubmit(RunDir(link / run.root.name), cluster) == "1002"


def test_a_run_whose_submission_is_gone_says_what_to_do(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    (run,) = submit(loaded(make_recipe()), cluster, SubmitOptions())
    shutil.rmtree(all_submissions(cluster)[0])

    with pytest.raises(RunError, match=r"its submission is gone; submit the recipe again: .*recipe\.yaml"):
        resubmit(run, cluster)


def test_after_makes_the_job_wait_for_the_other(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    submit(loaded(*[make_recipe(name="first")] * 2), cluster, SubmitOptions())
    other = RunRecord.read(RunDir(all_runs(cluster)[0]).record)

    submit(loaded(make_recipe(name="second")), cluster, SubmitOptions(after=(other.id,)))

    argv = fake_slurm.calls("sbatch")[1].argv
    assert f"--dependency=afterok:{other.submissions[0].job_id}" in argv
    assert "--kill-on-invalid-dep=yes" in argv


@pytest.mark.parametrize(("guardian", "kill"), [(False, "yes"), (True, "no")])
def test_what_waits_for_a_run_with_a_guardian_is_still_there_when_that_brings_it_back(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe, tmp_path: Path, guardian: bool, kill: str
) -> None:
    cluster = make_cluster(slurm={"guardian": guardian})
    submit(loaded(make_recipe(name="first")), cluster, SubmitOptions())
    recipe = tmp_path / "second.yaml"
    recipe.write_text(make_recipe(name="second").model_dump_json())

    launcher("submit", str(recipe), "--cluster", str(write_profile(tmp_path, cluster)), "--after", "first")

    waits = [word for word in fake_slurm.calls("sbatch")[1].argv if word.startswith(("--dep", "--kill"))]
    assert waits == ["--dependency=afterok:1001", f"--kill-on-invalid-dep={kill}"]


def test_a_job_waits_for_several_others(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    first, second, done = (submit(loaded(make_recipe(name=name)), cluster, SubmitOptions())[0] for name in "abc")
    append_event(done.ledger, 0, reason="finished", action="done")

    submit(loaded(make_recipe(name="last")), cluster, SubmitOptions(after=("a", "b", "c")))

    jobs = [RunRecord.read(run.record).submissions[0].job_id for run in (first, second)]
    assert f"--dependency=afterok:{jobs[0]},afterok:{jobs[1]}" in fake_slurm.calls("sbatch")[3].argv


def test_after_a_finished_run_nothing_waits(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    (first,) = submit(loaded(make_recipe(name="first")), cluster, SubmitOptions())
    append_event(first.ledger, 0, reason="finished", action="done")

    submit(loaded(make_recipe(name="second")), cluster, SubmitOptions(after=("first",)))

    assert fake_slurm.calls("sbatch")[1].argv[:-1] == ["--parsable"]


def test_after_a_failed_run_is_refused(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    (first,) = submit(loaded(make_recipe(name="first")), cluster, SubmitOptions())
    append_event(first.ledger, 0, job_id="1001", reason="bad_recipe", action="stop")

    with pytest.raises(RunError, match="ended: bad_recipe; `launcher resume"):
        submit(loaded(make_recipe(name="second")), cluster, SubmitOptions(after=("first",)))


def test_after_a_failed_run_that_was_resumed_a_run_waits_for_its_new_job(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    (first,) = submit(loaded(make_recipe(name="first")), cluster, SubmitOptions())
    append_event(first.ledger, 0, job_id="1001", started=1.0, ended=2.0, reason="error", action="stop")
    fake_slurm.forget("1001")
    job = resubmit(first, cluster)

    submit(loaded(make_recipe(name="second")), cluster, SubmitOptions(after=("first",)))

    assert f"--dependency=afterok:{job}" in fake_slurm.calls("sbatch")[-1].argv


def test_the_local_executor_starts_a_process_that_outlives_the_caller(
    tmp_path: Path, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" "$PWD" "$@" > {tmp_path}/said\n')
    python.chmod(0o755)
    cluster = make_cluster(executor="local", python=str(python))

    runs = submit(loaded(make_recipe(), make_recipe()), cluster, SubmitOptions())

    said = wait_for(lambda: (tmp_path / "said").exists() and (tmp_path / "said").read_text(), "the local process")
    entries = [RunRecord.read(run.record).submissions[0] for run in runs]
    for entry in entries:
        os.waitpid(int(entry.job_id.removeprefix("local-")), 0)
    assert said.splitlines()[1:4] == ["-u", "-m", "jobs.batch.main"]
    assert said.splitlines()[0] == said.splitlines()[4]
    assert said.splitlines()[4] in {entry.folder for entry in entries}
    assert said.splitlines()[5] == "--local"


def test_the_local_executor_cannot_wait_for_another_run(make_cluster: MakeCluster, make_recipe: MakeRecipe) -> None:
    cluster = make_cluster(executor="local", python="/bin/true")
    (first,) = submit(loaded(make_recipe(name="first")), cluster, SubmitOptions())
    os.waitpid(int(RunRecord.read(first.record).submissions[0].job_id.removeprefix("local-")), 0)

    with pytest.raises(LauncherError, match=r"`--after` needs Slurm, .* submit without it when that run has finished"):
        submit(loaded(make_recipe()), cluster, SubmitOptions(after=("first",)))

    assert all_runs(cluster) == [first.root]


def test_training_may_wait_for_the_corpus_that_another_run_makes(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe, make_cpt: MakeRecipe
) -> None:
    cluster = make_cluster()
    make_model(cluster, "model")
    submit(loaded(make_recipe(name="corpus", corpus="abstracts")), cluster, SubmitOptions())
    training = loaded(make_cpt(tracking={"mode": "offline"}))

    with pytest.raises(RecipeError, match="there is no corpus `abstracts`"):
        submit(training, cluster, SubmitOptions())
    (run,) = submit(training, cluster, SubmitOptions(after=("corpus",)))

    assert "--dependency=afterok:1001" in fake_slurm.calls("sbatch")[1].argv
    assert RunRecord.read(run.record).kind == "cpt"


def test_what_a_finished_run_made_is_looked_at_and_not_taken_for_granted(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe, make_cpt: MakeRecipe
) -> None:
    cluster = make_cluster()
    make_model(cluster, "model")
    (first,) = submit(loaded(make_recipe(name="corpus", corpus="abstracts")), cluster, SubmitOptions())
    append_event(first.ledger, 0, reason="finished", action="done")

    with pytest.raises(RecipeError, match="there is no corpus `abstracts`"):
        submit(loaded(make_cpt(tracking={"mode": "offline"})), cluster, SubmitOptions(after=("corpus",)))

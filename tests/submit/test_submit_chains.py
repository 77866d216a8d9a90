"""Submitting recipes that start from what another run will have made."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster import Cluster
from launcher.errors import LauncherError, RecipeError, RunError
from launcher.recipe import Recipe, read_recipe
from launcher.run.record import RunRecord
from launcher.submit.plan_submission import SubmitOptions
from tests.support.corpora import make_corpus
from tests.support.fake_slurm import FakeSlurm
from tests.support.labelled_runs import classify_recipe, invented_notes, write_table
from tests.support.submissions import MakeCluster, loaded, make_model, submit
from tests.support.training_runs import cpt_recipe

LORA = {"method": "lora"}


def recipe(fields: dict[str, Any], **changes: Any) -> Recipe:
    return read_recipe(json.dumps(fields | changes))


def merge(base: str, adapter: str, output: str) -> Recipe:
    fields = {"kind": "merge", "name": "merge", "resources": {"time": "1h"}}
    return recipe(fields, base_model=base, adapters=[{"path": adapter}], output=output)


@pytest.fixture
def cluster(make_cluster: MakeCluster, tmp_path: Path) -> Cluster:
    """A site with a model, a corpus and tables."""
    make_model(make_cluster(), "stories260k")
    make_corpus(tmp_path / "corpora" / "words", [[[3, 4, 2]]])
    for split in ("train", "validation", "test"):
        write_table(tmp_path / "data" / f"binary-{split}.csv", invented_notes("binary", 4, split))
    return make_cluster()


def test_training_on_what_a_merge_makes_of_a_training_is_a_chain(fake_slurm: FakeSlurm, cluster: Cluster) -> None:
    first = recipe(cpt_recipe(adapter=LORA, output="lora"), name="first")
    last = recipe(cpt_recipe(model={"path": "merged"}), name="last")

    submit(loaded(first), cluster, SubmitOptions())
    submit(loaded(merge("stories260k", "lora", "merged")), cluster, SubmitOptions(after=("first",)))
    submit(loaded(last), cluster, SubmitOptions(after=("merge",)))

    waits = [[word for word in call.argv if "dependency" in word] for call in fake_slurm.calls("sbatch")]
    assert waits == [[], ["--dependency=afterok:1001"], ["--dependency=afterok:1002"]]


def test_a_classifier_waits_for_its_clinical_adapter(fake_slurm: FakeSlurm, cluster: Cluster) -> None:
    clinical = recipe(cpt_recipe(adapter=LORA, output="clinical"), name="clinical-run")
    section = {"path": "stories260k", "adapters": [{"path": "clinical"}]}
    mortality = recipe(classify_recipe(model=section, adapter=LORA))
    submit(loaded(clinical), cluster, SubmitOptions())

    with pytest.raises(RecipeError, match=r"model.adapters.0.path: `clinical` is not below `"):
        submit(loaded(mortality), cluster, SubmitOptions())
    submit(loaded(mortality), cluster, SubmitOptions(after=("clinical-run",)))

    assert "--dependency=afterok:1001" in fake_slurm.calls("sbatch")[-1].argv


def test_what_will_be_credentialed_binds_what_waits_for_it(fake_slurm: FakeSlurm, cluster: Cluster) -> None:
    clinical = recipe(cpt_recipe(adapter=LORA, output="clinical"), name="clinical-run", data_use="credentialed")
    last = cpt_recipe(model={"path": "stories260k", "adapters": [{"path": "clinical"}]}, adapter=LORA)
    submit(loaded(clinical), cluster, SubmitOptions())

    for next_one in (recipe(last), merge("stories260k", "clinical", "merged")):
        with pytest.raises(RecipeError, match=r"`clinical` was made of credentialed data; write `data_use: cred"):
            submit(loaded(next_one), cluster, SubmitOptions(after=("clinical-run",)))

    submit(loaded(recipe(last, data_use="credentialed")), cluster, SubmitOptions(after=("clinical-run",)))


def test_recipes_that_are_submitted_together_wait_for_what_the_others_make(
    fake_slurm: FakeSlurm, cluster: Cluster
) -> None:
    first = recipe(cpt_recipe(adapter=LORA, output="lora"), name="first")
    last = recipe(cpt_recipe(model={"path": "merged"}), name="last")
    other = recipe(cpt_recipe(), name="other")

    runs = submit(loaded(last, merge("stories260k", "lora", "merged"), first, other), cluster, SubmitOptions())

    queued = [RunRecord.read(run.record) for run in runs]
    assert [one.submissions[0].job_id for one in queued] == ["1003", "1002", "1001_0", "1001_1"]
    waits = [[word for word in call.argv if "dependency" in word] for call in fake_slurm.calls("sbatch")]
    assert waits == [[], ["--dependency=afterok:1001_0"], ["--dependency=afterok:1002"]]


def test_recipes_that_wait_for_each_other_are_refused(fake_slurm: FakeSlurm, cluster: Cluster) -> None:
    one = recipe(cpt_recipe(model={"path": "b"}, output="a"), name="one")
    other = recipe(cpt_recipe(model={"path": "a"}, output="b"), name="other")

    with pytest.raises(LauncherError, match=r"0 \(one\) -> 1 \(other\) -> 0 \(one\): these stages wait for each other"):
        submit(loaded(one, other), cluster, SubmitOptions())
    assert fake_slurm.calls("sbatch") == []


def test_without_slurm_recipes_cannot_wait_for_each_other(make_cluster: MakeCluster, cluster: Cluster) -> None:
    first = recipe(cpt_recipe(adapter=LORA, output="lora"), name="first")

    with pytest.raises(RunError, match=r"^merge: reads what another of these recipes makes"):
        submit(loaded(first, merge("stories260k", "lora", "m")), make_cluster(executor="local"), SubmitOptions())

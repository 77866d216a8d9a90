"""A stage that reads tables of notes of another stage: each of them is one that the other makes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cluster import Cluster
from launcher.errors import RecipeError
from launcher.load.pipeline import load_pipeline
from launcher.pipeline.plan import plan_pipeline
from tests.support.recipe_files import write

OUTCOMES = """\
kind: outcomes
name: outcomes
data_use: credentialed
output: tables
source: {format: mimic_iii, notes: notes.csv, admissions: admissions.csv, diagnoses: codes.csv}
resources: {time: 1h}
"""
CLASSIFY = """\
kind: classify
name: classify
data_use: credentialed
model: {path: org/model}
data: {format: core, task: mor, folder: tables}
batch: {global_batch: 8 sequences}
optim: {lr: 1e-5}
schedule: {length: 1 epoch}
resources: {time: 1h}
"""


def faults_of_stages(folder: Path, cluster: Cluster, stages: str) -> list[tuple[str, str, str]]:
    """Code, key and message of the faults that a pipeline has besides those of its recipes."""
    write(folder, OUTCOMES, "outcomes.yaml")
    write(folder, CLASSIFY, "classify.yaml")
    path = write(folder, f"kind: pipeline\nname: p\nstages:\n  first: outcomes.yaml\n{stages}", "pipeline.yaml")
    with pytest.raises(RecipeError) as caught:  # the tables of the first stage are not there
        plan_pipeline(load_pipeline(path), cluster)
    found = [(one.code, one.key, one.message) for one in caught.value.faults]
    assert ("not-found", "source.notes") in {one[:2] for one in found}
    return [one for one in found if one[1].startswith("stages.")]


@pytest.mark.parametrize(("task", "file"), [("pmv", "pmv_train.csv"), ("proc", "PRO_GROUPS_3_DIGITS_adm_train.csv")])
def test_a_table_that_the_other_stage_does_not_make_is_named(
    tmp_path: Path, make_cluster: Callable[..., Cluster], task: str, file: str
) -> None:
    stages = f"  second: {{recipe: classify.yaml, set: {{data.task: {task}}}}}\n"
    stages += f"  third: {{recipe: classify.yaml, set: {{data.task: {task}}}, sweep: {{grid: {{seed: [1, 2]}}}}}}\n"

    found = faults_of_stages(tmp_path, make_cluster(), stages)

    assert [one[:2] for one in found] == [("unknown-name", "stages.second"), ("unknown-name", "stages.third")]
    assert all(f"stage `first` does not make `{file}`" in message for _, _, message in found)


@pytest.mark.parametrize("task", ["los", "mor", "diag"])
def test_tables_that_it_makes_are_no_fault(tmp_path: Path, make_cluster: Callable[..., Cluster], task: str) -> None:
    stages = f"  second: {{recipe: classify.yaml, set: {{data.task: {task}}}}}\n"

    assert faults_of_stages(tmp_path, make_cluster(), stages) == []


def test_tables_of_another_folder_are_not_its_matter(tmp_path: Path, make_cluster: Callable[..., Cluster]) -> None:
    stages = "  second: {recipe: classify.yaml, set: {data.task: pmv, data.folder: others}}\n"

    assert faults_of_stages(tmp_path, make_cluster(), stages) == []

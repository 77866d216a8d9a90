"""A pipeline at a site that has other things by the names of what its stages make."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster import Cluster
from launcher.load import load_recipes
from launcher.load.pipeline import load_pipeline
from launcher.pipeline.forecast import forecast_pipeline
from launcher.pipeline.plan import PipelinePlan, plan_pipeline
from launcher.plan import check_all, forecast
from launcher.plan.details import detail
from launcher.submit.plan_submission import SubmitOptions, plan_submission
from tests.support.model_configs import LLAMA_7B
from tests.support.recipe_files import write

SMALL = LLAMA_7B | {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2}
OTHER_TOKENS = {"model": {"vocab": {f"other-{number}": number for number in range(100)}}}
OWN_TOKENS = {"model": {"vocab": {f"own-{number}": number for number in range(100)}}}
PREPARE = """\
kind: prepare
name: prepare
corpus: abstracts
tokenizer: base
sources: [{format: pile, files: pile/*.zst}]
resources: {time: 1h}
"""
TRAIN = """\
kind: cpt
model: {path: base}
data: {corpora: [{name: abstracts}]}
batch: {global_batch: 64 sequences, micro_batch: auto}
optim: {lr: 1e-5}
schedule: {length: 1 epoch}
resources: {gpus_per_node: 1, time: 1h}
"""
PIPELINE = """\
kind: pipeline
name: p
stages:
  prepare: prepare.yaml
  pretrain: {recipe: train.yaml, set: {name: pretrain, output: adapted}}
  tune: {recipe: train.yaml, set: {name: tune, model.path: adapted}}
"""


@pytest.fixture
def site(tmp_path: Path, make_cluster: Callable[..., Cluster]) -> Cluster:
    """A site with a base model, and with a small model and a corpus that have nothing to do with the pipeline."""
    cluster = make_cluster(gpus={"type": "a100", "memory": "40GB"})
    put(cluster.roots.models, "base", config=LLAMA_7B, tokenizer=OWN_TOKENS)
    put(cluster.roots.models, "adapted", config=SMALL | {"max_position_embeddings": 128, "vocab_size": 50})
    put(cluster.roots.models, "adapted", tokenizer=OTHER_TOKENS)
    counts = {"tokens": {"train": 2048 * 10}}
    manifest = {"data_use": "credentialed", "tokenizer": {"vocab_size": 99_999}, "counts": counts}
    put(cluster.roots.corpora, "abstracts", manifest=manifest, tokenizer=OTHER_TOKENS)
    write(Path(cluster.roots.data), "", "pile/0.zst")
    return cluster


def put(root: str, name: str, **files: object) -> None:
    for file, content in files.items():
        write(Path(root) / name, json.dumps(content), f"{file}.json")


@pytest.fixture
def plan(tmp_path: Path, site: Cluster) -> PipelinePlan:
    write(tmp_path, PREPARE, "prepare.yaml")
    write(tmp_path, TRAIN, "train.yaml")
    return plan_pipeline(load_pipeline(write(tmp_path, PIPELINE, "p.yaml")), site)


def planned(plan: PipelinePlan, name: str) -> Any:
    [stage] = [one for one in plan.stages if one.record.name == name]
    assert stage.plan is not None
    [recipe] = stage.plan.recipes
    return recipe


def test_the_namesakes_would_be_refused_by_themselves(tmp_path: Path, site: Cluster) -> None:
    loaded = load_recipes(write(tmp_path, TRAIN.replace("path: base", "path: adapted") + "name: tune\n"))

    found = {(fault.code, fault.key) for fault in check_all(loaded, site)}

    assert found == {
        ("mismatch", "batch.sequence_length"),
        ("mismatch", "model.path"),
        ("mismatch", "data.corpora.0.name"),
        ("data-use", "data.corpora.0.name"),
        ("conflict", "batch.global_batch"),
    }


def test_a_pipeline_is_checked_against_what_its_own_stages_make(plan: PipelinePlan) -> None:
    assert [one.record.name for one in plan.to_do] == ["prepare", "pretrain", "tune"]


def test_nothing_is_estimated_of_namesakes(plan: PipelinePlan, site: Cluster) -> None:
    pretrain, tune = planned(plan, "pretrain"), planned(plan, "tune")

    assert pretrain.forecast.memory is not None, "its model is at the site"
    assert pretrain.forecast.run is None, "an epoch of a corpus that is yet to be made"
    assert (tune.forecast.memory, tune.forecast.micro_batch, tune.checkpoint_bytes) == (None, 16, None)
    assert detail(tune.loaded, site) is None
    assert [one.is_limit for one in forecast_pipeline(plan.loaded, site).stages] == [True] * 3


def test_what_a_stage_has_made_is_read_in_the_pipeline(plan: PipelinePlan, site: Cluster) -> None:
    artifacts = plan.folder.artifacts
    put(str(artifacts / "models"), "adapted", config=SMALL)
    [alone] = load_recipes(plan.loaded.path.parent / "train.yaml", ["name=tune", "model.path=adapted"])

    found = forecast(replace(alone, artifacts=artifacts), site)

    assert found.micro_batch == 64, "as much as it has room for"


def test_recipes_that_are_submitted_together_await_what_the_others_make(tmp_path: Path, site: Cluster) -> None:
    texts = [TRAIN + "name: pretrain\noutput: new\n", TRAIN.replace("path: base", "path: new") + "name: tune\n"]
    loaded = [load_recipes(write(tmp_path, text, f"{place}.yaml"))[0] for place, text in enumerate(texts)]
    put(site.roots.models, "new", config=SMALL)  # what a rehearsal left

    found = plan_submission(loaded, site, SubmitOptions(check=False))

    assert [one.forecast.memory is None for one in found.recipes] == [False, True]

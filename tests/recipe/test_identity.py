"""The identity of a run: what belongs to it, and what does not."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from launcher.recipe import KINDS, Recipe, read_recipe
from launcher.recipe.identity import decisive_keys, identify, recipe_checksum
from launcher.run.locations import Locations
from tests.support.corpora import make_corpus
from tests.support.training_runs import ASSETS, cpt_recipe


@pytest.fixture
def places(tmp_path: Path) -> Locations:
    """A site with a model and a corpus."""
    shutil.copytree(ASSETS / "stories260k", tmp_path / "models" / "stories260k")
    make_corpus(tmp_path / "corpora" / "words", [[[3, 4, 2]]])
    (tmp_path / "data").mkdir()
    return Locations({name: str(tmp_path / name) for name in ("models", "corpora", "data")}, str(tmp_path))


def recipe(**changes: Any) -> Recipe:
    return read_recipe(json.dumps(cpt_recipe(**changes)))


def name_of(one: Recipe, places: Locations, tmp_path: Path) -> str:
    identity = identify(one, places)
    assert identity is not None
    return identity.name(tmp_path / "checksums")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other", "description": "a line"},
        {"resources": {"nodes": 2, "gpus_per_node": 2, "time": "1h"}, "batch": {"micro_batch": 1}},
        {"batch": {"micro_batch": 1}},
        {"parallel": {"strategy": "full_shard"}, "checkpoint": {"interval": "1h"}, "tracking": {"project": "p"}},
        {"limits": {"max_failures": 9}, "rehearsal": {"optim": {"lr": 1e-5}}},
        {"model": {"activation_checkpointing": "selective"}},
        {"model": {"compile": True}},
    ],
)
def test_where_and_how_fast_is_no_part_of_an_identity(changes: dict[str, Any]) -> None:
    assert recipe_checksum(recipe(**changes)) == recipe_checksum(recipe())


@pytest.mark.parametrize(
    "changes",
    [
        {"optim": {"lr": 2e-3}},
        {"batch": {"global_batch": "16 sequences"}},
        {"seed": 7},
        {"precision": {"dtype": "bf16"}},
    ],
)
def test_what_decides_the_result_is_part_of_it(changes: dict[str, Any]) -> None:
    assert recipe_checksum(recipe(**changes)) != recipe_checksum(recipe())


def test_every_incidental_key_is_a_key() -> None:
    for model in KINDS.values():
        assert model.incidental <= model.model_fields.keys()
    assert decisive_keys(recipe())["batch"] == {"global_batch": "8 sequences", "sequence_length": 32}


def test_a_retouched_file_keeps_the_identity_and_another_content_changes_it(places: Locations, tmp_path: Path) -> None:
    before = name_of(recipe(), places, tmp_path)
    config = tmp_path / "models" / "stories260k" / "config.json"

    os.utime(config, ns=(1, 1))
    assert name_of(recipe(), places, tmp_path) == before
    config.write_text(config.read_text() + " ")

    assert name_of(recipe(), places, tmp_path) != before


def test_a_corpus_counts_by_what_its_manifest_says(places: Locations, tmp_path: Path) -> None:
    before = name_of(recipe(), places, tmp_path)
    manifest = tmp_path / "corpora" / "words" / "manifest.json"
    content = json.loads(manifest.read_text())

    manifest.write_text(json.dumps(content | {"code": "a later version"}))
    assert name_of(recipe(), places, tmp_path) == before
    manifest.write_text(json.dumps(content | {"fingerprint": "1" * 64}))

    assert name_of(recipe(), places, tmp_path) != before


def test_an_export_counts_by_its_manifest_so_no_weights_are_read(places: Locations, tmp_path: Path) -> None:
    model = tmp_path / "models" / "stories260k"
    (model / "manifest.json").write_text(json.dumps({"run": "abc123", "steps": 10}))
    first = name_of(recipe(), places, tmp_path)

    assert not (tmp_path / "checksums").exists()
    (model / "manifest.json").write_text(json.dumps({"run": "def456", "steps": 10}))
    assert name_of(recipe(), places, tmp_path) != first


def test_there_is_no_identity_while_an_input_is_missing(places: Locations, tmp_path: Path) -> None:
    (tmp_path / "corpora" / "words" / "manifest.json").unlink()

    assert identify(recipe(), places) is None


def test_a_model_of_the_hub_counts_by_its_name(places: Locations, tmp_path: Path) -> None:
    names = {name_of(recipe(model={"path": path}), places, tmp_path) for path in ("org/one", "org/two")}

    assert len(names) == 2


def test_the_artifacts_of_a_pipeline_come_before_those_of_the_site(places: Locations, tmp_path: Path) -> None:
    own = Locations(places.roots, places.recipe_folder, tmp_path / "artifacts")
    (tmp_path / "artifacts" / "models").mkdir(parents=True)

    assert own.model("stories260k") == str(tmp_path / "models" / "stories260k")
    (tmp_path / "artifacts" / "models" / "stories260k").symlink_to("nowhere-yet")

    assert own.model("stories260k") == str(tmp_path / "artifacts" / "models" / "stories260k")
    assert own.folder("corpus", "words") == tmp_path / "artifacts" / "corpora" / "words"
    assert own.corpus("words") == tmp_path / "corpora" / "words"
    assert own.data_glob("a/*.csv") == str(tmp_path / "data" / "a" / "*.csv")

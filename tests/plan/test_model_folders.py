"""Folders that hold no model, tokenizer or adapter, and names of nothing, are found before the queue."""

import json
from pathlib import Path

import pytest

from tests.plan.test_plan import PREPARE, PROFILE, complaints, find_faults, site
from tests.support.recipe_files import RECIPE, summarise, write

MERGE = """\
kind: merge
name: m
base_model: org/model
adapters: [{path: lora}]
output: merged
resources: {time: 1h}
"""
EVALUATE = """\
kind: evaluate
name: e
model: {path: org/model}
tasks:
  - {type: perplexity, name: p, corpus: abstracts}
batch: {tokens_per_batch: 100}
resources: {time: 1h}
"""


@pytest.mark.parametrize("name", ["org", "empty", ".", "..", "./models/empty"])
def test_a_folder_without_a_configuration_is_no_model(tmp_path: Path, name: str) -> None:
    site(tmp_path)
    (tmp_path / "models" / "empty").mkdir()

    [found] = find_faults(tmp_path, RECIPE, PROFILE, f"model.path={name}")

    assert (found.key, found.code) == ("", "not-found") and found.file == "--set model.path"
    assert "holds no model (config.json is missing); check the name" in found.message


@pytest.mark.parametrize(("text", "key"), [(MERGE, "base_model"), (EVALUATE, "model.path")])
def test_so_it_is_for_other_kinds(tmp_path: Path, text: str, key: str) -> None:
    site(tmp_path)
    write(tmp_path, json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"]}), "models/lora/adapter_config.json")
    (tmp_path / "models" / "org" / "model" / "config.json").unlink()

    told = [one for one in complaints(tmp_path, text) if key in one]

    assert any(f"{key}: `models/org/model` holds no model" in one for one in told)


@pytest.mark.parametrize(
    ("text", "key"), [(PREPARE, "tokenizer"), (RECIPE + "model.tokenizer", "model.tokenizer")], ids=["prepare", "cpt"]
)
def test_a_folder_without_a_vocabulary_is_no_tokenizer(tmp_path: Path, text: str, key: str) -> None:
    site(tmp_path)
    write(tmp_path, "", "data/pile/a.zst")
    text = text.removesuffix("model.tokenizer")
    write(tmp_path, "a recipe of a cook", "models/cook/README.txt")

    refused = complaints(tmp_path, text, PROFILE, f"{key}=cook")
    for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "x.tiktoken"):
        write(tmp_path, "{}", f"models/with-{name}/{name}")
        assert not [one for one in complaints(tmp_path, text, PROFILE, f"{key}=with-{name}") if "no tokenizer" in one]

    assert [one for one in refused if "`models/cook` holds no tokenizer (no tokenizer.json, tokenizer.model" in one]


def test_a_folder_that_is_awaited_is_not_looked_at(tmp_path: Path) -> None:
    from launcher.load import load_recipes
    from launcher.plan import check_all
    from tests.support.recipe_files import profile

    site(tmp_path)
    (tmp_path / "models" / "later").mkdir()
    loaded = load_recipes(write(tmp_path, RECIPE), ["model.path=later"])

    assert check_all(loaded, profile(tmp_path, PROFILE))
    assert not check_all(loaded, profile(tmp_path, PROFILE), {"later": "open"})


@pytest.mark.parametrize(
    "key", ["model.path", "model.tokenizer", "data.corpora.0.name", "adapter.start_from"], ids=lambda key: key
)
def test_a_blank_name_is_refused(tmp_path: Path, key: str) -> None:
    from launcher.errors import RecipeError
    from launcher.load import load_recipes

    path = write(tmp_path, f"{RECIPE}adapter: {{method: orthogonal, start_from: x}}\n")
    for blank in ('""', '" "'):
        with pytest.raises(RecipeError) as caught:
            load_recipes(path, [f"{key}={blank}"])
        [fault] = caught.value.faults
        assert summarise([fault]) == [f"--set {key} invalid-value"]

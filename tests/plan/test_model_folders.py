"""Folders that hold no model, tokenizer or adapter, and names of nothing, are found before the queue."""

import json
from pathlib import Path

import pytest

from launcher.errors import Fault, RecipeError
from launcher.load import load_recipes
from launcher.plan import check_all
from tests.plan.test_plan import CLASSIFY
from tests.support.recipe_files import RECIPE, profile, summarise, write

PROFILE = "name: site\nroots: {runs: runs, data: data, corpora: corpora, models: models}\n"
PREPARE = """\
kind: prepare
name: p
corpus: new
tokenizer: org/model
sources: [{format: pile, files: pile/*.zst}]
resources: {time: 1h}
"""
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
resources: {time: 1h}
"""
ROBERTA = {"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}


def site(folder: Path) -> None:
    """Put a model, a corpus and a file of text below the roots of PROFILE."""
    write(folder, "{}", "models/org/model/config.json")
    write(folder, "{}", "models/org/model/tokenizer_config.json")
    write(folder, '{"data_use": "open"}', "corpora/abstracts/manifest.json")
    write(folder, "", "data/pile/a.zst")


def find_faults(folder: Path, text: str, *overrides: str, awaited: tuple[str, ...] = ()) -> list[Fault]:
    loaded = load_recipes(write(folder, text), overrides)
    return check_all(loaded, profile(folder, PROFILE), dict.fromkeys(awaited, "open"))


@pytest.mark.parametrize("text", [RECIPE, PREPARE], ids=["cpt", "prepare"])
def test_what_is_there_is_no_fault(tmp_path: Path, text: str) -> None:
    site(tmp_path)

    assert find_faults(tmp_path, text) == []


@pytest.mark.parametrize("name", ["org", "empty", ".", "..", "./models/empty"])
def test_a_folder_without_a_configuration_is_no_model(tmp_path: Path, name: str) -> None:
    site(tmp_path)
    (tmp_path / "models" / "empty").mkdir()

    [found] = find_faults(tmp_path, RECIPE, f"model.path={name}")

    assert (found.key, found.code) == ("", "not-found") and found.file == "--set model.path"
    assert "holds no model (config.json is missing); check the name" in found.message


@pytest.mark.parametrize(("text", "key"), [(MERGE, "base_model"), (EVALUATE, "model.path")])
def test_so_it_is_for_other_kinds(tmp_path: Path, text: str, key: str) -> None:
    site(tmp_path)
    write(tmp_path, json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"]}), "models/lora/adapter_config.json")
    (tmp_path / "models" / "org" / "model" / "config.json").unlink()

    [found] = [one for one in find_faults(tmp_path, text) if one.key == key]

    assert f"`{tmp_path}/models/org/model` holds no model" in found.message


@pytest.mark.parametrize(
    ("text", "key"), [(PREPARE, "tokenizer"), (EVALUATE, "model.tokenizer")], ids=["prepare", "evaluate"]
)
def test_a_folder_without_a_vocabulary_is_no_tokenizer(tmp_path: Path, text: str, key: str) -> None:
    site(tmp_path)
    write(tmp_path, "a recipe of a cook", "models/cook/README.txt")

    [refused] = find_faults(tmp_path, text, f"{key}=cook")
    for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "x.tiktoken"):
        write(tmp_path, "{}", f"models/with-{name}/{name}")
        assert find_faults(tmp_path, text, f"{key}=with-{name}") == []

    assert f"`{tmp_path}/models/cook` holds no tokenizer (no tokenizer.json, tokenizer.model" in refused.message


def test_a_folder_that_is_awaited_is_not_looked_at(tmp_path: Path) -> None:
    site(tmp_path)
    (tmp_path / "models" / "later").mkdir()

    assert find_faults(tmp_path, RECIPE, "model.path=later")
    assert find_faults(tmp_path, RECIPE, "model.path=later", awaited=("later",)) == []


@pytest.mark.parametrize(
    "key", ["model.path", "model.tokenizer", "data.corpora.0.name", "adapter.start_from"], ids=lambda key: key
)
def test_a_blank_name_is_refused(tmp_path: Path, key: str) -> None:
    path = write(tmp_path, f"{RECIPE}adapter: {{method: orthogonal, start_from: x}}\n")
    for blank in ('""', '" "'):
        with pytest.raises(RecipeError) as caught:
            load_recipes(path, [f"{key}={blank}"])
        [fault] = caught.value.faults
        assert summarise([fault]) == [f"--set {key} invalid-value"]


@pytest.mark.parametrize(
    ("config", "refused"),
    [
        (ROBERTA, "an encoder, whose tokens see those after them"),
        ({"model_type": "bert", "is_decoder": False}, "an encoder, whose tokens see those after them"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "an encoder with a decoder"),
        (ROBERTA | {"is_decoder": True}, None),
        ({"model_type": "llama"}, None),
        ({"model_type": ["bert"], "is_encoder_decoder": "no"}, None),
    ],
)
@pytest.mark.parametrize("text", [RECIPE, EVALUATE], ids=["cpt", "evaluate"])
def test_what_is_no_causal_language_model_is_told_before_the_queue(
    tmp_path: Path, text: str, config: dict[str, object], refused: str | None
) -> None:
    site(tmp_path)
    write(tmp_path, json.dumps(config), "models/org/model/config.json")

    found = [one.message for one in find_faults(tmp_path, text) if one.code == "mismatch"]

    fix = "name another, or, for an encoder, write `kind: classify`"
    assert found == ([f"`org/model` is no causal language model but {refused}; {fix}"] if refused else [])


def test_an_encoder_may_classify(tmp_path: Path) -> None:
    site(tmp_path)
    write(tmp_path, "{}", "a.jsonl")
    write(tmp_path, json.dumps(ROBERTA), "models/org/model/config.json")

    assert find_faults(tmp_path, CLASSIFY) == []

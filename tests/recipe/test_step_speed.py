"""Compiled layers, recomputed activations and attention: which combinations are recipes, and what is said of others."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from launcher.recipe import read_recipe
from launcher.recipe.kinds.training import TrainingRecipe
from tests.support.preference_runs import preference_recipe
from tests.support.recipe_files import RECIPE, find_faults, load, summarise
from tests.support.training_runs import cpt_recipe

PLAIN = RECIPE.partition("rehearsal:")[0]
SFT = {
    "kind": "sft",
    "data": {"sources": [{"name": "a", "files": "*.json", "format": "alpaca"}], "chat_template": "alpaca"},
}


def sft_recipe(**data: Any) -> dict[str, Any]:
    sections = {**cpt_recipe(**{key: value for key, value in SFT.items() if key != "data"}), "data": SFT["data"]}
    sections["data"] = {**sections["data"], **data}
    return sections


def conflicts(sections: dict[str, Any], **changes: Any) -> list[str]:
    """What is said against a recipe with other keys in its sections."""
    for name, value in changes.items():
        sections[name] = {**(sections.get(name) or {}), **value}
    try:
        read_recipe(json.dumps(sections))
    except ValidationError as error:
        return [line for found in error.errors() for line in found["ctx"]["error"].messages]
    return []


@pytest.mark.parametrize(("written", "meant"), [("true", "full"), ("false", "none"), ("selective", "selective")])
def test_older_words_for_recomputing_still_mean_the_same(tmp_path: Path, written: str, meant: str) -> None:
    recipe = load(tmp_path, PLAIN, [f"model.activation_checkpointing={written}"])
    assert isinstance(recipe, TrainingRecipe)

    assert recipe.model.activation_checkpointing == meant


def test_another_word_for_recomputing_is_refused(tmp_path: Path) -> None:
    [fault] = find_faults(tmp_path, PLAIN, ["model.activation_checkpointing=some"])

    assert summarise([fault]) == ["--set model.activation_checkpointing unknown-name"]
    assert "`none`, `full` or `selective`" in fault.message


@pytest.mark.parametrize("strategy", ["ddp", "full_shard"])
@pytest.mark.parametrize("recomputing", ["none", "full", "selective"])
@pytest.mark.parametrize("sections", [cpt_recipe(), sft_recipe()], ids=["cpt", "sft"])
def test_layers_of_full_rows_can_be_compiled(sections: dict[str, Any], strategy: str, recomputing: str) -> None:
    model = {"compile": True, "activation_checkpointing": recomputing, "attention": "flex"}

    assert conflicts(sections, model=model, parallel={"strategy": strategy}) == []


def test_zero3_recomputes_whole_layers_only() -> None:
    parallel = {"strategy": "zero3"}

    assert conflicts(cpt_recipe(), model={"activation_checkpointing": "full"}, parallel=parallel) == []
    [told] = conflicts(cpt_recipe(), model={"activation_checkpointing": "selective"}, parallel=parallel)
    assert told.startswith("model.activation_checkpointing: with `zero3` DeepSpeed gathers and frees weights")


def test_layers_with_lora_can_be_compiled() -> None:
    assert conflicts(cpt_recipe(), model={"compile": True}, adapter={"method": "lora", "dropout": 0.1}) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parallel": {"strategy": "zero2"}}, "DeepSpeed gathers weights"),
        ({"parallel": {"strategy": "zero3"}}, "write `parallel.strategy: full_shard`"),
        ({"model": {"quantization": {"bits": 4}}, "adapter": {"method": "lora"}}, "bitsandbytes multiplies outside"),
        ({"model": {"attention": "flash"}, "precision": {"dtype": "bf16"}}, "write `attention: flex` or `sdpa`"),
        ({"adapter": {"method": "lora", "dora": True}}, "breaks off at each matrix that `dora` changes"),
        ({"adapter": {"method": "adalora"}}, "`adalora`: compiled code breaks off at each matrix"),
    ],
)
def test_what_would_break_compiled_code_is_refused(changes: dict[str, Any], said: str) -> None:
    model = {"compile": True, **changes.get("model", {})}

    [told] = conflicts(cpt_recipe(), **{**changes, "model": model})

    assert told.startswith("model.compile: ")
    assert said in told


@pytest.mark.parametrize(
    "sections",
    [sft_recipe(packing="pad"), preference_recipe("dpo"), preference_recipe("reward")],
    ids=["sft", "dpo", "reward"],
)
def test_rows_of_many_lengths_are_not_compiled(sections: dict[str, Any]) -> None:
    [told] = conflicts(sections, model={"compile": True})

    assert told.startswith("model.compile: these sequences differ in length")
    assert told.endswith("with `kind: cpt`, or with `kind: sft` and `packing: bfd`")


@pytest.mark.parametrize(
    "sections", [sft_recipe(packing="pad"), preference_recipe("dpo"), cpt_recipe(data={"packing": "truncate"})]
)
def test_flex_is_for_several_documents_in_a_sequence(sections: dict[str, Any]) -> None:
    [told] = conflicts(sections, model={"attention": "flex"})

    assert told.startswith("model.attention: `flex` is for sequences of several documents")


def test_flex_does_not_go_with_tasks_during_training() -> None:
    task = {"type": "perplexity", "name": "p", "corpus": "words"}

    [told] = conflicts(cpt_recipe(), model={"attention": "flex"}, during={"interval": "5 steps", "tasks": [task]})

    assert told.startswith("model.attention: `flex` is compiled again for each length")


def test_what_flex_has_trained_is_talked_to_with_sdpa() -> None:
    recipe = read_recipe(json.dumps(cpt_recipe(model={"attention": "flex"})))
    assert recipe.chat is not None

    assert recipe.chat.model.attention == "sdpa"

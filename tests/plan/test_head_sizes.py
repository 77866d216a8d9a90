"""Flex attention needs heads of 16 on GPUs: a recipe whose model has smaller ones is refused before it is queued."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from launcher.errors import Fault
from launcher.load import load_recipes
from launcher.plan import check_all
from launcher.plan.model_shape import find_head_size
from tests.support.recipe_files import RECIPE, profile, write

PROFILE = "name: site\nroots: {runs: runs, data: data, corpora: corpora, models: models}\n"
SMALL = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 8}


def find_faults(folder: Path, config: dict[str, Any], gpus: str, *overrides: str) -> list[Fault]:
    write(folder, json.dumps(config), "models/org/model/config.json")
    write(folder, json.dumps({"data_use": "open"}), "corpora/abstracts/manifest.json")
    loaded = load_recipes(write(folder, RECIPE), overrides)
    return check_all(loaded, profile(folder, PROFILE + gpus))


def test_small_heads_with_flex_are_refused_where_gpus_train(tmp_path: Path) -> None:
    (fault,) = find_faults(tmp_path, SMALL, "gpus: {type: a100}\n", "model.attention=flex")

    assert (fault.code, fault.key, fault.file) == ("mismatch", "", "--set model.attention")
    assert fault.message.endswith("16 or more numbers on GPUs, and those of `org/model` have 8; write `sdpa`")


@pytest.mark.parametrize(
    ("changes", "gpus", "attention"),
    [
        ({}, "gpus: {type: a100}\n", "sdpa"),
        ({}, "gpus: {device: cpu}\n", "flex"),
        ({"num_attention_heads": 4}, "gpus: {type: a100}\n", "flex"),
        ({"head_dim": 16}, "gpus: {type: a100}\n", "flex"),
    ],
)
def test_other_attention_other_heads_and_cpus_are_not(
    tmp_path: Path, changes: dict[str, Any], gpus: str, attention: str
) -> None:
    assert not find_faults(tmp_path, SMALL | changes, gpus, f"model.attention={attention}")


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("llama", {"hidden_size": 96, "num_attention_heads": 4}),
        ("gpt2", {"n_embd": 96, "n_head": 4}),
        ("qwen3", {"hidden_size": 96, "num_attention_heads": 4}),
        ("gemma", {"hidden_size": 96, "num_attention_heads": 4}),
    ],
)
def test_the_size_of_a_head_is_what_transformers_takes(kind: str, sizes: dict[str, int]) -> None:
    taken = AutoConfig.for_model(kind, **sizes)

    expected = getattr(taken, "head_dim", None) or taken.hidden_size // taken.num_attention_heads
    assert find_head_size({"model_type": kind, **sizes}) == expected


def test_what_does_not_say_has_no_head_size() -> None:
    assert find_head_size({}) is None
    assert find_head_size({"hidden_size": 64, "num_attention_heads": 0}) is None
    assert find_head_size({"hidden_size": "64", "num_attention_heads": 8}) is None

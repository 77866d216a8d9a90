"""Reward models of `rl`, before anything is queued: their adapters belong to them, and they read long enough texts."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster import Cluster, Roots
from launcher.plan.feasibility import check
from launcher.recipe import RlRecipe
from tests.support.recipe_files import write
from tests.support.rl_runs import rl_recipe

EMPTY = b"\x02" + bytes(7) + b"{}"
"""A file of safetensors without a tensor."""
LORA = {"peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": "base"}
ADAPTED = {"type": "model", "path": "base", "adapter": "judge"}


def make_model(folder: Path, **config: Any) -> None:
    config = {"model_type": "llama", "max_position_embeddings": 512, **config}
    write(folder, json.dumps(config), "config.json")
    write(folder, "{}", "tokenizer.json")
    (folder / "model.safetensors").write_bytes(EMPTY)


def make_adapter(folder: Path, manifest: dict[str, Any] | None = None, **config: Any) -> None:
    write(folder, json.dumps(LORA | config), "adapter_config.json")
    (folder / "adapter_model.safetensors").write_bytes(EMPTY)
    if manifest:
        write(folder, json.dumps(manifest), "manifest.json")


def complaints(folder: Path, *rewards: dict[str, Any], pending: dict[str, str] | None = None) -> list[str]:
    """What is wrong with the rewards of a recipe whose models lie in a folder."""
    write(folder, "[]", "medquad_80.json.gz")
    fields = rl_recipe({"name": "rloo"}, model={"path": "base"}, rewards=list(rewards))
    recipe = RlRecipe.model_validate_json(json.dumps(fields))
    roots = Roots(runs="r", data=str(folder), corpora="c", models=str(folder))
    cluster = Cluster(name="site", executor="local", roots=roots)
    found = check(recipe, cluster, str(folder), pending or {})
    return [f"{one.key}: {one.code}: {one.message}" for one in found if one.key.startswith("rewards")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that is policy and base, and an adapter that makes a reward model of it."""
    make_model(tmp_path / "base")
    make_adapter(tmp_path / "judge")
    return tmp_path


def test_an_adapter_of_the_base_is_accepted(folder: Path) -> None:
    assert complaints(folder, ADAPTED) == []
    assert complaints(folder, ADAPTED | {"adapter": "later"}, pending={"later": "open"}) == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"base_model_name_or_path": "org/other-7b"}, "`judge` was trained on `org/other-7b`, and the base"),
        ({"task_type": "CAUSAL_LM"}, "`judge` has no head that rewards; name the export of a `reward` run"),
        ({"peft_type": "PROMPT_TUNING"}, "`judge` is prompt tuning, with which a head does not find the end of a text"),
        ({"peft_type": "P_TUNING"}, "`judge` is p-tuning, with which a head does not find the end of a text"),
    ],
)
def test_an_adapter_that_cannot_reward_is_refused(folder: Path, config: dict[str, Any], said: str) -> None:
    make_adapter(folder / "judge", **config)

    (found,) = complaints(folder, ADAPTED)

    assert found.startswith(f"rewards.0.adapter: mismatch: {said}")


def test_the_recipe_can_say_that_two_names_are_one_base(folder: Path) -> None:
    make_adapter(folder / "judge", base_model_name_or_path="org/other-7b")

    assert complaints(folder, ADAPTED | {"trained_on": "org/other-7b"}) == []


@pytest.mark.parametrize("method", ["PREFIX_TUNING", "MOLORA"])
def test_what_cannot_be_merged_is_used_as_it_is(folder: Path, method: str) -> None:
    make_adapter(folder / "judge", peft_type=method)

    assert complaints(folder, ADAPTED) == []


def test_each_reward_has_a_base_of_its_own(folder: Path) -> None:
    """Adapters of another reward do not count as those below, though the recipe names them before."""
    beneath = [{"path": "judge", "folder": None, "sha256": sha256(EMPTY).hexdigest()}]
    make_adapter(folder / "second", {"beneath": beneath})

    (found,) = complaints(folder, ADAPTED, ADAPTED | {"adapter": "second", "label": "second"})

    assert found == (
        "rewards.1.adapter: mismatch: `second` was trained on top of the adapter `judge`; make one model of its base "
        "and both adapters (`kind: export`), and name that"
    )


@pytest.mark.parametrize("config", [{"max_position_embeddings": 95}, {"model_type": "gpt2", "n_positions": 64}])
def test_a_reward_model_must_read_what_the_policy_writes(folder: Path, config: dict[str, int]) -> None:
    make_model(folder / "short", **config)
    make_model(folder / "enough", max_position_embeddings=96)

    (found,) = complaints(folder, {"type": "model", "path": "short"}, {"type": "model", "path": "enough", "label": "b"})

    assert found.startswith("rewards.0.path: mismatch: `short` has ")
    assert "`batch.sequence_length` lets prompts and completions have 96 tokens" in found

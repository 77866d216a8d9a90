"""Memory and cost of learning from pairs: two sequences a sample, and a reference where one is held."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.load import load_cluster, load_recipes
from launcher.plan.cost import estimate_run
from launcher.plan.forecast import forecast
from launcher.plan.memory import estimate_loading, estimate_memory
from launcher.plan.model_shape import ModelShape, read_shape
from launcher.recipe import DpoRecipe, RlRecipe
from tests.plan.test_estimates import LLAMA_7B
from tests.support.recipe_files import write

RECIPES = Path(__file__).parents[2] / "recipes"


def llama() -> ModelShape:
    found = read_shape(dict(LLAMA_7B))
    assert found is not None
    return found


def dpo(**changes: Any) -> DpoRecipe:
    recipe = load_recipes(RECIPES / "medicalgpt_dpo.yaml")[0].recipe
    assert isinstance(recipe, DpoRecipe)
    return recipe.model_copy(update=changes)


def parameters(recipe: DpoRecipe) -> int:
    estimate = estimate_memory(recipe, llama())
    assert estimate is not None
    return estimate.parameters


def test_a_pair_is_two_sequences() -> None:
    one = load_recipes(RECIPES / "medicalgpt_sft.yaml")[0].recipe
    pair = load_recipes(RECIPES / "medicalgpt_reward.yaml")[0].recipe
    assert one.trains and pair.trains
    single, double = (estimate_memory(recipe, llama()) for recipe in (one, pair))
    assert single is not None and double is not None

    assert double.activations == 2 * single.activations


def test_the_cost_of_a_run_counts_both_sides() -> None:
    cost = estimate_run(dpo(), llama(), "a100")

    assert cost is not None
    assert cost.tokens == 100 * 32 * 2 * 1536


def test_a_frozen_copy_takes_the_bytes_of_a_model_and_an_adapter_switched_off_none() -> None:
    size, reference = llama().parameters, dpo().reference
    full, off = dpo(adapter=None), dpo()
    kept = dpo(adapter=None, reference=reference.model_copy(update={"precompute": True}))
    sharded = full.model_copy(update={"parallel": full.parallel.model_copy(update={"strategy": "full_shard"})})

    assert parameters(full) - parameters(kept) == 4 * size
    assert parameters(sharded) == 4 * size // 2 + 4 * size // 2
    other = dpo(reference=reference.model_copy(update={"model": "another"}))
    assert parameters(other) - parameters(off) == 2 * size


def test_the_reference_of_ppo_is_whole_on_each_rank() -> None:
    recipe = load_recipes(RECIPES / "medicalgpt_ppo.yaml")[0].recipe
    assert isinstance(recipe, RlRecipe)
    parallel = recipe.parallel.model_copy(update={"strategy": "full_shard"})
    sharded = recipe.model_copy(update={"adapter": None, "parallel": parallel})
    estimate, size = estimate_memory(sharded, llama()), llama().parameters
    assert estimate is not None

    assert recipe.precision.dtype == "bf16"
    assert estimate.parameters == 4 * size // recipe.resources.world_size + 2 * size


@pytest.mark.parametrize(
    ("changes", "copies"),
    [
        ({"strategy": "full_shard"}, 4 + 4),  # the reference is read while the policy is whole on each rank
        ({"strategy": "zero2"}, 4 + 4),
        ({"strategy": "ddp"}, 4),  # Trainer has moved the policy to the GPU by then
        ({"strategy": "full_shard", "loss": "orpo"}, 4),
        ({"strategy": "full_shard", "precompute": True}, 4),  # the policy itself, before the first step
        ({"strategy": "full_shard", "precompute": True, "model": "another"}, 4 + 4),
        ({"strategy": "full_shard", "adapter": True}, 2),  # the policy itself, its adapter switched off
        ({"strategy": "full_shard", "adapter": True, "model": "another"}, 2 + 2),
        ({"strategy": "full_shard", "adapter": True, "model": "another", "precompute": True}, 2 + 2),
    ],
)
def test_loading_takes_ram_for_a_reference_beside_the_policy(changes: dict[str, Any], copies: int) -> None:
    recipe = dpo()
    reference = {name: changes[name] for name in ("precompute", "model") if name in changes}
    recipe = dpo(
        adapter=recipe.adapter if changes.get("adapter") else None,
        parallel=recipe.parallel.model_copy(update={"strategy": changes["strategy"]}),
        loss=changes.get("loss", "sigmoid"),
        reference=recipe.reference.model_copy(update=reference),
    )

    assert estimate_loading(recipe, llama()) == recipe.resources.ranks_per_node * copies * llama().parameters


@pytest.mark.parametrize(
    ("name", "strategy", "copies"),
    [
        ("ppo", "full_shard", 4 + 2),  # the reference is in bf16, and is read before Trainer takes the policy
        ("ppo", "ddp", 4 + 2),
        ("grpo", "full_shard", 4 + 4),
        ("grpo", "ddp", 4),
        ("rloo", "full_shard", 4 + 4),
    ],
)
def test_loading_takes_ram_for_a_reference_of_reinforcement_learning(name: str, strategy: str, copies: int) -> None:
    recipe = load_recipes(RECIPES / f"medicalgpt_{name}.yaml")[0].recipe
    assert isinstance(recipe, RlRecipe)
    parallel = recipe.parallel.model_copy(update={"strategy": strategy})
    whole = recipe.model_copy(update={"adapter": None, "parallel": parallel})
    ranks, shape = recipe.resources.ranks_per_node, llama()
    judge = 2 * shape.scoring_parameters

    assert estimate_loading(whole, shape) == ranks * copies * shape.parameters
    assert estimate_loading(recipe, shape, [shape, shape]) == ranks * (2 * shape.parameters + judge), "one by one"


def test_a_reward_model_is_whole_on_each_rank(tmp_path: Path) -> None:
    """The recipe of PPO with a policy and a reward model that are there, the latter half as deep."""
    models = {"policy": LLAMA_7B, "judge": LLAMA_7B | {"num_hidden_layers": 16}}
    for name, config in models.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    roots = f"roots: {{runs: r, data: d, corpora: c, models: {tmp_path}}}"
    profile = f"name: site\n{roots}\ngpus: {{per_node: 8, memory: 40GB}}\nslurm: {{lead: 60s}}\n"
    cluster = load_cluster(str(write(tmp_path, profile, "site.yaml")))
    found = {}
    for judge in ("judge", "not-yet-there", None):
        reward = {"type": "model", "path": judge} if judge else {"type": "length"}
        settings = ["model.path=policy", f"rewards=[{json.dumps(reward)}]"]
        [loaded] = load_recipes(RECIPES / "medicalgpt_ppo.yaml", settings)
        found[judge] = forecast(loaded, cluster)
        assert found[judge].memory is not None and found[judge].loading is not None

    without, half, whole = (found[name].memory.parameters for name in (None, "judge", "not-yet-there"))
    head = llama().table_parameters - llama().hidden
    assert whole - without == 2 * (llama().parameters - head)
    assert whole - half == 2 * 16 * llama().layer_parameters
    assert found["judge"].loading - found[None].loading == 8 * (half - without)

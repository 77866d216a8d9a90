"""Memory and time of reinforcement learning and of a reference: what is sampled and read besides training's own passes.

Bytes of the cache are compared with those that transformers keeps; numbers of recipes are worked out by hand.
"""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from launcher.cluster import Cluster
from launcher.gpus import flops_per_token
from launcher.load import load_recipes
from launcher.plan.alternatives import find_alternatives
from launcher.plan.cost import estimate_run
from launcher.plan.details import SPARE_SECONDS, detail_shape
from launcher.plan.kv_cache import cache_of_token
from launcher.plan.memory import MemoryEstimate, estimate_memory, frozen_bytes, trained_parameters
from launcher.plan.model_shape import ModelShape, read_shape
from launcher.plan.step_time import StepTime, estimate_step
from launcher.plan.traffic import estimate_traffic
from launcher.recipe.kinds.training import TrainingRecipe
from tests.support.command_line import launcher
from tests.support.model_configs import LLAMA_7B

RECIPES = Path(__file__).parents[2] / "recipes"
SIZES = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 6, "vocab_size": 64}
TOKEN = 2 * 32 * 4096 * 2
"""Bytes of keys and values of a token of LLaMA 7B, in bf16."""
WEIGHTS = 2 * (6_738_415_616 - 32_000 * 4096)
"""Bytes of LLaMA 7B that a new token needs: not the input embedding."""


def llama(**changes: Any) -> ModelShape:
    found = read_shape(LLAMA_7B | changes)
    assert found is not None
    return found


def recipe_of(name: str, *settings: str) -> TrainingRecipe:
    recipe = load_recipes(RECIPES / f"medicalgpt_{name}.yaml", ["schedule.length=100 steps", *settings])[0].recipe
    assert isinstance(recipe, TrainingRecipe)
    return recipe


def memory(recipe: TrainingRecipe, shape: ModelShape | None = None) -> MemoryEstimate:
    found = estimate_memory(recipe, shape or llama())
    assert found is not None
    return found


@pytest.fixture
def site(make_cluster: Callable[..., Cluster]) -> Cluster:
    return make_cluster(gpus={"type": "a100", "memory": "80GB", "per_node": 8})


def step(recipe: TrainingRecipe, site: Cluster, *scoring: ModelShape) -> StepTime:
    found = estimate_step(recipe, llama(), site, scoring)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("settings", "weights", "autocast"),
    [
        (("adapter=null", "parallel.strategy=ddp"), torch.float32, True),
        (("parallel.strategy=ddp",), torch.bfloat16, True),
        (("adapter=null", "parallel.strategy=full_shard"), torch.bfloat16, False),
        (("precision.dtype=fp32",), torch.float32, False),
    ],
    ids=["cast weights", "frozen weights in bf16", "gathered in bf16", "fp32"],
)
@pytest.mark.parametrize("kv_heads", [6, 2])
def test_a_cached_token_has_the_bytes_that_transformers_keeps(
    settings: tuple[str, ...], weights: torch.dtype, autocast: bool, kv_heads: int
) -> None:
    config = LlamaConfig(**SIZES, num_key_value_heads=kv_heads)
    model = LlamaForCausalLM(config).to(weights).eval()
    ids = torch.ones(2, 5, dtype=torch.long)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        kept = model(ids, use_cache=True).past_key_values
    size = sum(one.nbytes for layer in kept.layers for one in (layer.keys, layer.values))

    shape = read_shape(SIZES | {"model_type": "llama", "num_key_value_heads": kv_heads})
    assert shape is not None
    assert cache_of_token(recipe_of("grpo", *settings), shape) * ids.numel() == size


def test_trl_samples_all_completions_of_a_rank_side_by_side() -> None:
    small, large = recipe_of("grpo"), recipe_of("grpo", "batch.global_batch=64 sequences", "algorithm.minibatches=4")

    assert memory(small).cache == 8 // 2 * 1536 * TOKEN
    found = memory(large)
    assert found.cache == 64 * 4 // 2 * 1536 * TOKEN
    assert found.logits == found.activations == 0
    assert found.total > 80 * 2**30 > memory(small).total


def test_ppo_samples_four_micro_batches_side_by_side() -> None:
    settings = ("batch.global_batch=512 sequences", "batch.micro_batch=16", "model.activation_checkpointing=full")

    found = memory(recipe_of("ppo", *settings, "generation.max_new_tokens=600"))

    assert found.cache == 4 * 16 * 640 * TOKEN


def test_long_prompts_are_read_at_once() -> None:
    few = llama(num_key_value_heads=4)
    large = ("batch.global_batch=256 sequences", "generation.max_new_tokens=16")

    found = memory(recipe_of("grpo", *large), few)

    token, prompt = TOKEN // 8, 1536 - 16
    assert found.cache == 128 * 1536 * token
    assert found.activations == 128 * (prompt * 2 * (3 * 11008 + 2 * 4096) - 16 * token)


def test_with_zero3_trl_gathers_all_weights_to_sample() -> None:
    large = ("batch.global_batch=64 sequences", "algorithm.minibatches=4", "parallel.strategy=zero3", "adapter=null")

    assert memory(recipe_of("grpo", *large)).gathered == 2 * 6_738_415_616


@pytest.mark.parametrize(
    ("settings", "passes"),
    [((), 1), (("loss=orpo",), 0), (("reference.precompute=true",), 0), (("loss=kto",), 3)],
)
@pytest.mark.parametrize("adapter", [True, False])
def test_a_reference_reads_each_token_of_a_step(
    site: Cluster, settings: tuple[str, ...], passes: int, adapter: bool
) -> None:
    recipe = recipe_of("dpo", *settings, *(() if adapter else ("adapter=null",)))
    computing = 6_738_415_616 - 32_000 * 4096
    attention = 4 * 32 * 4096 * 1536
    trained = (4 if adapter else 6) * computing + 3 * attention
    expected = (trained + passes * (2 * computing + attention)) * 32 * 2 * 1536

    found = step(recipe, site)

    assert found.computing == pytest.approx(expected / (312e12 * found.mfu * recipe.resources.world_size))
    cost = estimate_run(recipe, llama(), "a100")
    assert cost is not None and not cost.is_least
    assert cost.gpu_hours == pytest.approx(100 * expected / (312e12 * cost.mfu) / 3600)


@pytest.mark.parametrize(
    ("strategy", "reshards", "adapter", "gathers"),
    [
        ("full_shard", True, True, 1),  # the adapter switched off
        ("full_shard", False, True, 0),  # whose weights stay
        ("full_shard", True, False, 1),  # a model of its own
        ("full_shard", False, False, 1),
        ("zero3", True, True, 1),
    ],
)
def test_a_sharded_reference_is_gathered_in_each_micro_batch(
    strategy: str, reshards: bool, adapter: bool, gathers: int
) -> None:
    how = f"parallel={{strategy: {strategy}, reshard_after_forward: {str(reshards).lower()}}}"
    settings = (how, *(() if adapter else ("adapter=null",)))
    with_reference, without = (
        next(one.bytes for one in estimate_traffic(recipe_of("dpo", *settings, loss), llama()) if "gather" in one.name)
        for loss in ("loss=sigmoid", "loss=orpo")
    )

    recipe = recipe_of("dpo", *settings)
    trained = trained_parameters(recipe, llama()) or 0
    weights = 2 * trained + frozen_bytes(recipe, llama())
    assert with_reference - without == pytest.approx(gathers * recipe.accumulation_steps * weights / 2, abs=9)


def test_each_new_token_takes_as_long_as_reading_weights_and_cache(site: Cluster) -> None:
    found = step(recipe_of("grpo"), site).rollout
    assert found is not None

    prompts = 4 * 1024 * flops_per_token(WEIGHTS // 2, 32, 4096, 1536) / 3
    cache = 4 * (1024 + 256) * TOKEN
    adapter = 2 * 40_000_000  # of r 16, about
    assert found.sampling > 512 * (WEIGHTS + cache) / 2039e9
    assert found.sampling < 512 * (WEIGHTS + cache + adapter) / 2039e9 + prompts / (312e12 * 0.3)
    assert found.steps == 1


def test_weights_that_are_not_kept_are_fetched_for_each_new_token(site: Cluster) -> None:
    sharded = ("adapter=null", "parallel={strategy: full_shard, reshard_after_forward: %s}")
    kept, fetched = (
        step(recipe_of("grpo", sharded[0], sharded[1] % again), site).rollout for again in ("false", "true")
    )
    assert kept is not None and fetched is not None

    assert fetched.sampling - kept.sampling == pytest.approx(512 * 2 * 6_738_415_616 / 2 / 300e9, rel=0.01)


@pytest.mark.parametrize(
    ("name", "settings", "passes", "steps"),
    [
        ("grpo", (), 1, 1),  # the reference
        ("grpo", ("algorithm.kl_weight=0",), 0, 1),
        ("grpo", ("algorithm.iterations=2",), 2, 2),
        ("rloo", (), 2, 1),
        ("ppo", (), 2, 20),
    ],
)
def test_finished_completions_are_read_by_policy_reference_and_reward_models(
    site: Cluster, name: str, settings: tuple[str, ...], passes: int, steps: int
) -> None:
    recipe = recipe_of(name, *settings)
    size = recipe.rollout_size
    assert size is not None and (size.passes, size.steps) == (passes, steps)

    alone, scored = step(recipe, site).rollout, step(recipe, site, llama(num_hidden_layers=16)).rollout
    assert alone is not None and scored is not None

    half, length = llama(num_hidden_layers=16), recipe.batch.sequence_length
    computing = 16 * half.layer_parameters + 2 * 4096
    flops = size.completions * length * (2 * computing + 4 * 16 * 4096 * length)
    assert scored.judging - alone.judging == pytest.approx(flops / (312e12 * 0.45), rel=0.01)
    assert (alone.judging > 0) == (passes > 0)
    assert scored.per_step == scored.seconds / steps


def test_steps_costs_and_warning_time_count_the_rollout(site: Cluster) -> None:
    recipe = recipe_of("ppo")
    found, cost = detail_shape(recipe, llama(), site, 100), estimate_run(recipe, llama(), "a100")
    assert found.step is not None and found.step.rollout is not None and found.save_seconds is not None
    assert cost is not None and found.wanted_lead is not None

    assert found.step.seconds == pytest.approx(found.step.training + found.step.rollout.seconds / 20)
    assert found.wanted_lead == pytest.approx(
        found.step.training + found.step.rollout.seconds + found.save_seconds + SPARE_SECONDS
    )
    assert cost.gpu_hours == pytest.approx(8 * 100 * found.step.seconds / 3600)
    assert found.gpu_hours == pytest.approx(cost.gpu_hours)
    assert found.is_least and cost.is_least
    ways = find_alternatives(recipe, llama(), site, 80 * 2**30)
    assert min(one.step_seconds for one in ways if one.nodes == 1) >= found.step.rollout.per_step / 2


def test_lower_bounds_are_called_so_wherever_they_are_shown(site: Cluster, tmp_path: Path) -> None:
    folder = Path(site.roots.models) / "llama-7b-medicalgpt-sft"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA_7B))
    profile, sweep, pipeline = (tmp_path / name for name in ("cluster.yaml", "sweep.yaml", "chain.yaml"))
    profile.write_text(site.model_dump_json())
    grpo = RECIPES / "medicalgpt_grpo.yaml"
    sweep.write_text(f"base: {grpo}\nschedule: {{length: 100 steps}}\nsweep: {{grid: {{optim.lr: [1e-6, 1e-5]}}}}\n")
    pipeline.write_text(
        f"kind: pipeline\nname: chain\nstages:\n  rl: {{recipe: {grpo}, set: {{schedule.length: 100 steps}}}}\n"
    )
    where = ("--cluster", str(profile))

    alone, _ = launcher("plan", str(grpo), "--set", "schedule.length=100 steps", *where)
    repeated, _ = launcher("plan", str(sweep), *where)
    chain, _ = launcher("plan", str(pipeline), *where)
    launcher("plan", str(grpo), str(pipeline), "--html", str(tmp_path / "plan.html"), *where)
    page = (tmp_path / "plan.html").read_text(encoding="utf-8")

    assert "GPU-hours" in alone and "at least" in alone
    assert "(times are lower bounds)" in alone and "of sampling, as fast as memory is read" in alone
    assert "to finish a rollout, a step and save; `slurm.lead` 5min: enough, if sampling is as fast" in " ".join(
        alone.split()
    )
    assert ", at the least" in repeated
    assert "+ at least: sampling is counted as fast as a GPU reads its memory" in chain
    assert "(times are lower bounds)" in page and "+ at least" in page

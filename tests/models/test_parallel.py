"""From the recipe's intent to a layout of ranks, and the refusal of anything else."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from jobs.models.parallel import ParallelLayout, accumulation_steps, lay_out, strategy_arguments, verify
from jobs.rank.ranks import Ranks
from launcher.errors import LauncherError
from launcher.recipe import CptRecipe
from launcher.recipe.sections.common import Batch, Parallel
from tests.support.training_runs import cpt_recipe

CPU = torch.device("cpu")


def ranks(world_size: int, per_node: int) -> Ranks:
    return Ranks(0, world_size, 0, per_node, 0)


def layout_of(world_size: int, per_node: int, **fields: object) -> ParallelLayout:
    return lay_out(Parallel.model_validate(fields), ranks(world_size, per_node), CPU)


@pytest.mark.parametrize(
    ("world_size", "per_node", "fields", "replicas", "shard_size"),
    [
        (32, 4, {"strategy": "hybrid_shard"}, 8, 4),
        (4, 4, {"strategy": "hybrid_shard"}, 1, 4),
        (32, 4, {"strategy": "hybrid_shard", "shard": 8}, 4, 8),
        (32, 4, {"strategy": "hybrid_shard", "shard": 16, "replicate": 2}, 2, 16),
        (32, 4, {"strategy": "full_shard"}, 1, 32),
        (32, 4, {"strategy": "zero3"}, 1, 32),
        (32, 4, {"strategy": "ddp"}, 32, 1),
        (1, 1, {"strategy": "hybrid_shard"}, 1, 1),
    ],
)
def test_groups_follow_from_the_intent_and_the_ranks(
    world_size: int, per_node: int, fields: dict[str, object], replicas: int, shard_size: int
) -> None:
    layout = layout_of(world_size, per_node, **fields)

    assert (layout.replicas, layout.shard_size) == (replicas, shard_size)


@pytest.mark.parametrize(
    ("world_size", "per_node", "fields", "told"),
    [
        (6, 2, {"shard": 4}, "auto groups of 4 ranks are not the 6 ranks"),
        (8, 4, {"shard": 4, "replicate": 4}, "4 groups of 4 ranks are not the 8 ranks"),
        (2, 1, {"shard": "node"}, "groups of 1 rank shard nothing; write `strategy: ddp` or `full_shard`"),
    ],
)
def test_groups_that_do_not_come_out_even_are_refused(
    world_size: int, per_node: int, fields: dict[str, object], told: str
) -> None:
    with pytest.raises(LauncherError, match=told):
        layout_of(world_size, per_node, strategy="hybrid_shard", **fields)


def test_deepspeed_is_told_of_a_checkpoint_that_was_converted() -> None:
    layout = layout_of(8, 4, strategy="zero3")

    assert "checkpoint" not in arguments_of(layout)["deepspeed"]
    assert arguments_of(replace(layout, resumes_converted=True))["deepspeed"]["checkpoint"] == {"load_universal": True}


def arguments_of(layout: ParallelLayout) -> dict[str, Any]:
    sections = cpt_recipe(batch={"global_batch": "16 sequences", "micro_batch": 1}, precision={"dtype": "bf16"})
    recipe = CptRecipe.model_validate_json(json.dumps(sections))
    return strategy_arguments(layout, recipe.model_copy(update={"parallel": layout.parallel}))


def batch(sequences: int, micro_batch: int) -> Batch:
    return Batch.model_validate({"global_batch": f"{sequences} sequences", "micro_batch": micro_batch})


def test_accumulation_keeps_the_global_batch_at_any_world_size() -> None:
    assert [accumulation_steps(batch(2048, 1), world) for world in (32, 16, 8)] == [64, 128, 256]


def test_a_world_size_that_breaks_the_global_batch_is_refused() -> None:
    with pytest.raises(LauncherError, match=r"12 sequences are not a multiple of .* \(2 x 4\)"):
        accumulation_steps(batch(12, 2), 4)


def test_hybrid_sharding_becomes_a_mesh_of_replicas_and_shards() -> None:
    arguments = arguments_of(layout_of(8, 4, strategy="hybrid_shard"))

    sizes = arguments["parallelism_config"]
    assert (sizes.dp_replicate_size, sizes.dp_shard_size) == (2, 4)
    assert arguments["fsdp_config"]["state_dict_type"] == "SHARDED_STATE_DICT"


def test_full_sharding_needs_no_mesh_of_its_own() -> None:
    assert "parallelism_config" not in arguments_of(layout_of(8, 4, strategy="full_shard"))


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_becomes_a_deepspeed_config_with_torchs_optimizer(stage: int) -> None:
    config = arguments_of(layout_of(8, 4, strategy=f"zero{stage}"))["deepspeed"]

    assert config["zero_optimization"]["stage"] == stage
    assert config["zero_allow_untested_optimizer"] is True
    assert config["bf16"] == {"enabled": True}
    assert (config["data_types"], config["communication_data_type"]) == ({"grad_accum_dtype": "fp32"}, "fp32")
    assert "optimizer" not in config
    assert (config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]) == (1, 2)


@pytest.mark.parametrize(
    ("strategy", "offload", "moved"),
    [
        ("zero2", "none", set()),
        ("zero2", "optimizer", {"offload_optimizer"}),
        ("zero3", "optimizer", {"offload_optimizer"}),
        ("zero3", "all", {"offload_optimizer", "offload_param"}),
    ],
)
def test_what_is_offloaded_goes_to_the_cpu(strategy: str, offload: str, moved: set[str]) -> None:
    zero = arguments_of(layout_of(8, 4, strategy=strategy, offload=offload))["deepspeed"]["zero_optimization"]

    assert {key: zero[key]["device"] for key in zero if key.startswith("offload")} == dict.fromkeys(moved, "cpu")


@pytest.mark.parametrize("strategy", ["full_shard", "hybrid_shard", "zero2", "zero3", "ddp"])
def test_a_plain_model_is_never_taken_for_a_parallel_one(strategy: str) -> None:
    with pytest.raises(RuntimeError, match=strategy):
        verify(nn.Linear(2, 2), layout_of(4, 2, strategy=strategy))


def test_one_rank_has_nothing_to_share_under_ddp() -> None:
    verify(nn.Linear(2, 2), layout_of(1, 1, strategy="ddp"))

    wrapped = object.__new__(nn.parallel.DistributedDataParallel)
    with pytest.raises(RuntimeError, match=r"DistributedDataParallel, not bare"):
        verify(wrapped, layout_of(1, 1, strategy="ddp"))

"""Recipes of reinforcement learning: what they may say, and what contradicts what."""

import json
from fractions import Fraction
from typing import Any

import pytest
from pydantic import ValidationError

from launcher.recipe import RlRecipe
from launcher.recipe.base import AdapterInput, Input

BASE: dict[str, Any] = {
    "kind": "rl",
    "name": "learn",
    "model": {"path": "model"},
    "data": {"sources": [{"name": "q", "files": "q.jsonl", "format": "alpaca"}]},
    "algorithm": {"name": "rloo"},
    "rewards": [{"type": "token", "token": "a"}],
    "batch": {"global_batch": "16 sequences", "sequence_length": 256},
    "optim": {"lr": 1e-5},
    "schedule": {"length": "10 steps"},
    "resources": {"time": "1h"},
}
LORA = {"method": "lora"}


def recipe(**changes: Any) -> RlRecipe:
    fields = {**BASE}
    for name, value in changes.items():
        fields[name] = {**fields[name], **value} if isinstance(fields.get(name), dict) else value
    return RlRecipe.model_validate_json(json.dumps(fields))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"algorithm": {"name": "ppo"}, "generation": {"top_p": 0.9}}, "generation.top_p: `ppo` needs samples"),
        ({"algorithm": {"name": "ppo"}, "generation": {"top_k": 50}}, "generation.top_k: `ppo` needs samples"),
        ({"generation": {"max_new_tokens": 256}}, "generation.max_new_tokens: 256 tokens leave no room"),
        ({"generation": {"min_new_tokens": 200}}, "generation.min_new_tokens: 200 is more than"),
        ({"algorithm": {"name": "grpo", "generations": 5}}, "batch.global_batch: 16 completions"),
        ({"schedule": {"length": "1M tokens"}}, "schedule.length: `1M tokens` depends"),
        ({"model": {"adapters": [{"path": "earlier"}]}, "adapter": LORA}, "model.adapters: the reference would be"),
        ({"model": {"tokenizer": "larger"}}, "model.tokenizer: `rl` adds no tokens"),
        ({"model": {"init": "random"}}, "model.init: a random model"),
        ({"adapter": {"method": "ia3"}}, "adapter.method: `ia3` is not supported"),
        ({"adapter": LORA | {"init": "pissa"}}, "adapter.init: `pissa` changes the weights"),
        ({"adapter": LORA | {"bias": "all"}}, "adapter.bias: biases stay"),
        ({"adapter": LORA | {"embeddings": "all"}, "parallel": {"strategy": "ddp"}}, "adapter.embeddings: is not"),
        ({"adapter": LORA | {"dropout": 0.1}}, "adapter.dropout: the old and the new probability"),
        ({"adapter": LORA, "algorithm": {"sync": {}}}, "algorithm.sync: with an `adapter`"),
        ({"algorithm": {"sync": {}, "kl_weight": 0.0}}, "sync: has no effect with `kl_weight: 0`"),
        ({"algorithm": {"sync": {}}}, "algorithm.sync: is supported with `ddp` only"),
        ({"algorithm": {"name": "ppo", "kl_weight": 0.0}}, "kl_weight: `adaptive` multiplies it"),
        ({"algorithm": {"name": "ppo", "kl_control": "fixed", "kl_target": 3.0}}, "kl_target: belongs to"),
        ({"parallel": {"strategy": "hybrid_shard"}, "resources": {"nodes": 4}}, "`hybrid_shard` is not supported"),
        ({"evaluation": {"interval": "1M tokens"}}, "evaluation.interval: `1M tokens` depends on what is sampled"),
        ({"rewards": [{"type": "length"}, {"type": "length"}]}, "rewards.1.label: `length` is used twice"),
        ({"rewards": [{"type": "length", "at_least": 9, "at_most": 3}]}, "at_most: 3 is less than"),
        ({"rewards": [{"type": "length", "weight": 0.0}]}, "weight: 0 makes a reward without effect"),
        ({"rewards": [{"type": "format", "pattern": "("}]}, "`(` is not a regular expression"),
        ({"rewards": []}, "at least 1 item"),
        ({"rewards": [{"type": "rouge"}]}, "'rouge' found using 'type' does not match any of the expected tags"),
        ({"algorithm": {"reward_clip": [5.0, -5.0]}}, "reward_clip: with 5 as the least and -5 as the largest"),
        ({"algorithm": {"reward_clip": [1.0, 1.0]}}, "reward_clip: with 1 as the least and 1 as the largest"),
        (
            {"rewards": [{"type": "model", "path": "judge", "trained_on": "base"}]},
            "trained_on: there is no `adapter` that was trained",
        ),
        ({"algorithm": {"name": "reinforce"}}, "'reinforce' found using 'name' does not match"),
    ],
)
def test_what_contradicts_itself_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        recipe(**changes)

    assert said in str(caught.value)


def test_rewards_can_be_kept_within_limits() -> None:
    assert recipe(algorithm={"name": "rloo", "reward_clip": [-5.0, 5.0]}).algorithm.reward_clip == (-5.0, 5.0)


def test_defaults_sample_from_the_policy_as_it_is() -> None:
    made = recipe().generation

    assert (made.temperature, made.top_p, made.top_k, made.min_new_tokens) == (1.0, 1.0, 0, 0)


@pytest.mark.parametrize(
    ("algorithm", "generations", "rollout", "epoch"),
    [
        ({"name": "ppo", "iterations": 4, "minibatches": 2}, 1, 32, 400),
        ({"name": "rloo", "generations": 2}, 2, 16, 200),
        ({"name": "grpo", "generations": 8, "iterations": 2, "minibatches": 3}, 8, 48, 1600),
    ],
)
def test_an_epoch_reads_every_prompt_once(
    algorithm: dict[str, Any], generations: int, rollout: int, epoch: int
) -> None:
    sources = [{"name": name, "files": "q.jsonl", "format": "alpaca"} for name in ("a", "b")]
    made = recipe(algorithm=algorithm, data={"sources": sources})

    assert (made.generations, made.rollout) == (generations, rollout)
    assert made.samples_in_epoch([60, 40]) == Fraction(epoch)


def test_weights_of_sources_change_how_often_they_are_read() -> None:
    sources = [
        {"name": name, "files": "q.jsonl", "format": "alpaca", "weight": w} for name, w in (("a", 2.0), ("b", 0.5))
    ]

    made = recipe(data={"sources": sources})

    assert made.samples_in_epoch([60, 40]) == (2 * 60 + 40 / 2) * made.generations


def test_reward_models_and_prompts_are_inputs() -> None:
    rewards = [{"type": "length"}, {"type": "model", "path": "base", "adapter": "judge", "label": "judge"}]

    made = recipe(rewards=rewards)

    assert [*made.inputs()] == [
        Input("model.path", "model", "model", "causal"),
        Input("data.sources.0.files", "files", "q.jsonl"),
        Input("rewards.1.path", "model", "base"),
        AdapterInput("rewards.1.adapter", "adapter", "judge", base="base", merged="if possible", is_alone=True),
    ]
    assert made.labels == ("length", "judge")


def test_trained_adapters_need_the_packages_of_alignment() -> None:
    assert recipe().required_extras() == ("data", "train", "align")

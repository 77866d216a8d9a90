"""Rewards count as equal if what is learned from is: the weighted sums, within the limits of `reward_clip`."""

import json
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl.trainer.rloo_trainer import RLOOTrainer

from jobs.train.rollouts.rewards import NamedScorer, Rewards
from jobs.train.trl_rollouts import GuardedRlooTrainer
from launcher.recipe import RlRecipe
from tests.support.rl_runs import rl_recipe

REWARDS = torch.tensor([[2.0], [3.0], [0.1], [0.2], [-4.0], [-5.0]])
"""Of the two completions of three prompts."""


def counted(**algorithm: Any) -> float:
    """The share of prompts whose completions have the same reward."""
    fields = rl_recipe({"name": "rloo", "generations": 2, **algorithm})
    trainer: Any = object.__new__(GuardedRlooTrainer)
    trainer._recipe = RlRecipe.model_validate_json(json.dumps(fields))
    trainer._rewards = Rewards([NamedScorer("one", 0.5, lambda _: [])])
    trainer._metrics, trainer._answered, trainer.args = (
        {"train": defaultdict(list)},
        [],
        SimpleNamespace(process_index=0),
    )
    assert torch.equal(trainer._calculate_rewards(), REWARDS)
    (share,) = trainer._metrics["train"]["equal_rewards"]
    return float(share)


@pytest.mark.parametrize(
    ("clip", "share"), [(None, 0.0), ([-5.0, 5.0], 0.0), ([-5.0, 1.0], 1 / 3), ([-1.0, 1.0], 2 / 3), ([5.0, 6.0], 1.0)]
)
def test_rewards_beyond_a_limit_are_equal(monkeypatch: pytest.MonkeyPatch, clip: Any, share: float) -> None:
    monkeypatch.setattr(RLOOTrainer, "_calculate_rewards", lambda _: REWARDS)
    monkeypatch.setattr(GuardedRlooTrainer, "_show", lambda *_: None)

    assert counted(reward_clip=clip) == pytest.approx(share)

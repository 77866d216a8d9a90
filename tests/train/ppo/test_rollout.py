"""What a rollout is trained on, with a model that knows only some numbers."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jobs.train.ppo.rollout import Judge
from launcher.recipe import RlRecipe
from tests.support.rl_runs import rl_recipe

PROMPTS = [[5, 6], [7], [8, 9, 4], [5]]
ANSWERS = [[10, 11, 2], [12, 2], [13, 14, 15], [2]]
END = 2


class Numbers(nn.Module):
    """Says the same probability of each token, and a value that follows from the token."""

    def forward(self, input_ids: Tensor, scored: Tensor, **_: Any) -> dict[str, Tensor]:
        values = torch.sin(input_ids[scored].float())
        return {"logprobs": torch.full_like(values, -1.0), "entropies": values, "values": values}


def advantages(scores: list[float], whiten: bool) -> Tensor:
    fields = rl_recipe({"name": "ppo", "whiten": whiten})
    recipe = RlRecipe.model_validate_json(json.dumps(fields))
    args: Any = SimpleNamespace(
        device=torch.device("cpu"), per_device_train_batch_size=4, gradient_accumulation_steps=1
    )
    judge = Judge(recipe, [END], 0, Numbers(), lambda tensor: tensor)
    (batch,) = judge(Numbers(), PROMPTS, ANSWERS, torch.tensor(scores), 0.1, args).batches
    return batch["advantages"][batch["mask"]]


def test_advantages_are_whitened_where_scores_differ() -> None:
    found = advantages([1.0, 0.0, 0.5, 0.5], whiten=True)

    assert float(found.mean()) == pytest.approx(0, abs=1e-6)
    assert float(found.std()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("score", [0.0, 0.75, -3.1])
def test_advantages_are_not_enlarged_where_all_scores_are_equal(score: float) -> None:
    scores = [score] * len(ANSWERS)

    assert torch.equal(advantages(scores, whiten=True), advantages(scores, whiten=False))

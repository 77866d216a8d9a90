"""From the recipe's rewards to functions of completions."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from jobs.rank.context import Context
from jobs.train.rollouts.reward_model import load_reward_model
from jobs.train.rollouts.rewards import NamedScorer, Rewards, named_scorer
from launcher.recipe.kinds.rl import RlRecipe
from launcher.recipe.sections.rewards import ModelReward


def open_rewards(
    context: Context,
    recipe: RlRecipe,
    tokenizer: PreTrainedTokenizerBase,
    references: Sequence[str],
    device: torch.device,
) -> Rewards:
    """Load what rewards need.

    Args:
        context: The run.
        recipe: As it is for this attempt.
        tokenizer: The policy's.
        references: The answers of all records.
        device: Of this rank.

    Raises:
        LauncherError: a reward cannot be computed for these records, or its model cannot be loaded.
    """
    scorers = []
    for place, (reward, label) in enumerate(zip(recipe.rewards, recipe.labels, strict=True)):
        if isinstance(reward, ModelReward):
            scorer = load_reward_model(context, recipe, place, device)
            scorers.append(NamedScorer(label, reward.weight, scorer))
        else:
            scorers.append(NamedScorer(label, reward.weight, named_scorer(reward, place, tokenizer, references)))
    return Rewards(scorers)

"""The terms of PPO for language models, as pure functions of tensors.

The algorithm is Schulman et al. 2017 (https://arxiv.org/abs/1707.06347) with advantages by Schulman et al. 2016
(https://arxiv.org/abs/1506.02438), applied to tokens as in Ziegler et al. 2019 (https://arxiv.org/abs/1909.08593) and
TRL 0.4 (github.com/huggingface/trl, trl/trainer/ppo_trainer.py), which MedicalGPT's fourth stage used.

All tensors have the shape (sequences, tokens). `mask` is True at the sampled tokens, which follow each other without a
gap; entry t belongs to token t: its log-probability before it was sampled, and the value of the state in which it was.
Losses are sums, so that the caller divides them by the tokens of the whole global batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor

SumOverRanks = Callable[[Tensor], Tensor]
"""Adds up a tensor over all ranks. A collective."""

_EPSILON = 1e-8


def token_rewards(
    scores: Tensor, logprobs: Tensor, reference: Tensor, mask: Tensor, kl_weight: float, baseline: float
) -> Tensor:
    """Return the reward of each token: the KL penalty everywhere, and the score at the last one.

    Args:
        scores: Of whole completions, shape (sequences).
        logprobs: Of the sampled tokens under the policy that sampled them.
        reference: The same under the reference.
        mask: The sampled tokens.
        kl_weight: Factor of the penalty log(policy / reference).
        baseline: Subtracted from the scores.
    """
    rewards = -kl_weight * (logprobs - reference) * mask
    return rewards + is_last(mask) * (scores - baseline)[:, None]


def is_last(mask: Tensor) -> Tensor:
    """Return a mask of the last token of each sequence in a mask of its tokens."""
    following = torch.cat((mask[:, 1:], torch.zeros_like(mask[:, :1])), dim=1)
    return mask & ~following


def estimate_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Estimate advantages with exponential weights over the temporal differences (GAE).

    Args:
        rewards: Of the tokens.
        values: As the value head saw them when the tokens were sampled.
        mask: The sampled tokens; the state after the last one has the value 0.
        gamma: Discount of later rewards.
        lam: Weight of longer estimates: 0 is one temporal difference, 1 the whole return.

    Returns:
        Advantages, and returns (advantages + values), both 0 outside of the mask.
    """
    values = values * mask
    advantages = torch.zeros_like(rewards)
    following, next_value = torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards[:, 0])
    for place in reversed(range(rewards.shape[1])):
        difference = rewards[:, place] + gamma * next_value - values[:, place]
        following = (difference + gamma * lam * following) * mask[:, place]
        advantages[:, place] = following
        next_value = values[:, place]
    return advantages, advantages + values


def whiten(values: Tensor, mask: Tensor, sum_over_ranks: SumOverRanks) -> Tensor:
    """Shift and scale values to mean 0 and variance 1 over the masked entries of all ranks. A collective.

    The variance is the unbiased one, as in TRL. Call it only where scores differ (`are_equal`): otherwise it enlarges
    what the value head is wrong by, until that is as large as the advantage of a good completion over a bad one.
    """
    count, total = sum_over_ranks(torch.stack((mask.sum().double(), (values * mask).sum().double())))
    mean = total / count
    squares = sum_over_ranks((((values - mean) * mask) ** 2).sum().double())
    variance = squares / (count - 1).clamp(min=1)
    whitened: Tensor = (values - mean) * torch.rsqrt(variance + _EPSILON) * mask
    return whitened.to(values.dtype)


def are_equal(scores: Tensor, sum_over_ranks: SumOverRanks) -> bool:
    """Tell whether all completions of all ranks have the same score. A collective."""
    own = scores.double()
    count, total = sum_over_ranks(torch.stack((torch.ones_like(own).sum(), own.sum())))
    return not sum_over_ranks((own != total / count).double().sum())


def policy_loss(logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Return the clipped surrogate, summed over tokens: -min(ratio A, clip(ratio, 1 +- clip) A)."""
    ratio = torch.exp((logprobs - old) * mask)
    kept = torch.clamp(ratio, 1 - clip, 1 + clip)
    losses: Tensor = torch.maximum(-advantages * ratio, -advantages * kept)
    return (losses * mask).sum()


def value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Return half the squared error of the values, summed over tokens; values move by at most `clip` at once."""
    kept = old + torch.clamp(values - old, -clip, clip)
    errors = torch.maximum((values - returns) ** 2, (kept - returns) ** 2)
    total: Tensor = (errors * mask).sum()
    return 0.5 * total


def clipped_tokens(logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Count the tokens whose ratio is clipped, so that they have no gradient."""
    ratio = torch.exp((logprobs - old) * mask)
    is_clipped = ((ratio < 1 - clip) & (advantages < 0)) | ((ratio > 1 + clip) & (advantages > 0))
    return (is_clipped & mask).sum()


def policy_kl(logprobs: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """Estimate KL(old policy || new policy) of the sampled tokens, summed: sum of log(old / new)."""
    return ((old - logprobs) * mask).sum()

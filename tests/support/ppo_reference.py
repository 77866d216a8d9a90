"""The terms of PPO written out one token at a time in NumPy, from the papers: slow, and independent of ours."""

import math
from collections.abc import Sequence

import numpy as np

Rows = Sequence[Sequence[float]]


def rewards_of(
    scores: Sequence[float], logprobs: Rows, reference: Rows, weight: float, baseline: float
) -> list[list[float]]:
    """Ziegler et al. 2019, equation 2: R = r - beta log(pi / rho), the log a sum over tokens."""
    found = []
    for score, ours, theirs in zip(scores, logprobs, reference, strict=True):
        row = [-weight * (one - other) for one, other in zip(ours, theirs, strict=True)]
        row[-1] += score - baseline
        found.append(row)
    return found


def advantages_of(rewards: Rows, values: Rows, gamma: float, lam: float) -> list[list[float]]:
    """Schulman et al. 2016, equation 16, as the sum that it is."""
    found = []
    for row, seen in zip(rewards, values, strict=True):
        after = [*seen[1:], 0.0]
        deltas = [reward + gamma * later - value for reward, later, value in zip(row, after, seen, strict=True)]
        found.append(
            [sum((gamma * lam) ** k * deltas[t + k] for k in range(len(deltas) - t)) for t in range(len(deltas))]
        )
    return found


def whitened(rows: Rows) -> list[list[float]]:
    """Mean 0 and unbiased variance 1 over all tokens."""
    everything = np.concatenate([np.asarray(row, np.float64) for row in rows])
    mean, variance = everything.mean(), everything.var(ddof=1)
    return [[(value - mean) / math.sqrt(variance + 1e-8) for value in row] for row in rows]


def policy_loss_of(logprobs: Rows, old: Rows, advantages: Rows, clip: float) -> float:
    """Schulman et al. 2017, equation 7, with the sign of a loss, summed over tokens."""
    total = 0.0
    for new_row, old_row, gains in zip(logprobs, old, advantages, strict=True):
        for new, before, gain in zip(new_row, old_row, gains, strict=True):
            ratio = math.exp(new - before)
            kept = min(max(ratio, 1 - clip), 1 + clip)
            total -= min(ratio * gain, kept * gain)
    return total


def value_loss_of(values: Rows, old: Rows, returns: Rows, clip: float) -> float:
    """Half the larger of both squared errors, with and without clipping, summed over tokens (OpenAI's baselines)."""
    total = 0.0
    for row, before, wanted in zip(values, old, returns, strict=True):
        for value, seen, target in zip(row, before, wanted, strict=True):
            kept = min(max(value, seen - clip), seen + clip)
            total += 0.5 * max((value - target) ** 2, (kept - target) ** 2)
    return total


def controlled(weight: float, target: float, horizon: float, rollouts: Sequence[tuple[float, int]]) -> float:
    """Ziegler et al. 2019, section 2.2: e = clip(KL / target - 1, -0.2, 0.2); beta <- beta (1 + e n / horizon)."""
    for kl, completions in rollouts:
        weight *= 1 + float(np.clip(kl / target - 1, -0.2, 0.2)) * completions / horizon
    return weight

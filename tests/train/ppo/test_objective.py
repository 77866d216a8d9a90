"""Each term of PPO, against a reference that takes one token at a time."""

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from jobs.train.ppo.kl_control import KlControl
from jobs.train.ppo.objective import (
    are_equal,
    clipped_tokens,
    estimate_advantages,
    is_last,
    policy_kl,
    policy_loss,
    token_rewards,
    value_loss,
    whiten,
)
from launcher.recipe.sections.rl_algorithms import Ppo
from tests.support.ppo_reference import (
    Rows,
    advantages_of,
    controlled,
    policy_loss_of,
    rewards_of,
    value_loss_of,
    whitened,
)

WIDTH = 12


class Ragged:
    """Rows of different lengths, each after a prompt of its own, as lists and as padded tensors."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.lengths = [self.dice.randint(1, 7) for _ in range(4)]
        self.starts = [self.dice.randint(1, WIDTH - length) for length in self.lengths]
        self.mask = torch.zeros(4, WIDTH, dtype=torch.bool)
        for row, (start, length) in enumerate(zip(self.starts, self.lengths, strict=True)):
            self.mask[row, start : start + length] = True

    def draw(self, scale: float = 1.0) -> tuple[Rows, Tensor]:
        """Random numbers, and other random numbers outside of the mask, which nothing may depend on."""
        rows = [[self.dice.gauss(0, scale) for _ in range(length)] for length in self.lengths]
        padded = torch.tensor([[self.dice.gauss(0, 5) for _ in range(WIDTH)] for _ in rows], dtype=torch.float64)
        padded[self.mask] = torch.tensor([value for row in rows for value in row], dtype=torch.float64)
        return rows, padded

    def rows(self, tensor: Tensor) -> list[list[float]]:
        """The masked entries of a tensor."""
        return [
            tensor[row, start : start + length].tolist()
            for row, (start, length) in enumerate(zip(self.starts, self.lengths, strict=True))
        ]


def flat(rows: Sequence[Sequence[float]]) -> list[float]:
    return [value for row in rows for value in row]


def alone(tensor: Tensor) -> Tensor:
    return tensor


@given(seed=st.integers(0, 10**6), weight=st.floats(0, 2), baseline=st.floats(-2, 2))
def test_rewards_of_tokens_are_those_of_the_reference(seed: int, weight: float, baseline: float) -> None:
    ragged = Ragged(seed)
    (ours, logprobs), (theirs, reference) = ragged.draw(), ragged.draw()
    scores = [ragged.dice.gauss(0, 1) for _ in ragged.lengths]

    found = token_rewards(torch.tensor(scores, dtype=torch.float64), logprobs, reference, ragged.mask, weight, baseline)

    assert flat(ragged.rows(found)) == pytest.approx(flat(rewards_of(scores, ours, theirs, weight, baseline)), abs=1e-6)
    assert not found[~ragged.mask].any()
    assert is_last(ragged.mask).sum(1).tolist() == [1] * 4


@given(seed=st.integers(0, 10**6), gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_advantages_are_the_weighted_sums_of_the_reference(seed: int, gamma: float, lam: float) -> None:
    ragged = Ragged(seed)
    (rewards, padded_rewards), (values, padded_values) = ragged.draw(), ragged.draw()

    advantages, returns = estimate_advantages(padded_rewards * ragged.mask, padded_values, ragged.mask, gamma, lam)

    expected = advantages_of(rewards, values, gamma, lam)
    assert flat(ragged.rows(advantages)) == pytest.approx(flat(expected), abs=1e-6)
    assert flat(ragged.rows(returns)) == pytest.approx(
        [gain + value for gain, value in zip(flat(expected), flat(values), strict=True)], abs=1e-6
    )
    assert not advantages[~ragged.mask].any() and not returns[~ragged.mask].any()


@given(seed=st.integers(0, 10**6))
def test_whitening_is_that_of_the_reference_however_ranks_share_the_rows(seed: int) -> None:
    ragged = Ragged(seed)
    rows, padded = ragged.draw(3.0)
    if sum(ragged.lengths) < 2:
        return

    whole = whiten(padded, ragged.mask, alone)
    halves = [slice(0, 2), slice(2, 4)]

    assert flat(ragged.rows(whole)) == pytest.approx(flat(whitened(rows)), abs=1e-6)
    totals = [
        torch.stack((ragged.mask[half].sum().double(), (padded * ragged.mask)[half].sum().double())) for half in halves
    ]
    mean = float(sum(totals)[1] / sum(totals)[0])
    squares = [(((padded - mean) * ragged.mask)[half] ** 2).sum() for half in halves]
    said = [whiten(padded[half], ragged.mask[half], _Answers([sum(totals), sum(squares)])) for half in halves]
    assert torch.cat(said).numpy() == pytest.approx(whole.numpy(), abs=1e-9)


@given(score=st.floats(-100, 100, width=32), rows=st.integers(1, 200))
def test_scores_are_equal_only_if_none_differs_on_any_rank(score: float, rows: int) -> None:
    scores = torch.full((rows,), score)
    other = torch.cat((scores, torch.tensor([torch.nextafter(scores[0], torch.tensor(torch.inf))])))
    totals = torch.tensor([rows + 1, float(other.double().sum())], dtype=torch.float64)

    assert are_equal(scores, alone)
    assert not are_equal(other, alone)
    # Of two ranks, the first has equal scores; the other one says that one of its own differs.
    assert not are_equal(scores, _Answers([totals, torch.tensor(1.0)]))


class _Answers:
    """What all ranks together answer, in turn."""

    def __init__(self, answers: list[Tensor]) -> None:
        self._answers = answers

    def __call__(self, _: Tensor) -> Tensor:
        return self._answers.pop(0)


@given(seed=st.integers(0, 10**6), clip=st.floats(0.05, 0.5))
def test_the_policy_loss_and_its_gradient_are_those_of_the_reference(seed: int, clip: float) -> None:
    ragged = Ragged(seed)
    (new, logprobs), (old, before), (gains, advantages) = (ragged.draw(0.3) for _ in range(3))
    logprobs.requires_grad_()

    loss = policy_loss(logprobs, before, advantages, ragged.mask, clip)
    loss.backward()

    assert loss.item() == pytest.approx(policy_loss_of(new, old, gains, clip), abs=1e-6)
    assert logprobs.grad is not None and not logprobs.grad[~ragged.mask].any()
    step, slopes = 1e-6, []
    for row, length in enumerate(ragged.lengths):
        for place in range(length):
            moved = [[*values] for values in new]
            moved[row][place] += step
            up = policy_loss_of(moved, old, gains, clip)
            moved[row][place] -= 2 * step
            slopes.append((up - policy_loss_of(moved, old, gains, clip)) / (2 * step))
    assert flat(ragged.rows(logprobs.grad)) == pytest.approx(slopes, abs=1e-5)
    without = sum(gradient == 0 for gradient in flat(ragged.rows(logprobs.grad)))
    assert clipped_tokens(logprobs, before, advantages, ragged.mask, clip) == without


@given(seed=st.integers(0, 10**6), clip=st.floats(0.05, 0.5))
def test_the_value_loss_is_that_of_the_reference(seed: int, clip: float) -> None:
    ragged = Ragged(seed)
    (values, padded), (old, before), (returns, wanted) = (ragged.draw() for _ in range(3))

    loss = value_loss(padded, before, wanted, ragged.mask, clip)

    assert loss.item() == pytest.approx(value_loss_of(values, old, returns, clip), abs=1e-6)


def test_the_policys_own_kl_counts_sampled_tokens_only() -> None:
    mask = torch.tensor([[False, True, True, False]])
    before, after = torch.tensor([[9.0, -1.0, -2.0, 9.0]]), torch.tensor([[0.0, -1.5, -2.5, 0.0]])

    assert policy_kl(after, before, mask).item() == pytest.approx(1.0)


@given(st.lists(st.tuples(st.floats(-5, 50), st.integers(1, 512)), max_size=20))
def test_the_kl_weight_is_steered_as_published(rollouts: list[tuple[float, int]]) -> None:
    control = KlControl(Ppo(name="ppo", kl_weight=0.2, kl_target=6.0, kl_horizon=10_000.0))
    fixed = KlControl(Ppo(name="ppo", kl_weight=0.2, kl_control="fixed"))

    for kl, completions in rollouts:
        control.update(kl, completions)
        fixed.update(kl, completions)

    assert control.weight == pytest.approx(controlled(0.2, 6.0, 10_000.0, rollouts), rel=1e-9)
    assert fixed.weight == 0.2

"""Scores of pairs against the shortest code for them; intervals against a bootstrap that draws each question."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from jobs.scoring.pairs import RewardedPairs, publish_pair_scores, score_intervals, score_pairs


def rewarded(pairs: int = 200, seed: int = 0) -> RewardedPairs:
    """Pairs that are right somewhat more often than not; some questions have several."""
    draw = np.random.default_rng(seed)
    rewards = draw.normal(size=(pairs, 2))
    rewards[:, 0] += 0.8
    questions = np.unique(draw.integers(0, pairs, pairs), return_inverse=True)[1]
    return RewardedPairs(rewards, questions, ["a"] * pairs)


def by_hand(rewards: list[list[float]]) -> dict[str, float]:
    """The same scores in plain Python."""
    margins = [chosen - rejected for chosen, rejected in rewards]
    chances = [1 / (1 + math.exp(-margin)) for margin in margins]
    bins: dict[int, list[tuple[float, bool]]] = {}
    for chance in chances:
        confidence = max(chance, 1 - chance)
        bins.setdefault(min(int((confidence - 0.5) / 0.05), 9), []).append((confidence, chance > 0.5))
    gaps = [abs(sum(right - confidence for confidence, right in members)) for members in bins.values()]
    return {
        "accuracy": sum(chosen > rejected for chosen, rejected in rewards) / len(rewards),
        "margin": sum(margins) / len(margins),
        "log_loss": -sum(map(math.log, chances)) / len(chances),
        "calibration_error": sum(gaps) / len(chances),
    }


def test_scores_are_those_of_plain_python_and_scikit_learn() -> None:
    pairs = rewarded()
    chances = 1 / (1 + np.exp(-pairs.margins))

    found = score_pairs(pairs)

    assert found == pytest.approx(by_hand(pairs.rewards.tolist()))
    assert found["accuracy"] == accuracy_score(np.ones(200), chances > 0.5)
    assert found["log_loss"] == pytest.approx(log_loss(np.ones(200), chances, labels=[0, 1]))


def test_huge_margins_are_finite_and_a_tie_is_no_success() -> None:
    rewards = np.array([[1e4, -1e4], [-1e4, 1e4], [0.0, 0.0]])

    found = score_pairs(RewardedPairs(rewards, np.arange(3), ["a"] * 3))

    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["log_loss"] == pytest.approx((2e4 + math.log(2)) / 3)
    assert found["calibration_error"] == pytest.approx((1 - 0 + 0.5) / 3)


def test_a_better_model_can_have_the_larger_squared_difference() -> None:
    """The published metric is the mean squared difference of the two rewards: the worst model looks like the best."""
    right, wrong = np.array([[2.0, -2.0]] * 10), np.array([[-2.0, 2.0]] * 10)
    unsure = np.array([[0.1, 0.0]] * 10)
    squared = [float(np.mean((rewards[:, 0] - rewards[:, 1]) ** 2)) for rewards in (right, wrong, unsure)]
    scored = [score_pairs(RewardedPairs(rewards, np.arange(10), ["a"] * 10)) for rewards in (right, wrong, unsure)]

    assert squared[0] == squared[1] > squared[2]
    assert [one["accuracy"] for one in scored] == [1.0, 0.0, 1.0]
    assert scored[0]["log_loss"] < scored[2]["log_loss"] < scored[1]["log_loss"]


def test_intervals_are_those_of_a_bootstrap_that_draws_questions() -> None:
    pairs = rewarded(60)
    questions = int(pairs.questions.max()) + 1
    draw, values = np.random.default_rng(9), []
    for _ in range(2000):
        drawn = draw.integers(questions, size=questions)
        rows = np.concatenate([np.flatnonzero(pairs.questions == question) for question in drawn])
        values.append(by_hand(pairs.rewards[rows].tolist()))

    intervals = score_intervals(pairs, 2000, seed=1)

    for name, ends in intervals.items():
        slow = np.percentile([value[name] for value in values], [2.5, 97.5])
        spread = np.std([value[name] for value in values])
        assert ends == pytest.approx(tuple(slow), abs=0.25 * spread)


def test_scores_are_published_with_the_rewards_of_each_pair(tmp_path: Path) -> None:
    pairs = rewarded(30)

    said = publish_pair_scores(tmp_path, pairs, (50, 1), {"metric": "accuracy"})

    content = json.loads((tmp_path / "scores.json").read_text())
    split = content["splits"]["validation"]
    assert (content["metric"], content["confidence"], content["resamples"]) == ("accuracy", 0.95, 50)
    assert (split["pairs"], split["questions"]) == (30, len({*pairs.questions.tolist()}))
    assert split["scores"]["accuracy"]["low"] <= split["scores"]["accuracy"]["value"]
    assert said.startswith("validation: 30 pairs of ")
    table = parquet.read_table(tmp_path / "predictions" / "validation.parquet")
    assert table.column("chosen").to_pylist() == pairs.rewards[:, 0].tolist()


def test_without_resamples_there_are_no_intervals(tmp_path: Path) -> None:
    publish_pair_scores(tmp_path, rewarded(5), (0, 1), {})

    scores = json.loads((tmp_path / "scores.json").read_text())["splits"]["validation"]["scores"]
    assert scores["accuracy"]["low"] is None


def single(answers: int, seed: int = 0) -> RewardedPairs:
    """Answers without partners, a third of them chosen; a chosen one has a higher reward more often than not."""
    draw = np.random.default_rng(seed)
    rewards = draw.normal([1.0, 0.0], size=(answers, 2))
    rewards[np.arange(answers), np.where(np.arange(answers) % 3, 0, 1)] = np.nan
    return RewardedPairs(rewards, np.arange(answers), ["a"] * answers)


def test_answers_without_partners_are_scored_by_rank(tmp_path: Path) -> None:
    answers = single(90)
    chosen = ~np.isnan(answers.rewards[:, 0])
    numbers = np.nansum(answers.rewards, axis=1)

    said = publish_pair_scores(tmp_path, answers, (200, 1), {})

    split = json.loads((tmp_path / "scores.json").read_text())["splits"]["validation"]
    scores = split["scores"]
    assert (split["answers"], set(scores)) == (90, {"auroc", "margin"})
    assert scores["auroc"]["value"] == pytest.approx(roc_auc_score(chosen, numbers))
    assert scores["margin"]["value"] == pytest.approx(numbers[chosen].mean() - numbers[~chosen].mean())
    assert 0.5 < scores["auroc"]["low"] < scores["auroc"]["value"] < scores["auroc"]["high"]
    assert said.startswith("validation: 90 answers of 90 questions")
    table = parquet.read_table(tmp_path / "predictions" / "validation.parquet")
    assert [one is not None for one in table.column("chosen").to_pylist()] == chosen.tolist()


def test_answers_of_one_label_have_no_score(tmp_path: Path) -> None:
    answers = RewardedPairs(np.array([[1.0, np.nan], [2.0, np.nan]]), np.arange(2), ["a"] * 2)

    assert score_pairs(answers) == {}

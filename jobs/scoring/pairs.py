"""Scores of pairs: how often and by how much the preferred answer is rewarded more, and whether that can be trusted.

The published code of MedicalGPT judges a reward model by the mean squared difference of the two rewards, which grows
with the model's mistakes as well as with its successes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray
from pyarrow import parquet

from jobs.scoring.bootstrap import LEVEL, ranking_scores
from jobs.scoring.classification import Floats
from jobs.scoring.publish import describe_score
from launcher.run.paths import SCORES

_BINS = 10
_BLOCK = 64
"""Resamples at once."""


@dataclass(frozen=True)
class RewardedPairs:
    """Held-out pairs and the rewards of their answers."""

    rewards: Floats
    """A row for each pair: the reward of the chosen answer and that of the rejected one. One of them is NaN in each row
    if answers have no partner."""
    questions: NDArray[np.int64]
    """The question of each pair, numbered from 0: pairs of one question are not independent."""
    sources: Sequence[str]
    """Name of each pair's source."""

    @property
    def margins(self) -> Floats:
        """How much more the chosen answer is rewarded."""
        margins: Floats = self.rewards[:, 0].astype(np.float64) - self.rewards[:, 1]
        return margins

    @property
    def is_paired(self) -> bool:
        """Whether answers have partners."""
        return not np.isnan(self.rewards).any()

    def scores(self, weights: Floats | None = None) -> dict[str, Floats]:
        """Compute the scores, once for each column of weights, which say how often each row counts."""
        weights = np.ones((len(self.rewards), 1)) if weights is None else weights
        return pair_scores(self.margins, weights) if self.is_paired else answer_scores(self.rewards, weights)


def answer_scores(rewards: Floats, weights: Floats) -> dict[str, Floats]:
    """Compute the scores of answers without partners, once for each column of weights.

    `auroc`: chance that a chosen answer has a higher reward than a rejected one. `margin`: difference of the mean
    rewards. NaN where one of both kinds is missing.

    Args:
        rewards: As in `RewardedPairs`.
        weights: How often each answer counts: a row for each.
    """
    is_chosen = ~np.isnan(rewards[:, 0])
    found = np.where(is_chosen, rewards[:, 0], rewards[:, 1])
    auroc, _ = ranking_scores(found, is_chosen, weights.astype(np.float32))
    with np.errstate(invalid="ignore"):
        chosen, rejected = (found[one] @ weights[one] / weights[one].sum(0) for one in (is_chosen, ~is_chosen))
    return {"auroc": auroc, "margin": chosen - rejected}


def pair_scores(margins: Floats, weights: Floats | None = None) -> dict[str, Floats]:
    """Compute the scores of pairs, once for each column of weights.

    `accuracy`: share of pairs whose chosen answer has the higher reward. `margin`: mean difference of the rewards.
    `log_loss`: mean of -log sigmoid(difference), the Bradley-Terry model's. `calibration_error`: the expected
    calibration error (Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3) of that model's probability that
    the answer with the higher reward is the preferred one, in 10 bins of equal width from 0.5 to 1.

    Args:
        margins: Of the pairs.
        weights: How often each pair counts: a row for each pair; once if left out.
    """
    weights = np.ones((len(margins), 1)) if weights is None else weights
    total = weights.sum(0)
    right = margins > 0
    # Of a large difference exp is 0 or infinite; this is neither.
    losses = np.logaddexp(0, -margins)
    confidence = np.exp(-np.logaddexp(0, -np.abs(margins)))
    bins = np.minimum((confidence - 0.5) * 2 * _BINS, _BINS - 1).astype(np.int64)
    member = (bins == np.arange(_BINS)[:, None]).astype(np.float64)
    gaps = np.abs((member * (right - confidence)) @ weights).sum(0)
    return {
        "accuracy": right @ weights / total,
        "margin": margins @ weights / total,
        "log_loss": losses @ weights / total,
        "calibration_error": gaps / total,
    }


def score_pairs(pairs: RewardedPairs) -> dict[str, float]:
    """Compute the scores of all pairs; those that these pairs have."""
    return {name: float(values[0]) for name, values in pairs.scores().items() if not np.isnan(values[0])}


def score_intervals(pairs: RewardedPairs, resamples: int, seed: int) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of each score: the percentile bootstrap over questions (see `jobs.scoring.bootstrap`).

    Args:
        pairs: The pairs.
        resamples: How many; 0 gives NaN.
        seed: Of the draws.
    """
    random, questions = np.random.default_rng(seed), int(pairs.questions.max()) + 1
    found: dict[str, list[float]] = {name: [] for name in pairs.scores()}
    for start in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - start)
        drawn = random.multinomial(questions, np.full(questions, 1 / questions), size=size)
        for name, values in pairs.scores(drawn.T[pairs.questions].astype(np.float64)).items():
            found[name] += values[~np.isnan(values)].tolist()
    ends = (50 * (1 - LEVEL), 50 * (1 + LEVEL))
    return {
        name: (float(low), float(high))
        for name, values in found.items()
        for low, high in [np.percentile(values, ends) if values else (math.nan, math.nan)]
    }


def publish_pair_scores(folder: Path, pairs: RewardedPairs, resampling: tuple[int, int], facts: Any) -> str:
    """Write `predictions/validation.parquet` and finally `scores.json`. For rank 0.

    Args:
        folder: The run's outputs.
        pairs: The held-out pairs.
        resampling: Resamples of the bootstrap, and its seed.
        facts: Further content of scores.json.

    Returns:
        What it says, in a line.
    """
    (folder / "predictions").mkdir(parents=True, exist_ok=True)
    chosen, rejected = (pyarrow.array(column, from_pandas=True) for column in pairs.rewards.T)  # NaN becomes null
    unit = "pairs" if pairs.is_paired else "answers"
    columns = {"source": pyarrow.array(list(pairs.sources)), "question": pyarrow.array(pairs.questions)}
    table = pyarrow.table({**columns, "chosen": chosen, "rejected": rejected})
    parquet.write_table(table, folder / "predictions" / "validation.parquet")
    scores = _report(score_pairs(pairs), score_intervals(pairs, *resampling))
    counts = {unit: len(pairs.rewards), "questions": int(pairs.questions.max()) + 1}
    splits = {"validation": {**counts, "scores": scores}}
    content = {**facts, "confidence": LEVEL, "resamples": resampling[0], "splits": splits}
    staged = folder / f".{SCORES}"
    staged.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    staged.replace(folder / SCORES)
    said = "  ".join(describe_score(name, score) for name, score in scores.items())
    return f"validation: {counts[unit]:,} {unit} of {counts['questions']:,} questions  {said}"


def _report(scores: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    ends = {name: [None if math.isnan(end) else end for end in pair] for name, pair in intervals.items()}
    return {name: {"value": value, "low": ends[name][0], "high": ends[name][1]} for name, value in scores.items()}

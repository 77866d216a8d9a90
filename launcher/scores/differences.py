"""How the scores of two models on the same items differ: paired standard errors and tests. Standard library only.

Pairing: Miller, "Adding Error Bars to Evals" (https://arxiv.org/abs/2411.00640), section 4. Hard items are hard for
both models, so the differences between their scores vary less than the scores do.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from launcher.artifacts.standard_errors import DETECTABLE, Mean, mcnemar, mean_of, ratio_of

PERPLEXITIES = {
    "token_perplexity": "tokens",
    "word_perplexity": "words",
    "byte_perplexity": "bytes",
    "bits_per_byte": "bytes",
    "document_perplexity": "tokens",
}
"""Metrics that are made of the column `nll`, and the column that counts their units."""
LEVEL = 0.05
"""Level of the tests."""
NO_VARIATION = 1e-9
"""Standard errors below this part of the mean are rounding errors of items that all differ by the same."""


@dataclass(frozen=True)
class PairedDifference:
    """A model minus the baseline, over the same items."""

    value: float
    """Of perplexities the natural logarithm of the model's by the baseline's; else the difference of the means."""
    standard_error: float | None
    low: float | None
    """Ends of the 95 % interval."""
    high: float | None
    detectable: float | None
    """The true difference that would be found with 80 % power. None if no item differs, or all by the same."""
    p: float | None
    """Two-sided. None if the items do not vary, so that there is no test."""
    test: Literal["mcnemar", "t"]
    """McNemar's exact test, or Student's for pairs."""
    is_log_ratio: bool = False

    @classmethod
    def of(
        cls, mean: Mean, p: float | None, test: Literal["mcnemar", "t"], is_log_ratio: bool = False
    ) -> "PairedDifference":
        """Make one of a mean difference and the result of its test."""
        low, high = mean.interval or (None, None)
        detectable = DETECTABLE * mean.standard_error if mean.standard_error and _varies(mean) else None
        return cls(mean.value, mean.standard_error, low, high, detectable, p, test, is_log_ratio)


def difference_of(
    model: Sequence[float], baseline: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> PairedDifference:
    """Return the mean of the differences between two models' scores of the same items.

    The p of scores that are all 0 or 1, of independent items, is that of McNemar's exact test; of others that of
    Student's t test for pairs, with one degree of freedom less than there are items or clusters.

    Args:
        model: A score for each item.
        baseline: The other model's scores of the same items, in the same order.
        clusters: What each item belongs to; None, or all different: items are independent.

    Raises:
        ValueError: there are no items, or not the same number.
    """
    differences = [one - other for one, other in zip(model, baseline, strict=True)]
    mean = mean_of(differences, clusters)
    if mean.clusters is None and {*model, *baseline} <= {0.0, 1.0}:
        return PairedDifference.of(mean, mcnemar(differences.count(1.0), differences.count(-1.0)), "mcnemar")
    return PairedDifference.of(mean, _paired_t(mean), "t")


def perplexity_difference(
    metric: str,
    model: Sequence[float],
    baseline: Sequence[float],
    units: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
) -> PairedDifference:
    """Return the logarithm of the ratio of two models' perplexities on the same items, or the difference in bits.

    It is the ratio of two sums: of the differences in `nll`, by that of the units. Its standard error is that of
    `ratio_of`.

    Args:
        metric: A key of `PERPLEXITIES`.
        model: Negative log-likelihood of each item in nats, over all its tokens.
        baseline: The other model's.
        units: Tokens, words or bytes of each item; the same for both models. Where each document counts the same, 1.
        clusters: What each item belongs to; None: items are independent.

    Raises:
        ValueError: there are no units, or not the same number of items.
    """
    in_bits = metric == "bits_per_byte"
    scale = 1 / math.log(2) if in_bits else 1.0
    differences = [scale * (one - other) for one, other in zip(model, baseline, strict=True)]
    mean = ratio_of(differences, units, clusters)
    return PairedDifference.of(mean, _paired_t(mean), "t", is_log_ratio=not in_bits)


def student_p(t: float, degrees: int) -> float:
    """Return the two-sided p of Student's t distribution.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4, exact for whole degrees
    of freedom.

    Args:
        t: The statistic.
        degrees: Degrees of freedom, 1 or more.
    """
    angle = math.atan(abs(t) / math.sqrt(degrees))
    square = math.cos(angle) ** 2
    is_odd = degrees % 2
    terms, term = [], 1.0
    for place in range((degrees - is_odd) // 2):
        terms.append(term)
        term *= square * (2 * place + 1 + is_odd) / (2 * place + 2 + is_odd)
    total = math.sin(angle) * math.fsum(terms)
    inside = 2 / math.pi * (angle + math.cos(angle) * total) if is_odd else total
    return min(1.0, max(0.0, 1 - inside))


def holm(values: Sequence[float]) -> list[float]:
    """Adjust the p of several tests, so that at a level of 5 % at most 5 % of tables hold a false mark.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (Scand. J. Statist. 6, 1979, 65-70).

    Args:
        values: p of each test.
    """
    adjusted, highest = [0.0] * len(values), 0.0
    for place, number in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - place) * values[number]))
        adjusted[number] = highest
    return adjusted


def _paired_t(mean: Mean) -> float | None:
    if not mean.value:
        return 1.0
    if not mean.standard_error or not _varies(mean):
        return None
    return student_p(mean.value / mean.standard_error, (mean.clusters or mean.n) - 1)


def _varies(mean: Mean) -> bool:
    return (mean.standard_error or 0.0) > NO_VARIATION * abs(mean.value)

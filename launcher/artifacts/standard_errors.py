"""Standard errors, intervals and tests of scores. Standard library only.

Formulas: Miller, "Adding Error Bars to Evals" (https://arxiv.org/abs/2411.00640), sections 2 to 5.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

Z95 = 1.959963984540054
"""Quantile of the normal distribution for 95 % intervals."""
DETECTABLE = Z95 + 0.8416212335729143
"""Standard errors that a true difference must have to be found with 80 % power at a level of 5 %: 2.80."""


@dataclass(frozen=True)
class Mean:
    """A mean and how exactly it is known."""

    value: float
    standard_error: float | None
    """None if one item or cluster says nothing about it."""
    n: int
    clusters: int | None = None
    """Number of clusters, if items share them."""
    is_share: bool = False
    """Whether each score lies between 0 and 1."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval: value ± 1.96 standard errors.

        Scores that are all 0, or all 1, have no standard error, and yet others could differ: there it is the exact
        interval of a share (Clopper and Pearson 1934, https://doi.org/10.1093/biomet/26.4.404).
        """
        if self.standard_error is None:
            return None
        if self.is_share and self.standard_error == 0 and self.value in (0.0, 1.0):
            reach = 1 - 0.025 ** (1 / (self.clusters or self.n))
            return (0.0, reach) if self.value == 0 else (1 - reach, 1.0)
        half = Z95 * self.standard_error
        return self.value - half, self.value + half


def mean_of(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Mean:
    """Return the mean and its standard error.

    SE = sqrt(sum (s - mean)^2 / (n (n - 1))); for clusters SE^2 = (1 / n^2) sum_c (sum_{i in c} (s_i - mean))^2, with
    the correction m / (m - 1) for m clusters, so that clusters of one item each give the same as no clusters.

    Args:
        values: A score for each item.
        clusters: What each item belongs to (an abstract, a patient); None, or all different: items are independent.

    Raises:
        ValueError: there are no values.
    """
    n = len(values)
    if not n:
        raise ValueError("no values to take the mean of")
    mean = math.fsum(values) / n
    if clusters is None or len(set(clusters)) == n:
        if n == 1:
            return Mean(mean, None, 1)
        return Mean(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n * (n - 1))), n)
    residuals = sums_by_cluster([value - mean for value in values], clusters)
    return Mean(mean, clustered_error(residuals, n), n, len(residuals))


def share_of(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Mean:
    """Return the mean of scores between 0 and 1, as `mean_of` does; its interval is never empty."""
    return replace(mean_of(values, clusters), is_share=True)


def ratio_of(numerators: Sequence[float], denominators: Sequence[float], clusters: Sequence[Hashable] | None) -> Mean:
    """Return the ratio of two sums and its standard error by linearisation (delta method; Cochran 1977, 6.4).

    For perplexities: the log-likelihood of all documents by the number of their tokens.

    Args:
        numerators: One for each item.
        denominators: One for each item.
        clusters: What each item belongs to; None: items are independent.

    Raises:
        ValueError: the denominators add up to nothing.
    """
    total = math.fsum(denominators)
    if not total:
        raise ValueError("the denominators add up to nothing")
    ratio = math.fsum(numerators) / total
    groups = range(len(numerators)) if clusters is None else clusters
    residuals = [up - ratio * down for up, down in zip(numerators, denominators, strict=True)]
    summed = sums_by_cluster(residuals, groups)
    error = clustered_error(summed, total)
    return Mean(ratio, error, len(numerators), None if clusters is None else len(summed))


def sums_by_cluster(values: Sequence[float], clusters: Sequence[Hashable]) -> list[float]:
    """Add up values by cluster, in the order in which clusters first occur."""
    members: defaultdict[Hashable, list[float]] = defaultdict(list)
    for value, cluster in zip(values, clusters, strict=True):
        members[cluster].append(value)
    return [math.fsum(its) for its in members.values()]


def clustered_error(residuals: Sequence[float], size: float) -> float | None:
    """Return the standard error of a mean or ratio from the summed residuals of its clusters.

    Args:
        residuals: One for each cluster.
        size: Items, or the sum of the denominators.
    """
    count = len(residuals)
    if count < 2:
        return None
    return math.sqrt(count / (count - 1) * math.fsum(value**2 for value in residuals)) / size


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p of McNemar's test: Binomial(b + c, 1/2) (Biometrika 1947, doi:10.2307/2332500).

    Args:
        only_first: Items that only the first model answers right.
        only_second: Items that only the second model answers right.
    """
    discordant, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(discordant, count) for count in range(fewer + 1))
    return min(1.0, float(2 * tail / (1 << discordant)))

"""Standard errors, intervals and tests of scores. Standard library only.

Formulas: Miller, "Adding Error Bars to Evals" (https://arxiv.org/abs/2411.00640), sections 2 to 5.
"""

import math
from collections import Counter, defaultdict
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


def mean_of_parts(values: Sequence[float], parts: Sequence[Hashable], clusters: Sequence[Hashable]) -> Mean:
    """Return the mean of the means of several parts, each with the same weight, and its standard error.

    SE^2 = sum_c (sum_{i in c} r_i)^2 with r_i = f_k (s_i - mean_k) / (K n_k) for an item of part k of K, where
    f_k^2 = m_k / (m_k - 1) for the m_k clusters that have items in it. A cluster may have items in several parts. If
    none does, that is the error of the mean of independent means; if all have one in each, that of `mean_of`.

    Args:
        values: A score for each item.
        parts: What part of the items each belongs to.
        clusters: What each item belongs to that is not independent of others.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values to take the mean of")
    sizes = Counter(parts)
    means = {part: total / sizes[part] for part, total in zip(sizes, sums_by_cluster(values, parts), strict=True)}
    counts = Counter(part for part, _ in {*zip(parts, clusters, strict=True)})
    mean, known = math.fsum(means.values()) / len(means), len(set(clusters))
    shown = known if known < len(values) else None
    if min(counts.values()) < 2:
        return Mean(mean, None, len(values), shown)
    weights = {part: math.sqrt(m / (m - 1)) / (len(means) * sizes[part]) for part, m in counts.items()}
    residuals = [weights[part] * (value - means[part]) for value, part in zip(values, parts, strict=True)]
    return Mean(mean, math.hypot(*sums_by_cluster(residuals, clusters)), len(values), shown)


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
    tail = term = 1
    for count in range(fewer):
        term = term * (discordant - count) // (count + 1)  # from one binomial to the next
        tail += term
    return min(1.0, float(2 * tail / (1 << discordant)))

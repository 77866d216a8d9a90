"""Standard errors against statsmodels, scipy, resampling and numbers worked by hand."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar

from launcher.artifacts.standard_errors import (
    DETECTABLE,
    Z95,
    clustered_error,
    mcnemar,
    mean_of,
    mean_of_parts,
    ratio_of,
    share_of,
)

VALUES = st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=30)


def drawn(seed, items=80, groups=15):
    draw = np.random.default_rng(seed)
    clusters = draw.integers(0, groups, items)
    return draw.normal(size=groups)[clusters] + draw.normal(size=items), clusters


def test_quantiles_are_those_of_the_normal_distribution():
    assert pytest.approx(stats.norm.ppf(0.975), abs=1e-12) == Z95
    assert pytest.approx(stats.norm.ppf(0.975) + stats.norm.ppf(0.8), abs=1e-12) == DETECTABLE


def test_a_mean_by_hand():
    found = mean_of([1.0, 0.0, 1.0, 1.0])  # mean 3/4, squares 3/16 + 9/16 = 12/16, by 4 * 3

    assert (found.value, found.n, found.clusters) == (0.75, 4, None)
    assert found.standard_error == pytest.approx(0.25)
    assert found.interval == pytest.approx((0.75 - 1.959964 * 0.25, 0.75 + 1.959964 * 0.25), abs=1e-6)


@pytest.mark.parametrize(("right", "n"), [(0, 60), (60, 60), (0, 2), (12, 12)])
def test_a_share_of_none_or_all_has_the_exact_interval(right, n):
    found = share_of([1.0] * right + [0.0] * (n - right))
    exact = stats.binomtest(right, n).proportion_ci(0.95, method="exact")

    assert found.standard_error == 0
    assert found.interval == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_any_other_share_has_the_interval_of_its_mean_and_clusters_count_as_one_item():
    values, clusters = [1.0, 0.0, 1.0, 1.0], ["a", "a", "b", "c"]

    assert share_of(values).interval == mean_of(values).interval
    assert share_of([0.0] * 4, clusters).interval == pytest.approx((0, 1 - 0.025 ** (1 / 3)))
    assert mean_of([0.0] * 4).interval == (0, 0), "an unbounded score, such as a margin"


def test_a_clustered_mean_by_hand():
    """Residuals 1/2, 1/2 in one cluster, -1/2, -1/2 in the other: sums 1 and -1, so SE = sqrt(2/1 * 2) / 4 = 1/2."""
    found = mean_of([1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "b"])

    assert (found.value, found.standard_error, found.n, found.clusters) == (0.5, 0.5, 4, 2)


@pytest.mark.parametrize("seed", range(4))
def test_a_mean_agrees_with_scipy(seed):
    values, _ = drawn(seed)

    assert mean_of(values.tolist()).standard_error == pytest.approx(stats.sem(values), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_a_clustered_mean_agrees_with_cluster_robust_regression(seed):
    """statsmodels corrects by m / (m - 1) * (n - 1) / (n - k); k is 1 for a mean."""
    values, clusters = drawn(seed)

    found = mean_of(values.tolist(), clusters.tolist())

    fitted = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    assert found.value == pytest.approx(fitted.params[0])
    assert found.standard_error == pytest.approx(fitted.bse[0], rel=1e-10)
    assert found.clusters == len(set(clusters.tolist()))


@given(VALUES)
def test_clusters_of_one_item_each_are_no_clusters(values):
    alone = mean_of(values, range(len(values)))

    assert alone == mean_of(values)
    assert clustered_error([value - alone.value for value in values], len(values)) == pytest.approx(
        alone.standard_error, rel=1e-9, abs=1e-12
    )


@given(VALUES, st.floats(-5, 5), st.floats(0.5, 5))
def test_errors_shift_and_scale_as_they_must(values, shift, factor):
    clusters = [place % 3 for place in range(len(values))]
    changed = mean_of([shift + factor * value for value in values], clusters)

    error = mean_of(values, clusters).standard_error
    assert changed.standard_error == (error if error is None else pytest.approx(factor * error, rel=1e-6, abs=1e-6))


def test_one_item_or_one_cluster_says_nothing_about_the_error():
    assert mean_of([0.5]).standard_error is None
    assert mean_of([0.5, 0.75], ["a", "a"]).standard_error is None
    assert mean_of([0.5]).interval is None


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="no values"):
        mean_of([])
    with pytest.raises(ValueError, match="add up to nothing"):
        ratio_of([1.0], [0.0], None)


def test_a_ratio_by_hand():
    """6 / 3 = 2; residuals 1 - 2, 5 - 4 = -1, 1: sqrt(2/1 * 2) / 3 = 2/3."""
    found = ratio_of([1.0, 5.0], [1.0, 2.0], None)

    assert (found.value, found.n, found.clusters) == (2.0, 2, None)
    assert found.standard_error == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(3))
def test_a_clustered_ratio_agrees_with_weighted_regression(seed):
    """The sandwich estimate of a weighted mean: statsmodels's correction is the same, with one parameter."""
    values, clusters = drawn(seed)
    weights = np.random.default_rng(seed).integers(1, 50, len(values)).astype(float)

    found = ratio_of((values * weights).tolist(), weights.tolist(), clusters.tolist())

    fitted = sm.WLS(values, np.ones(len(values)), weights=weights).fit(
        cov_type="cluster", cov_kwds={"groups": clusters}
    )
    assert found.value == pytest.approx(fitted.params[0])
    assert found.standard_error == pytest.approx(fitted.bse[0], rel=1e-9)


def test_the_error_of_a_clustered_mean_agrees_with_resampling_clusters():
    values, clusters = drawn(0, items=600, groups=150)
    draw = np.random.default_rng(1)
    sums = np.bincount(clusters, values, minlength=150)
    sizes = np.bincount(clusters, minlength=150)
    chosen = draw.integers(0, 150, (2000, 150))
    resampled = sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)

    assert mean_of(values.tolist(), clusters.tolist()).standard_error == pytest.approx(resampled.std(), rel=0.06)


def cases_of_several_types(seed, cases=30, types=4, most=3):
    """Marks of cases, each with up to so many questions of each type, which one good or bad answer moves together."""
    draw = np.random.default_rng(seed)
    rows = [
        (case, type_, level + type_ + draw.normal(scale=0.4))
        for case, level in enumerate(draw.normal(size=cases))
        for type_ in range(types)
        for _ in range(draw.integers(1, most + 1))
    ]
    clusters, parts, values = zip(*rows, strict=True)
    return list(values), list(parts), list(clusters)


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_of_parts_agrees_with_cluster_robust_regression(seed):
    """On a dummy for each part: the error of the mean of the coefficients, from their covariance."""
    values, parts, clusters = cases_of_several_types(seed)

    found = mean_of_parts(values, parts, clusters)

    dummies = (np.array(parts)[:, None] == np.arange(4)).astype(float)
    settings = {"groups": np.array(clusters), "use_correction": False}
    fitted = sm.OLS(np.array(values), dummies).fit(cov_type="cluster", cov_kwds=settings)
    error = math.sqrt(fitted.cov_params().mean() * 30 / 29)
    assert found.value == pytest.approx(fitted.params.mean())
    assert found.standard_error == pytest.approx(error, rel=1e-9)
    assert (found.n, found.clusters) == (len(values), 30)


def test_the_mean_of_equal_parts_is_the_mean():
    values, parts, clusters = cases_of_several_types(5, most=1)

    found, plain = mean_of_parts(values, parts, clusters), mean_of(values, clusters)

    assert (found.value, found.standard_error) == pytest.approx((plain.value, plain.standard_error))
    assert found.clusters == plain.clusters == 30


def test_the_error_of_parts_without_a_common_cluster_is_that_of_independent_means():
    values, parts, _ = cases_of_several_types(1)

    found = mean_of_parts(values, parts, range(len(values)))

    each = [stats.sem([value for value, part in zip(values, parts, strict=True) if part == one]) for one in range(4)]
    assert found.standard_error == pytest.approx(math.hypot(*each) / 4)
    assert found.clusters is None


def test_a_part_of_one_cluster_says_nothing_about_the_error():
    found = mean_of_parts([1.0, 2.0, 4.0, 5.0], "aabb", [1, 2, 3, 3])

    assert (found.value, found.standard_error, found.clusters) == (3.0, None, 3)
    with pytest.raises(ValueError, match="no values"):
        mean_of_parts([], [], [])


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (3, 3), (1, 7), (12, 30), (0, 9), (150, 190)])
def test_mcnemar_agrees_with_statsmodels_and_scipy(first, second):
    found = mcnemar(first, second)

    assert found == pytest.approx(reference_mcnemar([[5, first], [second, 5]], exact=True).pvalue)
    if first + second:
        assert found == pytest.approx(stats.binomtest(first, first + second).pvalue)


def test_mcnemar_by_hand():
    assert mcnemar(1, 4) == 2 * (1 + 5) / 2**5
    assert mcnemar(2, 3000) == 0.0 or math.log10(mcnemar(2, 3000)) < -300


def test_mcnemar_of_many_items_takes_each_binomial_from_the_one_before(monkeypatch):
    computed = []
    monkeypatch.setattr(math, "comb", lambda *given: computed.append(given))

    found = mcnemar(9_800, 10_200)

    assert found == pytest.approx(stats.binomtest(9_800, 20_000).pvalue, rel=1e-9)
    assert not computed

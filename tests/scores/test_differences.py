"""Paired differences, against statsmodels, scipy and formulas worked by hand."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from launcher.artifacts.standard_errors import mean_of
from launcher.scores.differences import difference_of, holm, perplexity_difference, student_p

ITEMS = st.lists(
    st.tuples(st.floats(-1, 1, width=32), st.floats(-1, 1, width=32), st.integers(0, 5)), min_size=2, max_size=40
)
RIGHT_OR_WRONG = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def drawn(seed: int, items: int = 60, groups: int = 12):
    draw = np.random.default_rng(seed)
    cluster = draw.integers(0, groups, items)
    shared = draw.normal(size=groups)[cluster]
    return shared + draw.normal(size=items), shared + draw.normal(size=items) + 0.2, cluster.tolist()


def test_four_items_by_hand():
    found = difference_of([1.0, 0.5, 1.0, 0.0], [0.5, 0.5, 0.0, 0.5])  # d = 0.5, 0, 1, -0.5: mean 0.25, squares 1.25

    assert found.value == 0.25
    assert found.standard_error == pytest.approx(math.sqrt(1.25 / (4 * 3)))
    assert found.detectable == pytest.approx(2.8016 * math.sqrt(1.25 / 12), abs=1e-4)
    assert found.low == pytest.approx(0.25 - 1.959964 * math.sqrt(1.25 / 12), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_independent_items_agree_with_scipy(seed):
    model, baseline, _ = drawn(seed)

    found = difference_of(model.tolist(), baseline.tolist())

    expected = stats.ttest_rel(model, baseline)
    assert found.test == "t"
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.value / found.standard_error == pytest.approx(expected.statistic, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_clustered_items_agree_with_cluster_robust_regression(seed):
    """statsmodels multiplies by m / (m - 1) * (n - 1) / (n - k), and k is 1 here."""
    model, baseline, clusters = drawn(seed)

    found = difference_of(model.tolist(), baseline.tolist(), clusters)

    fitted = sm.OLS(model - baseline, np.ones(len(model))).fit(
        cov_type="cluster", cov_kwds={"groups": np.array(clusters)}, use_t=True
    )
    assert found.value == pytest.approx(fitted.params[0])
    assert found.standard_error == pytest.approx(fitted.bse[0], rel=1e-9)
    assert found.p == pytest.approx(fitted.pvalues[0], rel=1e-8)


@given(RIGHT_OR_WRONG)
def test_answers_that_are_right_or_wrong_agree_with_statsmodels_mcnemar(pairs):
    table = [[pairs.count((one, other)) for other in (True, False)] for one in (True, False)]

    found = difference_of([float(one) for one, _ in pairs], [float(other) for _, other in pairs])

    assert found.test == "mcnemar"
    assert found.p == pytest.approx(reference_mcnemar(table, exact=True).pvalue)
    assert found.value == pytest.approx((table[0][1] - table[1][0]) / len(pairs))


def test_mcnemar_is_not_used_where_items_are_not_independent():
    found = difference_of([1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0], ["a", "a", "b", "b"])

    assert found.test == "t"


@given(ITEMS, st.booleans())
def test_exchanging_the_models_changes_the_sign_and_nothing_else(items, with_clusters):
    model, baseline, groups = zip(*items, strict=True)
    clusters = groups if with_clusters else None

    there, back = difference_of(model, baseline, clusters), difference_of(baseline, model, clusters)

    assert there.value == -back.value
    assert (there.standard_error, there.p, there.detectable) == (back.standard_error, back.p, back.detectable)


@given(ITEMS)
def test_a_model_does_not_differ_from_itself(items):
    model, _, clusters = zip(*items, strict=True)

    found = difference_of(model, model, clusters)

    assert (found.value, found.standard_error or 0.0, found.p, found.detectable) == (0.0, 0.0, 1.0, None)


@given(ITEMS, st.randoms(use_true_random=False))
def test_the_order_of_items_does_not_matter(items, draw):
    shuffled = draw.sample(items, len(items))

    one, other = (difference_of(*zip(*order, strict=True)) for order in (items, shuffled))

    assert one.value == other.value
    assert (one.standard_error or 0.0) == pytest.approx(other.standard_error or 0.0, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("model", "baseline", "items"), [(0.5, 0.25, 2), (0.4, 0.3, 3), (0.7, 0.6, 7)])
def test_differences_that_do_not_vary_have_no_test(model, baseline, items):
    found = difference_of([model] * items, [baseline] * items)

    assert found.value == pytest.approx(model - baseline)
    assert (found.p, found.detectable) == (None, None)


def perplexity(nll, units):
    return math.exp(math.fsum(nll) / math.fsum(units))


@pytest.mark.parametrize("seed", range(3))
def test_the_ratio_of_perplexities_agrees_with_weighted_regression(seed):
    """A weighted mean's sandwich estimate is the linearised one; statsmodels has it without our m / (m - 1)."""
    draw = np.random.default_rng(seed)
    units = draw.integers(5, 200, 50).astype(float)
    model, baseline = units * draw.uniform(2, 3, 50), units * draw.uniform(2, 3.2, 50)

    found = perplexity_difference("word_perplexity", model.tolist(), baseline.tolist(), units.tolist())

    fitted = sm.WLS((model - baseline) / units, np.ones(50), weights=units).fit(cov_type="HC0")
    assert found.is_log_ratio
    assert math.exp(found.value) == pytest.approx(perplexity(model, units) / perplexity(baseline, units))
    assert found.standard_error == pytest.approx(fitted.bse[0] * math.sqrt(50 / 49), rel=1e-9)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(found.value / found.standard_error), 49), rel=1e-8)


def test_the_error_of_a_ratio_of_perplexities_agrees_with_resampling():
    draw = np.random.default_rng(0)
    units = draw.integers(5, 200, 300).astype(float)
    model, baseline = units * draw.uniform(2, 3, 300), units * draw.uniform(2, 3.2, 300)
    chosen = draw.integers(0, 300, (2000, 300))
    resampled = (model - baseline)[chosen].sum(axis=1) / units[chosen].sum(axis=1)

    found = perplexity_difference("byte_perplexity", model.tolist(), baseline.tolist(), units.tolist())

    assert found.standard_error == pytest.approx(resampled.std(), rel=0.06)


def test_bits_per_byte_differ_in_bits():
    units, model, baseline = [10.0, 20.0, 30.0], [20.0, 45.0, 61.0], [22.0, 44.0, 66.0]

    bits = perplexity_difference("bits_per_byte", model, baseline, units)
    ratio = perplexity_difference("byte_perplexity", model, baseline, units)

    assert not bits.is_log_ratio
    assert bits.value == pytest.approx(ratio.value / math.log(2))
    assert bits.standard_error == pytest.approx(ratio.standard_error / math.log(2))
    assert bits.p == pytest.approx(ratio.p)


@given(ITEMS)
def test_items_of_equal_length_make_the_ratio_a_mean(items):
    model, baseline, clusters = zip(*items, strict=True)

    ratio = perplexity_difference("word_perplexity", model, baseline, [1.0] * len(model), clusters)
    plain = mean_of([one - other for one, other in zip(model, baseline, strict=True)], clusters)

    assert ratio.value == pytest.approx(plain.value)
    if plain.clusters is not None:
        assert ratio.standard_error == pytest.approx(plain.standard_error, abs=1e-12)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 30, 121, 1000, 4001])
@pytest.mark.parametrize("t", [0.0, 1e-3, 0.7, -1.96, 2.5, 6.0])
def test_student_p_agrees_with_scipy(t, degrees):
    assert student_p(t, degrees) == pytest.approx(2 * stats.t.sf(abs(t), degrees), rel=1e-6, abs=1e-13)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_agrees_with_statsmodels(values):
    assert holm(values) == pytest.approx(multipletests(values, method="holm")[1].tolist())


def test_no_tests_need_no_correction():
    assert holm([]) == []

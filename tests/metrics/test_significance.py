"""The paired tests agree with SciPy's and with the enumeration of all signs, and so do the intervals."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmretrieval.metrics.bootstrap import bootstrap_means, percentile_interval
from mmretrieval.metrics.significance import holm, permutation_test, sign_flip_means

FEW = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0, 0.1]), min_size=1, max_size=9)


def rng(seed=0):
    return np.random.default_rng(seed)


def interval(values, rng, resamples=10_000):
    """The interval as comparisons have it."""
    return percentile_interval(bootstrap_means(values, resamples, rng))


@given(FEW)
def test_few_differences_are_tested_exactly(differences):
    values = np.array(differences)
    means = [abs(np.mean(values * signs)) for signs in product([-1, 1], repeat=values.size)]
    exact = np.mean(np.array(means) >= abs(values.mean()) - 1e-9)
    assert permutation_test(values, rng=rng()) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("kind", ["hits", "distinct", "mixed"])
def test_p_values_are_scipys(kind):
    stats = pytest.importorskip("scipy.stats")
    r = rng(3)
    if kind == "hits":
        a, b = r.random(300) < 0.4, r.random(300) < 0.42
    elif kind == "distinct":
        a, b = r.random(200), r.random(200) + 0.05
    else:
        a, b = 1 / r.integers(1, 30, 250), 1 / r.integers(1, 24, 250)
    a, b = a.astype(float), b.astype(float)

    def statistic(x, y, axis):
        return np.mean(y - x, axis=axis)

    theirs = stats.permutation_test(
        (a, b), statistic, permutation_type="samples", vectorized=True, n_resamples=20_000, rng=rng(1)
    ).pvalue
    ours = permutation_test(b - a, resamples=20_000, rng=rng(2))
    assert 0.001 < theirs < 0.95
    assert ours == pytest.approx(theirs, abs=4 * np.sqrt(theirs * (1 - theirs) / 20_000 * 2))


@pytest.mark.parametrize("repeated", [True, False])
def test_random_signs_have_mean_and_variance_of_the_definition(repeated):
    values = np.repeat([0.5, -1.0, 0.0, 0.25], 20) if repeated else rng().normal(size=60)
    means = sign_flip_means(values, 20_000, rng(1))
    sigma = np.sqrt(np.sum(values**2)) / values.size
    assert abs(means.mean()) < 5 * sigma / np.sqrt(20_000)
    assert means.std() == pytest.approx(sigma, rel=0.03)


@pytest.mark.parametrize("repeated", [True, False])
def test_bootstrap_means_have_mean_and_variance_of_the_sample(repeated):
    values = np.repeat([1.0, -1.0, 0.0], [60, 30, 110]) if repeated else rng().normal(0.2, 1, 150)
    means = bootstrap_means(values, 20_000, rng(1))
    sigma = values.std() / np.sqrt(values.size)
    assert means.mean() == pytest.approx(values.mean(), abs=5 * sigma / np.sqrt(20_000))
    assert means.std() == pytest.approx(sigma, rel=0.03)


def test_the_interval_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    values = rng(4).normal(0.1, 1, 120)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=rng(5))
    low, high = interval(values, resamples=20_000, rng=rng(6))
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)
    assert low < values.mean() < high


def test_equal_runs_have_p_1_and_an_interval_of_nothing():
    values = np.zeros(50)
    assert permutation_test(values, rng=rng()) == 1
    assert interval(values, rng=rng()) == (0, 0)


def test_p_values_are_never_0_and_hold_their_level():
    assert permutation_test(np.ones(500), resamples=999, rng=rng()) == 1 / 1000
    found = [
        permutation_test(rng(seed).choice([-1.0, 0, 1], 80), resamples=400, rng=rng(seed + 9))
        for seed in range(300)
    ]
    assert np.mean(np.array(found) < 0.1) < 0.15
    assert np.mean(np.array(found) < 0.5) > 0.35  # and it is not always 1


def test_thousands_of_queries_do_not_overflow():
    values = rng().normal(0.1, 1, 5000)
    assert permutation_test(values, resamples=200, rng=rng()) == 1 / 201


def test_the_same_seed_gives_the_same_numbers():
    values = rng().normal(size=100)
    assert permutation_test(values, rng=rng(7)) == permutation_test(values, rng=rng(7))
    assert interval(values, rng=rng(7)) == interval(values, rng=rng(7))
    assert interval(values, rng=rng(7)) != interval(values, rng=rng(8))


def test_holm_is_the_step_down_procedure():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )  # R: p.adjust(p, "holm")
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert holm([]).size == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_value_and_keeps_their_order(values):
    adjusted = holm(values)
    assert np.all(adjusted >= values)
    assert adjusted.max() <= 1
    assert np.all(np.diff(adjusted[np.argsort(values, kind="stable")]) >= 0)


@pytest.mark.parametrize("values", [[], [[1.0]], [np.nan], [np.inf]])
def test_unusable_differences_are_refused(values):
    with pytest.raises(ValueError, match="finite"):
        permutation_test(values, rng=rng())


def test_unusable_settings_are_refused():
    with pytest.raises(ValueError, match="resamples"):
        permutation_test([1.0], resamples=0, rng=rng())
    with pytest.raises(ValueError, match="level"):
        percentile_interval(np.ones(1), level=1)
    with pytest.raises(ValueError, match="p-values"):
        holm([1.2])

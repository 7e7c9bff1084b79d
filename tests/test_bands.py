"""Simultaneous bands: closed forms where there are any, else simulations written another way."""

import numpy as np
import pytest

from textgan.metrics.bands import _less_correlated, mean_over_seeds, sup_t_quantile

stats = pytest.importorskip("scipy.stats")


def rows_without_sampling_error(values):
    """One (1 + G, K) for each seed of ``values`` (S, K), the same without whichever group."""
    return [np.repeat(np.atleast_2d(value), 21, axis=0) for value in values]


@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_one_place_without_sampling_error_has_the_interval_of_a_t_test(seeds):
    values = np.random.default_rng(seeds).standard_normal((seeds, 1))
    found = mean_over_seeds(rows_without_sampling_error(values), level=0.9)
    expected = stats.ttest_1samp(values[:, 0], 0).confidence_interval(0.9)
    assert (found.lower[0], found.upper[0]) == pytest.approx((expected.low, expected.high))


def test_one_pair_has_the_jackknife_interval_of_its_difference():
    groups = np.random.default_rng(0).standard_normal((20, 1))
    without = (groups.sum(0) - groups) / 19
    found = mean_over_seeds([np.vstack([groups.mean(0), without])], level=0.95)
    expected = stats.ttest_1samp(groups[:, 0], 0).confidence_interval(0.95)
    assert (found.lower[0], found.upper[0]) == pytest.approx((expected.low, expected.high))


def test_two_unpaired_sets_have_the_sum_of_both_variances():
    groups = np.random.default_rng(0).standard_normal((2, 20)) * [[1], [3]]
    without = (groups.sum(1, keepdims=True) - groups) / 19
    found = mean_over_seeds([np.append(0, without - without.mean(1, keepdims=True))[:, None]], level=0.95, groups=20)
    assert found.se[0] ** 2 == pytest.approx((groups.var(1, ddof=1) / 20).sum())
    assert found.critical == pytest.approx(stats.t.ppf(0.975, 19))


def test_seeds_that_agree_by_accident_are_not_believed_beyond_the_sampling_error():
    groups = np.random.default_rng(0).standard_normal((3, 20, 1))
    without = (groups.sum(1, keepdims=True) - groups) / 19
    rows = np.concatenate([np.zeros((3, 1, 1)), without], 1)
    averaged = groups.mean(0)[:, 0]
    assert mean_over_seeds(rows, level=0.95).se[0] == pytest.approx(averaged.std(ddof=1) / np.sqrt(20))


def test_a_place_where_seeds_agree_by_accident_has_the_error_of_the_others():
    values = np.random.default_rng(0).standard_normal((5, 4)) * [0.01, 1, 1, 2]
    own = values.var(0, ddof=1) / 5
    found = mean_over_seeds(rows_without_sampling_error(values), level=0.95)
    np.testing.assert_allclose(found.se**2, np.maximum(own, np.sqrt(np.mean(own**2))))


@pytest.mark.parametrize("places, degrees", [(2, 4), (6, 4), (6, 19)])
def test_independent_places_need_the_quantile_of_sidak(places, degrees):
    shape = np.vstack([np.eye(places), -np.eye(places)])
    expected = stats.t.ppf((1 + 0.95 ** (1 / places)) / 2, degrees)
    assert sup_t_quantile(shape, degrees, 0.95, draws=20000) == pytest.approx(expected, rel=0.03)


def test_places_that_move_as_one_need_the_quantile_of_one():
    shape = np.outer(np.random.default_rng(0).standard_normal(20), [1, 2, -3])
    assert sup_t_quantile(shape, 19, 0.95) == pytest.approx(stats.t.ppf(0.975, 19), rel=0.03)
    assert sup_t_quantile(shape[:, :1], 19, 0.95) == pytest.approx(stats.t.ppf(0.975, 19))
    assert sup_t_quantile(shape * [1, 0, 0], 19, 0.95) == pytest.approx(stats.t.ppf(0.975, 19))


@pytest.mark.parametrize("scale", [np.ones(6), np.array([3.0, 1, 1, 1, 1, 3])], ids=["equal", "two large"])
def test_pooled_variances_give_the_quantile_of_a_direct_simulation(scale):
    degrees, rng = 11, np.random.default_rng(1)
    units = rng.standard_normal((40000, degrees + 1, 6)) * scale
    variance = units.var(1, ddof=1)
    variance = np.maximum(variance, np.sqrt((variance**2).mean(1, keepdims=True)))
    direct = np.quantile(np.abs(units.mean(1) / np.sqrt(variance / (degrees + 1))).max(1), 0.95)
    shape = np.vstack([np.eye(6), -np.eye(6)]) * scale
    found = sup_t_quantile(shape, degrees, 0.95, pooled=True, draws=20000)
    assert direct * 0.98 < found < direct * (1.02 if np.ptp(scale) == 0 else 1.2)


@pytest.mark.parametrize("degrees", [2, 4, 7])
def test_pooled_quantiles_are_never_below_that_of_one_place(degrees):
    shape = np.diag([1.0, 1e-3, 1e-3])
    assert sup_t_quantile(shape, degrees, 0.95, pooled=True) >= stats.t.ppf(0.975, degrees) - 1e-9


def test_correlations_shrink_by_their_uncertainty():
    loadings = np.array([[1.0, 0.5], [0.0, np.sqrt(0.75)]])  # correlation 0.5
    found = _less_correlated(loadings, 19)
    shrink = (1 - 0.25) ** 2 / 19 / 0.25
    np.testing.assert_allclose(found.T @ found, [[1, 0.5 * (1 - shrink)], [0.5 * (1 - shrink), 1]])
    uncertain = _less_correlated(loadings, 1)
    np.testing.assert_allclose(uncertain.T @ uncertain, np.eye(2))


def test_correlations_of_few_groups_do_not_make_the_band_narrower_than_the_true_ones():
    rng, places = np.random.default_rng(0), np.linspace(0, 1, 15)
    correlation = np.exp(-np.square(np.subtract.outer(places, places) / 0.15) / 2) + 1e-9 * np.eye(15)
    root = np.linalg.cholesky(correlation).T
    units = rng.standard_normal((20000, 20, 15)) @ root
    true = np.quantile(np.abs(units.mean(1) / (units.std(1, ddof=1) / np.sqrt(20))).max(1), 0.95)
    seen = [units[i] - units[i].mean(0) for i in range(15)]
    found = np.mean([sup_t_quantile(unit, 19, 0.95, seed=i) for i, unit in enumerate(seen)])
    assert true < found < 1.05 * true


def test_the_same_numbers_give_the_same_band():
    rows = np.random.default_rng(0).standard_normal((3, 21, 5))
    first, again = (mean_over_seeds(rows, level=0.95, seed=4) for _ in range(2))
    np.testing.assert_array_equal(first.upper, again.upper)
    turned = mean_over_seeds(-rows, level=0.95, seed=4)
    np.testing.assert_allclose(turned.lower, -first.upper)

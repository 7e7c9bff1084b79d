"""Bootstrap intervals: closed forms for large samples, coverage, pairing, and what is refused."""

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap, norm

from textgan.metrics.bootstrap import bootstrap_mean, paired_bootstrap, two_sample_bootstrap


def test_interval_of_a_large_sample_is_the_normal_one():
    values = np.random.default_rng(0).normal(3, 2, size=4000)
    found = bootstrap_mean(values, level=0.9, resamples=5000)
    half = norm.ppf(0.95) * values.std() / np.sqrt(4000)
    assert found.mean == pytest.approx(values.mean(), abs=1e-12)
    assert found.lower == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert found.upper == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_interval_of_a_skewed_sample_is_scipys():
    values = np.random.default_rng(1).exponential(size=30) ** 2
    found = bootstrap_mean(values, resamples=20_000)
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=0).confidence_interval
    width = theirs.high - theirs.low
    assert found.lower == pytest.approx(theirs.low, abs=0.02 * width)
    assert found.upper == pytest.approx(theirs.high, abs=0.02 * width)
    assert found.upper - found.mean > 1.1 * (found.mean - found.lower)  # not symmetric, as the values are not


def test_intervals_cover():
    rng = np.random.default_rng(2)
    sets = rng.exponential(size=(400, 120)) < 0.5
    truth = 1 - np.exp(-0.5)
    covers = [low <= truth <= high for _, low, high in (bootstrap_mean(row, resamples=400) for row in sets)]
    assert 0.915 < np.mean(covers) < 0.98  # 0.95 but for the noise of 400 sets


def test_columns_share_their_resamples():
    values = np.random.default_rng(3).normal(size=(50, 1))
    both = bootstrap_mean(np.hstack([values, 2 * values + 1]))
    alone = bootstrap_mean(values[:, 0])
    assert [end[0] for end in both] == pytest.approx(list(alone))
    assert both.lower[1] == pytest.approx(2 * alone.lower + 1)
    assert both.upper[1] == pytest.approx(2 * alone.upper + 1)


def test_seeds_tensors_and_many_chunks(monkeypatch):
    values = np.random.default_rng(4).normal(size=40)
    assert bootstrap_mean(values) == bootstrap_mean(values) == bootstrap_mean(torch.tensor(values))
    assert bootstrap_mean(values) != bootstrap_mean(values, seed=1)
    narrow, wide = bootstrap_mean(values, level=0.5), bootstrap_mean(values, level=0.99)
    assert wide.lower < narrow.lower < narrow.mean < narrow.upper < wide.upper
    whole = bootstrap_mean(values, resamples=100)
    monkeypatch.setattr("textgan.metrics.bootstrap._CHUNK", 280)  # seven resamples at a time
    assert bootstrap_mean(values, resamples=100) == pytest.approx(whole)


def test_pairs_lose_what_they_share():
    rng = np.random.default_rng(5)
    shared = rng.normal(0, 10, size=500)
    a, b = shared + rng.normal(0.2, 0.1, size=500), shared
    paired, apart = paired_bootstrap(a, b), two_sample_bootstrap(a, b)
    assert paired.mean == pytest.approx(apart.mean) == pytest.approx((a - b).mean())
    assert 0.18 < paired.lower < paired.upper < 0.22
    assert apart.lower < 0 < apart.upper


def test_two_samples_of_different_sizes_and_spreads():
    rng = np.random.default_rng(6)
    a, b = rng.normal(1, 1, size=2000), rng.normal(0, 3, size=500)
    found = two_sample_bootstrap(a, b, resamples=4000)
    half = norm.ppf(0.975) * np.sqrt(a.var() / 2000 + b.var() / 500)
    assert found.upper - found.lower == pytest.approx(2 * half, rel=0.06)
    assert found.mean == pytest.approx(a.mean() - b.mean())
    # The same values on both sides are still two samples: their resamples must not move together.
    same = two_sample_bootstrap(a, a)
    assert same.upper - same.lower == pytest.approx(2 * norm.ppf(0.975) * np.sqrt(2 * a.var() / 2000), rel=0.08)


def test_refusals():
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_mean([])
    with pytest.raises(ValueError, match="finite"):
        bootstrap_mean([1.0, np.nan])
    with pytest.raises(ValueError, match="level=95"):
        bootstrap_mean([1.0, 2.0], level=95)
    with pytest.raises(ValueError, match="resamples=0"):
        bootstrap_mean([1.0, 2.0], resamples=0)
    with pytest.raises(ValueError, match="shapes"):
        paired_bootstrap([1.0, 2.0], [1.0])

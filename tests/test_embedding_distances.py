"""Fréchet distance, MMD and Vendi score: SciPy, brute force, closed forms and simulation beside."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, pdist

from textgan.metrics import mmd as mmd_module
from textgan.metrics.frechet import (
    frechet,
    frechet_by_group,
    frechet_extrapolated,
    frechet_reference,
    group_sums,
    real_floor,
)
from textgan.metrics.mmd import median_bandwidth, mmd, mmd_by_group, mmd_p_value, mmd_reference
from textgan.metrics.vendi import vendi, vendi_by_group


def normal(n, d, seed, *, scale=1.0, shift=0.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) * scale + shift).to(dtype)


def mixed(n, d, seed):
    """Correlated embeddings: no covariance is diagonal, and no two sets have the same."""
    return normal(n, d, seed) @ normal(d, d, 1000 + seed) / math.sqrt(d)


def plain_frechet(x, y):
    x, y = x.numpy().astype(float), y.numpy().astype(float)
    a, b = np.atleast_2d(np.cov(x.T)), np.atleast_2d(np.cov(y.T))
    cross = scipy.linalg.sqrtm(a @ b).real
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * cross)


def without(x, g, groups=20):
    return x[torch.arange(len(x)) % groups != g]


# Fréchet


@pytest.mark.filterwarnings("ignore:Matrix is singular")
@settings(deadline=None, max_examples=25)
@given(st.integers(2, 60), st.integers(2, 60), st.integers(1, 6), st.integers(0, 99))
def test_frechet_is_that_of_scipy(n, m, d, seed):
    x, y = mixed(n, d, seed), mixed(m, d, seed + 1) + 0.5
    assert frechet(x, y) == pytest.approx(plain_frechet(x, y), abs=2e-6)
    assert frechet(x, y) == pytest.approx(frechet(y, x), abs=2e-6)


def test_frechet_closed_forms():
    base = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])  # variances 4/3, no covariance
    sd = math.sqrt(4 / 3)
    assert frechet(base, base) == pytest.approx(0, abs=1e-12)
    assert frechet(base + torch.tensor([3.0, -4]), base) == pytest.approx(25)
    scaled = base * torch.tensor([2.0, 0.5])
    assert frechet(scaled, base) == pytest.approx((2 * sd - sd) ** 2 + (0.5 * sd - sd) ** 2)


def test_frechet_of_float32_far_from_zero():
    x, y = normal(300, 4, 0, dtype=torch.float32), normal(300, 4, 1, scale=1.2, dtype=torch.float32)
    x, y = (x * 64).round() / 64, (y * 64).round() / 64  # so that adding 4096 is exact
    assert frechet(x + 4096, y + 4096) == pytest.approx(frechet(x, y), abs=1e-9)


def test_frechet_without_each_group():
    x, y = mixed(210, 5, 0), mixed(150, 5, 1)
    value, groups = frechet_by_group(x, frechet_reference(y))["frechet"]
    assert value == pytest.approx(plain_frechet(x, y))
    assert groups == pytest.approx([plain_frechet(without(x, g), y) for g in range(20)])


def test_extrapolation_is_a_line_through_the_parts():
    x, y = mixed(203, 4, 0), mixed(170, 4, 1)

    def by_hand(kept):
        rates, values = [], []
        for j in (1, 2, 4):
            parts = [(x[[i for i in range(len(x)) if i % j == p and i % 20 != kept]], y[p::j]) for p in range(j)]
            rates.append(np.mean([1 / len(a) + 1 / len(b) for a, b in parts]))
            values.append(np.mean([plain_frechet(a, b) for a, b in parts]))
        return np.polyfit(rates, values, 1)[1]

    value, groups = frechet_by_group(x, frechet_reference(y))["frechet_inf"]
    assert value == pytest.approx(by_hand(None)) == pytest.approx(frechet_extrapolated(x, y))
    assert groups == pytest.approx([by_hand(g) for g in range(20)])


def test_extrapolation_takes_the_bias_away():
    d = 12
    true = d * (1.3 - 1) ** 2 + d * 0.1**2
    plain, extrapolated, equal = [], [], []
    for seed in range(12):
        x, y = normal(600, d, seed, scale=1.3, shift=0.1), normal(400, d, 100 + seed)
        plain.append(frechet(x, y))
        extrapolated.append(frechet_extrapolated(x, y))
        equal.append(frechet_extrapolated(normal(400, d, 200 + seed), y))
    error = np.std(extrapolated) / math.sqrt(len(extrapolated))
    assert np.mean(plain) - true > 5 * error
    assert abs(np.mean(extrapolated) - true) < 3 * error
    assert abs(np.mean(equal)) < 0.25 * (np.mean(plain) - true)


def test_no_extrapolation_from_parts_too_small():
    y = normal(400, 10, 0)
    # 56 texts: parts of 14, less a group of 3; 40 texts: parts of 10.
    for n, there in [(56, True), (40, False)]:
        assert ("frechet_inf" in frechet_by_group(normal(n, 10, 1), frechet_reference(y))) == there
        assert ("frechet_inf" in frechet_by_group(y, frechet_reference(y[:n]))) == there
    assert "frechet_inf" not in frechet_by_group(y, frechet_reference(y, (1,)))
    with pytest.raises(ValueError, match="40 and 400 texts are too few to extrapolate in 10 dimensions"):
        frechet_extrapolated(normal(40, 10, 1), y)


def test_floor_is_over_disjoint_subsets():
    real = torch.tensor([[0.0], [1], [10], [30]], dtype=torch.float64)
    splits = [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    values = [frechet(real[list(a)], real[list(b)]) for a, b in splits]
    drawn = [real_floor(real, 2, seed=seed) for seed in range(40)]
    assert {round(v, 6) for v in drawn} == {round(v, 6) for v in values}
    assert real_floor(real, 2, seed=3) == drawn[3]
    mean = real_floor(real, 2, draws=400, seed=1)
    assert mean == pytest.approx(np.mean(values), rel=0.15)
    with pytest.raises(ValueError, match="needs 5 real texts, got 4"):
        real_floor(real, 2, 3)


def test_floor_is_what_equal_sets_score():
    pool = normal(1000, 8, 0)
    floor = real_floor(pool, 200, 400, draws=5)
    scores = [frechet(normal(200, 8, 1 + seed), normal(400, 8, 99 + seed)) for seed in range(5)]
    assert floor == pytest.approx(np.mean(scores), rel=0.25)


def test_frechet_refuses():
    x = normal(5, 2, 0)
    for a, b in [(x[:1], x), (x, x[:1]), (x[:0], x)]:
        with pytest.raises(ValueError, match="at least"):
            frechet(a, b)
    with pytest.raises(ValueError, match="different size: 2 and 1"):
        frechet(x, x[:, :1])
    with pytest.raises(ValueError, match="finite"):
        frechet(x, x / 0)
    with pytest.raises(ValueError, match="floating"):
        group_sums(torch.ones(3, 2, dtype=torch.long))


# MMD


def plain_mmd(x, y, bandwidth):
    x, y = x.numpy().astype(float), y.numpy().astype(float)

    def kernel(a, b):
        return np.exp(-cdist(a, b, "sqeuclidean") / (2 * bandwidth**2))

    n, m = len(x), len(y)
    xx, yy = kernel(x, x), kernel(y, y)
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return within - 2 * kernel(x, y).mean()


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 30), st.integers(3, 30), st.integers(1, 4), st.sampled_from([3, 7, 2048]))
def test_mmd_is_the_sum_over_pairs(n, m, d, block):
    x, y = mixed(n, d, n), mixed(m, d, m + 50) + 0.3
    before, mmd_module.BLOCK = mmd_module.BLOCK, block
    try:
        assert mmd(x, y, 0.8) == pytest.approx(plain_mmd(x, y, 0.8), abs=1e-12)
    finally:
        mmd_module.BLOCK = before


@pytest.mark.parametrize("block", [13, 2048])
def test_mmd_without_each_group(monkeypatch, block):
    monkeypatch.setattr(mmd_module, "BLOCK", block)
    x, y = mixed(87, 3, 0), mixed(64, 3, 1)
    value, groups = mmd_by_group(x, mmd_reference(y, 1.1))
    assert value == pytest.approx(plain_mmd(x, y, 1.1), abs=1e-12)
    assert groups == pytest.approx([plain_mmd(without(x, g), y, 1.1) for g in range(20)], abs=1e-12)


def test_mmd_of_float32_far_from_zero():
    x, y = normal(200, 6, 0) + 50, normal(150, 6, 1) + 50
    assert mmd(x.float(), y.float(), 2.0) == pytest.approx(plain_mmd(x, y, 2.0), abs=2e-6)


def test_mmd_of_two_normal_distributions():
    sd, shift, bandwidth, n = 1.5, 0.7, 1.2, 3000

    def mean_kernel(variance, distance):  # of two draws whose difference is normal
        scale = bandwidth**2 + variance
        return bandwidth / math.sqrt(scale) * math.exp(-(distance**2) / (2 * scale))

    true = mean_kernel(2 * sd**2, 0) + mean_kernel(2, 0) - 2 * mean_kernel(1 + sd**2, shift)
    x, y = normal(n, 1, 0, scale=sd, shift=shift), normal(n, 1, 1)
    assert mmd(x, y, bandwidth) == pytest.approx(true, rel=0.1)


def test_mmd_is_unbiased():
    values = [mmd(normal(12, 2, seed), normal(9, 2, 5000 + seed), 1.0) for seed in range(400)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(len(values))
    assert min(values) < 0


def test_bandwidth_is_the_median_distance_of_the_real_texts():
    y = mixed(30, 3, 0)
    assert median_bandwidth(y) == pytest.approx(np.median(pdist(y.numpy())), rel=1e-2)
    assert mmd(mixed(20, 3, 1), y) == pytest.approx(plain_mmd(mixed(20, 3, 1), y, median_bandwidth(y)))
    with pytest.raises(ValueError, match="same embedding"):
        median_bandwidth(torch.ones(10, 3))
    with pytest.raises(ValueError, match="bandwidth=0"):
        mmd_reference(y, 0)


def test_p_value_is_the_share_of_halvings():
    x, y = normal(5, 1, 0, shift=0.8), normal(5, 1, 1)
    pooled = torch.cat([x, y])
    values = []
    for rows in itertools.combinations(range(10), 5):
        others = [i for i in range(10) if i not in rows]
        values.append(plain_mmd(pooled[list(rows)], pooled[others], 1.0))
    exact = np.mean(np.array(values) >= plain_mmd(x, y, 1.0) - 1e-12)
    assert 0.02 < exact < 0.5
    p = mmd_p_value(x, mmd_reference(y, 1.0), permutations=4000)
    assert p == pytest.approx(exact, abs=4 * math.sqrt(exact / 4000))


def test_p_value_size_and_power():
    equal = [
        mmd_p_value(normal(30, 2, s), mmd_reference(normal(30, 2, 900 + s), 1.0), permutations=99) for s in range(200)
    ]
    for level in (0.05, 0.5):
        spread = math.sqrt(level * (1 - level) / len(equal))
        assert np.mean(np.array(equal) <= level) == pytest.approx(level, abs=3.5 * spread)
    shifted = mmd_p_value(normal(100, 2, 1, shift=0.8), mmd_reference(normal(80, 2, 2), 1.0), permutations=99)
    assert shifted == 1 / 100


def test_p_value_looks_at_so_many_texts_and_keeps_to_its_seed():
    x, y = normal(60, 2, 0), normal(60, 2, 1)
    spoilt = torch.cat([x[:40], x[40:] + 100])
    p = mmd_p_value(x, mmd_reference(y, 1.0), texts=40, seed=1)
    reference = mmd_reference(y, 1.0)
    assert p == mmd_p_value(spoilt, reference, texts=40, seed=1) != mmd_p_value(x, reference, texts=40, seed=2)


# Vendi


def plain_vendi(x):
    x = x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True)
    values = np.linalg.eigvalsh(x @ x.T / len(x))
    values = values[values > 1e-15]
    return math.exp(-(values * np.log(values)).sum())


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 30), st.integers(1, 8))
def test_vendi_is_that_of_the_kernel_matrix(n, d):
    x = mixed(n, d, n)
    assert vendi(x) == pytest.approx(plain_vendi(x))


def test_vendi_counts_what_differs():
    assert vendi(torch.eye(7)) == pytest.approx(7)
    assert vendi(torch.ones(7, 3)) == pytest.approx(1)
    assert vendi(torch.eye(3)[[0, 0, 1, 2]] * 5) == pytest.approx(math.exp(1.5 * math.log(2)))
    assert vendi(torch.cat([torch.eye(2), torch.zeros(2, 2)])) == pytest.approx(math.exp(1.5 * math.log(2)))


def test_vendi_without_each_group():
    x = mixed(50, 4, 0)
    value, groups = vendi_by_group(x)
    assert value == pytest.approx(plain_vendi(x))
    assert groups == pytest.approx([plain_vendi(without(x, g)) for g in range(20)])
    with pytest.raises(ValueError, match="at least 20"):
        vendi_by_group(x[:19])


def test_jackknife_spread_is_that_of_fresh_sets():
    y, sets = normal(300, 3, 0), 60
    frechet_of, mmd_of = frechet_reference(y), mmd_reference(y)
    found = {"frechet": [], "frechet_inf": [], "mmd": [], "vendi": []}
    for seed in range(sets):
        x = normal(400, 3, 1 + seed, scale=1.2, shift=0.3)
        for name, pair in frechet_by_group(x, frechet_of).items():
            found[name].append(pair)
        found["mmd"].append(mmd_by_group(x, mmd_of))
        found["vendi"].append(vendi_by_group(x))
    for name, pairs in found.items():
        jackknife = np.mean([19 / 20 * ((g - g.mean()) ** 2).sum() for _, g in pairs]) ** 0.5
        spread = np.std([value for value, _ in pairs], ddof=1)
        # The relative error of a standard deviation of 60 is 9 %.
        assert jackknife == pytest.approx(spread, rel=0.3), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_on_the_gpu():
    x, y = mixed(500, 16, 0).float(), mixed(400, 16, 1).float()
    gx, gy = x.cuda(), y.cuda()
    assert frechet_extrapolated(gx, gy) == pytest.approx(frechet_extrapolated(x, y), abs=1e-6)
    assert frechet(gx, gy) == pytest.approx(frechet(x, y), rel=1e-6)
    assert mmd(gx, gy) == pytest.approx(mmd(x, y), abs=1e-6)
    reference = mmd_reference(y)
    assert mmd_p_value(gx, mmd_reference(gy)) == pytest.approx(mmd_p_value(x, reference), abs=0.003)
    assert vendi(gx) == pytest.approx(vendi(x), rel=1e-6)

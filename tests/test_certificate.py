"""The certificate against closed forms of two Gaussians, enumeration of small distributions, and simulation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textgan.metrics.certificate import auc, calibrate, gain, permuted_gains, value_of

MU = 0.7  # P = N(MU, 1), G = N(0, 1): f = log P/G = MU x - MU**2 / 2 and KL(P || G) = MU**2 / 2


def gaussians(n, m, seed=0, mu=MU):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(mu, 1, n)), torch.from_numpy(rng.normal(0, 1, m))


def test_the_log_ratio_of_two_gaussians_certifies_their_divergence():
    real, fake = gaussians(100_000, 100_000)
    f = calibrate(real, fake, clip=50)
    assert f.scales.item() == pytest.approx(MU, abs=0.01)
    assert f.offset == pytest.approx(MU**2 / 2, abs=0.01)
    held_real, held_fake = gaussians(100_000, 100_000, seed=1)
    found = gain(f(held_real), f(held_fake), resamples=200)
    assert found.value == pytest.approx(MU**2 / 2, abs=0.01)
    assert found.lower < MU**2 / 2 < found.upper
    assert found.ess == pytest.approx(math.exp(-(MU**2)), abs=0.02)  # 1 / (1 + chi-square of P and G)
    assert found.auc == pytest.approx(0.5 * (1 + math.erf(MU / 2)), abs=0.003)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.floats(-4, 4)), min_size=1, max_size=6),
)
def test_the_value_is_the_difference_of_two_divergences(counts):
    p = np.array([c[0] for c in counts], float) / sum(c[0] for c in counts)
    g = np.array([c[1] for c in counts], float) / sum(c[1] for c in counts)
    f = np.array([c[2] for c in counts])
    tilted = g * np.exp(f) / (g * np.exp(f)).sum()
    divergence = (p * np.log(p / g)).sum()
    expected = divergence - (p * np.log(p / tilted)).sum()
    real = torch.tensor([c[2] for c in counts for _ in range(c[0])])
    fake = torch.tensor([c[2] for c in counts for _ in range(c[1])])
    assert value_of(real, fake) == pytest.approx(expected, abs=1e-5)
    assert value_of(real, fake) <= divergence + 1e-5
    weights = np.append(np.repeat(np.exp(f), [c[1] for c in counts]), np.exp(f.max()))
    found = gain(real, fake, resamples=10)
    assert found.ess == pytest.approx(weights.sum() ** 2 / (weights**2).sum() / len(weights), rel=1e-4)


def test_scales_are_the_best_ones():
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(0)
    real = rng.normal(size=(300, 2)) @ [[1, 0.5], [0, 1]] + [0.4, -0.2]
    fake = rng.standard_t(5, size=(500, 2)) * [1, 3]

    def loss(a):
        return np.log(np.exp(fake @ a).mean()) - real.mean(0) @ a

    best = optimize.minimize(loss, [0, 0], tol=1e-12)
    found = calibrate(torch.from_numpy(real), torch.from_numpy(fake), clip=1e9)
    np.testing.assert_allclose(found.scales, best.x, atol=2e-4)
    assert value_of(found(torch.from_numpy(real)), found(torch.from_numpy(fake))) == pytest.approx(-best.fun, abs=1e-6)
    # The offset makes the generator's mean weight one where nothing is clipped.
    assert found(torch.from_numpy(fake)).exp().mean().item() == pytest.approx(1, abs=1e-9)


def test_scale_and_shift_of_a_score_do_not_matter():
    real, fake = gaussians(500, 700)
    one, other = calibrate(real, fake), calibrate(-30 * real + 1000, -30 * fake + 1000)
    np.testing.assert_allclose(one(real), other(-30 * real + 1000), atol=1e-6)


def test_a_critic_that_says_nothing_gets_scale_zero_and_harms_no_other():
    real, fake = gaussians(500, 700)
    flat = calibrate(torch.ones(500), torch.ones(700))
    assert flat.scales.item() == 0
    assert value_of(flat(torch.ones(500)), flat(torch.ones(700))) == 0
    alone = calibrate(real, fake)
    both = calibrate(torch.stack([real, torch.ones(500)], 1), torch.stack([fake, torch.ones(700)], 1))
    assert both.scales[0].item() == pytest.approx(alone.scales.item(), abs=1e-6)


def test_the_log_weight_is_clipped_and_stays_finite_where_sides_do_not_overlap():
    real, fake = gaussians(100, 100, mu=20)
    f = calibrate(real, fake, clip=3.0)
    assert f(real).tolist() == [3.0] * 100
    assert f(torch.tensor([-1e6, 1e6])).tolist() == [-3.0, 3.0]
    assert gain(f(real), f(fake)).lower > 0


def test_a_text_that_the_samples_missed_is_reckoned_with():
    found = gain(torch.full((50,), 3.0), torch.full((100,), -3.0))
    assert found.value == pytest.approx(6)
    assert found.upper == pytest.approx(6)
    # One text of weight e**3 beside a hundred of e**-3.
    assert found.lower == pytest.approx(3 - math.log((100 * math.exp(-3) + math.exp(3)) / 101))
    assert found.ess < 0.02


def test_the_interval_covers_the_gain_of_a_given_f():
    hits, trials = 0, 300
    for seed in range(trials):
        real, fake = gaussians(300, 500, seed=seed)
        found = gain(MU * real, MU * fake, resamples=400, seed=seed)
        hits += found.lower <= MU**2 / 2 <= found.upper
    assert 0.91 < hits / trials < 0.98  # 95 % +- about three standard errors of 1.3 %


def test_a_level_widens_the_interval_and_a_seed_repeats_it():
    real, fake = gaussians(300, 500)
    wide, narrow = gain(real, fake, level=0.99), gain(real, fake, level=0.5)
    assert wide.lower < narrow.lower < narrow.value < narrow.upper < wide.upper
    assert gain(real, fake, seed=3) == gain(real, fake, seed=3)
    assert gain(real, fake, seed=3).lower != gain(real, fake, seed=4).lower


def test_both_sides_are_resampled():
    real, fake = gaussians(300, 300)
    still = torch.zeros(300)
    below = real - real.max()
    assert gain(below, still).upper - gain(below, still).lower == pytest.approx(4 * 300**-0.5, rel=0.2)
    assert gain(still, fake).upper - gain(still, fake).lower > 0.1


@given(
    real=st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    fake=st.lists(st.integers(-3, 3), min_size=1, max_size=12),
)
def test_auc_counts_pairs_and_half_of_ties(real, fake):
    pairs = [(r > f) + 0.5 * (r == f) for r in real for f in fake]
    assert auc(torch.tensor(real, dtype=torch.double), torch.tensor(fake, dtype=torch.double)) == pytest.approx(
        sum(pairs) / len(pairs)
    )


def test_permuted_scores_certify_nothing():
    calibration, value = gaussians(400, 600), gaussians(400, 600, seed=1)
    null = permuted_gains(calibration, value, permutations=100)
    f = calibrate(*calibration)
    assert null.shape == (100,)
    assert null.mean().abs() < 0.01
    assert null.max() < 0.1 * value_of(f(value[0]), f(value[1]))
    assert torch.equal(null, permuted_gains(calibration, value, permutations=100))
    assert not torch.equal(null, permuted_gains(calibration, value, permutations=100, seed=1))
    pairs = permuted_gains(*[tuple(torch.stack([s, s**2], 1) for s in side) for side in (calibration, value)])
    assert pairs.mean().abs() < 0.02


def test_a_scale_fitted_on_noise_costs_on_other_texts():
    """Value on the texts of the fit flatters; on others it is below zero in the mean: -1 / 2n of each side."""
    same, other = [], []
    for seed in range(300):
        real, fake = gaussians(100, 100, seed=seed, mu=0)
        held_real, held_fake = gaussians(100, 100, seed=1000 + seed, mu=0)
        f = calibrate(real, fake)
        same.append(value_of(f(real), f(fake)))
        other.append(value_of(f(held_real), f(held_fake)))
    assert np.mean(same) == pytest.approx(0.01, abs=0.003)
    assert np.mean(other) == pytest.approx(-0.01, abs=0.005)


@pytest.mark.parametrize(
    "real, fake, said",
    [
        (torch.zeros(0), torch.zeros(3), "no real texts"),
        (torch.zeros(3), torch.zeros(0), "no texts of the generator"),
        (torch.tensor([0.0, math.nan]), torch.zeros(3), "real texts are not finite"),
        (torch.zeros(3), torch.tensor([math.inf]), "generator are not finite"),
    ],
)
def test_what_cannot_be_certified_is_refused(real, fake, said):
    with pytest.raises(ValueError, match=said):
        calibrate(real, fake)
    with pytest.raises(ValueError, match=said):
        gain(real, fake)


def test_critics_must_be_as_many_on_both_sides_and_the_clip_positive():
    with pytest.raises(ValueError, match="2 critics for real texts, 1"):
        calibrate(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(ValueError, match="clip=0"):
        calibrate(torch.zeros(3), torch.zeros(3), clip=0)

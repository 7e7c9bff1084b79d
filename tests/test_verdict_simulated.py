"""The verdict on simulated studies whose truth is known: how often it errs, and what it can see.

Each study draws fronts of S pairs of generators. Fronts have the bend of real ones (BLEU-4 against self-BLEU-4 of
captions, temperatures 0.5 to 1.0). Training moves each generator's front off and along the true curve; sampling moves
each of its points, group by group of texts. Standard deviations are those measured of 1,000 to 10,000 captions and of
generators of several seeds: .001 to .004 for sampling, .005 for training.
"""

import numpy as np
import pytest

from textgan.metrics.bands import mean_over_seeds
from textgan.metrics.front import Front
from textgan.metrics.verdict import compare_fronts

GROUPS = 20
TEMPERATURES = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
QUALITY = np.polynomial.Polynomial.fit(TEMPERATURES, [0.946, 0.925, 0.888, 0.831, 0.734, 0.600], 4)
DIVERSITY = np.polynomial.Polynomial.fit(TEMPERATURES, [0.067, 0.108, 0.184, 0.288, 0.431, 0.600], 4)
DRAWS = 800  # of the simulation of a band's critical value: enough where errors are counted over hundreds of studies


def without_each(values):
    return (values.sum(-1, keepdims=True) - values) / (values.shape[-1] - 1)


def study(rng, seeds, *, lift=lambda t: 0 * t, colder=0.0, training=0.005, sampling=0.002, common=0.5, step=0.1):
    """Fronts of both arms; ``colder`` moves the challenger's points along the curve, ``lift`` moves its curve up."""
    pairs = ([], [])
    for _ in range(seeds):
        noise_of_pair = rng.standard_normal((2, 1, GROUPS))  # both draw texts with the same random numbers
        for side, fronts in enumerate(pairs):
            t = np.arange(0.5 + side * colder, 1.001, step)
            up, tilt, along = training * rng.standard_normal(3)
            at = np.clip(t + along, 0.45, 1.05)
            quality, diversity = QUALITY(at), DIVERSITY(at) + up + 2 * tilt * (t - 0.75) + side * lift(t)
            own = rng.standard_normal((2, len(t), GROUPS))
            noise = sampling * np.sqrt(GROUPS) * (np.sqrt(common) * noise_of_pair + np.sqrt(1 - common) * own)
            fronts.append(
                Front(
                    quality + noise[0].mean(1),
                    diversity + noise[1].mean(1),
                    quality[:, None] + without_each(noise[0]),
                    diversity[:, None] + without_each(noise[1]),
                )
            )
    return pairs


def judged(count, seeds, *, paired=True, **truth):
    rng = np.random.default_rng(seeds)
    return [
        compare_fronts(*study(rng, seeds, **truth), paired=paired, grid=15, seed=i, draws=DRAWS) for i in range(count)
    ]


def allowed(count, rate=0.05):
    """Errors that ``count`` studies may show at this rate: its mean and three standard deviations."""
    return count * rate + 3 * np.sqrt(count * rate * (1 - rate))


@pytest.mark.parametrize(
    "seeds, truth",
    [
        (1, {"training": 0.0}),
        (1, {"training": 0.0, "colder": 0.05, "sampling": 0.0007}),
        (1, {"training": 0.0, "common": 0.0, "paired": False}),
        (3, {}),
        (3, {"sampling": 0.0005}),
        (5, {}),
        (5, {"sampling": 0.0005, "colder": 0.03}),
        (5, {"training": 0.0005}),
    ],
    ids=str,
)
def test_equal_fronts_are_rarely_told_apart(seeds, truth):
    count = 130 if seeds > 1 else 100
    found = judged(count, seeds, **truth)
    differ = sum(f.share_dominated > 0 or f.share_worse > 0 for f in found)
    assert differ <= allowed(count)
    assert sum(f.share_dominated > 0 for f in found) <= allowed(count, 0.025)
    assert sum(not f.mean_delta.lower <= 0 <= f.mean_delta.upper for f in found) <= allowed(count)
    if "colder" not in truth:  # the area does see a point that only one of them has
        volumes = [f.hypervolume for f in found]
        assert sum(not v["lower"] <= 0 <= v["upper"] for v in volumes) <= allowed(count)
    assert sum(f.dominates for f in found) == 0


@pytest.mark.parametrize(
    "seeds, lift, least",
    [(1, 0.02, 0.9), (3, 0.06, 0.9), (5, 0.03, 0.9), (5, 0.02, 0.4)],
)
def test_a_lifted_front_is_seen_to_dominate(seeds, lift, least):
    truth = {"training": 0.005 if seeds > 1 else 0.0, "lift": lambda t: lift + 0 * t, "sampling": 0.001, "step": 0.05}
    found = judged(40, seeds, **truth)
    assert np.mean([f.dominates for f in found]) >= least
    assert np.mean([f.share_worse > 0 for f in found]) <= 0.05
    covered = [f.mean_delta.lower <= lift <= f.mean_delta.upper for f in found]
    assert np.mean(covered) >= 0.85


@pytest.mark.parametrize("seeds", [1, 5])
def test_a_front_that_is_better_in_places_is_not_said_to_dominate(seeds):
    truth = {"training": 0.004 if seeds > 1 else 0.0, "lift": lambda t: 0.3 * (t - 0.75), "sampling": 0.001}
    found = judged(40, seeds, **truth)
    assert not any(f.dominates for f in found)
    assert np.mean([f.share_dominated > 0 and f.share_worse > 0 for f in found]) >= 0.9


def test_one_pair_tells_nothing_of_other_seeds():
    """Generators differ by training alone: one pair is told apart, as these checkpoints do differ; the words say so."""
    found = judged(40, 1, training=0.02, sampling=0.0005)
    assert np.mean([f.share_dominated > 0 or f.share_worse > 0 for f in found]) > 0.5
    assert {f.covers for f in found} == {"sampling only: one pair of checkpoints"}


@pytest.mark.parametrize("shape", ["smooth", "rough", "wide at its ends"])
@pytest.mark.parametrize("seeds", [2, 3, 5, 8])
def test_bands_of_few_seeds_hold_whatever_the_curves_are_like(seeds, shape):
    """Bands straight over Gaussian curves, (K,) a seed, with sampling errors that are far smaller or all alike."""
    count, places = 200, np.linspace(0, 1, 15)
    distance = np.subtract.outer(places, places) / {"smooth": 1.0}.get(shape, 0.15)
    root = np.linalg.cholesky(np.exp(-np.square(distance) / 2) + 1e-9 * np.eye(15))
    profile = 1 + 2 * np.abs(places - 0.5) * (shape == "wide at its ends")
    rng = np.random.default_rng(seeds)
    missed = 0
    for i in range(count):
        curves = (rng.standard_normal((seeds, 15)) @ root.T) * profile
        noise = 0.2 * np.sqrt(GROUPS) * rng.standard_normal((seeds, GROUPS, 1)) * np.ones(15)
        without = (noise.sum(1, keepdims=True) - noise) / (GROUPS - 1)
        rows = np.concatenate([curves[:, None] + noise.mean(1, keepdims=True), curves[:, None] + without], 1)
        band = mean_over_seeds(rows, level=0.95, seed=i, draws=DRAWS)
        missed += bool(((band.lower > 0) | (band.upper < 0)).any())
    assert missed <= allowed(count)


def test_errors_that_all_seeds_share_are_not_averaged_away():
    """All seeds draw texts with the same random numbers: what those do to all of them is not seen in their spread."""
    rng = np.random.default_rng(0)
    missed, count = 0, 400
    for _ in range(count):
        noise = np.sqrt(GROUPS) * (rng.standard_normal((1, GROUPS, 1)) + 0.3 * rng.standard_normal((5, GROUPS, 1)))
        without = (noise.sum(1, keepdims=True) - noise) / (GROUPS - 1)
        band = mean_over_seeds(np.concatenate([noise.mean(1, keepdims=True), without], 1), level=0.95)
        missed += not band.lower[0] <= 0 <= band.upper[0]
    assert missed <= allowed(count)

"""Matching of sets by length and novelty: weights by definition, and wins that go away or stay as they should."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textgan.metrics.jackknife import jackknife_sd
from textgan.metrics.matching import (
    PointTexts,
    effective_share,
    match_cells,
    match_weights,
    matched_fronts,
    matched_means,
)
from textgan.metrics.verdict import compare_fronts

GROUPS = 20
NAMES = [f"temperature={t:.1f}" for t in (0.6, 0.8, 1.0, 1.2)]
cells = st.lists(st.integers(0, 4), min_size=1, max_size=30).map(np.array)


@settings(deadline=None)
@given(cells, cells)
def test_weights_give_each_cell_one_share_the_harmonic_mean(first, second):
    weights = match_weights(first, second)
    shares = [{c: np.mean(own == c) for c in range(5)} for own in (first, second)]
    common = {c: 1 / (1 / p + 1 / q) if (p := shares[0][c]) and (q := shares[1][c]) else 0 for c in range(5)}
    total = sum(common.values())
    for own, found in zip((first, second), weights, strict=True):
        if not total:
            assert np.isnan(found).all()
            continue
        assert found.sum() == pytest.approx(1)
        for c in set(own.tolist()):
            assert found[own == c].sum() == pytest.approx(common[c] / total)
            assert np.ptp(found[own == c]) == 0


def test_equal_sets_keep_equal_weights():
    own = np.random.default_rng(0).integers(0, 7, 100)
    for weights in match_weights(own, own[::-1]):
        np.testing.assert_allclose(weights, 0.01)
        assert effective_share(weights) == pytest.approx(1)


def test_effective_share_of_known_weights():
    assert effective_share(np.array([1, 1, 0, 0])) == 0.5
    assert effective_share(np.array([3.0, 1.0])) == pytest.approx(16 / 10 / 2)


@settings(deadline=None)
@given(st.integers(0, 200))
def test_means_without_a_group_are_those_of_the_other_texts(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(30, 60, 2)
    own = [rng.integers(0, 3, n) for n in sizes]
    values = [rng.standard_normal((n, 2)) for n in sizes]
    found = matched_means(values, own, 5)
    for g in range(-1, 5):
        stay = [np.arange(n) % 5 != g for n in sizes]
        weights = match_weights(*(c[s] for c, s in zip(own, stay, strict=True)))
        for side in (0, 1):
            np.testing.assert_allclose(found[side][g + 1], weights[side] @ values[side][stay[side]])


def point(rng, n, *, length=10, novelty=0.5, copied=0.0, lift=0.0, by_length=0.0, by_novelty=0.0, copy_lift=0.0, t=0):
    """Texts whose quality depends on length, novelty and copying by known amounts; both fall along the front."""
    lengths = rng.poisson(length, n) + 3
    share = np.clip(rng.normal(novelty, 0.15, n), 0, 1)
    copies = rng.random(n) < copied
    share[copies] = 0
    quality = 0.3 * t + by_length * lengths - by_novelty * share + copy_lift * copies + 0.1 * rng.standard_normal(n)
    diversity = -0.3 * t + lift + 0.1 * rng.standard_normal(n)
    return PointTexts(quality, diversity, lengths, share, copies, NAMES[t])


def judged(rng, baseline, other, n=4000):
    sides = [[point(rng, n, t=t, **settings) for t in range(4)] for settings in (baseline, other)]
    matched = matched_fronts(*sides)
    plain = matched_fronts(
        *([p._replace(length=p.length * 0, novelty=p.novelty * 0, copied=p.copied * 0) for p in s] for s in sides)
    )
    assert matched.baseline.names == tuple(NAMES)
    assert not matched.left_out
    return tuple(compare_fronts([m.baseline], [m.other], paired=False) for m in (plain, matched))


@pytest.mark.parametrize(
    "both, own",
    [
        ({"by_length": 0.03}, {"length": 13}),
        ({"by_novelty": 0.5}, {"novelty": 0.35}),
        ({"copy_lift": 0.5}, {"copied": 0.3}),
    ],
    ids=["length", "novelty", "copies"],
)
def test_a_win_by_length_or_novelty_goes_away_and_a_genuine_one_stays(both, own):
    rng = np.random.default_rng(0)
    plain, matched = judged(rng, both, both | own)
    assert plain.dominates
    assert plain.mean_delta.mean > 0.05
    assert abs(matched.mean_delta.mean) < 0.2 * plain.mean_delta.mean
    assert not matched.dominates
    genuine = judged(rng, both, both | own | {"lift": 0.06})[1]
    assert genuine.dominates
    assert genuine.mean_delta.mean == pytest.approx(0.06, abs=0.02)


def test_matching_equal_arms_finds_no_difference():
    rng = np.random.default_rng(1)
    settings = {"by_length": 0.03, "by_novelty": 0.5, "copied": 0.1}
    wrong = 0
    for _ in range(40):
        sides = [[point(rng, 400, t=t, **settings) for t in range(4)] for _ in range(2)]
        matched = matched_fronts(*sides)
        found = compare_fronts([matched.baseline], [matched.other], paired=False, grid=11)
        wrong += found.share_dominated + found.share_worse > 0
    assert wrong <= 5  # 5 % of 40 is 2


def test_sets_with_little_in_common_are_left_out():
    rng = np.random.default_rng(0)
    base = [point(rng, 500, t=0), point(rng, 500, t=1)]
    other = [point(rng, 500, t=0, length=60), point(rng, 500, t=1)]
    matched = matched_fronts(base, other)
    assert matched.left_out == (NAMES[0],)
    assert matched.baseline.names == matched.other.names == (NAMES[1],)
    assert 0.5 < matched.effective[NAMES[1]] <= 1
    nothing = matched_fronts(base[:1], other[:1])
    assert nothing.baseline.quality.shape == (0,)


def test_both_sides_need_the_same_samplers():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="same samplers"):
        matched_fronts([point(rng, 50, t=0)], [point(rng, 50, t=1)])


def test_cells_are_common_to_both_sets_and_keep_copies_apart():
    rng = np.random.default_rng(0)
    pair = [point(rng, 600, copied=0.2), point(rng, 300, length=12, copied=0.1)]
    pair[0].novelty[:5], pair[0].copied[:5] = np.nan, False
    found = np.concatenate(match_cells(pair, length_cells=4, novelty_cells=3))
    length, novelty, copied = (
        np.concatenate([getattr(p, name) for p in pair]) for name in ("length", "novelty", "copied")
    )
    for cell in np.unique(found):
        own = found == cell
        assert len(set(copied[own])) == 1
        assert np.isnan(novelty[own]).all() or not np.isnan(novelty[own]).any()
    # the same length never falls into two ranges, and longer texts never into a lower one
    at_length = found // 5
    assert (np.diff(at_length[np.argsort(length, kind="stable")]) >= 0).all()
    for value in set(length.tolist()):
        assert len(set(at_length[length == value].tolist())) == 1
    assert at_length.max() == 3


def test_a_value_that_depends_on_the_other_texts_has_its_whole_error():
    """Mean of x_i * mean of the other x_j: a text counts once as itself and once as the others' company."""
    rng = np.random.default_rng(0)
    n, means, sds, alone = 200, [], [], []
    same = np.zeros(n)
    for _ in range(200):
        x = 1 + rng.standard_normal(n)
        own = x * (x.sum() - x) / (n - 1)
        without = []
        for g in range(GROUPS):
            stay = x[np.arange(n) % GROUPS != g]
            without.append(np.mean(stay * (stay.sum() - stay) / (len(stay) - 1)))
        texts = PointTexts(own, own, same, same, same, "a", None, np.array(without))
        front = matched_fronts([texts], [texts]).baseline
        means.append(front.diversity[0])
        sds.append(jackknife_sd(front.diversity_groups[0]))
        alone.append(jackknife_sd(front.quality_groups[0]))
    assert np.mean(means) == pytest.approx(1, abs=0.03)
    assert np.mean(sds) == pytest.approx(np.std(means), rel=0.15)
    assert np.mean(alone) < 0.85 * np.std(means)

"""Comparison of fronts: what it says of curves that are known."""

import numpy as np
import pytest

from textgan.metrics.front import Front, interpolate
from textgan.metrics.verdict import SAMPLING_ONLY, SEEDS_AND_SAMPLING, compare_fronts, compare_joint

GROUPS = 20


def without_each(values):
    """Means without each group, (P, G), of the groups' own values (P, G)."""
    return (values.sum(1, keepdims=True) - values) / (values.shape[1] - 1)


def front(quality, diversity, noise=0.001, seed=0):
    rng = np.random.default_rng(seed)
    errors = rng.standard_normal((2, len(quality), GROUPS)) * noise * np.sqrt(GROUPS)
    q, d = np.asarray(quality, dtype=float), np.asarray(diversity, dtype=float)
    return Front(
        q + errors[0].mean(1),
        d + errors[1].mean(1),
        q[:, None] + without_each(errors[0]),
        d[:, None] + without_each(errors[1]),
    )


def line(lift=0.0, start=0.0, stop=1.0, count=5, **noise):
    q = np.linspace(start, stop, count)
    return front(q, 1 - q + lift, **noise)


def test_a_lifted_curve_dominates_by_the_lift():
    found = compare_fronts([line(seed=1)], [line(0.1, seed=2)])
    assert found.dominates
    assert found.share_dominated == 1
    assert found.share_worse == 0
    np.testing.assert_allclose(found.delta, 0.1, atol=0.01)
    assert found.mean_delta.lower < 0.1 < found.mean_delta.upper
    assert found.largest_regret.value == pytest.approx(-found.delta.min())
    assert found.largest_regret.upper == pytest.approx(-found.lower.min())
    assert found.overlap == (found.grid[0], found.grid[-1]) == pytest.approx((0, 1), abs=0.01)
    assert (found.seeds, found.covers) == (1, SAMPLING_ONLY)


def test_the_other_way_round_every_sign_turns():
    fronts = [line(seed=1)], [line(0.1, seed=2)]
    there, back = compare_fronts(*fronts, reference=(0, 0)), compare_fronts(*fronts[::-1], reference=(0, 0))
    np.testing.assert_allclose(back.delta, -there.delta)
    np.testing.assert_allclose(back.lower, -there.upper)
    assert back.share_worse == 1
    assert not back.dominates
    assert back.largest_regret.value == pytest.approx(there.delta.max())
    assert back.hypervolume["difference"] == pytest.approx(-there.hypervolume["difference"])
    assert back.hypervolume["lower"] == pytest.approx(-there.hypervolume["upper"])


def test_crossing_curves_are_told_apart_place_by_place():
    q = np.linspace(0, 1, 5)
    found = compare_fronts([front(q, 1 - q)], [front(q, 0.7 - 0.4 * q, seed=1)])  # cross at 0.5
    np.testing.assert_allclose(found.delta, 0.6 * found.grid - 0.3, atol=0.01)
    assert found.share_dominated == pytest.approx(0.5, abs=0.06)
    assert found.share_worse == pytest.approx(0.5, abs=0.06)
    assert not found.dominates
    assert found.largest_regret.at == found.grid[0]
    assert found.largest_regret.value == pytest.approx(0.3, abs=0.01)


def test_seeds_are_averaged_and_counted():
    base = [line(seed=i) for i in range(4)]
    other = [line(0.1 + 0.01 * i, seed=9 + i) for i in range(4)]
    found = compare_fronts(base, other)
    assert (found.seeds, found.covers) == (4, SEEDS_AND_SAMPLING)
    np.testing.assert_allclose(found.delta, 0.115, atol=0.005)
    assert found.dominates


def test_fronts_that_do_not_meet_are_not_compared():
    found = compare_fronts([line()], [line(start=2, stop=3)])
    assert found.overlap is None
    assert len(found.grid) == 0
    assert not found.dominates
    assert found.share_dominated == 0
    assert np.isnan(found.detectable)
    assert np.isnan(found.mean_delta.mean)
    assert np.isfinite(found.hypervolume["difference"])


@pytest.mark.parametrize("turned", [False, True])
def test_a_single_point_is_read_against_the_curve_at_its_quality(turned):
    curve, point = line(seed=1), front([0.3], [0.9], seed=2)
    pair = ([point], [curve]) if turned else ([curve], [point])
    found = compare_fronts(*pair)
    assert found.grid == pytest.approx([0.3], abs=0.01)
    assert found.delta == pytest.approx([-0.2 if turned else 0.2], abs=0.01)
    # an error of the point's quality is one of the curve's height there: slope -1, so variances add
    half = (found.upper - found.lower)[0] / 2
    assert 0.001 * 1.5 * 2 < half < 0.001 * 2 * 2.09 * 1.6


def test_a_point_outside_the_curve_is_not_compared():
    assert compare_fronts([line()], [front([1.5], [0.9])]).overlap is None


def test_points_that_are_beaten_do_not_pull_a_curve_down():
    q = np.array([0, 0.25, 0.26, 0.5, 0.75, 1])
    other = front(q, 1.1 - q - 0.4 * (q == 0.26), seed=3)
    assert compare_fronts([line()], [other]).dominates


def test_the_area_is_measured_from_the_worst_of_all_fronts_or_from_the_point_given():
    base, other = line(noise=0), line(0.1, start=0.2, noise=0)
    found = compare_fronts([base], [other]).hypervolume
    assert found["reference"] == pytest.approx((0, 0))
    assert found["baseline"] == pytest.approx(0.25 * (0.75 + 0.5 + 0.25))
    assert found["other"] == pytest.approx(0.2 * 0.9 + 0.2 * (0.7 + 0.5 + 0.3 + 0.1))
    assert found["difference"] == pytest.approx(found["other"] - found["baseline"])
    moved = compare_fronts([base], [other], reference=(0, -1)).hypervolume
    assert moved["baseline"] == pytest.approx(found["baseline"] + 1)


def test_what_every_group_s_absence_moves_alike_is_no_error():
    """Self-BLEU falls with fewer texts, whichever are gone: that is no spread."""
    base, other = line(seed=1), line(0.1, seed=2)
    for paired in (True, False):
        plain, shifted = (
            compare_fronts(
                [base._replace(diversity_groups=base.diversity_groups - fall)],
                [other._replace(diversity_groups=other.diversity_groups - 2 * fall)],
                paired=paired,
            )
            for fall in (0, 0.02)
        )
        np.testing.assert_allclose(shifted.upper - shifted.lower, plain.upper - plain.lower, rtol=0.05)


def test_fronts_must_come_in_pairs_with_the_same_groups():
    with pytest.raises(ValueError, match="pairs"):
        compare_fronts([line()], [line(), line()])
    with pytest.raises(ValueError, match="pairs"):
        compare_fronts([], [])
    other = line()
    with pytest.raises(ValueError, match="groups"):
        compare_fronts([line()], [other._replace(quality_groups=np.ones((5, 3)), diversity_groups=np.ones((5, 3)))])


def test_errors_that_both_share_cancel_only_where_paired():
    q = np.linspace(0, 1, 5)
    base = line(noise=0.01, seed=1)._replace(quality=q, diversity=1 - q)
    other = Front(base.quality, base.diversity + 0.02, base.quality_groups, base.diversity_groups + 0.02)
    paired, apart = (compare_fronts([base], [other], paired=paired) for paired in (True, False))
    np.testing.assert_allclose(paired.delta, 0.02)
    assert paired.dominates
    assert not apart.dominates
    np.testing.assert_allclose(paired.upper - paired.lower, 0, atol=1e-9)


def test_the_best_of_each_arm_is_compared():
    groups = np.random.default_rng(0).standard_normal((2, 3, GROUPS)) * 0.01
    truth = np.array([[1.0, 2.0, 1.5], [2.5, 1.0, 0.0]])
    base, other = (np.vstack([t + e.mean(1), t + without_each(e).T]) for t, e in zip(truth, groups, strict=True))
    found = compare_joint([base], [other])
    assert (found.baseline_at, found.other_at) == ((1,), (0,))
    assert found.baseline == pytest.approx(base[0, 1])
    assert found.other == pytest.approx(other[0, 0])
    assert found.difference.mean == pytest.approx(other[0, 0] - base[0, 1])
    assert 0 < found.difference.lower < 0.5 < found.difference.upper < 0.6
    assert found.covers == SAMPLING_ONLY


@pytest.mark.parametrize("tried, won", [((1, 20), "other"), ((20, 1), "baseline"), ((5, 5), "both")])
@pytest.mark.parametrize("gap", [0, 0.2])
def test_trying_more_samplers_wins_nothing(tried, won, gap):
    """The best sampler of both arms is as good; more of them, as good or a little worse, make the best look better."""
    rng = np.random.default_rng(0)
    best, wins, losses = [], 0, 0
    for _ in range(300):
        arms = []
        for count in tried:
            values = rng.standard_normal((count, GROUPS))
            values[1:] -= gap
            arms.append(np.vstack([values.mean(1), without_each(values).T]))
        found = compare_joint([arms[0]], [arms[1]])
        best.append(found.difference.mean)
        wins += found.difference.lower > 0
        losses += found.difference.upper < 0
    if gap == 0 and won != "both":
        assert abs(np.mean(best)) > 0.35
    assert max(wins, losses) <= 16  # 2.5 % and three standard deviations


def test_a_better_best_is_found_among_samplers():
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(50):
        values = rng.standard_normal((2, 8, GROUPS))
        values[0, 2:] -= 1
        values[1, 3] += 1.5
        found += compare_joint(*([np.vstack([v.mean(1), without_each(v).T])] for v in values)).difference.lower > 0
    assert found >= 40


def test_what_is_guessed_between_points_widens_the_band():
    """Of a bent front only the points are known, exactly: the band leaves room between them, and none at them."""
    q = np.linspace(0, 1, 5)
    curve = front(q, 1 - q**2, noise=0)
    found = compare_fronts([curve], [curve], grid=41)
    half = (found.upper - found.lower) / 2
    np.testing.assert_allclose(half[::10], 0, atol=1e-12)
    smooth, lines = (
        interpolate(q[None], 1 - q[None] ** 2, found.grid, straight=straight)[0] for straight in (False, True)
    )
    inner, either = np.s_[10:31], np.abs(smooth - lines)
    np.testing.assert_allclose(half[inner], either[inner], atol=1e-12)  # half for either front
    np.testing.assert_allclose(np.delete(half, inner), 2 * np.delete(either, inner), atol=1e-12)
    assert either[5] > 0.001
    denser = np.linspace(0, 1, 9)
    other = compare_fronts([curve], [front(denser, 1 - denser**2, noise=0)])
    assert other.share_dominated == 0
    assert other.share_worse == 0

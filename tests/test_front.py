"""Fronts: the points that stay, lines between them, and the area below, against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textgan.metrics.front import Front, hypervolume, interpolate, overlap, pareto

scipy_interpolate = pytest.importorskip("scipy.interpolate")
points = st.lists(st.tuples(st.integers(-2, 9), st.integers(-2, 9)), min_size=1, max_size=9)


def front(pairs, groups=3, names=()):
    q, d = np.array(pairs, dtype=float).T
    shift = np.arange(groups) / 100
    return Front(q, d, q[:, None] + shift, d[:, None] - shift, names)


@settings(deadline=None)
@given(points)
def test_pareto_keeps_what_no_other_point_beats(pairs):
    kept = pareto(front(pairs))
    beaten = {a for a in pairs for b in pairs if b != a and b[0] >= a[0] and b[1] >= a[1]}
    expected = sorted(set(pairs) - beaten)
    assert list(zip(kept.quality, kept.diversity, strict=True)) == expected


def test_pareto_keeps_groups_and_names_with_their_points():
    kept = pareto(front([(3, 1), (2, 0), (1, 2), (3, 1)], names=("a", "b", "c", "d")))
    assert kept.names == ("c", "a")
    np.testing.assert_array_equal(kept.quality, [1, 3])
    np.testing.assert_allclose(kept.quality_groups, [[1, 1.01, 1.02], [3, 3.01, 3.02]])
    np.testing.assert_allclose(kept.diversity_groups, [[2, 1.99, 1.98], [1, 0.99, 0.98]])


@settings(deadline=None)
@given(points, st.tuples(st.integers(-3, 3), st.integers(-3, 3)))
def test_hypervolume_counts_the_cells_that_a_point_beats(pairs, reference):
    q, d = np.array(pairs, dtype=float).T
    cells = {
        (x, y) for a, b in pairs for x in range(reference[0], a) for y in range(reference[1], b)
    }  # unit squares between the reference and a point
    assert hypervolume(q[None], d[None], reference) == pytest.approx(len(cells))


def test_hypervolume_of_rows_is_that_of_each_row():
    rng = np.random.default_rng(0)
    q, d = rng.random((2, 5, 7))
    alone = [hypervolume(q[i : i + 1], d[i : i + 1], (0.2, 0.3))[0] for i in range(5)]
    np.testing.assert_allclose(hypervolume(q, d, (0.2, 0.3)), alone)


@settings(deadline=None)
@given(st.integers(2, 8), st.integers(0, 1000))
def test_interpolation_within_the_curve_is_that_of_scipy(count, seed):
    rng = np.random.default_rng(seed)
    q, d = rng.random((2, 3, count)) + np.array([0, 1 - seed % 3])[:, None, None] * np.arange(count) / 2
    grid = np.linspace(q.min(1), q.max(1), 11, axis=1)
    smooth, straight = interpolate(q, d, grid), interpolate(q, d, grid, straight=True)
    for row in range(3):
        order = np.argsort(q[row])
        expected = scipy_interpolate.PchipInterpolator(q[row][order], d[row][order])(grid[row])
        np.testing.assert_allclose(smooth[row], expected, atol=1e-9)
        np.testing.assert_allclose(straight[row], np.interp(grid[row], q[row][order], d[row][order]), atol=1e-9)


def test_interpolation_goes_on_straight_beyond_the_ends():
    q, d = np.array([[0.0, 1.0, 2.0]]), np.array([[0.0, 1.0, 4.0]])
    near, far = interpolate(q, d, np.array([-1e-6, 2 + 1e-6])), interpolate(q, d, np.array([-1.0, 3.0]))
    steps = (near - [[0, 4]]) / 1e-6
    np.testing.assert_allclose(far - steps, [[0, 4]], atol=1e-6)
    inside = interpolate(q, d, np.array([1e-6, 2 - 1e-6]))
    np.testing.assert_allclose(inside + steps * 1e-6, [[0, 4]], atol=1e-9)


def test_lines_stay_lines():
    q = np.array([[0.0, 0.1, 0.5, 2.0]])
    found = interpolate(q, 3 - 2 * q, grid := np.linspace(-1, 3, 17))
    np.testing.assert_allclose(found[0], 3 - 2 * grid)


def test_interpolation_takes_a_grid_for_each_curve():
    q, d = np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([[0.0, 1.0], [5.0, 3.0]])
    np.testing.assert_allclose(interpolate(q, d, np.array([[0.25], [0.5]])), [[0.25], [4]])


def test_points_of_equal_quality_give_no_infinity():
    found = interpolate(np.array([[1.0, 1.0, 1.0]]), np.array([[2.0, 3.0, 4.0]]), np.array([1.0]))
    assert 2 <= found[0, 0] <= 4


def test_overlap_is_what_all_reach():
    fronts = [front([(1, 0), (5, 0)]), front([(2, 0), (6, 0)]), front([(0, 0), (4, 0)])]
    assert overlap(fronts) == (2, 4)
    assert overlap([front([(1, 0), (2, 0)]), front([(3, 0), (4, 0)])]) is None
    assert overlap([front([(1, 0), (2, 0)]), front([(2, 0), (4, 0)])]) == (2, 2)

"""The best of several curves: what a baseline reaches with whichever family of samplers suits."""

import numpy as np
import pytest

from textgan.metrics.front import Front, envelope, interpolate

G = 5


def curve(quality, diversity, spread=0.0):
    quality, diversity = (np.asarray(values, dtype=float) for values in (quality, diversity))
    steps = spread * (np.arange(G) - (G - 1) / 2)
    return Front(quality, diversity, np.tile(quality[:, None], (1, G)), diversity[:, None] + steps)


def read(front, at):
    return interpolate(*front.replicates(), np.asarray(at, dtype=float))


def test_it_is_the_higher_curve_at_each_quality():
    a, b = curve([0, 1], [1, 0]), curve([0.2, 0.8], [0.6, 0.5])  # they cross at .56 / .88
    found = envelope([a, b])
    at = np.linspace(0, 1, 41)
    line_b = np.where((at >= 0.2) & (at <= 0.8), 0.6 - (at - 0.2) / 6, -np.inf)
    expected = np.maximum(1 - at, line_b)
    assert read(found, at)[0] == pytest.approx(expected, abs=0.02)
    at_own = found.quality
    line_b = np.where((at_own >= 0.2) & (at_own <= 0.8), 0.6 - (at_own - 0.2) / 6, -np.inf)
    assert found.diversity == pytest.approx(np.maximum(1 - at_own, line_b))


def test_noise_of_a_lower_curve_cuts_no_corners():
    # The lower curve's points are a hair better in quality, so that no single point of the higher curve beats them.
    q = np.array([0.2, 0.4, 0.6, 0.8])
    high, low = curve(q, 1 - q), curve(q + 1e-3, 0.95 - q)
    found = envelope([high, low])
    at = np.linspace(0.2, 0.8, 31)
    assert read(found, at)[0] == pytest.approx(1 - at, abs=1e-9)


def test_one_curve_is_itself_without_points_that_are_beaten():
    own = curve([0.1, 0.3, 0.5], [0.9, 0.2, 0.4])
    assert read(envelope([own]), [0.1, 0.3, 0.5])[0] == pytest.approx([0.9, 0.65, 0.4])


def test_groups_are_those_of_the_curve_that_is_highest():
    found = envelope([curve([0, 1], [1, 0], spread=0.1), curve([0, 1], [0.9, 0.5], spread=0.3)], places=2)
    assert found.quality.tolist() == [0, 1]
    assert np.ptp(found.diversity_groups, axis=1) == pytest.approx([0.4, 1.2])
    assert found.diversity_groups.mean(1) == pytest.approx(found.diversity)


def test_a_single_point_counts_where_it_is():
    found = envelope([curve([0, 1], [1, 0]), curve([0.5], [0.8])], places=3)
    assert dict(zip(found.quality, found.diversity, strict=True)) == pytest.approx({0: 1, 0.5: 0.8, 1: 0})


def test_curves_that_do_not_meet_leave_a_gap():
    found = envelope([curve([0, 0.2], [1, 0.9]), curve([0.8, 1], [0.5, 0.1])], places=11)
    assert ((found.quality <= 0.2) | (found.quality >= 0.8)).all()

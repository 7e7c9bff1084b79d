"""MAUVE: closed forms and numerical integrals beside, k-means and principal components against scikit-learn."""

import math

import numpy as np
import pytest
import scipy.integrate
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from textgan.metrics import mauve as mauve_module
from textgan.metrics.mauve import (
    frontier_integral,
    kmeans,
    mauve,
    mauve_of_histograms,
    mauve_signature,
    number_of_clusters,
    principal_components,
    quantise,
)

HISTOGRAMS = st.integers(2, 6).flatmap(
    lambda k: st.tuples(*[st.lists(st.integers(0, 9), min_size=k, max_size=k).filter(any)] * 2)
)


def shares(counts):
    return torch.tensor(counts, dtype=torch.float64) / sum(counts)


def divergence(p, r):
    return sum(a * math.log(a / b) if b else math.inf for a, b in zip(p, r, strict=True) if a)


def plain_area(p, q, c):
    """The frontier's area over its first coordinate, from many equal steps of the mixture."""
    points = []
    for t in np.linspace(0, 1, 20_001):
        r = [t * a + (1 - t) * b for a, b in zip(p, q, strict=True)]
        points.append((math.exp(-c * divergence(q, r)), math.exp(-c * divergence(p, r))))
    across, up = np.array(points).T
    return -scipy.integrate.trapezoid(up, across) + across[-1]


@settings(deadline=None, max_examples=10)
@given(HISTOGRAMS, st.sampled_from([1.0, 5.0]))
def test_area_is_that_under_the_frontier(histograms, c):
    p, q = map(shares, histograms)
    assert mauve_of_histograms(p, q, c).item() == pytest.approx(plain_area(p.tolist(), q.tolist(), c), abs=2e-4)


@pytest.mark.parametrize("c", [1, 2, 5, 7])
def test_area_where_nothing_is_shared(c):
    # The frontier is ((1 - t)^c, t^c): a beta function.
    p, q = torch.tensor([0.3, 0.7, 0, 0]), torch.tensor([0, 0, 0.5, 0.5])
    expected = math.factorial(c) ** 2 / math.factorial(2 * c)
    assert mauve_of_histograms(p, q, c).item() == pytest.approx(expected, abs=1e-5)


@settings(deadline=None)
@given(HISTOGRAMS)
def test_limits_and_symmetry(histograms):
    p, q = map(shares, histograms)
    area, frontier = mauve_of_histograms(p, q).item(), frontier_integral(p, q).item()
    assert math.factorial(5) ** 2 / math.factorial(10) - 1e-5 <= area <= 1 + 1e-9
    assert -1e-12 <= frontier <= 1 + 1e-12
    assert mauve_of_histograms(q, p).item() == pytest.approx(area, abs=1e-5)
    assert frontier_integral(q, p).item() == pytest.approx(frontier, abs=1e-12)
    assert mauve_of_histograms(p, p).item() == pytest.approx(1)
    assert frontier_integral(p, p).item() == pytest.approx(0, abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(HISTOGRAMS)
def test_frontier_integral_is_the_integral(histograms):
    p, q = map(shares, histograms)

    def height(t):
        r = (t * p + (1 - t) * q).tolist()
        return 2 * (t * divergence(p.tolist(), r) + (1 - t) * divergence(q.tolist(), r))

    expected, error = scipy.integrate.quad(height, 0, 1, limit=200)
    assert frontier_integral(p, q).item() == pytest.approx(expected, abs=10 * error + 1e-6)


def test_a_batch_of_histograms_is_each_alone():
    p = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    p, q = p / p.sum(1, keepdim=True), torch.full((4, 6), 1 / 6)
    for measure in (mauve_of_histograms, frontier_integral):
        assert measure(p, q).tolist() == pytest.approx([measure(a, b).item() for a, b in zip(p, q, strict=True)])


def blobs(n, seed, shares=(0.25, 0.25, 0.25, 0.25)):
    """Texts of four kinds far apart, so that four clusters are the kinds; and the kind of each."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.multinomial(torch.tensor(shares), n, replacement=True, generator=generator)
    centres = torch.tensor([[0.0, 0, 0], [50, 0, 0], [0, 60, 0], [40, 40, 0]])
    return centres[kind] + torch.randn(n, 3, generator=generator), kind


def test_mauve_is_that_of_the_histograms_over_the_kinds():
    x, of_x = blobs(230, 0, (0.4, 0.3, 0.2, 0.1))
    y, of_y = blobs(180, 1)
    found = mauve(x, y, clusters=4)

    def expected(kept, extra):
        p, q = (torch.bincount(of, minlength=4) + extra for of in (of_x[kept], of_y))
        return plain_area((p / p.sum()).tolist(), (q / q.sum()).tolist(), 5.0)

    everyone = torch.ones(230, dtype=torch.bool)
    assert found.mauve == pytest.approx(expected(everyone, 0), abs=1e-4)
    assert found.mauve_star == pytest.approx(expected(everyone, 0.5), abs=1e-4)
    assert found.mauve_star != pytest.approx(found.mauve, abs=1e-4)
    for g in (0, 7, 19):
        kept = torch.arange(230) % 20 != g
        assert found.groups["mauve"][g] == pytest.approx(expected(kept, 0), abs=1e-4)
        assert found.groups["mauve_star"][g] == pytest.approx(expected(kept, 0.5), abs=1e-4)
    p, q = (torch.bincount(of, minlength=4).double() for of in (of_x, of_y))
    assert found.frontier == pytest.approx(frontier_integral(p / p.sum(), q / q.sum()).item())
    assert {name: len(values) for name, values in found.groups.items()} == dict.fromkeys(
        ("mauve", "mauve_star", "frontier"), 20
    )


def test_mauve_orders_what_is_closer():
    y, _ = blobs(400, 1)
    values = [
        mauve(blobs(400, 2, p)[0], y, groups=0).mauve
        for p in [(0.25, 0.25, 0.25, 0.25), (0.4, 0.2, 0.2, 0.2), (0.9, 0.1, 0, 0)]
    ]
    assert 0.9 < values[0] <= 1
    assert values[0] > values[1] > values[2] > 0.004


def test_same_seed_same_value():
    x, y = torch.randn(2, 300, 8, generator=torch.Generator().manual_seed(0))
    assert mauve(x, y, seed=3).mauve == mauve(x, y, seed=3).mauve != mauve(x, y, seed=4).mauve
    assert mauve(x, y, seed=3, c=2).mauve > mauve(x, y, seed=3).mauve


def test_number_of_clusters_and_signature():
    assert [number_of_clusters(n, 9000) for n in (5, 1000, 4000, 9000)] == [2, 100, 400, 500]
    assert number_of_clusters(9000, 1000) == 100
    assert "clusters=100 c=5 " in mauve_signature(1000, 9000)
    assert "clusters=7 c=2 " in mauve_signature(1000, 9000, clusters=7, c=2)
    with pytest.raises(ValueError, match="11 clusters of 10 texts"):
        mauve(torch.rand(5, 2), torch.rand(5, 2), clusters=11)


def test_principal_components_are_those_of_sklearn():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 6, generator=generator, dtype=torch.float64) * torch.tensor([5, 3, 2, 1, 0.5, 0.1]) + 7
    for variance in (0.5, 0.9, 0.999):
        expected = PCA(variance, svd_solver="full").fit_transform(x.numpy())
        ours = principal_components(x, variance).numpy()
        assert np.abs(ours) == pytest.approx(np.abs(expected))
    assert not principal_components(torch.ones(5, 3), 0.9).any()


def test_kmeans_is_as_good_as_that_of_sklearn():
    x = torch.randn(600, 5, generator=torch.Generator().manual_seed(0))
    labels, centres = kmeans(x, 25)
    means = torch.stack([x[labels == k].mean(0) for k in range(25)])
    assert torch.allclose(centres, means, atol=1e-5)  # it has converged,
    nearest = torch.cdist(x, centres).argmin(1)
    assert torch.equal(labels, nearest)
    spread = float((x - centres[labels]).square().sum())
    theirs = [KMeans(25, n_init=3, random_state=seed).fit(x.numpy()).inertia_ for seed in range(5)]
    assert spread < 1.03 * np.mean(theirs)  # ... to something as good


def test_kmeans_finds_what_is_there():
    x, kind = blobs(300, 0)
    labels, _ = kmeans(x, 4)
    assert len({(int(a), int(b)) for a, b in zip(labels, kind, strict=True)}) == 4
    assert kmeans(torch.rand(9, 2), 9)[0].unique().numel() == 9
    # More clusters than different rows: some stay empty, nothing breaks.
    labels, centres = kmeans(torch.tensor([[0.0], [0], [0], [8], [8]]), 4)
    assert labels[0] == labels[1] == labels[2] != labels[3] == labels[4]
    assert bool(centres.isfinite().all())


def test_starts_lie_far_apart():
    # 99 rows at 0, one far away: k-means++ takes the far one as second centre, uniform draws almost never would.
    x = torch.zeros(100, 1)
    x[37] = 100
    for seed in range(5):
        starts = mauve_module._plus_plus(x, 2, torch.Generator().manual_seed(seed))
        assert {tuple(sorted(start.flatten().tolist())) for start in starts} == {(0.0, 100.0)}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_on_the_gpu():
    x, _ = blobs(400, 0, (0.4, 0.3, 0.2, 0.1))
    y, _ = blobs(300, 1)
    assert mauve(x.cuda(), y.cuda(), clusters=4).mauve == pytest.approx(mauve(x, y, clusters=4).mauve, abs=1e-6)
    assert quantise(x.cuda(), 4).is_cuda

"""Wide features against features listed by hand in Python; logistic regression against scikit-learn."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textgan.metrics.logistic import Features, concatenate, count_penalty, fit_logistic, wide_features
from textgan.ops.ngrams import ragged

TEXTS = [[3, 5, 3, 7], [], [5], [7, 3, 5, 3, 7, 9]]


def named_features(row, max_n=3, gaps=(2, 3), pair_span=40):
    """Return the set of features of one text, by name."""
    marked = ["<", *row, ">"]
    names = {("length", len(row))} | {("word", w) for w in row}
    for n in range(2, max_n + 1):
        names |= {(n, *marked[i : i + n]) for i in range(len(marked) - n + 1)}
    for gap in gaps:
        names |= {("gap", gap, a, b) for a, b in zip(marked, marked[gap:], strict=False)}
    places = itertools.combinations(range(len(row)), 2)
    return names | {("pair", *sorted((row[i], row[j]))) for i, j in places if j - i <= pair_span}


def columns(features):
    return [set(part.tolist()) for part in features.indices.split(features.offsets.diff().tolist())]


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.lists(st.integers(0, 6), max_size=9), min_size=1, max_size=6),
    max_n=st.integers(1, 4),
    gaps=st.sampled_from([(), (2,), (2, 3)]),
    pair_span=st.integers(0, 5),
)
def test_columns_stand_for_the_features_named_by_hand(texts, max_n, gaps, pair_span):
    features = wide_features(texts, bits=30, max_n=max_n, gaps=gaps, pair_span=pair_span)
    names = [named_features(row, max_n, gaps, pair_span) for row in texts]
    # At 30 bits no two of so few features collide, so that there is a one-to-one map between names and columns.
    assert [len(found) for found in columns(features)] == [len(given) for given in names]
    everything = set().union(*names)
    assert len(set().union(*columns(features))) == len(everything)
    holders = {frozenset(i for i, row in enumerate(names) if name in row) for name in everything}
    found = columns(features)
    assert holders == {frozenset(i for i, row in enumerate(found) if c in row) for c in set().union(*found)}
    assert (features.values == 1).all()


def test_pairs_have_no_order_and_skip_grams_have():
    pairs = wide_features([[1, 4, 2], [2, 4, 1]], bits=30, max_n=1, gaps=())
    assert columns(pairs)[0] == columns(pairs)[1]
    skips = wide_features([[1, 4, 2], [2, 4, 1]], bits=30, max_n=1, gaps=(2,), pair_span=0)
    assert columns(skips)[0] != columns(skips)[1]


def test_columns_are_ascending_and_distinct_however_many_collide():
    features = wide_features(TEXTS * 3, bits=4)
    for row in features.indices.split(features.offsets.diff().tolist()):
        assert (row.diff() > 0).all()
    assert features.dim == 16
    assert int(features.indices.max()) < 16


def test_hashes_spread_evenly():
    rng = np.random.default_rng(0)
    texts = [list(range(i, i + 12)) for i in range(0, 3000, 3)] + rng.integers(0, 3000, (1000, 12)).tolist()
    bits = 8
    wide = wide_features(texts, bits=30)
    keys = wide.indices.unique()
    counts = torch.bincount(keys >> (30 - bits), minlength=2**bits).double()
    chi2 = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
    assert abs(chi2 - 255) < 5 * (2 * 255) ** 0.5  # 5 standard deviations of a chi-square with 255 degrees


def test_a_text_has_the_same_features_alone_and_among_others(monkeypatch):
    whole = wide_features(TEXTS, bits=12)
    for i, row in enumerate(TEXTS):
        alone = wide_features([row], bits=12)
        assert alone.indices.tolist() == whole.select(torch.tensor([i])).indices.tolist()
    monkeypatch.setattr("textgan.metrics.logistic.PAIRS_AT_ONCE", 3)
    again = wide_features(ragged(TEXTS), bits=12)
    assert again.indices.tolist() == whole.indices.tolist()
    assert again.offsets.tolist() == whole.offsets.tolist()


def test_rows_are_selected_and_concatenated():
    features = wide_features(TEXTS, bits=6)
    dense = features.dense()
    assert dense.shape == (4, 64)
    assert dense.sum(1).tolist() == features.offsets.diff().tolist()
    rows = torch.tensor([3, 0, 3])
    assert torch.equal(features.select(rows).dense(), dense[rows])
    assert torch.equal(concatenate([features.select(rows), features]).dense(), torch.cat([dense[rows], dense]))


@pytest.mark.parametrize("setting, said", [({"bits": 0}, "bits=0"), ({"bits": 31}, "bits=31"), ({"max_n": 0}, "max_n")])
def test_settings_out_of_range_are_refused(setting, said):
    with pytest.raises(ValueError, match=said):
        wide_features(TEXTS, **setting)


def sparse(matrix):
    """Return a dense matrix as Features."""
    owners, indices = matrix.nonzero(as_tuple=True)
    counts = torch.bincount(owners, minlength=len(matrix))
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    return Features(indices, matrix[owners, indices], offsets, matrix.shape[1])


def problem(n=400, d=12, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * (rng.random((n, d)) < 0.6) * rng.uniform(0.2, 3, d)
    y = rng.random(n) < 1 / (1 + np.exp(-(x @ rng.normal(size=d) - 0.7)))
    return torch.from_numpy(x), torch.from_numpy(y)


@pytest.mark.parametrize("l2", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("form", [sparse, lambda x: x])
def test_fit_is_that_of_scikit_learn(l2, form):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = problem()
    theirs = linear_model.LogisticRegression(C=1 / l2, tol=1e-10, solver="newton-cholesky").fit(x.numpy(), y.numpy())
    ours = fit_logistic(form(x), y, l2, tolerance=1e-9)
    np.testing.assert_allclose(ours.weights, theirs.coef_[0], atol=1e-6)
    np.testing.assert_allclose(ours.bias, theirs.intercept_[0], atol=1e-6)
    np.testing.assert_allclose(ours.score(form(x)), theirs.decision_function(x.numpy()), atol=1e-5)
    started = fit_logistic(form(x), y, l2, tolerance=1e-9, start=fit_logistic(form(x), y, 3.0))
    np.testing.assert_allclose(started.weights, ours.weights, atol=1e-6)


@pytest.mark.parametrize("form", [sparse, lambda x: x])
def test_a_penalty_is_a_scale_of_its_feature(form):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = problem()
    penalty = torch.linspace(0.2, 9, x.shape[1], dtype=torch.float64)
    scaled = (x / penalty.sqrt()).numpy()
    theirs = linear_model.LogisticRegression(C=0.5, tol=1e-10, solver="newton-cholesky").fit(scaled, y.numpy())
    ours = fit_logistic(form(x), y, 2.0, penalty=penalty, tolerance=1e-9)
    np.testing.assert_allclose(ours.weights, theirs.coef_[0] / penalty.sqrt().numpy(), atol=1e-6)
    np.testing.assert_allclose(ours.score(form(x)), theirs.decision_function(scaled), atol=1e-5)
    start = fit_logistic(form(x), y, 3.0, penalty=penalty)
    stopped = fit_logistic(form(x), y, 3.0, penalty=penalty, start=start, max_iter=1)
    np.testing.assert_allclose(stopped.weights, start.weights, atol=1e-3)  # begins where the other ended


def test_count_penalty_is_the_root_of_the_rows_that_hold_a_feature():
    features = wide_features([[1], [1, 2], [2, 2, 2]], bits=8, max_n=1, gaps=(), pair_span=0)
    counts = features.dense().sum(0)
    assert counts.max() == 2
    assert torch.equal(count_penalty(features), counts.clamp(min=1).sqrt())


def test_wide_features_fit_as_their_dense_matrix_does():
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, 30, rng.integers(0, 9)).tolist() for _ in range(300)]
    labels = torch.tensor([sum(row) % 5 < 2 for row in texts])
    features = wide_features(texts, bits=7)
    ours = fit_logistic(features, labels, 2.0, tolerance=1e-6)
    dense = fit_logistic(features.dense().double(), labels, 2.0, tolerance=1e-9)
    np.testing.assert_allclose(ours.weights, dense.weights, atol=2e-4)
    assert ours.score(features).dtype == torch.float64


def test_no_classifier_without_two_kinds_or_a_penalty():
    x, y = problem(20)
    with pytest.raises(ValueError, match="labels are the same"):
        fit_logistic(x, torch.ones(20), 1.0)
    with pytest.raises(ValueError, match="l2=0"):
        fit_logistic(x, y, 0)
    with pytest.raises(ValueError, match="19 labels"):
        fit_logistic(x, y[:19], 1.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same():
    texts = [[i % 7, i % 5, i % 3] for i in range(60)]
    labels = torch.tensor([i % 2 for i in range(60)])
    here = wide_features(texts, bits=10)
    there = wide_features(ragged(texts, "cuda"), bits=10)
    assert torch.equal(here.indices, there.indices.cpu())
    ours, theirs = fit_logistic(here, labels, 1.0), fit_logistic(there, labels.cuda(), 1.0)
    np.testing.assert_allclose(ours.weights, theirs.weights.cpu(), atol=1e-3)

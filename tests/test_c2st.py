"""Classifier two-sample test: scikit-learn, SciPy and known distributions beside."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from textgan.metrics import c2st as c2st_module
from textgan.metrics.c2st import (
    binomial_p_value,
    c2st_embedded,
    c2st_signature,
    c2st_wide,
    wilson_interval,
    word_rows,
)


def normal(n, d, seed, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def halves(n, seed):
    """The rows of each kind's two halves, as the test draws them."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(n, generator=generator) for _ in range(2)]
    return [[sorted(order[: n // 2].tolist()), sorted(order[n // 2 :].tolist())] for order in orders]


def plain_test(x, y, l2, seed, directions):
    """Right or not and score of each tested text, with scikit-learn."""
    n = min(len(x), len(y))
    cut = halves(n, seed)
    right, aucs, scores = ({}, {}), [], {}
    for trained in directions:
        train = np.concatenate([kind[cut[i][trained]] for i, kind in enumerate((x, y))])
        labels = np.repeat([0, 1], [len(cut[0][trained]), len(cut[1][trained])])
        mean, sd = train.mean(0), train.std(0, ddof=1)
        fit = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=1000).fit((train - mean) / sd, labels)
        tested = []
        for i, kind in enumerate((x, y)):
            rows = cut[i][1 - trained]
            score = fit.decision_function((kind[rows] - mean) / sd)
            tested.append(score)
            right[i].update(zip(rows, (score > 0) == (i == 1), strict=True))
        scores.update(zip(cut[0][1 - trained], [(tested[1] > s).mean() for s in tested[0]], strict=True))
        aucs.append(roc_auc_score(np.repeat([0, 1], [len(t) for t in tested]), np.concatenate(tested)))
    return right, np.mean(aucs), scores


@pytest.mark.parametrize("directions", [(0, 1), (0,)])
def test_embedded_is_that_of_sklearn(directions):
    x, y = normal(130, 5, 0), normal(120, 5, 1, shift=0.4)
    y[:, 2] *= 30
    found = c2st_embedded(x, y, cross_fit=len(directions) == 2, seed=3)
    right, auc, above = plain_test(x.numpy(), y.numpy(), 5.0, 3, directions)
    real = np.mean(list(right[1].values()))
    assert found.accuracy == pytest.approx((np.mean(list(right[0].values())) + real) / 2)
    assert found.auc == pytest.approx(auc, abs=1e-3)
    assert found.total_variation == pytest.approx(2 * found.accuracy - 1)
    assert found.texts == 120
    for g in (0, 6, 19):
        kept = [i for i in right[0] if i % 20 != g]
        assert found.groups["accuracy"][g] == pytest.approx((np.mean([right[0][i] for i in kept]) + real) / 2)
        assert found.groups["auc"][g] == pytest.approx(np.mean([above[i] for i in kept]), abs=1e-3)
    trials = 120
    expected = scipy.stats.binomtest(math.floor(found.accuracy * trials + 1e-6), trials, alternative="greater")
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6)


def test_accuracy_of_two_normal_distributions():
    # The best rule is right with probability Phi(|shift| / 2), the best AUC is Phi(|shift| / sqrt(2)).
    d, shift = 4, 0.6
    found = c2st_embedded(normal(6000, d, 0), normal(6000, d, 1, shift=shift))
    distance = shift * math.sqrt(d)
    assert found.accuracy == pytest.approx(scipy.stats.norm.cdf(distance / 2), abs=0.015)
    assert found.auc == pytest.approx(scipy.stats.norm.cdf(distance / math.sqrt(2)), abs=0.015)
    assert found.lower < found.accuracy < found.upper
    assert found.p_value < 1e-9


@pytest.mark.parametrize("cross_fit", [True, False])
def test_size_where_nothing_differs(cross_fit):
    results = [c2st_embedded(normal(80, 3, s), normal(80, 3, 5000 + s), cross_fit=cross_fit) for s in range(200)]
    accuracies = np.array([r.accuracy for r in results])
    slack = 3.5 * math.sqrt(0.05 * 0.95 / len(results))
    assert np.mean([r.p_value <= 0.05 for r in results]) <= 0.05 + slack
    assert np.mean([r.lower <= 0.5 <= r.upper for r in results]) >= 0.95 - slack
    assert abs(accuracies.mean() - 0.5) < 4 * accuracies.std() / math.sqrt(len(results))
    assert np.mean([r.auc for r in results]) == pytest.approx(0.5, abs=0.02)


def texts(n, seed, broken=False):
    """A coloured thing that is named again in the same colour; broken: in any colour. No word or bigram tells."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        first, second = random.integers(0, 4, 2)
        rows.append(["a", f"colour{first}", "x", "y", "z", "w", "and", f"colour{second if broken else first}", "b"])
    return rows


def test_wide_finds_words_that_do_not_go_together():
    generated, real = word_rows(texts(400, 0, broken=True)), word_rows(texts(300, 1))
    found = c2st_wide(generated, real)
    # A broken text is right by chance one time in four: these cannot be told.
    assert found.accuracy == pytest.approx((1 + 0.75) / 2, abs=0.05)
    assert found.texts == 300
    assert found.p_value < 1e-9
    same = c2st_wide(word_rows(texts(300, 2)), real)
    assert same.p_value > 0.01
    assert same.lower < 0.5


def test_columns_that_training_lacks_change_nothing(monkeypatch):
    generated = word_rows(texts(40, 0, broken=True))
    real = word_rows([[*row, str(i)] for i, row in enumerate(texts(40, 1))])
    found = c2st_wide(generated, real)
    monkeypatch.setattr(c2st_module, "_compact", lambda features, seen: features)
    assert c2st_wide(generated, real)[:7] == pytest.approx(found[:7], abs=1e-3)
    assert found.auc > 0.6


def test_groups_of_the_wide_test():
    generated, real = word_rows(texts(60, 0, broken=True)), word_rows(texts(60, 1))
    found = c2st_wide(generated, real)
    assert {name: len(values) for name, values in found.groups.items()} == {"accuracy": 20, "auc": 20}
    # Linear in the texts: with groups of one size, their mean is the value.
    for name in ("accuracy", "auc"):
        assert found.groups[name].mean() == pytest.approx(getattr(found, name), abs=0.01)
    without = c2st_wide(generated, real, groups=0)
    assert len(without.groups["auc"]) == 0
    assert without[:7] == found[:7]


def test_same_seed_same_result_and_another_cut_with_another():
    generated, real = word_rows(texts(80, 0, broken=True)), word_rows(texts(80, 1))
    assert c2st_wide(generated, real, seed=1)[:7] == c2st_wide(generated, real, seed=1)[:7]
    assert c2st_wide(generated, real, seed=1).auc != c2st_wide(generated, real, seed=2).auc


def test_scores_on_the_fence_count_half():
    found = c2st_embedded(torch.ones(40, 2), torch.ones(40, 2))
    assert (found.accuracy, found.auc, found.total_variation) == (0.5, 0.5, 0.0)


def test_word_rows_do_not_depend_on_other_texts():
    rows = word_rows([["a", "b", "a"], [], ["c"]])
    assert rows.lengths.tolist() == [3, 0, 1]
    a, b, again, c = rows.tokens.tolist()
    assert a == again
    assert len({a, b, c}) == 3
    assert min(a, b, c) >= 0
    assert word_rows([["z", "b"]]).tokens[1] == b


@settings(deadline=None)
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_binomial_is_that_of_scipy(case):
    n, k = case
    assert binomial_p_value(k, n) == pytest.approx(scipy.stats.binom.sf(k - 1, n, 0.5), rel=1e-8)
    interval = scipy.stats.binomtest(k, n).proportion_ci(0.9, method="wilson")
    assert wilson_interval(k / n, n, 0.9) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_binomial_of_many():
    assert binomial_p_value(10_300, 20_000) == pytest.approx(scipy.stats.binom.sf(10_299, 20_000, 0.5), rel=1e-6)


def test_signature():
    wide, embedded = (c2st_signature(50, 90, wide=wide) for wide in (True, False))
    assert wide == "logistic regression, wide n-grams l2=60, 2 halves cross-fitted, texts=50 seed=0"
    assert embedded == wide.replace("wide n-grams l2=60", "embedding l2=size")
    assert (
        len({wide, c2st_signature(50, 90, wide=True, cross_fit=False), c2st_signature(50, 90, wide=True, seed=1)}) == 3
    )


def test_refuses():
    with pytest.raises(ValueError, match="at least 4 texts of each kind, got 3"):
        c2st_wide(word_rows(texts(3, 0)), word_rows(texts(9, 0)))
    with pytest.raises(ValueError, match="different size"):
        c2st_embedded(normal(9, 2, 0), normal(9, 3, 0))

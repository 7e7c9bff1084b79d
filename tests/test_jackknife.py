"""Leave-group-out values against scoring the rest, their spread against that of independent sets, t against scipy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import t as student_t

from textgan.errors import UserError
from textgan.metrics.bleu import self_bleu
from textgan.metrics.distinct import distinct
from textgan.metrics.jackknife import group_of_text, jackknife, jackknife_interval, jackknife_sd, t_quantile
from textgan.metrics.suite import FULL_METRICS, Scorer
from textgan.ops.ngrams import count_ngrams, ragged

REFERENCES = ["a b c d", "a a", "c", "b b b b a"]
TRAIN = ["a b", "a b c d e", "b", "d d d d"]
# One word, so that its counts and their ties matter; few words; texts of many lengths.
WORDS = st.sampled_from("a") | st.sampled_from("ab") | st.sampled_from(["a", "b", "c", "d", "e."])
SETS = st.lists(st.lists(WORDS, max_size=8).map(" ".join), min_size=4, max_size=14)


def assert_same_as_scoring_the_rest(texts, groups):
    # Without a group, a budget of tokens would be filled up with later texts: that metric has its own test.
    scorer = Scorer(REFERENCES, TRAIN, tokenize="whitespace", full=True, token_budget=10**9)
    cut = [len(text) > 9 for text in texts]
    whole = scorer.score(texts, groups=groups, truncated=cut)
    assert list(whole.groups) == list(whole.values)
    assert len(whole.values) == len(FULL_METRICS) - 4
    for g in range(groups):
        kept = [i for i in range(len(texts)) if i % groups != g]
        rest = scorer.score([texts[i] for i in kept], truncated=[cut[i] for i in kept]).values
        assert {name: values[g] for name, values in whole.groups.items()} == pytest.approx(rest, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(SETS, st.integers(2, 5))
@example(["a a a", "a a", "a a", "a", "a"], 2)
@example(["a a a", "a a a", "a", "a a"], 2)  # the largest count is in both groups, or twice in one
@example(["a a a a", "a a", "a a a", "b", "a", ""], 3)
@example(["", "", "", ""], 2)
@example(["a", "", "", "b b"], 2)
@example(["a. b", "a. a", "c c c c c", "a. b"], 2)
def test_values_without_a_group_are_those_of_the_rest(texts, groups):
    assert_same_as_scoring_the_rest(texts, min(groups, len(texts) // 2))


def test_many_groups_of_longer_texts():
    rng = np.random.default_rng(0)
    words = np.array(["a", "b", "c", "d", "e", "f", "g"])
    texts = [
        " ".join(rng.choice(words, p=2.0 ** -np.arange(7) / 1.984375, size=rng.integers(1, 30))) for _ in range(83)
    ]
    assert_same_as_scoring_the_rest(texts, 20)


def test_one_statistic_many_times_is_the_same():
    rng = np.random.default_rng(1)
    rows = [list(rng.integers(0, 6, size=rng.integers(2, 9))) for _ in range(41)]
    texts = ragged(rows)
    scores = Scorer(tokenize="whitespace").score([" ".join(map(str, row)) for row in rows], groups=20)
    value, without = jackknife(lambda some: self_bleu(some)[3], texts)
    assert value == pytest.approx(scores.values["self_bleu_3"])
    assert without.shape == (20,)
    assert without == pytest.approx(scores.groups["self_bleu_3"])
    _, without = jackknife(lambda some: distinct(list(count_ngrams(some, 2))[1]), texts, groups=7)
    assert without.shape == (7,)


def test_groups_go_round():
    assert group_of_text(7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    for n, groups in ((19, 20), (5, 1), (3, 2), (0, 2)):
        with pytest.raises(UserError, match=f"^{n} texts in {groups} groups: .* choose fewer groups$"):
            group_of_text(n, groups)
    with pytest.raises(UserError, match="3 texts in 20 groups"):
        Scorer().score(["a", "b", "c"], groups=20)


def test_sd_of_a_mean_is_the_standard_error():
    values = torch.tensor(np.random.default_rng(2).normal(size=600))
    # One text a group: the closed form sd / sqrt(n).
    _, without = jackknife(lambda some: float(some.tokens.double().mean()), ragged([[i * i] for i in range(30)]), 30)
    squares = np.arange(30.0) ** 2
    assert jackknife_sd(without) == pytest.approx(squares.std(ddof=1) / math.sqrt(30))
    group = group_of_text(600)
    means = np.array([float(values[group == g].mean()) for g in range(20)])
    without = np.array([float(values[group != g].mean()) for g in range(20)])
    assert jackknife_sd(without) == pytest.approx(means.std(ddof=1) / math.sqrt(20))


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 10, 19, 20, 101])
def test_t_quantile_is_scipys(degrees):
    for level in (0.01, 0.5, 0.9, 0.95, 0.999):
        assert t_quantile(level, degrees) == pytest.approx(student_t.ppf((1 + level) / 2, degrees), rel=1e-9)


def test_interval():
    without = np.array([0.5, 0.6, 0.4, 0.5])
    value, lower, upper = jackknife_interval(0.52, without, level=0.9)
    half = student_t.ppf(0.95, 3) * math.sqrt(3 / 4 * 0.02)
    assert (value, lower, upper) == pytest.approx((0.52, 0.52 - half, 0.52 + half))
    with pytest.raises(ValueError, match="level=1"):
        jackknife_interval(0.5, without, level=1)
    with pytest.raises(ValueError, match="degrees=0"):
        t_quantile(0.95, 0)


def markov_texts(seed, n=300, words=60):
    """Texts of 4 to 12 words of one Markov source, the same for every seed."""
    source = np.random.default_rng(99)
    next_word = np.array([source.permutation(np.arange(1, words + 1) ** -1.3) for _ in range(words)])
    below = (next_word / next_word.sum(1, keepdims=True)).cumsum(1)
    rng = np.random.default_rng(seed)
    lengths, columns = rng.integers(4, 13, size=n), [rng.integers(0, words, size=n)]
    for _ in range(11):
        columns.append((rng.random((n, 1)) < below[columns[-1]]).argmax(1))
    rows = np.stack(columns, axis=1)
    return [" ".join(f"w{word}" for word in row[:length]) for row, length in zip(rows, lengths, strict=True)]


def test_sd_is_that_over_independent_sets():
    """Where texts meet each other the jackknife errs to the safe side (Efron and Stein 1981), by up to 40 % here."""
    references = markov_texts(10**6)
    scorer = Scorer(references, tokenize="whitespace", full=True, token_budget=1500)
    sets = [scorer.score(markov_texts(seed)).values for seed in range(100)]
    jackknifed = [scorer.score(markov_texts(seed), groups=20).groups for seed in range(1000, 1012)]
    for name, least, most in (
        ("length_mean", 0.85, 1.15),
        ("bleu_4", 0.85, 1.15),
        ("entropy_2", 0.85, 1.15),
        ("zipf", 0.8, 1.2),
        ("self_bleu_3", 0.9, 1.5),
        ("self_bleu_4", 0.9, 1.5),
        ("distinct_2", 0.9, 1.4),
        ("distinct_budget_2", 0.9, 1.4),
        ("bleu_b_3", 0.9, 1.4),
        ("ms_jaccard_3", 0.9, 1.4),
    ):
        true = np.std([values[name] for values in sets], ddof=1)
        found = math.sqrt(np.mean([jackknife_sd(groups[name]) ** 2 for groups in jackknifed]))
        assert least < found / true < most, (name, found / true)


def test_intervals_cover():
    scorer = Scorer(tokenize="whitespace")
    truth = np.mean([scorer.score(markov_texts(seed)).values["self_bleu_3"] for seed in range(60)])
    covers = []
    for seed in range(1000, 1045):
        scores = scorer.score(markov_texts(seed), groups=20)
        _, lower, upper = jackknife_interval(scores.values["self_bleu_3"], scores.groups["self_bleu_3"])
        covers.append(lower <= truth <= upper)
    assert np.mean(covers) > 0.85

"""Distinct-n, entropy, repetition, novelty, copies, unique share: plain Python beside, and cases worked by hand."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textgan.metrics.distinct import distinct, repetition, unique_share
from textgan.metrics.entropy import ngram_entropy
from textgan.metrics.novelty import copies, novelty
from textgan.metrics.tokenize import TOKENIZE
from textgan.ops.ngrams import NgramLookup, count_ngrams, ngram_table, ragged

TEXTS = st.lists(st.lists(st.integers(0, 4), max_size=9), min_size=1, max_size=8)
# "a b a b" / "a b" / "" / "c": bigrams ab ba ab ab.
ROWS = [[0, 1, 0, 1], [0, 1], [], [2]]


def grams(row, n):
    return [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]


def all_orders(metric, rows):
    return [metric(counts) for counts in count_ngrams(ragged(rows), 4)]


def novelties(rows, train, max_n=4):
    lookup = NgramLookup(ngram_table(ragged(train), max_n))
    return [novelty(counts, lookup(counts)) for counts in count_ngrams(ragged(rows), max_n)]


@settings(deadline=None)
@given(TEXTS)
def test_distinct_and_entropy(rows):
    for n, (ours, entropy) in enumerate(
        zip(all_orders(distinct, rows), all_orders(ngram_entropy, rows), strict=True), 1
    ):
        counts = Counter(gram for row in rows for gram in grams(row, n))
        total = sum(counts.values())
        assert ours == pytest.approx(len(counts) / total if total else 0)
        expected = -sum(c / total * math.log(c / total) for c in counts.values())
        assert entropy == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(TEXTS)
def test_repetition(rows):
    for n, ours in enumerate(all_orders(repetition, rows), 1):
        shares = [1 - len(set(grams(row, n))) / len(grams(row, n)) for row in rows if len(row) >= n]
        assert ours == pytest.approx(sum(shares) / len(shares) if shares else 0)


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_novelty_and_copies(rows, train):
    for n, ours in enumerate(novelties(rows, train), 1):
        known = {gram for row in train for gram in grams(row, n)}
        fresh = [gram not in known for row in rows for gram in grams(row, n)]
        assert ours == pytest.approx(sum(fresh) / len(fresh) if fresh else 0)
    expected = sum(row in train for row in rows) / len(rows)
    assert copies(ragged(rows), set(ragged(train).keys())) == pytest.approx(expected)


@settings(deadline=None)
@given(TEXTS)
def test_unique_share(rows):
    assert unique_share(ragged(rows)) == len({tuple(row) for row in rows}) / len(rows)


def test_by_hand():
    assert all_orders(distinct, ROWS) == [3 / 7, 2 / 4, 2 / 2, 1 / 1]
    assert all_orders(ngram_entropy, ROWS)[1] == pytest.approx(math.log(4) - 0.75 * math.log(3))
    assert all_orders(ngram_entropy, ROWS)[2] == pytest.approx(math.log(2))
    assert all_orders(repetition, ROWS)[:2] == pytest.approx([(2 / 4 + 0 + 0) / 3, (1 / 3 + 0) / 2])
    assert unique_share(ragged([[1, 2], [1, 2], [1], []])) == 3 / 4
    # Against "b a b" (1 0 1): of ab ba ab ab only ba and the abs are known; of aba bab only bab.
    assert novelties(ROWS, [[1, 0, 1]], 3) == [1 / 7, 0, 1 / 2]
    assert copies(ragged(ROWS), set(ragged([[0, 1], [], [1, 0]]).keys())) == 2 / 4


def test_sets_without_ngrams_give_zero():
    rows = [[], []]
    for metric in (distinct, ngram_entropy, repetition):
        assert all_orders(metric, rows) == [0, 0, 0, 0]
    assert novelties(rows, [[1, 2, 3, 4]]) == [0, 0, 0, 0]
    assert novelties([[1, 2, 3, 4]], rows) == [1, 1, 1, 1]


def test_tokens():
    assert TOKENIZE["words"]("The fox, sly.") == ["The", "fox", ",", "sly", "."]
    assert TOKENIZE["words"]("小狐狸") == ["小", "狐", "狸"]
    assert TOKENIZE["whitespace"]("The fox,\u3000sly.") == ["The", "fox,", "sly."]
    assert TOKENIZE["chars"]("a \tb\u3000狐") == ["a", "b", "狐"]

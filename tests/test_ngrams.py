"""N-gram counts, tables and lookups against dictionaries of tuples."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textgan.ops.ngrams import NgramLookup, Ragged, count_ngrams, ngram_table, ragged

# Few ids, so that n-grams repeat within and between texts; one huge and one negative id.
IDS = st.sampled_from([0, 1, 2, 7, 2**40, -3])
TEXTS = st.lists(st.lists(IDS, max_size=9), min_size=1, max_size=8)


def grams(row, n):
    return [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]


def spell(orders, n):
    """The tokens of every distinct n-gram of order ``n``, worked out from the keys of the orders below."""
    counts = orders[n - 1]
    if n == 1:
        return [(key,) for key in counts.keys.tolist()]
    first, last = spell(orders, n - 1), spell(orders, 1)
    return [first[key // counts.base] + last[key % counts.base] for key in counts.keys.tolist()]


@settings(deadline=None)
@given(TEXTS)
def test_counts_are_those_of_dictionaries(rows):
    orders = list(count_ngrams(ragged(rows), 4))
    for n, counts in enumerate(orders, 1):
        names = spell(orders, n)
        assert len(set(names)) == len(names)
        got = {
            (names[gram], text): count
            for gram, text, count in zip(*(t.tolist() for t in (counts.gram, counts.text, counts.count)), strict=True)
        }
        expected = {(gram, i): c for i, row in enumerate(rows) for gram, c in Counter(grams(row, n)).items()}
        assert got == expected
        total = Counter(gram for row in rows for gram in grams(row, n))
        assert dict(zip(names, counts.occurrences().tolist(), strict=True)) == dict(total)
        assert counts.per_text(counts.count).tolist() == [max(0, len(row) - n + 1) for row in rows]


@settings(deadline=None)
@given(TEXTS)
def test_pruning_keeps_every_ngram_that_two_texts_share(rows):
    def shared(counts, names):
        texts = Counter(counts.gram.tolist())
        return {
            (names[gram], text, count)
            for gram, text, count in zip(*(t.tolist() for t in (counts.gram, counts.text, counts.count)), strict=True)
            if texts[gram] > 1
        }

    full = list(count_ngrams(ragged(rows), 4))
    pruned = list(count_ngrams(ragged(rows), 4, shared_only=True))
    for n in range(1, 5):
        assert shared(full[n - 1], spell(full, n)) == shared(pruned[n - 1], spell(pruned, n))


def test_pruning_drops_what_cannot_be_shared():
    rows = [[1, 2, 3, 4], [1, 2, 9, 4]]
    sizes = [len(counts.keys) for counts in count_ngrams(ragged(rows), 3, shared_only=True)]
    assert sizes == [5, 1, 0]  # 12 is the one bigram of shared tokens, and no trigram has two shared bigrams


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_lookup_finds_exactly_what_the_table_has(rows, others):
    table = ngram_table(ragged(others), 3)
    table_orders = list(count_ngrams(ragged(others), 3))
    orders = list(count_ngrams(ragged(rows), 3))
    lookup = NgramLookup(table)
    for n, counts in enumerate(orders, 1):
        most = Counter()
        for row in others:
            for gram, count in Counter(grams(row, n)).items():
                most[gram] = max(most[gram], count)
        known = spell(table_orders, n)
        assert {gram: int(table.most[n - 1][i]) for i, gram in enumerate(known)} == dict(most)
        for gram, i in zip(spell(orders, n), lookup(counts).tolist(), strict=True):
            assert (known[i] if i >= 0 else None) == (gram if gram in most else None)


def test_lookup_refuses_orders_out_of_turn():
    texts = ragged([[1, 2, 3]])
    lookup = NgramLookup(ngram_table(texts, 2))
    with pytest.raises(ValueError, match="order 2 after order 0"):
        lookup(list(count_ngrams(texts, 2))[1])


def test_ngrams_never_cross_from_one_text_into_the_next():
    (_, bigrams) = count_ngrams(ragged([[1, 2], [], [3], [4, 5]]), 2)
    assert len(bigrams.keys) == 2
    assert bigrams.text.tolist() == [0, 3]


@settings(deadline=None)
@given(TEXTS, st.data())
def test_select_and_keys(rows, data):
    texts = ragged(rows)
    picked = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6))
    chosen = texts.select(torch.tensor(picked, dtype=torch.long))
    assert chosen.lengths.tolist() == [len(rows[i]) for i in picked]
    assert chosen.tokens.tolist() == [token for i in picked for token in rows[i]]
    keys = texts.keys()
    assert len(keys) == len(rows)
    for a, row in zip(keys, rows, strict=True):
        for b, other in zip(keys, rows, strict=True):
            assert (a == b) == (row == other)


def test_texts_without_tokens():
    for counts in count_ngrams(Ragged(torch.empty(0, dtype=torch.long), torch.zeros(3, dtype=torch.long)), 3):
        assert len(counts.keys) == len(counts.gram) == 0
        assert counts.per_text(counts.count).tolist() == [0, 0, 0]


def test_max_n_below_one_is_refused():
    with pytest.raises(ValueError, match="max_n=0"):
        next(count_ngrams(ragged([[1]]), 0))

"""BLEU-B, MS-Jaccard, token budgets, openings, nearest training texts, Zipf, lengths: each against another way."""

import math
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from scipy.stats import wasserstein_distance

from textgan.errors import UserError
from textgan.metrics import nearest
from textgan.metrics.extended import first_tokens
from textgan.metrics.joint import ms_jaccard
from textgan.metrics.lengths import length_distance
from textgan.metrics.meanings import BETTER, MEANINGS
from textgan.metrics.openings import first_sentence
from textgan.metrics.suite import FULL_METRICS, METRICS, Scorer, better, meaning
from textgan.metrics.zipf import zipf_exponent
from textgan.ops.ngrams import ragged

WEIGHTS = [(1 / n,) * n for n in range(2, 6)]
METHOD1 = SmoothingFunction().method1
WORDS = st.sampled_from("ab") | st.sampled_from("abcde")
LINES = st.lists(st.lists(WORDS, max_size=9).map(" ".join), min_size=2, max_size=7)


def score(texts, references=None, train=None, **options):
    return Scorer(references, train, tokenize="whitespace", full=True, **options).score(texts).values


def of(values, name):
    return [values[f"{name}_{n}"] for n in range(2, 6)]


def grams(row, n):
    return [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]


@settings(deadline=None, max_examples=60)
@given(LINES, LINES)
@example(["a a a", "a"], ["a a", "b"])
@example(["", ""], ["a", ""])
def test_backward_bleu_is_nltks_bleu_of_the_references(texts, references):
    split = [text.split() for text in texts]
    rows = [sentence_bleu(split, reference.split(), WEIGHTS, METHOD1) for reference in references]
    expected = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    assert of(score(texts, references), "bleu_b") == pytest.approx(expected, abs=1e-9)


def plain_ms_jaccard(texts, references, most):
    product, means = 1.0, []
    for n in range(1, most + 1):
        ours = Counter(chain.from_iterable(grams(text.split(), n) for text in texts))
        theirs = Counter(chain.from_iterable(grams(text.split(), n) for text in references))
        shares = [(ours[g] / len(texts), theirs[g] / len(references)) for g in ours.keys() | theirs.keys()]
        above = sum(max(pair) for pair in shares)
        product *= sum(min(pair) for pair in shares) / above if above else 0
        means.append(product ** (1 / n))
    return means[1:]


@settings(deadline=None, max_examples=60)
@given(LINES, LINES)
@example(["", ""], ["", ""])
def test_ms_jaccard_is_that_of_counters(texts, references):
    expected = plain_ms_jaccard(texts, references, 5)
    assert of(score(texts, references), "ms_jaccard") == pytest.approx(expected, abs=1e-12)


def test_ms_jaccard_by_hand():
    # Unigrams a text: a 1 against 2, b 1 against 0, c 0 against 1: 1 / 4. Bigrams: ab against aa ac: nothing shared.
    values = score(["a b", "a b"], ["a a c", "a a c"])
    assert values["ms_jaccard_2"] == 0
    # Unigrams as above; of the bigrams ab is 1 a text in both, bc and bd 1 in one: 1 / 3.
    values = score(["a b c", "a b c"], ["a b d"])
    assert values["ms_jaccard_2"] == pytest.approx(math.sqrt(2 / 4 * 1 / 3))
    assert score(["a b c d e"] * 3, ["a b c d e"])["ms_jaccard_5"] == pytest.approx(1)  # counts a text, not counts
    assert ms_jaccard([0.5, 0.25, 0.5]) == pytest.approx([0.5, math.sqrt(0.125), 0.0625 ** (1 / 3)])


@settings(deadline=None, max_examples=60)
@given(LINES, st.integers(1, 40))
def test_distinct_at_a_budget_looks_at_the_first_tokens(texts, budget):
    values = score(texts, token_budget=budget)
    rows, left = [], budget
    for text in texts:
        rows.append(text.split()[:left])
        left -= len(rows[-1])
    for n in range(1, 5):
        all_grams = [gram for row in rows for gram in grams(row, n)]
        if left:
            assert f"distinct_budget_{n}" not in values
        else:
            assert values[f"distinct_budget_{n}"] == pytest.approx(len(set(all_grams)) / (len(all_grams) or 1))


def test_budget_without_a_group_keeps_the_cut():
    texts = [f"w{i % 5} w{i % 3} w{i % 7}" for i in range(12)]
    scorer = Scorer(tokenize="whitespace", full=True, token_budget=20)
    scores = scorer.score(texts, groups=3)
    cut = [*texts[:6], "w1 w0"]  # 6 * 3 + 2 tokens; text 6 is "w1 w0 w6"
    for g in range(3):
        rest = Scorer(tokenize="whitespace").score([text for i, text in enumerate(cut) if i % 3 != g])
        assert scores.groups["distinct_budget_2"][g] == pytest.approx(rest.values["distinct_2"])


def test_budget_is_half_the_tokens_of_as_many_real_texts():
    references, train = ["a b c", "a b c d e f g"], ["a"] * 3
    for scorer, expected in (
        (Scorer(references, train, full=True), 25),
        (Scorer(None, train, full=True), 5),
        (Scorer(full=True), None),
        (Scorer(references, full=True, token_budget=7), 7),
    ):
        assert scorer.signature(10)["token_budget"] == expected
    assert "token_budget" not in Scorer(references).signature(10)
    assert "distinct_budget_1" not in Scorer(full=True).score(["a b"]).values
    cut = first_tokens(ragged([[1, 2], [], [3, 4, 5], [6]]), 4)
    assert (cut.tokens.tolist(), cut.lengths.tolist()) == ([1, 2, 3, 4], [2, 0, 2, 0])


@pytest.mark.parametrize(
    "text, first",
    [
        ("The fox ran. It sat.", "The fox ran."),
        (" Mr. Fox ran! ", "Mr. Fox ran!"),
        ("no end", "no end"),
        ("", ""),
        (" \n ", ""),
        ("小狐狸跑了。它累了。", "小狐狸跑了。"),
        ("“跑吧！”它说。", "“跑吧！”"),
    ],
)
def test_first_sentences(text, first):
    assert first_sentence(text) == first


def test_openings_are_self_bleu_of_first_sentences():
    texts = ["Once there was a fox. It sat.", "Once there was a bear. It ran off.", "Rain fell. A fox sat.", ""]
    scores = Scorer(full=True, lowercase=True).score(texts, groups=2)
    openings = Scorer(lowercase=True).score(
        ["Once there was a fox.", "Once there was a bear.", "Rain fell.", ""], groups=2
    )
    for n in range(2, 6):
        assert scores.values[f"opening_self_bleu_{n}"] == pytest.approx(openings.values[f"self_bleu_{n}"])
        assert scores.groups[f"opening_self_bleu_{n}"] == pytest.approx(openings.groups[f"self_bleu_{n}"])
    assert scores.values["self_bleu_2"] != pytest.approx(openings.values["self_bleu_2"])


@settings(deadline=None, max_examples=80)
@given(LINES, LINES, st.sampled_from([1, 3, 10**6]), st.sampled_from([1, 12, 10**6]))
@example(["a b", "a b c d"], ["a b", "e a b c d"], 10**6, 10**6)
def test_nearest_training_text_by_brute_force(texts, train, pairs, cells):
    """Chunks of one text, of a few, of all; tallied by sorting and by tables."""

    def similarity(text, other):
        ours, theirs = set(grams(text.split(), 3)), set(grams(other.split(), 3))
        return len(ours & theirs) / len(ours | theirs) if ours | theirs else 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "_PAIRS", pairs)
        patch.setattr(nearest, "_CELLS", cells)
        scores = Scorer(None, train, tokenize="whitespace", full=True).score(texts, per_text=True)
    known = [text.split() for text in train]
    expected = [1 if text.split() in known else max(similarity(text, other) for other in train) for text in texts]
    assert scores.per_text["nearest_train"] == pytest.approx(expected)
    assert scores.values["nearest_train"] == pytest.approx(np.mean(expected))


def test_tallies_agree():
    values = torch.tensor([3, 1, 3, 3, 0])
    for size in (4, 1000):
        found, times = nearest._tally(values, size)
        assert (found.tolist(), times.tolist()) == ([0, 1, 3], [1, 1, 3])


def test_nearest_by_hand():
    values = score(["a b c d e f g h i j k"], train=["a b c d e X g h i j k", "x y z"])
    assert values["nearest_train"] == pytest.approx(6 / 12)  # 9 trigrams each, 3 of them hold the other word


def test_zipf_of_a_power_law_and_of_random_counts():
    ranks = torch.arange(1, 400).double()
    assert zipf_exponent((10**9 * ranks**-1.3).long()) == pytest.approx(1.3, abs=1e-4)
    counts = torch.randint(0, 50, (300,), generator=torch.Generator().manual_seed(0))
    for most in (1000, 40):
        largest = sorted((c for c in counts.tolist() if c), reverse=True)[:most]
        slope, _ = np.polyfit(np.log(np.arange(1, len(largest) + 1)), np.log(largest), 1)
        assert zipf_exponent(counts, most) == pytest.approx(-slope)
    assert zipf_exponent(torch.tensor([5])) == 0
    assert zipf_exponent(torch.tensor([3, 3, 3])) == pytest.approx(0, abs=1e-12)
    assert score(["a a a a b b c"])["zipf"] == pytest.approx(zipf_exponent(torch.tensor([4, 2, 1])))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=9), st.lists(st.integers(0, 30), min_size=1, max_size=9))
def test_length_distance_is_scipys(lengths, others):
    expected = wasserstein_distance(lengths, others)
    assert length_distance(torch.tensor(lengths), torch.tensor(others)) == pytest.approx(expected, abs=1e-12)


def test_lengths_and_truncation_in_the_suite():
    scorer = Scorer(["a b", "a b c d"], tokenize="whitespace", full=True)
    scores = scorer.score(["a b c", "a b c d e"], truncated=[False, True], per_text=True)
    assert scores.values["length_w1"] == 1
    assert scores.values["truncated"] == 0.5
    assert scores.per_text["truncated"].tolist() == [0, 1]
    assert "truncated" not in scorer.score(["a b c", "a"]).values
    for flags, full in (([True], True), ([True, False], False)):
        with pytest.raises(UserError, match="one a text, and full=True"):
            Scorer(tokenize="whitespace", full=full).score(["a", "b"], truncated=flags)


def test_names_meanings_and_what_each_needs():
    references, train = ["the fox sat .", "a bear ran ."], ["the fox sat .", "the bear sat ."]
    texts = ["the fox ran .", "the bear sat in the sun ."]
    scorer = Scorer(references, train, full=True)
    whole = scorer.score(texts, truncated=[False, False])
    assert tuple(whole.values) == FULL_METRICS
    assert FULL_METRICS[: len(METRICS)] == METRICS
    assert len(FULL_METRICS) == 45
    basic = Scorer(references, train).score(texts)
    assert basic.values == {name: whole.values[name] for name in METRICS}
    assert {k: v for k, v in whole.signature.items() if k in basic.signature} != basic.signature  # more definitions
    without = Scorer(full=True).score(texts).values
    assert set(without) - set(METRICS) == {"zipf", *(f"opening_self_bleu_{n}" for n in range(2, 6))}
    assert all(len(meaning(name)) > 10 and "{" not in meaning(name) for name in FULL_METRICS)
    with pytest.raises(KeyError, match="no_such_metric"):
        meaning("no_such_metric")
    directions = {"bleu_b_2": 1, "ms_jaccard_4": 1, "distinct_budget_2": 1, "opening_self_bleu_4": -1, "length_w1": -1}
    assert {name: better(name) for name in directions} == directions
    assert better("nearest_train") == better("zipf") == 0
    assert "nearest_train" in scorer.score(texts, per_text=True).intervals()


def test_real_values_of_what_full_adds():
    references = [f"r{i % 3} a b c{i % 4} ." for i in range(8)]
    train = [f"r{i % 2} a b c{i % 5} d ." for i in range(12)]
    scorer = Scorer(references, train, full=True, tokenize="whitespace")
    real = scorer.real(8)
    assert set(real.values) == set(FULL_METRICS) - {"truncated"}
    assert real.signature["texts"] == 8
    assert real.signature["token_budget"] == 8 * 5 // 2
    of_references = scorer.score(references).values
    assert real.values["nearest_train"] == of_references["nearest_train"]
    for name in ("distinct_budget_2", "zipf", "opening_self_bleu_3"):
        assert real.values[name] == of_references[name]
    everything = scorer.real(12)  # as many as there are training texts: these against the references
    assert everything.values["ms_jaccard_3"] == scorer.score(train).values["ms_jaccard_3"]
    assert everything.values["length_w1"] == 1
    assert everything.values["bleu_b_2"] == scorer.score(train).values["bleu_b_2"]


def test_budgets_that_cannot_be():
    for options in ({"token_budget": 0, "full": True}, {"token_budget": 5}):
        with pytest.raises(UserError, match="token_budget"):
            Scorer(**options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_values_are_the_same_on_a_gpu():
    texts = [f"w{i % 5} w{i % 3} w{i % 7}. a b w{i % 4}" for i in range(30)]
    found = []
    for device in ("cpu", "cuda"):
        scorer = Scorer(texts[:9], texts[20:], full=True, device=device)
        found.append(scorer.score(texts, groups=5, per_text=True, truncated=[False] * 30))
    here, there = found
    assert there.values == pytest.approx(here.values, abs=1e-12)
    for name, values in here.groups.items():
        assert there.groups[name] == pytest.approx(values, abs=1e-12)
    for name, values in here.per_text.items():
        assert there.per_text[name] == pytest.approx(values, abs=1e-12, nan_ok=True)


def test_every_metric_has_a_meaning_and_a_direction():
    assert MEANINGS.keys() == BETTER.keys()
    for name in ("frechet_inf_minilm", "mmd_p_hf", "c2st_auc", "rlm_kn", "lm_neural", "c2st_acc_lm", "bleu_b_5"):
        assert len(meaning(name)) > 20
        assert "{" not in meaning(name)
    assert "(MiniLM)" in meaning("frechet_minilm")
    assert "(wide n-gram classifier)" in meaning("c2st_acc")
    # Each says which way is better, in words, as the sign does.
    for name, sign in BETTER.items():
        words = {1: ("higher is", "1 =", "p-value"), -1: ("lower is",), 0: ()}[sign]
        assert not words or any(word in MEANINGS[name] for word in words) or name == "copies", name

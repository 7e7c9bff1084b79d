"""Measures of a set of texts: likelihoods and truth against values worked out apart, leave-group-out by brute force."""

import math

import numpy as np
import pytest

from textgan.analysis.measures import (
    GrammarMeasure,
    LikelihoodMeasure,
    TextSet,
    make_measures,
    measure_all,
    ratio_by_group,
    real_values,
    signature_of,
)
from textgan.metrics.jackknife import GROUPS
from textgan.metrics.suite import Scorer

N = 60


PROBS = {"heads": 0.25, "tails": 0.75}


class Coin:
    """A text is heads with probability 1/4, tails 3/4, nothing else."""

    def log_prob(self, text):
        return math.log(PROBS[text]) if text in PROBS else -math.inf

    def entropy(self):
        return -sum(p * math.log(p) for p in PROBS.values()), 0.0


def without(g):
    return np.arange(N) % GROUPS != g


def test_ratios_without_a_group_are_those_of_the_other_texts():
    rng = np.random.default_rng(0)
    above, below = rng.normal(size=N), rng.uniform(1, 2, N)
    value, groups = ratio_by_group(above, below)
    assert value == pytest.approx(above.sum() / below.sum())
    assert groups == pytest.approx([above[without(g)].sum() / below[without(g)].sum() for g in range(GROUPS)])


def test_nll_div_is_a_token():
    rng = np.random.default_rng(1)
    log_probs, tokens = -rng.uniform(5, 50, N), rng.integers(3, 30, N)
    found = LikelihoodMeasure()(TextSet(["x"] * N, log_probs, tokens))
    assert found.values == {"nll_div": pytest.approx(-log_probs.sum() / tokens.sum())}
    some = without(3)
    assert found.groups["nll_div"][3] == pytest.approx(-log_probs[some].sum() / tokens[some].sum())
    assert found.per_text["log_prob"] is log_probs
    assert LikelihoodMeasure()(TextSet(["x"] * N)).values == {}


def coin_texts(plain=True):
    """A model that writes heads 0.4, tails 0.4, and 0.2 of what cannot be; its true log-probabilities are given."""
    texts = (["heads"] * 2 + ["tails"] * 2 + ["edge"]) * (N // 5)
    log_probs = np.log([{"heads": 0.4, "tails": 0.4, "edge": 0.2}[text] for text in texts])
    return TextSet(texts, log_probs, np.full(N, 2), np.zeros(N, bool), plain)


def test_against_the_truth():
    found = GrammarMeasure(Coin())(coin_texts())
    assert found.values["valid"] == pytest.approx(0.8)
    assert found.values["nll_true"] == pytest.approx(-(math.log(0.25) + math.log(0.75)) / 2)
    # Among valid texts the model is fair: KL((1/2, 1/2) || (1/4, 3/4)).
    assert found.values["kl_from_model"] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert "nll_oracle" not in found.values
    true = found.per_text["log_prob_true"]
    assert np.isneginf(true[4])
    assert true[0] == math.log(0.25)


def test_without_a_group_the_truth_is_measured_on_the_others():
    texts = coin_texts()
    found = GrammarMeasure(Coin(), length=4)(texts)
    assert found.values["nll_oracle"] == found.values["nll_true"] / 4
    for g in (0, 7):
        some = without(g)
        own = GrammarMeasure(Coin(), length=4)(
            TextSet([t for t, s in zip(texts.texts, some, strict=True) if s], texts.log_probs[some], None, None, True)
        )
        assert set(found.groups) == set(found.values)
        for name, value in own.values.items():
            assert found.groups[name][g] == pytest.approx(value), name


def test_kl_from_model_needs_plain_samples():
    values = GrammarMeasure(Coin())(coin_texts(plain=False)).values
    assert "kl_from_model" not in values
    assert "nll_true" in values
    values = GrammarMeasure(Coin())(coin_texts()._replace(log_probs=None)).values
    assert "kl_from_model" not in values


def test_no_valid_text_leaves_only_their_share():
    found = GrammarMeasure(Coin())(TextSet(["edge"] * N, np.zeros(N), np.ones(N), None, True))
    assert found.values == {"valid": 0.0}


def test_the_truth_meets_itself():
    real = GrammarMeasure(Coin(), length=2).real(N)
    entropy = Coin().entropy()[0]
    assert real == {
        "valid": 1.0,
        "nll_true": entropy,
        "kl_from_model": 0.0,
        "kl_to_model": 0.0,
        "nll_oracle": entropy / 2,
    }


WORDS = ["the", "a", "cat", "dog", "bird", "sat", "ran", "flew", "on", "over", "mat", "tree", ".", ","]


def made_up(n, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(3, 12))) for _ in range(n)]


def test_all_measures_together():
    references, train, texts = made_up(50, 0), made_up(90, 1), made_up(N, 2)
    measures = make_measures(references, train, oracle=Coin())
    whole = TextSet(texts, -np.ones(N), np.full(N, 5), np.zeros(N, bool))
    found = measure_all(measures, whole)
    plain = Scorer(references, train).score(texts).values
    assert {name: found.values[name] for name in plain} == pytest.approx(plain)
    assert found.values["nll_div"] == pytest.approx(0.2)
    assert found.values["valid"] == 0
    assert set(plain) <= set(found.groups)
    assert all(len(values) == GROUPS for values in found.groups.values())
    assert all(len(values) == N for values in found.per_text.values())
    assert found.signature == signature_of(measures, N)
    assert {"references_sha256", "train_sha256", "nll_div", "truth"} <= set(found.signature)
    real = real_values(measures, 40)
    assert real["valid"] == 1
    assert real["bleu_4"] == Scorer(references, train).real(40).values["bleu_4"]

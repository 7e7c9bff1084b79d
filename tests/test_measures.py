"""Measures of a set of texts: likelihoods and truth against values worked out apart, leave-group-out by brute force."""

import json
import math

import numpy as np
import pytest
import torch

from textgan.analysis.all_measures import make_measures
from textgan.analysis.embedders import load_embedder
from textgan.analysis.embedding_measures import draw_real
from textgan.analysis.lm_scores import KneserNeyScorer, RealText
from textgan.analysis.measures import (
    GrammarMeasure,
    LikelihoodMeasure,
    TextSet,
    measure_all,
    ratio_by_group,
    real_values,
    signature_of,
)
from textgan.errors import UserError
from textgan.metrics.c2st import c2st_embedded, c2st_wide, word_rows
from textgan.metrics.frechet import frechet
from textgan.metrics.jackknife import GROUPS
from textgan.metrics.mauve import mauve
from textgan.metrics.mmd import mmd, mmd_p_value, mmd_reference
from textgan.metrics.suite import Scorer
from textgan.metrics.vendi import vendi

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


@pytest.fixture(scope="module")
def splits():
    return made_up(50, 0), made_up(90, 1), made_up(N, 2)


@pytest.fixture(scope="module")
def measures(splits):
    references, train, _ = splits
    return make_measures(references, train, oracle=Coin())


def test_all_measures_together(splits, measures):
    references, train, texts = splits
    cut = np.arange(N) % 3 == 0
    found = measure_all(measures, TextSet(texts, -np.ones(N), np.full(N, 5), cut))
    plain = Scorer(references, train, full=True).score(texts, truncated=cut).values
    assert {name: found.values[name] for name in plain} == pytest.approx(plain)
    assert found.values["truncated"] == pytest.approx(1 / 3)
    assert found.values["nll_div"] == pytest.approx(0.2)
    assert found.values["valid"] == 0
    assert set(plain) <= set(found.groups)
    assert set(found.values) - set(found.groups) == {"mmd_p_ngrams"}
    assert all(len(values) == GROUPS for values in found.groups.values())
    assert all(len(values) == N for values in found.per_text.values())
    assert found.signature == signature_of(measures, N)
    assert {"references_sha256", "train_sha256", "nll_div", "truth", "lm_kn", "c2st"} <= set(found.signature)
    assert json.loads(json.dumps(found.signature)) == found.signature


def test_lm_scores_are_those_of_the_scorer(splits, measures):
    references, train, texts = splits
    found = measure_all(measures, TextSet(texts)).values
    scorer = KneserNeyScorer(RealText(train, references))
    for name, value in scorer.score(texts).values.items():
        assert found[name] == value
    assert {"lm_kn", "rlm_kn"} <= set(found)


def test_embeddings_are_compared_with_held_out_text(splits, measures):
    references, train, texts = splits
    embed = load_embedder("ngrams")
    x, y = embed(texts), embed(references)
    found = measure_all(measures, TextSet(texts))
    values = found.values
    assert values["frechet_ngrams"] == pytest.approx(frechet(x, y))
    assert "frechet_inf_ngrams" not in values  # fewer texts in a part than dimensions
    assert values["mmd_ngrams"] == pytest.approx(mmd(x, y))
    assert values["mmd_p_ngrams"] == mmd_p_value(x, mmd_reference(y))
    assert values["mauve_ngrams"] == mauve(x, y).mauve
    assert values["vendi_ngrams"] == pytest.approx(vendi(x))
    assert values["c2st_acc_ngrams"] == c2st_embedded(x, y).accuracy
    left = torch.arange(N) % GROUPS != 4
    assert found.groups["frechet_ngrams"][4] == pytest.approx(frechet(x[left], y))
    assert found.groups["vendi_ngrams"][4] == pytest.approx(vendi(x[left]))
    real = measures[2].real(40)
    assert real["frechet_ngrams"] == pytest.approx(frechet(embed(draw_real(train, 40)), y))


def test_the_wide_classifier_tells_what_is_odd(splits, measures):
    references, _, texts = splits
    alike = measure_all(measures, TextSet(texts)).values
    odd = measure_all(measures, TextSet([text + " odd odd" for text in texts])).values
    assert abs(alike["c2st_acc"] - 0.5) < 0.25
    assert odd["c2st_acc"] > 0.9
    assert odd["c2st_auc"] > 0.95
    rows = [word_rows([text.split() for text in part]) for part in (texts[: len(references)], references)]
    assert alike["c2st_acc"] == c2st_wide(*rows).accuracy


def test_real_values_are_left_out_where_there_are_too_few_texts(splits, measures):
    references, train, _ = splits
    some = real_values(measures, 40)
    assert some["valid"] == 1
    expected = Scorer(references, train, full=True).real(40).values
    assert {name: some[name] for name in expected} == pytest.approx(expected)
    assert {"frechet_ngrams", "lm_kn", "rlm_kn", "c2st_acc", "vendi_ngrams"} <= set(some)
    many = real_values(measures, 5000)  # of 90 texts no mark for 5,000
    assert {"bleu_4", "copies", "length_mean", "lm_kn"} <= set(many)
    for name in ("self_bleu_4", "distinct_2", "bleu_b_4", "ms_jaccard_3", "frechet_ngrams", "vendi_ngrams", "rlm_kn"):
        assert name in some
        assert name not in many


def test_drawn_real_texts_are_different_ones(splits):
    _, train, _ = splits
    drawn = draw_real(train, 50)
    assert len(drawn) == 50
    assert not set(drawn) - set(train)
    assert sorted(draw_real(train, 1000)) == sorted(train)
    assert draw_real(train, 20) == drawn[:20]


def test_unknown_names_are_told(splits):
    references, train, _ = splits
    with pytest.raises(UserError, match="unknown embedder 'bert'"):
        make_measures(references, train, embedders=["bert"])
    with pytest.raises(UserError, match="unknown language model 'gpt'"):
        make_measures(references, train, lm=["gpt"])
    with pytest.raises(UserError, match="embedders hf:a, hf:b: the metrics of all would be called"):
        make_measures(references, train, embedders=["hf:a", "ngrams", "hf:b"])
    names = signature_of(make_measures(references, train, embedders=[], lm=[]), N)
    assert not {"lm_kn", "embedding_ngrams"} & set(names)

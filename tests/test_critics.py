"""Critics to certify: what they see, and that a wide one finds most of a divergence that is known exactly."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from textgan.analysis import critics
from textgan.analysis.critics import Pool, fit_wide, neural_scores, only, texts_that_fit, visible_tokens
from textgan.metrics.certificate import calibrate, gain, value_of
from textgan.metrics.logistic import wide_features
from textgan.models.discriminator import CNNCritic, TransformerCritic
from textgan.ops.ngrams import Ragged, ragged

V, LENGTH = 12, 8
EVERYTHING = torch.ones(V, dtype=torch.bool)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(critics, "BITS", 14)  # few features, so as to be quick
    monkeypatch.setattr(critics, "PENALTIES", (3.0, 0.3))


def rows_of(texts: Ragged):
    return [row.tolist() for row in texts.tokens.split(texts.lengths.tolist())]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=5),
    hidden=st.sets(st.integers(0, 5)),
)
def test_hidden_tokens_are_left_out_and_texts_stay(texts, hidden):
    left = only(ragged(texts), visible_tokens(6, *hidden, None))
    assert rows_of(left) == [[t for t in row if t not in hidden] for row in texts]


@pytest.mark.parametrize(
    "make", [lambda: TransformerCritic(9, 7, 1, 2, 8, dropout=0.0), lambda: CNNCritic(9, 7, 8, 2, 6, dropout=0.0)]
)
def test_neural_scores_are_those_of_each_text_alone(make):
    torch.manual_seed(0)
    critic = make().eval()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    texts = [[3, 4, 5, 0], [8], [], [1, 2, 3, 4, 5, 6, 0], [7, 7, 0]]
    alone = [critic(torch.tensor([row or [0]]), torch.tensor([max(1, len(row))])).sequence.item() for row in texts]
    for batch_size in (1, 2, 10):
        found = neural_scores(critic, ragged(texts), eos_id=0, batch_size=batch_size)
        np.testing.assert_allclose(found, alone, atol=1e-5)
    assert found.dtype == torch.float64
    assert neural_scores(critic, ragged([[], []]), eos_id=0).tolist() == pytest.approx([alone[2]] * 2, abs=1e-5)


def words(weights, n, seed):
    """Return n texts of LENGTH independent words."""
    rng = np.random.default_rng(seed)
    return ragged(rng.choice(V, p=weights, size=(n, LENGTH)).tolist())


REAL = np.arange(1, V + 1) / (V * (V + 1) / 2)
FAKE = np.ones(V) / V
DIVERGENCE = LENGTH * float((REAL * np.log(REAL / FAKE)).sum())


def certified(wide, n=10_000):
    calibration = (words(REAL, n, 1), words(FAKE, n, 2))
    value = (words(REAL, n, 3), words(FAKE, n, 4))
    f = calibrate(*map(wide, calibration))
    return gain(*(f(wide(texts)) for texts in value), resamples=200)


def test_a_wide_critic_certifies_most_of_a_known_divergence_and_no_more():
    pool = Pool(words(REAL, 5000, 5), words(FAKE, 5000, 6), EVERYTHING)
    wide = fit_wide([pool], words(REAL, 2000, 7), words(FAKE, 2000, 8), clip=5.0)
    found = certified(wide)
    assert found.value > 0.85 * DIVERGENCE
    assert found.lower < DIVERGENCE


def test_word_pairs_are_seen_wherever_they_stand():
    """Two words stand in the same text or never, each as often on both sides: no word or n-gram tells."""

    def texts(together, n, seed):
        rng = np.random.default_rng(seed)
        rows = rng.integers(2, V, (n, 20))
        places = np.array([rng.choice(20, 2, replace=False) for _ in range(n)])
        first, second = rng.random(n) < 0.5, rng.random(n) < 0.5
        second = first if together else second
        rows[first, places[first, 0]] = 0
        rows[second, places[second, 1]] = 1
        return ragged(rows.tolist())

    pool = Pool(texts(True, 4000, 0), texts(False, 4000, 1), EVERYTHING)
    held = [texts(together, 3000, seed) for seed, together in enumerate((True, False, True, False), 2)]
    wide = fit_wide([pool], *held[:2], clip=5.0)
    f = calibrate(wide(held[0]), wide(held[1]))
    # P has the pair in half of its texts and none of it in the other half, G in all four ways alike: log 2.
    assert 0.2 < value_of(f(wide(held[2])), f(wide(held[3]))) < math.log(2) + 0.05


def test_what_is_hidden_tells_nothing():
    weights = REAL.copy()
    weights[0], weights[1] = 0, weights[0] + weights[1]
    shown = weights * 0.7
    shown[0] = 0.3
    real, fake = words(shown, 3000, 0), words(weights, 3000, 1)
    held = [words(p, 3000, seed) for seed, p in enumerate((shown, weights, shown, weights), 2)]
    gains = []
    for visible in (EVERYTHING, visible_tokens(V, 0)):
        # Only the share of token 0 differs. Length is a feature, so texts are cut to three words that are left.
        sides = [_first_words(texts, visible) for texts in (real, fake, *held)]
        wide = fit_wide([Pool(*sides[:2], visible)], *sides[2:4], clip=5.0)
        f = calibrate(wide(sides[2]), wide(sides[3]))
        gains.append(value_of(f(wide(sides[4])), f(wide(sides[5]))))
    assert gains[0] > 0.5
    assert abs(gains[1]) < 0.02


def _first_words(texts, visible, n=3):
    """Cut each text behind its third visible word; those with fewer are left away."""
    rows = []
    for row in rows_of(texts):
        places = [i for i, token in enumerate(row) if visible[token]]
        if len(places) >= n:
            rows.append(row[: places[n - 1] + 1])
    return ragged(rows)


def test_several_pools_give_the_mean_of_their_scores():
    pools = [Pool(words(REAL, 300, s), words(FAKE, 300, s + 10), visible_tokens(V, s)) for s in range(2)]
    held = words(REAL, 200, 30), words(FAKE, 200, 31)
    both = fit_wide(pools, *held, clip=5.0)
    alone = [
        critics.WideCritic([model], [visible], 1.0) for model, visible in zip(both.models, both.visible, strict=True)
    ]
    texts = words(REAL, 50, 40)
    np.testing.assert_allclose(both(texts), (alone[0](texts) + alone[1](texts)) / 2, atol=1e-9)
    assert not torch.allclose(alone[0](texts), alone[1](texts))
    assert torch.equal(both.visible[1], visible_tokens(V, 1))


@pytest.mark.parametrize("penalties", [(300.0, 1.0, 0.01), (0.01, 1.0, 300.0)])
def test_the_penalty_is_chosen_by_the_gain_on_calibration_texts(monkeypatch, penalties):
    pool = Pool(words(REAL, 200, 0), words(FAKE, 200, 1), EVERYTHING)
    held = words(REAL, 500, 2), words(FAKE, 500, 3)
    gains = {}
    for l2 in penalties:
        monkeypatch.setattr(critics, "PENALTIES", (l2,))
        scores = [fit_wide([pool], *held, clip=5.0)(texts) for texts in held]
        f = calibrate(*scores)
        gains[l2] = value_of(*map(f, scores))
    monkeypatch.setattr(critics, "PENALTIES", penalties)
    assert len({round(value, 3) for value in gains.values()}) == 3
    assert fit_wide([pool], *held, clip=5.0).l2 == max(gains, key=gains.get)


def test_scores_do_not_depend_on_how_many_texts_are_read_at_once(monkeypatch):
    pool = Pool(words(REAL, 100, 0), words(FAKE, 100, 1), EVERYTHING)
    wide = fit_wide([pool], words(REAL, 50, 2), words(FAKE, 50, 3), clip=5.0)
    texts = words(REAL, 50, 4)
    whole = wide(texts)
    monkeypatch.setattr(critics, "TEXTS_AT_ONCE", 7)
    assert torch.equal(wide(texts), whole)


@pytest.mark.parametrize("length", [0, 1, 5, 39, 40, 41, 60])
def test_the_bound_on_entries_holds_and_is_close(monkeypatch, length):
    texts = [[token + 100 * i for token in range(length)] for i in range(20)]  # no feature twice in a text
    entries = [len(wide_features([row], bits=30, pair_span=critics.PAIR_SPAN).indices) for row in texts]
    monkeypatch.setattr(critics, "MOST_ENTRIES", 2 * sum(entries[:10]))
    fits = texts_that_fit(torch.tensor([length] * 20))
    assert fits <= 10
    monkeypatch.setattr(critics, "MOST_ENTRIES", 2 * sum(entries[:10]) + 2 * 10 * (length + 8))
    assert texts_that_fit(torch.tensor([length] * 20)) >= 10 or length == 0
    assert texts_that_fit(torch.tensor([10**6, 1])) == 0


def test_pairs_of_all_distances_up_to_the_span_are_counted():
    for length in (3, 40, 41, 50):
        near = sum(1 for i, j in itertools.combinations(range(length), 2) if j - i <= critics.PAIR_SPAN)
        row = [list(range(length))]
        without = len(wide_features(row, bits=30, pair_span=0).indices)
        assert len(wide_features(row, bits=30, pair_span=critics.PAIR_SPAN).indices) - without == near

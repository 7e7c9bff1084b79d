"""Neural LM scores: a source of known entropy, values word by word, and training that stops and repeats."""

import math
import random
from itertools import pairwise

import numpy as np
import pytest
import torch

from textgan.analysis.lm_scores import RealText
from textgan.analysis.neural_lm import LMShape, NeuralScorer, train_language_model
from textgan.errors import UserError
from textgan.training.evaluation import text_nll

SMALL = LMShape(
    n_layer=1,
    n_head=2,
    n_embd=16,
    dropout=0.0,
    lr=1e-2,
    warmup_steps=10,
    batch_size=32,
    block_size=40,
    min_steps=150,
    epochs=1,
)
HASTY = SMALL._replace(min_steps=20)
WORDS = ["a", "b", "c", "d", "e", "f"]


def chain(n, seed):
    """Six words in a ring: after one comes the next (probability 3/4) or the one after it, or, with 1/5, the end."""
    rng = random.Random(seed)
    texts = []
    for _ in range(n):
        at = rng.randrange(6)
        text = [WORDS[at]]
        while rng.random() > 0.2:
            at = (at + (1 if rng.random() < 0.75 else 2)) % 6
            text.append(WORDS[at])
        texts.append(" ".join(text))
    return texts


def true_nll(texts):
    """Nats a token of texts of the chain under it."""
    nats = tokens = 0
    for text in texts:
        places = [WORDS.index(word) for word in text.split()]
        steps = [(b - a) % 6 for a, b in pairwise(places)]
        nats += math.log(6) - math.log(0.2)
        nats -= sum(math.log(0.8 * (0.75 if step == 1 else 0.25)) for step in steps)
        tokens += len(places) + 1
    return nats / tokens


def train(texts, shape, seed=0):
    return train_language_model(RealText(texts, texts).train, vocab_size=8, eos_id=0, shape=shape, seed=seed)


@pytest.fixture(scope="module")
def scorer():
    return NeuralScorer(RealText(chain(800, 0), chain(300, 1)), seeds=2, shape=SMALL)


@pytest.fixture(scope="module")
def scores(scorer):
    return scorer.score(chain(500, 2), groups=5, per_text=True)


def test_both_scores_come_near_the_entropy_of_the_source(scores):
    forward, reverse = true_nll(chain(500, 2)), true_nll(chain(300, 1))
    assert forward - 0.01 < scores.values["lm_neural"] < forward + 0.06
    assert reverse - 0.01 < scores.values["rlm_neural"] < reverse + 0.08
    assert 0 < scores.values["rlm_neural_sd"] < 0.03


def test_forward_values_text_by_text(scorer, scores):
    nats, tokens = scores.per_text["lm_neural_nats"], scores.per_text["lm_neural_tokens"]
    texts = chain(500, 2)
    assert tokens.tolist() == [len(text.split()) + 1 for text in texts]
    assert scores.values["lm_neural"] == pytest.approx(nats.sum() / tokens.sum())
    row = torch.tensor([[0, *scorer.real_text.units.encode(texts[7]), 0]])
    with torch.no_grad():
        each = [
            -train(chain(800, 0), SMALL, seed).generator(row[:, :-1]).log_softmax(-1)[0].gather(1, row[0, 1:, None])
            for seed in range(2)
        ]
    assert nats[7] == pytest.approx(np.mean([values.sum().item() for values in each]), rel=1e-4)
    group = np.arange(500) % 5
    for g in range(5):
        left = nats[group != g].sum() / tokens[group != g].sum()
        assert scores.groups["lm_neural"][g] == pytest.approx(left)
    assert set(scores.groups) == {"lm_neural"}


def test_the_windows_of_a_text_count_for_it():
    real = RealText(chain(60, 0), chain(10, 1))
    scorer = NeuralScorer(real, seeds=2, shape=HASTY._replace(block_size=4))
    texts = ["a b c d e f a b c", "b", "", "c d e f", *chain(20, 3)]
    found = scorer.score(texts, per_text=True)
    assert found.per_text["lm_neural_tokens"][:4].tolist() == [10, 2, 1, 5]
    alone = [scorer._forward([real.units.encode(text)])[0].item() for text in texts]
    assert found.per_text["lm_neural_nats"] == pytest.approx(alone, rel=1e-4)
    assert min(alone) > 0


def test_reverse_score_leaves_unknown_words_out():
    """Word by word: <unk> is no target and has no probability, but stays what is read before the next word."""
    held_out = ["a zebra b", "zebra", "c"]
    scorer = NeuralScorer(RealText(chain(60, 0), held_out), seeds=2, shape=HASTY)
    units, texts = scorer.real_text.units, [*chain(40, 2), *["a unicorn b"] * 20]
    found = scorer.score(texts).values
    each = []
    for seed in range(2):
        model = train_language_model(units.rows(texts), vocab_size=units.vocab_size, eos_id=0, shape=HASTY, seed=seed)
        nats = []
        for text in held_out:
            row = [0, *units.encode(text), 0]
            with torch.no_grad():
                probs = model.generator(torch.tensor([row[:-1]]))[0].softmax(-1)
            nats += [-math.log(p[w] / (1 - p[units.unk_id])) for p, w in zip(probs, row[1:], strict=True) if w != 1]
        assert len(nats) == 3 + 1 + 2
        each.append(np.mean(nats))
    assert found["rlm_neural"] == pytest.approx(np.mean(each), rel=1e-4)
    assert found["rlm_neural_sd"] == pytest.approx(abs(each[0] - each[1]) / math.sqrt(2), rel=1e-2)


def test_training_repeats_and_leaves_the_random_state_alone():
    texts = chain(60, 0)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = train(texts, HASTY), train(texts, HASTY), train(texts, HASTY, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.nll == again.nll
    assert torch.equal(first.generator.wte.weight, again.generator.wte.weight)
    assert first.nll != other.nll
    assert not first.generator.training


def test_training_keeps_the_best_weights_and_stops(monkeypatch):
    """Forty random texts are soon learnt by heart, and the texts kept apart then get worse."""
    measured = []

    def spy(generator, dataset, **settings):
        nll = text_nll(generator, dataset, **settings)
        measured.append((dataset, (nll.sum() / dataset.lengths.sum()).item()))
        return nll

    monkeypatch.setattr("textgan.analysis.neural_lm.text_nll", spy)
    texts = [" ".join(random.Random(i).choices(WORDS, k=5)) for i in range(40)]
    model = train(texts, SMALL._replace(min_steps=2000, patience=2, ema=0.5))
    apart, values = measured[0][0], [value for _, value in measured]
    assert len(apart) == 4
    assert len(values) < 40
    best = values.index(min(values))
    assert len(values) == best + 3
    assert (model.nll, model.steps) == (values[best], 50 * (best + 1))
    now = text_nll(model.generator, apart, batch_size=4, device=torch.device("cpu"))
    assert (now.sum() / apart.lengths.sum()).item() == pytest.approx(values[best])
    assert values[-1] > values[best] + 0.01


def test_real_text(scorer):
    found = scorer.real(300)
    assert set(found.values) == {"lm_neural", "rlm_neural", "rlm_neural_sd"}
    assert found.values["lm_neural"] == pytest.approx(true_nll(chain(300, 1)), abs=0.06)
    assert set(scorer.real(10_000).values) == {"lm_neural"}
    assert found.signature["lm_neural"]["held_out_texts"] == 300


def test_signature(scorer, scores):
    signature = scores.signature["lm_neural"]
    assert signature["texts"] == 500
    assert signature["model"]["seeds"] == 2
    assert signature["model"]["n_embd"] == 16
    other = NeuralScorer(scorer.real_text, seeds=3, shape=SMALL).signature(500)["lm_neural"]
    assert {key for key in other if other[key] != signature[key]} == {"model"}


def test_refuses(scorer):
    with pytest.raises(UserError, match="19 texts are too few"):
        scorer.score(chain(19, 0))
    with pytest.raises(UserError, match="groups"):
        scorer.score(chain(20, 0), groups=30)
    with pytest.raises(ValueError, match="seeds=1"):
        NeuralScorer(scorer.real_text, seeds=1)
    with pytest.raises(UserError, match="diverged"):
        train(chain(60, 0), HASTY._replace(lr=math.inf))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    scorer = NeuralScorer(RealText(chain(800, 0), chain(300, 1)), seeds=2, shape=SMALL, device="cuda")
    values = scorer.score(chain(500, 2), groups=5, per_text=True).values
    assert values["lm_neural"] == pytest.approx(true_nll(chain(500, 2)), abs=0.06)
    assert values["rlm_neural"] == pytest.approx(true_nll(chain(300, 1)), abs=0.08)

"""SeqGAN's LSTM oracle against torch.nn.LSTM, against enumeration, and across processes."""

import itertools
import math
import random
import subprocess
import sys

import pytest
import torch

from textgan.config import Config
from textgan.data.corpus import load_corpus
from textgan.data.dataset import build_dataset
from textgan.data.lstm_oracle import load_lstm_oracle
from textgan.data.tokenizer import train_tokenizer
from textgan.errors import UserError
from textgan.models.generator import Generator
from textgan.training.evaluation import Evaluator


def test_nll_equals_torch_lstm_with_the_same_weights():
    oracle = load_lstm_oracle(7, vocab_size=50, seed=3)
    lstm = torch.nn.LSTM(32, 32, batch_first=True)
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(oracle.weight_ih)
        lstm.weight_hh_l0.copy_(oracle.weight_hh)
        lstm.bias_ih_l0.copy_(oracle.bias)
        lstm.bias_hh_l0.zero_()
        ids = torch.randint(50, (9, 7), generator=torch.Generator().manual_seed(1))
        inputs = torch.cat([torch.zeros(9, 1, dtype=torch.long), ids[:, :-1]], dim=1)
        hidden, _ = lstm(oracle.embedding[inputs])
        logits = hidden @ oracle.head_weight.T + oracle.head_bias
        expected = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids, reduction="none").mean(1)
    torch.testing.assert_close(oracle.nll(ids), expected.double(), atol=1e-5, rtol=1e-5)


def test_probabilities_sum_to_one_and_samples_follow_them():
    oracle = load_lstm_oracle(3, vocab_size=4, seed=5)
    every = torch.tensor(list(itertools.product(range(4), repeat=3)))
    probs = (-oracle.nll(every) * 3).exp()
    assert probs.sum().item() == pytest.approx(1.0, abs=1e-5)

    n = 20_000
    drawn = oracle.sample_ids(n, seed=11)
    codes = drawn @ torch.tensor([16, 4, 1])
    observed = torch.bincount(codes, minlength=64).double()
    common = probs * n >= 5
    chi2 = ((observed - probs * n) ** 2 / (probs * n))[common].sum().item()
    rest, rest_expected = observed[~common].sum().item(), (probs * n)[~common].sum().item()
    chi2 += (rest - rest_expected) ** 2 / max(rest_expected, 1e-9)
    freedom = int(common.sum())
    assert chi2 < freedom + 4 * math.sqrt(2 * freedom)

    exact = -(probs * probs.log()).sum().item()
    value, stderr = oracle.entropy()
    assert abs(value - exact) < 4 * stderr


def test_all_weights_are_standard_normal():
    oracle = load_lstm_oracle(20)
    assert oracle.embedding.shape == (5000, 32)
    assert oracle.head_weight.shape == (5000, 32)
    for weight in (oracle.embedding, oracle.weight_ih, oracle.weight_hh, oracle.head_weight, oracle.head_bias):
        count = weight.numel()
        assert abs(weight.mean().item()) < 4 / math.sqrt(count)
        assert abs(weight.var().item() - 1) < 4 * math.sqrt(2 / count)


def test_texts_and_ids_are_the_same_thing():
    oracle = load_lstm_oracle(5, vocab_size=30, seed=2)
    texts = oracle.sample_many(600, seed=4)
    ids = oracle.sample_ids(600, seed=4)
    assert [[int(word) for word in text.split()] for text in texts] == ids.tolist()
    assert oracle.log_prob(texts[0]) == pytest.approx(-5 * oracle.nll(ids[:1]).item())
    assert oracle.explain(texts[0]) is None
    assert oracle.sample(random.Random(1)) == oracle.sample(random.Random(1)) != oracle.sample(random.Random(2))
    assert oracle.sample_ids(0, seed=1).shape == (0, 5)
    assert oracle.nll(ids[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 2 3 4", "4 ids, expected 5"),
        ("1 2 3 4 5 6", "6 ids, expected 5"),
        ("", 'word 1 is ""'),
        ("1 2 x 4 5", 'word 3 is "x", expected an id from 0 to 29'),
        ("1 2 3 4 30", 'word 5 is "30"'),
        ("1 2 3 4 -1", 'word 5 is "-1"'),
        ("1 2 03 4 5", 'word 3 is "03"'),
        ("1 2  3 4 5", 'word 3 is ""'),
        ("1 2 3 4 \u0665", "word 5 is"),
    ],
)
def test_other_texts_are_outside(text, reason):
    oracle = load_lstm_oracle(5, vocab_size=30, seed=2)
    assert oracle.log_prob(text) == -math.inf
    assert reason in oracle.explain(text)


def test_another_process_draws_the_same():
    code = "from textgan.data.lstm_oracle import load_lstm_oracle as f; print(f(6, 100, 9).sample_many(3, 1))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(load_lstm_oracle(6, 100, 9).sample_many(3, 1))
    assert load_lstm_oracle(6, 100, 10).sample_many(3, 1) != load_lstm_oracle(6, 100, 9).sample_many(3, 1)


def test_senseless_sizes_are_refused():
    with pytest.raises(UserError, match="length >= 1"):
        load_lstm_oracle(0)
    with pytest.raises(ValueError, match="shape"):
        load_lstm_oracle(5, vocab_size=30, seed=2).nll(torch.zeros(2, 4, dtype=torch.long))


def test_an_evaluation_reports_nll_oracle_in_nats_a_token_of_texts_of_the_right_length():
    corpus = load_corpus("lstm-oracle", size=300, seed=5)
    config = Config(
        data={"source": "lstm-oracle", "size": 300},
        generator={"block_size": 24, "n_layer": 1, "n_head": 1, "n_embd": 4},
        mle={},
    )
    tokenizer = train_tokenizer("word", corpus.train, vocab_size=None, min_count=1, lowercase=False)
    dev, _ = build_dataset(corpus.dev, tokenizer, block_size=24, too_long="drop")
    evaluator = Evaluator(config, corpus, tokenizer, dev, None, torch.device("cpu"))
    ids = corpus.oracle.sample_ids(60, seed=9)
    texts = [" ".join(map(str, row)) for row in ids.tolist()]
    too_short, too_long = "1 2 3", " ".join(["7"] * 21)
    evaluator.sample_texts = lambda *_: [*texts, too_short, too_long]
    generator = Generator(tokenizer.vocab_size, 24, 1, 1, 4)
    values, _ = evaluator(generator, 62)
    assert values["quality/valid"] == pytest.approx(60 / 62)  # length is all that this oracle can refuse
    assert values["quality/nll_oracle"] == pytest.approx(corpus.oracle.nll(ids).mean().item())
    assert values["quality/nll_true"] == pytest.approx(20 * values["quality/nll_oracle"])
    assert values["quality/nll_oracle"] == pytest.approx(values["quality/nll_oracle_real"], abs=0.2)
    assert values["quality/nll_true_real"] == corpus.oracle.entropy()[0]

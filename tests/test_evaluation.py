"""Likelihood, calibration and the collapse alarm against independent values."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from textgan.config import Config
from textgan.data.dataset import build_dataset
from textgan.data.tokenizer import train_tokenizer
from textgan.models.generator import Generator
from textgan.ops.linear_cross_entropy import output_blocks
from textgan.training.calibrate import _nll, calibrate
from textgan.training.evaluation import Evaluator, mode_collapse, tag, text_nll

TEXTS = ["a cat sat .", "a dog sat on a mat .", "the dog ran .", "a cat saw the dog and ran ."] * 3
CPU = torch.device("cpu")


@pytest.fixture
def model():
    torch.manual_seed(0)
    tokenizer = train_tokenizer("word", TEXTS[:3], vocab_size=None, min_count=1, lowercase=False)
    dataset, _ = build_dataset(TEXTS, tokenizer, block_size=12, too_long="drop")
    generator = Generator(tokenizer.vocab_size, 12, 1, 2, 16, dropout=0.5)
    for parameter in generator.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    generator.logit_bias.normal_()
    return tokenizer, dataset, generator


def by_hand(generator, tokenizer, text):
    """Sum over the text's tokens of -log p, one full forward pass a token."""
    row = [tokenizer.eos_id, *tokenizer.encode(text), tokenizer.eos_id]
    generator.eval()
    total = 0.0
    with torch.no_grad():
        for i in range(1, len(row)):
            logits = generator(torch.tensor([row[:i]]))[0, -1].double()
            total -= F.log_softmax(logits, -1)[row[i]].item()
    return total


def test_text_nll_is_the_chain_rule(model):
    tokenizer, dataset, generator = model
    expected = [by_hand(generator, tokenizer, text) for text in TEXTS]
    for batch_size in (1, 5, 100):
        got = text_nll(generator, dataset, batch_size=batch_size, device=CPU)
        assert got.tolist() == pytest.approx(expected, rel=1e-5)


def test_likelihood_counts_tokens_and_leaves_unknown_words_to_nll_known(model):
    tokenizer, dataset, generator = model
    corpus = SimpleNamespace(train=TEXTS, dev=TEXTS, oracle=None)
    evaluator = Evaluator(Config(), corpus, tokenizer, dataset, None, CPU)
    values = evaluator.likelihood(generator, dataset)
    nll = {text: by_hand(generator, tokenizer, text) for text in TEXTS}
    tokens = {text: len(text.split()) + 1 for text in TEXTS}
    assert values["quality/nll"] == pytest.approx(sum(nll.values()) / sum(tokens.values()), rel=1e-5)
    assert values["quality/ppl"] == pytest.approx(math.exp(values["quality/nll"]))
    assert values["quality/nll_text"] == pytest.approx(sum(nll.values()) / 4, rel=1e-5)
    known = TEXTS[:3]  # "saw" and "and" of the fourth are unknown
    assert tokenizer.unk_id in tokenizer.encode(TEXTS[3])
    expected = sum(nll[t] for t in known) / sum(tokens[t] for t in known)
    assert values["quality/nll_known"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("unk_id", [None, 3])
def test_the_fit_descends_the_gradient_of_the_likelihood(unk_id):
    """Value and gradient are autograd's, over more rows than one block has."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(3000, 1000, generator=rng, dtype=torch.float64) * 2
    targets = torch.randint(5, (3000,), generator=rng)
    parameters = torch.tensor([0.3, -0.7], dtype=torch.float64, requires_grad=True)
    scaled = logits / parameters[0].exp()
    if unk_id is not None:
        scaled = scaled + parameters[1] * F.one_hot(torch.tensor(unk_id), 1000)
    expected = F.cross_entropy(scaled, targets)
    (gradient,) = torch.autograd.grad(expected, parameters)
    assert len(output_blocks(logits, logits[0])) > 1
    value, found = _nll(logits, targets, parameters.detach(), unk_id)
    assert value == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-12)


def test_calibration_finds_the_scale_and_folds_it_in(model):
    tokenizer, dataset, generator = model
    generator.eval()
    before = {t: by_hand(generator, tokenizer, t) for t in TEXTS[:4]}
    ids = dataset.batch([0, 3]).inputs
    with torch.no_grad():
        logits = generator(ids)
    fitted = calibrate(generator, dataset, unk_id=tokenizer.unk_id, device=CPU)
    bias = F.one_hot(torch.tensor(tokenizer.unk_id), tokenizer.vocab_size) * fitted["unk_bias"]
    with torch.no_grad():
        torch.testing.assert_close(generator(ids), logits / fitted["temperature"] + bias, atol=1e-4, rtol=1e-4)
    after = sum(by_hand(generator, tokenizer, t) for t in TEXTS[:4])
    assert after < sum(before.values())
    assert fitted["nll_after"] == pytest.approx(after / sum(len(t.split()) + 1 for t in TEXTS[:4]), rel=1e-4)

    def nll(temperature, extra):
        scaled = logits_of(dataset, generator) / temperature + extra * bias.sign()
        return F.cross_entropy(scaled, targets_of(dataset)).item()

    best = nll(1.0, 0.0)  # a grid around the optimum finds nothing better
    for temperature in (0.95, 1.0, 1.05):
        for extra in (-0.2, 0.0, 0.2):
            assert nll(temperature, extra) >= best - 1e-6


def test_calibration_without_an_unknown_token(model):
    _, dataset, generator = model
    bias = generator.logit_bias.clone()
    fitted = calibrate(generator, dataset, unk_id=None, device=CPU)  # a BPE vocabulary
    assert fitted["unk_bias"] == 0.0
    assert fitted["nll_after"] < fitted["nll_before"]
    torch.testing.assert_close(generator.logit_bias, bias / fitted["temperature"])


def logits_of(dataset, generator):
    batch = dataset.batch(range(len(dataset)))
    with torch.no_grad():
        return generator(batch.inputs)[batch.mask]


def targets_of(dataset):
    batch = dataset.batch(range(len(dataset)))
    return batch.targets[batch.mask]


def test_calibrating_twice_changes_nothing_more(model):
    tokenizer, dataset, generator = model
    calibrate(generator, dataset, unk_id=tokenizer.unk_id, device=CPU)
    again = calibrate(generator, dataset, unk_id=tokenizer.unk_id, device=CPU)
    assert again["temperature"] == pytest.approx(1.0, abs=0.01)
    assert again["unk_bias"] == pytest.approx(0.0, abs=0.02)


def test_calibration_leaves_unk_alone_where_dev_has_none(model):
    tokenizer, _, generator = model
    known, _ = build_dataset(TEXTS[:3], tokenizer, block_size=12, too_long="drop")
    before = generator.logit_bias.clone()
    fitted = calibrate(generator, known, unk_id=tokenizer.unk_id, device=CPU)
    assert fitted["unk_bias"] == 0.0
    torch.testing.assert_close(generator.logit_bias, before / fitted["temperature"])


def alarm(unique, unique_real, bleu, bleu_real):
    names = ("unique", "unique_real", "self_bleu_4", "self_bleu_4_real")
    values = (unique, unique_real, bleu, bleu_real)
    return mode_collapse({f"diversity/{n}": v for n, v in zip(names, values, strict=True)})


def test_the_alarm_rings_when_samples_collapse_and_not_for_healthy_ones():
    assert alarm(0.99, 1.0, 0.45, 0.43) is None
    assert alarm(1.0, 1.0, 0.2, 0.43) is None  # more diverse than real text is another matter
    assert "only 30% of the samples are unique (real text: 100%)" in alarm(0.3, 1.0, 0.4, 0.43)
    assert "self-BLEU-4 is 0.900 (real text: 0.430)" in alarm(1.0, 1.0, 0.9, 0.43)
    assert alarm(0.5, 0.55, 0.4, 0.43) is None  # the corpus itself repeats
    assert mode_collapse({"diversity/unique": 0.1, "diversity/self_bleu_4": 1.0}) is None  # nothing to compare


def test_samples_never_hold_unk(model):
    tokenizer, dataset, generator = model
    generator.logit_bias[tokenizer.unk_id] = 30.0  # would be chosen each time
    corpus = SimpleNamespace(train=TEXTS, dev=TEXTS, oracle=None)
    evaluator = Evaluator(Config(evaluation={"prompts": ["a cat"]}), corpus, tokenizer, dataset, None, CPU)
    texts = evaluator.sample_texts(generator, 20) + evaluator.continue_prompts(generator)
    assert not any("<unk>" in text for text in texts)
    assert len(set(texts)) > 10


def test_tags_tell_quality_from_diversity():
    assert tag("bleu_4") == "quality/bleu_4"
    assert tag("self_bleu_4") == "diversity/self_bleu_4"
    assert tag("distinct_2") == "diversity/distinct_2"


def test_values_of_real_text_stand_at_the_same_number_or_not_at_all(model):
    tokenizer, dataset, generator = model
    corpus = SimpleNamespace(train=TEXTS, dev=TEXTS[:4], oracle=None)
    evaluator = Evaluator(Config(), corpus, tokenizer, dataset, None, CPU)
    values, texts = evaluator(generator, 10)
    assert len(texts) == 10
    assert "diversity/self_bleu_4_real" in values
    values, _ = evaluator(generator, 13)  # one more than there are real texts
    assert "diversity/self_bleu_4_real" not in values
    assert "quality/bleu_4_real" in values

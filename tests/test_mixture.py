"""N-gram models and mixtures as generators: against the definitions, word by word, and against each other."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textgan.analysis.ngram_arms import kneser_ney_arm, mixture_arm, texts_of, token_log_probs
from textgan.data.dataset import build_dataset
from textgan.data.tokenizer import train_tokenizer
from textgan.models.generator import Generator
from textgan.models.kneser_ney import fit_kneser_ney
from textgan.ops.logits import inverse_cdf, warpers
from textgan.ops.ngrams import ragged
from textgan.sampling.decode import generate, row_uniforms
from textgan.sampling.mixture import Mixture, NgramGenerator, fit_weight, mix
from textgan.training.evaluation import text_nll

V, EOS = 9, 3
CPU = torch.device("cpu")


def ngram_model(order=3, device="cpu"):
    rng = random.Random(0)
    words = [w for w in range(V) if w != EOS]
    rows = [[rng.choice(words[: 2 + i % 7]) for _ in range(rng.randint(1, 7))] for i in range(80)]
    return fit_kneser_ney(ragged(rows, device), order=order, vocab_size=V, eos_id=EOS)


def neural_model(block_size=12, seed=0):
    torch.manual_seed(seed)
    generator = Generator(V, block_size, n_layer=2, n_head=2, n_embd=16)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return generator.double().eval()


def models():
    generator, ngrams = neural_model(), ngram_model()
    return {"ngrams": NgramGenerator(ngrams, 12), "mixture": Mixture(generator, ngrams, 0.3)}


def probabilities(name, row):
    """(V,) after this row (opening included), by definition."""
    generator, ngrams = neural_model(), ngram_model()
    known = ngrams.next_probs(torch.tensor([row]))[0]
    if name == "ngrams":
        return known
    with torch.no_grad():
        return 0.7 * generator(torch.tensor([row]))[0, -1].softmax(-1) + 0.3 * known


@pytest.mark.parametrize("name", ["ngrams", "mixture"])
def test_log_probabilities_of_all_columns(name):
    ids = torch.tensor([[EOS, 1, 2, 0, 5], [EOS, 8, EOS, EOS, EOS]])
    with torch.no_grad():
        got = models()[name](ids)
        some = models()[name](ids, at=ids > 1)
    assert torch.equal(some, got[ids > 1])
    assert got.shape == (2, 5, V)
    for row, t in ((0, 0), (0, 3), (0, 4), (1, 0), (1, 1)):
        expected = probabilities(name, ids[row, : t + 1].tolist())
        torch.testing.assert_close(got[row, t].exp(), expected.to(got.dtype))


@pytest.mark.parametrize("name", ["ngrams", "mixture"])
@pytest.mark.parametrize("warp", [{"temperature": 1.0}, {"temperature": 0.7, "top_k": 4}, {"top_p": 0.8}])
def test_texts_are_drawn_from_the_definition(name, warp):
    """Token by token with the same random numbers, up to the most that the model reads; prompts of several lengths."""
    prompts = [[], [1, 2, 4], [0], [5, 5, 1, 2, 0, 1, 1]]
    samples = generate(models()[name], prompts, eos_id=EOS, seed=5, banned_ids=[0], **warp)
    settings = {"temperature": 1.0, **warp}
    for i, (prompt, sample) in enumerate(zip(prompts, samples, strict=True)):
        uniforms = torch.from_numpy(row_uniforms(5, i, 1, 12))[0]
        ids, log_prob = [], 0.0
        while len(ids) < 12 - len(prompt) and EOS not in ids:
            logits = probabilities(name, [EOS, *prompt, *ids]).log()
            allowed = logits.clone()
            allowed[0] = -torch.inf
            token = inverse_cdf(warpers(allowed[None], **settings), uniforms[len(ids)][None])[0].item()
            log_prob += logits[token].item()
            ids.append(token)
        assert sample.ids == ids
        assert sample.log_prob == pytest.approx(log_prob, rel=1e-5)
    assert {sample.finish_reason for sample in samples} <= {"eos", "length"}


def test_some_texts_reach_the_limit():
    samples = generate(models()["ngrams"], [[]] * 40, eos_id=EOS, max_new_tokens=4)
    assert {(len(s.ids), s.finish_reason) for s in samples} >= {(4, "length")}
    assert any(s.finish_reason == "eos" for s in samples)


def test_a_text_does_not_depend_on_its_batch():
    for model in models().values():
        prompts = [[], [1, 2], [5]] * 6
        whole = generate(model, prompts, eos_id=EOS, seed=1)
        parts = generate(model, prompts, eos_id=EOS, seed=1, batch_size=4)
        assert [s.ids for s in whole] == [s.ids for s in parts]


@pytest.mark.parametrize("settings", [{"seed": 2}, {"temperature": 0}, {"num_beams": 3}])
def test_weights_of_nothing_and_all(settings):
    generator, ngrams = neural_model(), ngram_model()
    prompts = [[], [1, 2, 4], [8]] * 3
    for weight, alone in ((0.0, generator), (1.0, NgramGenerator(ngrams, 12))):
        mixed = generate(Mixture(generator, ngrams, weight), prompts, eos_id=EOS, **settings)
        expected = generate(alone, prompts, eos_id=EOS, **settings)
        assert [s.ids for s in mixed] == [s.ids for s in expected]
        assert [s.log_prob for s in mixed] == pytest.approx([s.log_prob for s in expected], rel=1e-5)


def test_beam_search_sees_the_mixture():
    (found,) = generate(models()["mixture"], [[1]], eos_id=EOS, num_beams=4)
    row, total = [EOS, 1], 0.0
    for token in found.ids:
        total += probabilities("mixture", row)[token].log().item()
        row.append(token)
    assert found.log_prob == pytest.approx(total)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)), min_size=1, max_size=12))
def test_fitted_weight_is_the_best(pairs):
    log_p, log_q = torch.tensor(pairs, dtype=torch.float64).log().unbind(1)
    best = mix(log_p, log_q, fit_weight(log_p, log_q)).sum()
    others = torch.stack([mix(log_p, log_q, i / 200).sum() for i in range(201)])
    assert best >= others.max() - 1e-9


def test_fitted_weight_at_the_ends_and_between():
    log_p, log_q = torch.tensor([0.2, 0.4]).log(), torch.tensor([0.4, 0.2]).log()
    assert fit_weight(log_p, log_p + 1) == 1.0
    assert fit_weight(log_p + 1, log_p) == 0.0
    assert fit_weight(log_p, log_p) == 0.0
    assert fit_weight(log_p, log_q) == pytest.approx(0.5, abs=1e-7)
    # (1 - w) .2 + w .4 twice and (1 - w) .4 + w .2 once: the slope 2 / (1 + w) - 1 / (2 - w) is zero at w = 1
    assert fit_weight(torch.tensor([0.2, 0.2, 0.4]).log(), torch.tensor([0.4, 0.4, 0.2]).log()) == pytest.approx(1)


def test_mix():
    log_p, log_q = torch.tensor([0.2, 0.9]).log(), torch.tensor([0.6, 0.1]).log()
    torch.testing.assert_close(mix(log_p, log_q, 0.25).exp(), torch.tensor([0.3, 0.7]))
    assert mix(log_p, log_q, 0) is log_p
    assert mix(log_p, log_q, 1) is log_q


def test_refuses():
    generator = Generator(V + 1, 12, n_layer=1, n_head=1, n_embd=8)
    with pytest.raises(ValueError, match=r"10 and 9 ids"):
        Mixture(generator, ngram_model(), 0.1)
    with pytest.raises(ValueError, match=r"weight=1.5"):
        Mixture(neural_model(), ngram_model(), 1.5)


WORDS = ["a", "man", "rides", "the", "red", "bike", "and", "a", "dog", "sees", "it", "near", "old", "trees"]


def texts(n, seed):
    rng = random.Random(seed)
    return [" ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 9))) for _ in range(n)]


@pytest.mark.parametrize("too_long", ["drop", "window"])
def test_texts_of_a_data_set(too_long):
    tokenizer = train_tokenizer("word", texts(50, 0))
    dataset, _ = build_dataset(texts(50, 0), tokenizer, block_size=5, too_long=too_long)
    rows = [tokenizer.encode(text) for text in texts(50, 0)]
    kept = [row for row in rows if too_long == "window" or len(row) < 5]
    got = texts_of(dataset)
    assert got.tokens.tolist() == [token for row in kept for token in row]
    assert got.lengths.tolist() == [len(row) for row in kept]


def test_arms():
    """Likelihoods are those that evaluation measures of the same models, and the weight is the best of a grid."""
    tokenizer = train_tokenizer("word", texts(200, 0))
    train, held_out = (
        build_dataset(texts(n, seed), tokenizer, block_size=6, too_long="window")[0] for n, seed in ((200, 0), (60, 1))
    )
    torch.manual_seed(0)
    generator = Generator(tokenizer.vocab_size, 6, n_layer=1, n_head=2, n_embd=16).train()
    alone = kneser_ney_arm(train, vocab_size=tokenizer.vocab_size, block_size=6)
    assert alone.ngrams.order == 4
    assert alone.block_size == 6
    fitted = mixture_arm(generator, alone.ngrams, held_out)
    assert generator.training

    def nll(model):
        return (text_nll(model, held_out, batch_size=7, device=CPU).sum() / held_out.lengths.sum()).item()

    assert fitted.nll_ngrams == pytest.approx(nll(alone), rel=1e-5)
    assert fitted.nll_generator == pytest.approx(nll(generator), rel=1e-5)
    assert fitted.nll_mixture == pytest.approx(nll(fitted.mixture), rel=1e-5)
    grid = [nll(Mixture(generator, alone.ngrams, i / 20)) for i in range(21)]
    assert fitted.nll_mixture <= min(grid) + 1e-6
    assert 0 < fitted.mixture.weight < 1
    expected = fit_kneser_ney(
        ragged([tokenizer.encode(text) for text in texts(200, 0)]),
        order=4,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
    )
    probe = torch.tensor([[0, 3, 4]])
    torch.testing.assert_close(alone.ngrams.next_probs(probe), expected.next_probs(probe))


def test_likelihoods_are_asked_in_small_batches(monkeypatch):
    tokenizer = train_tokenizer("word", texts(200, 0))
    held_out, _ = build_dataset(texts(40, 1), tokenizer, block_size=12, too_long="drop")
    generator = Generator(tokenizer.vocab_size, 12, n_layer=1, n_head=2, n_embd=16)
    ngrams = kneser_ney_arm(held_out, vocab_size=tokenizer.vocab_size, block_size=12).ngrams
    whole = token_log_probs(generator, ngrams, held_out)
    monkeypatch.setattr("textgan.analysis.ngram_arms.MAX_LOGITS", 1)
    for one_by_one, together in zip(token_log_probs(generator, ngrams, held_out), whole, strict=True):
        torch.testing.assert_close(one_by_one, together, rtol=1e-5, atol=1e-6)
        assert math.isfinite(together.sum())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same():
    generator, ngrams = neural_model(), ngram_model()
    here = [generate(m, [[], [1, 2]] * 20, eos_id=EOS) for m in (Mixture(generator, ngrams, 0.3), models()["ngrams"])]
    there = [Mixture(neural_model().cuda(), ngrams, 0.3), NgramGenerator(ngrams.to("cuda"), 12)]
    for ours, model in zip(here, there, strict=True):
        assert [s.ids for s in generate(model, [[], [1, 2]] * 20, eos_id=EOS)] == [s.ids for s in ours]

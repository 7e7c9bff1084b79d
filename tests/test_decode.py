"""Decoding against Hugging Face's on copied weights, exact probabilities, and itself in other batches."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from textgan.errors import UserError
from textgan.models.generator import Generator
from textgan.sampling.decode import generate, row_uniforms, rows_that_fit

EOS, V, BLOCK = 0, 11, 20
PROMPTS = [[], [3, 4, 5], [7], [1] * 12, [2, 9, 2, 9, 2], [10] * 19]


@pytest.fixture(scope="module")
def models():
    """A random GPT-2 and our generator with the same weights, both float64, far from uniform."""
    torch.manual_seed(8)
    config = GPT2Config(
        vocab_size=V, n_positions=BLOCK, n_embd=12, n_layer=2, n_head=2, bos_token_id=EOS, eos_token_id=EOS
    )
    theirs = GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    ours = Generator(V, BLOCK, 2, 2, 12).double()
    state = ours.state_dict()
    with torch.no_grad():
        for name, value in theirs.transformer.state_dict().items():
            transposed = value.T if value.dim() == 2 and not name.startswith("w") else value
            state[name].copy_(transposed)
    return theirs, ours


def hugging_face(model, prompt, limit=BLOCK, **settings):
    """What ``generate`` writes after the opening token and the prompt."""
    ids = torch.tensor([[EOS, *prompt]])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        eos_token_id=EOS,
        pad_token_id=EOS,
        max_length=min(BLOCK, len(prompt) + limit) + 1,
        **settings,
    )[0, ids.size(1) :].tolist()
    return out[: out.index(EOS) + 1] if EOS in out else out


def exact_log_prob(model, prompt, ids):
    """Nats of ``ids`` after the prompt, from one uncached pass over the whole text."""
    row = torch.tensor([[EOS, *prompt, *ids]])
    with torch.no_grad():
        log_probs = model(row[:, :-1]).logits[0].log_softmax(-1)
    return sum(float(log_probs[len(prompt) + i, token]) for i, token in enumerate(ids))


PENALTIES = [{}, {"repetition_penalty": 1.4}, {"no_repeat_ngram_size": 2}, {"repetition_penalty": 0.8}]


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("num_beams", [1, 2, 4])
def test_greedy_and_beams_equal_hugging_face(models, num_beams, penalty):
    theirs, ours = models
    way = {"num_beams": num_beams} if num_beams > 1 else {"temperature": 0}
    samples = generate(ours, PROMPTS, eos_id=EOS, **way, **penalty)
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        assert sample.ids == hugging_face(theirs, prompt, num_beams=num_beams, **penalty)
        assert sample.prompt_ids == prompt
        assert sample.log_prob == pytest.approx(exact_log_prob(theirs, prompt, sample.ids), abs=1e-9)
        assert sample.finish_reason == ("eos" if sample.ids[-1] == EOS else "length")


def test_beams_equal_hugging_face_on_many_prompts(models):
    theirs, ours = models
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, V, rng.integers(0, 6)).tolist() for _ in range(25)]
    for limit in (4, BLOCK):
        samples = generate(ours, prompts, eos_id=EOS, num_beams=3, batch_size=12, max_new_tokens=limit)
        assert [s.ids for s in samples] == [hugging_face(theirs, p, limit, num_beams=3) for p in prompts]
        assert {sample.finish_reason for sample in samples} == {"eos", "length"}


def test_beam_search_with_all_beams_finds_the_best_text(models):
    theirs, ours = models
    sample = generate(ours, [[]], eos_id=EOS, num_beams=V, max_new_tokens=2)[0]
    texts = [(EOS,), *((a, b) for a, b in itertools.product(range(1, V), range(V)))]
    best = max(texts, key=lambda ids: exact_log_prob(theirs, [], ids) / len(ids))
    assert tuple(sample.ids) == best


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.7},
        {"top_k": 4, "temperature": 1.5},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"typical_p": 0.7},
        {"repetition_penalty": 1.5, "banned_ids": (3,)},
        {"no_repeat_ngram_size": 1, "temperature": 2.0},
    ],
)
def test_samples_have_the_exact_distribution(models, settings):
    """Chi-square of all two-token continuations against Hugging Face's filtered probabilities."""
    theirs, ours = models
    prompt, n = [3, 8, 3], 4000
    drawn = generate(ours, [prompt] * n, eos_id=EOS, max_new_tokens=2, seed=5, batch_size=500, **settings)
    exact = {}
    first = filtered_probs(theirs, [EOS, *prompt], settings)
    for a in range(V):
        if a == EOS:
            exact[(a,)] = first[a]
        else:
            second = filtered_probs(theirs, [EOS, *prompt, a], settings)
            exact |= {(a, b): first[a] * second[b] for b in range(V)}
    counts = dict.fromkeys(exact, 0)
    for sample in drawn:
        counts[tuple(sample.ids)] += 1
    assert all(exact[ids] > 0 for ids, count in counts.items() if count)
    common = [ids for ids in exact if n * exact[ids] >= 5]
    cells = [(counts[ids], n * exact[ids]) for ids in common]
    rest = n - sum(expected for _, expected in cells)
    if rest >= 5:
        cells.append((n - sum(count for count, _ in cells), rest))
    degrees = len(cells) - 1
    assert degrees >= 3
    chi2 = sum((count - expected) ** 2 / expected for count, expected in cells)
    assert chi2 < degrees + 4 * math.sqrt(2 * degrees)  # about 1 in 5,000 by chance, and the seed is fixed
    for sample in drawn[:20]:
        assert sample.log_prob == pytest.approx(exact_log_prob(theirs, prompt, sample.ids), abs=1e-9)


def filtered_probs(model, ids, settings):
    """The distribution of the next token that ``generate`` of Hugging Face would draw from."""
    settings = dict(settings)
    banned = settings.pop("banned_ids", ())
    config = GenerationConfig(
        do_sample=True, suppress_tokens=list(banned) or None, top_k=settings.pop("top_k", 0), **settings
    )
    model._prepare_special_tokens(config, device="cpu")
    ids = torch.tensor([ids])
    processors = model._get_logits_processor(config, input_ids_seq_length=ids.size(1), device="cpu")
    with torch.no_grad():
        logits = model(ids).logits[:, -1]
    return processors(ids, logits).softmax(-1)[0].tolist()


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**64),
    batch_size=st.integers(1, 9),
    lengths=st.lists(st.integers(0, BLOCK - 1), min_size=1, max_size=9),
    filters=st.sampled_from([{}, {"top_p": 0.9, "no_repeat_ngram_size": 3}, {"repetition_penalty": 1.3, "top_k": 5}]),
)
def test_text_does_not_depend_on_the_batch(models, seed, batch_size, lengths, filters):
    """Lengths up to the model's limit: a mixed batch runs out of columns and moves to the left."""
    ours = models[1]
    prompts = [[1 + (7 * i + j * j) % (V - 1) for j in range(length)] for i, length in enumerate(lengths)]
    together = generate(ours, prompts, eos_id=EOS, seed=seed, batch_size=batch_size, **filters)
    for i, (prompt, sample) in enumerate(zip(prompts, together, strict=True)):
        alone = generate(ours, [prompt], eos_id=EOS, seed=seed, first_index=i, **filters)[0]
        assert sample.ids == alone.ids
        assert sample.log_prob == pytest.approx(alone.log_prob, abs=1e-9)
        assert len(sample.ids) <= BLOCK - len(prompt)
        assert sample.finish_reason == "eos" or len(sample.ids) == BLOCK - len(prompt)


@pytest.mark.parametrize("num_beams", [2, 3])
def test_beams_do_not_depend_on_the_batch(models, num_beams):
    ours = models[1]
    together = generate(ours, PROMPTS, eos_id=EOS, num_beams=num_beams)
    alone = [generate(ours, [prompt], eos_id=EOS, num_beams=num_beams)[0] for prompt in PROMPTS]
    assert [s.ids for s in together] == [s.ids for s in alone]
    assert [s.log_prob for s in together] == pytest.approx([s.log_prob for s in alone], abs=1e-9)


def test_seed_and_first_texts(models):
    ours = models[1]
    texts = [s.ids for s in generate(ours, [[]] * 12, eos_id=EOS, seed=3)]
    assert [s.ids for s in generate(ours, [[]] * 5, eos_id=EOS, seed=3)] == texts[:5]
    assert [s.ids for s in generate(ours, [[]] * 5, eos_id=EOS, seed=3, first_index=7)] == texts[7:]
    assert [s.ids for s in generate(ours, [[]] * 12, eos_id=EOS, seed=4)] != texts
    shorter = generate(ours, [[]] * 12, eos_id=EOS, seed=3, max_new_tokens=4)
    assert [s.ids for s in shorter] == [ids[:4] for ids in texts]


def test_row_uniforms():
    table = row_uniforms(9, 0, 2000, 10)
    assert np.array_equal(row_uniforms(9, 500, 3, 4), table[500:503, :4])
    assert table.min() >= 0
    assert table.max() <= 1 - 2**-32
    assert np.array_equal(table * 2**32, np.floor(table * 2**32))
    assert abs(table.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(table[:-1].ravel(), table[1:].ravel())[0, 1]) < 0.03
    assert len(np.unique(table)) > 19_900


def test_the_generator_is_left_as_it_was(models):
    ours = models[1]
    state = torch.get_rng_state()
    for training in (True, False):
        ours.train(training)
        first, second = (generate(ours, [[]] * 4, eos_id=EOS, seed=1) for _ in range(2))
        assert first == second  # no dropout
        assert ours.training is training
    assert torch.equal(torch.get_rng_state(), state)


def test_float32_and_half_settings_run(models):
    ours = Generator(V, BLOCK, 1, 1, 8)
    samples = generate(ours, [[], [2]], eos_id=EOS, max_new_tokens=5)
    assert all(1 <= len(s.ids) <= 5 for s in samples)
    assert generate(ours, [], eos_id=EOS) == []


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"prompts": [[1] * BLOCK]}, "a prompt of 20 tokens cannot be continued"),
        ({"max_new_tokens": 0}, "`max_new_tokens=0` must be at least 1"),
        ({"temperature": -1.0}, "must not be negative"),
        ({"top_p": 1.5}, "`top_p=1.5` must be between 0 and 1"),
        ({"num_beams": 2, "temperature": 0.7}, "beam search does not sample: `temperature`"),
        ({"num_beams": 2, "top_k": 3}, "beam search does not sample: `top_k`"),
        ({"temperature": 0, "typical_p": 0.5}, "greedy decoding does not sample: `typical_p`"),
    ],
)
def test_refused_settings(models, wrong, message):
    with pytest.raises(ValueError, match=message):
        generate(models[1], **{"prompts": [[]], "eos_id": EOS} | wrong)


@pytest.mark.parametrize("way", [{}, {"temperature": 0}, {"num_beams": 2}])
def test_nothing_left_to_choose(models, way):
    with pytest.raises(UserError, match="no token is left"):
        generate(models[1], [[]], eos_id=EOS, banned_ids=range(V), **way)
    with pytest.raises(UserError, match="no token is left"):
        generate(models[1], [[]], eos_id=EOS, no_repeat_ngram_size=1, **way)


@pytest.mark.parametrize("way", [{}, {"temperature": 0}, {"num_beams": 2}])
def test_broken_weights(way):
    ours = Generator(V, BLOCK, 1, 1, 8)
    torch.nn.init.constant_(ours.ln_f.weight, math.nan)
    with pytest.raises(UserError, match="not finite"):
        generate(ours, [[]], eos_id=EOS, **way)


@pytest.mark.parametrize("block_size, vocab_size", [(8, 50), (200_000, 50), (8, 500_000), (8, 50_000_000)])
def test_as_many_texts_are_written_at_once_as_fit(block_size, vocab_size):
    generator = Generator(50, block_size, 3, 2, 8)
    generator.vocab_size = vocab_size
    room = 3 * 2 * 8 * block_size * 4 + 8 * 4 * vocab_size  # keys and values of three layers, float32; logits
    assert rows_that_fit(generator) == max(1, min(256, 2**30 // room))

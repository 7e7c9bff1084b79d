"""The filters against Hugging Face's own, alone and in the order of ``generate``, and on hand-worked rows."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel
from transformers.generation import logits_process as hf

from textgan.ops import logits as ops

V = 37


def random_logits(seed, rows=50, scale=4.0):
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def probs(*values):
    return torch.tensor([values], dtype=torch.float64).log()


def kept(logits):
    return [row.isfinite().nonzero().flatten().tolist() for row in logits]


FILTERS = [
    (ops.scale_temperature, hf.TemperatureLogitsWarper, (0.3, 0.7, 1.9)),
    (ops.keep_top_k, hf.TopKLogitsWarper, (1, 5, 36, 37, 100)),
    (ops.keep_top_p, hf.TopPLogitsWarper, (0.0, 0.1, 0.5, 0.9, 0.999)),
    (ops.keep_min_p, hf.MinPLogitsWarper, (0.01, 0.2, 1.0)),
    (ops.keep_typical, hf.TypicalLogitsWarper, (0.01, 0.2, 0.6, 0.95)),
]


@pytest.mark.parametrize("ours, theirs, values", FILTERS)
def test_filters_equal_hugging_face(ours, theirs, values):
    for seed, value in enumerate(values):
        logits = random_logits(seed)
        logits[:, ::7] = -torch.inf  # as left by a filter before
        before = logits.clone()
        torch.testing.assert_close(ours(logits, value), theirs(value)(None, logits.clone()), rtol=0, atol=0)
        assert torch.equal(logits, before)


@pytest.mark.parametrize("ours, theirs, values", FILTERS)
def test_filters_equal_hugging_face_on_ties(ours, theirs, values):
    logits = random_logits(9, scale=1.0).round()
    for value in values:
        mine, other = ours(logits, value), theirs(value)(None, logits.clone())
        if ours is ops.keep_top_p:  # which of equal tokens goes is open there: their sort is not stable
            mine, other = mine.sort(-1).values, other.sort(-1).values
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_top_p_keeps_the_token_that_crosses():
    row = probs(0.5, 0.1, 0.3, 0.1)
    assert kept(ops.keep_top_p(row, 0.49)) == [[0]]
    assert kept(ops.keep_top_p(row, 0.51)) == [[0, 2]]
    assert kept(ops.keep_top_p(row, 0.0)) == [[0]]


def test_min_p_is_relative_to_the_likeliest():
    assert kept(ops.keep_min_p(probs(0.6, 0.07, 0.28, 0.05), 0.1)) == [[0, 1, 2]]


def test_typical_can_remove_the_likeliest():
    # Entropy 1.21 nats; surprise of the .6 token .51, of the .16 token 1.83, of the .08 tokens 2.53.
    row = probs(0.6, 0.08, 0.16, 0.08, 0.08)
    assert kept(ops.keep_typical(row, 0.1)) == [[2]]


def test_repetition_penalty_by_hand():
    logits = torch.tensor([[2.0, -2.0, 1.0, -1.0]])
    out = ops.penalize_repetition(logits, torch.tensor([[0, 1, 1]]), 2.0)
    assert out.tolist() == [[1.0, -4.0, 1.0, -1.0]]


@pytest.mark.parametrize("size, banned", [(1, {0, 5, 6, 7}), (2, {6, 7}), (3, set()), (7, set())])
def test_no_repeat_by_hand(size, banned):
    out = ops.ban_repeated_ngrams(random_logits(0, 1), torch.tensor([[0, 5, 6, 5, 7, 5]]), size)
    assert set(range(V)) - set(kept(out)[0]) == banned


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 4), min_size=9, max_size=9), min_size=1, max_size=4),
    size=st.integers(1, 11),
    penalty=st.floats(0.2, 3.0),
)
def test_penalties_equal_hugging_face(rows, size, penalty):
    context, logits = torch.tensor(rows), random_logits(1, len(rows))
    theirs = hf.NoRepeatNGramLogitsProcessor(size)(context, logits.clone())
    assert torch.equal(ops.ban_repeated_ngrams(logits, context, size), theirs)
    theirs = hf.RepetitionPenaltyLogitsProcessor(penalty)(context, logits.clone())
    assert torch.equal(ops.penalize_repetition(logits, context, penalty), theirs)


@settings(max_examples=40, deadline=None)
@given(row=st.lists(st.integers(0, 3), min_size=1, max_size=9), pad=st.integers(0, 5), size=st.integers(1, 4))
def test_padding_at_the_left_does_not_count(row, pad, size):
    logits, left_pad = random_logits(2, 1), torch.tensor([pad])
    padded, alone = torch.tensor([[0] * pad + row]), torch.tensor([row])
    for ours, value in ((ops.ban_repeated_ngrams, size), (ops.penalize_repetition, 1.7)):
        assert torch.equal(ours(logits, padded, value, left_pad), ours(logits, alone, value))


def test_whole_chain_equals_generate():
    """The processors that ``generate`` itself builds for these settings, in its order."""
    model = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_positions=16, n_embd=8, n_layer=1, n_head=1))
    penalty = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}
    warp = {"temperature": 0.8, "top_k": 12, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.85}
    config = GenerationConfig(do_sample=True, suppress_tokens=[1, 4], **penalty, **warp)
    model._prepare_special_tokens(config, device="cpu")
    context = torch.randint(0, 8, (50, 9), generator=torch.Generator().manual_seed(0))
    theirs = model._get_logits_processor(config, input_ids_seq_length=9, device="cpu")
    assert len(theirs) == 8
    logits = random_logits(3)
    ours = ops.warpers(ops.penalties(logits, context, banned_ids=(1, 4), **penalty), **warp)
    torch.testing.assert_close(ours, theirs(context, logits.clone()), rtol=0, atol=0)
    assert len({len(row) for row in kept(ours)}) > 3  # the settings leave something to choose


def test_neutral_values_change_nothing():
    logits, context = random_logits(4), torch.zeros(50, 3, dtype=torch.long)
    assert torch.equal(ops.warpers(logits, temperature=1, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0), logits)
    assert torch.equal(ops.penalties(logits, context, repetition_penalty=1, no_repeat_ngram_size=0), logits)


def test_inverse_cdf_by_hand():
    logits = probs(0.0, 0.25, 0.0, 0.75, 0.0).expand(5, -1)
    uniforms = torch.tensor([0.0, 0.24, 0.26, 0.999, 1 - 2**-32], dtype=torch.float64)
    ids, log_probs = ops.inverse_cdf(logits, uniforms)
    assert ids.tolist() == [1, 1, 3, 3, 3]
    assert log_probs.exp().tolist() == pytest.approx([0.25, 0.25, 0.75, 0.75, 0.75])


@pytest.mark.parametrize("size", [1, 63, 64, 65, 130, 1000])
def test_inverse_cdf_is_the_running_sum_over_the_whole_vocabulary(size):
    """Against NumPy in float64, at any number of blocks, the last of which may be cut."""
    logits = torch.randn(200, size, generator=torch.Generator().manual_seed(size)) * 3
    uniforms = torch.rand(200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    p = np.exp(logits.double().numpy() - logits.double().logsumexp(1, keepdim=True).numpy())
    expected = (p.cumsum(1) <= uniforms.numpy()[:, None]).sum(1)
    ids, log_probs = ops.inverse_cdf(logits, uniforms)
    assert ids.tolist() == expected.tolist()
    np.testing.assert_allclose(log_probs.numpy(), np.log(p[np.arange(200), expected]), atol=2e-6, rtol=1e-6)


def test_inverse_cdf_draws_by_the_probabilities():
    """Chi-square of 200,000 draws over 150 tokens, some removed, at evenly spread uniforms and at random ones."""
    logits = torch.randn(150, generator=torch.Generator().manual_seed(0)) * 2
    logits[[0, 63, 64, 100, 149]] = -torch.inf
    p, n = logits.double().softmax(0), 200_000
    for uniforms, limit in (
        (torch.rand(n, generator=torch.Generator().manual_seed(2), dtype=torch.float64), 207),  # 0.1 % of 144 degrees
        ((torch.arange(n, dtype=torch.float64) + 0.5) / n, 1.0),
    ):
        ids = torch.cat([ops.inverse_cdf(logits.expand(len(part), -1), part)[0] for part in uniforms.split(10_000)])
        counts = torch.bincount(ids, minlength=150).double()
        assert counts[p == 0].sum() == 0
        kept = p > 0
        assert ((counts - n * p)[kept].square() / (n * p)[kept]).sum() < limit


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.1, 5.0, 60.0]),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_inverse_cdf_never_draws_a_removed_token(seed, scale, dtype):
    logits = random_logits(seed, scale=scale).to(getattr(torch, dtype))
    logits = ops.keep_top_k(logits, 3)
    uniforms = torch.linspace(0, 1 - 2**-32, 50, dtype=torch.float64)
    ids, log_probs = ops.inverse_cdf(logits, uniforms)
    assert logits.gather(1, ids[:, None]).isfinite().all()
    assert log_probs.isfinite().all()


@pytest.mark.parametrize("bad", [-math.inf, math.nan])
def test_inverse_cdf_refuses_rows_without_a_choice(bad):
    logits = random_logits(5, 2)
    logits[1] = bad
    with pytest.raises(ValueError, match="no finite value"):
        ops.inverse_cdf(logits, torch.tensor([0.5, 0.5], dtype=torch.float64))

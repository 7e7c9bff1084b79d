"""What generators of both kinds do with a condition: with and without cache, padding, selection and gradient."""

import pytest
import torch
import torch.nn.functional as F

from textgan.models.generator import Condition, Generator
from textgan.models.lstm import LSTMCondition, LSTMGenerator

V, BLOCK, D, EXTRA = 23, 12, 16, 5


def rough(model, seed=0):
    """The model with weights large enough to matter, in eval mode."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return model.eval()


def transformer(n_layer=2):
    return rough(Generator(V, BLOCK, n_layer, 4, D, dropout=0.0))


def lstm(n_layer=2):
    return rough(LSTMGenerator(V, BLOCK, n_layer, 6, 7, dropout=0.0, n_extra=EXTRA))


def ids(*shape, seed=1):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape, seed=2):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def of_transformer(g, B, shifts=True, memory=True, seed=3):
    every = normal(g.n_layer, B, D, seed=seed)
    pairs = normal(g.n_layer, 2, B, g.n_head, 1, D // g.n_head, seed=seed + 1)
    return Condition(
        tuple(every) if shifts else None,
        tuple(tuple(pair) for pair in pairs) if memory else None,
    )


def of_lstm(g, B, state=True, seed=3):
    h, c = normal(2, g.n_layer, B, g.n_hidden, seed=seed + 1)
    return LSTMCondition(normal(B, g.n_extra, seed=seed), (h, c) if state else None)


def first_shift_only(g, B):
    return Condition((normal(B, D), *(None,) * (g.n_layer - 1)), None)


CASES = {
    "shifts": (transformer, lambda g, B: of_transformer(g, B, memory=False)),
    "embedding": (transformer, first_shift_only),
    "memory": (transformer, lambda g, B: of_transformer(g, B, shifts=False)),
    "shifts and memory": (transformer, of_transformer),
    "lstm extra": (lstm, lambda g, B: of_lstm(g, B, state=False)),
    "lstm extra and state": (lstm, of_lstm),
}
every_case = pytest.mark.parametrize("case", CASES)


def build(case, B):
    make, of = CASES[case]
    g = make()
    return g, of(g, B)


@every_case
def test_condition_changes_every_column(case):
    g, condition = build(case, 3)
    x = ids(3, 6)
    other = condition.select(torch.tensor([1, 2, 0]))
    with torch.no_grad():
        difference = (g(x, condition=condition) - g(x, condition=other)).abs().amax(dim=2)
    assert (difference > 1e-3).all()


@every_case
@pytest.mark.parametrize("pieces", [[1] * BLOCK, [5, 1, 1, 4, 1], [BLOCK]])
def test_cached_equals_uncached(case, pieces):
    g, condition = build(case, 3)
    x = ids(3, BLOCK)
    with torch.no_grad():
        whole, cache = g(x, condition=condition), g.new_cache(3, BLOCK, condition)
        parts = torch.cat([g(piece, cache=cache) for piece in x.split(pieces, dim=1)], dim=1)
    assert cache.length == BLOCK
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


@every_case
@pytest.mark.parametrize("before", [0, 5])
def test_selected_rows_keep_their_condition(case, before):
    """Also when the rows are selected before anything was read."""
    g, condition = build(case, 4)
    x, rows, follow = ids(4, before), torch.tensor([2, 0, 2]), ids(3, 3, seed=7)
    with torch.no_grad():
        cache = g.new_cache(4, BLOCK, condition)
        if before:
            g(x, cache=cache)
        cache.select(rows)
        got = torch.cat([g(piece, cache=cache) for piece in follow.split([1, 2], dim=1)], dim=1)
        each = [
            g(torch.cat([x[r : r + 1], follow[i : i + 1]], dim=1), condition=condition.select(torch.tensor([r])))
            for i, r in enumerate(rows.tolist())
        ]
        assert cache.batch_size == 3
        torch.testing.assert_close(got, torch.cat(each)[:, -3:], rtol=1e-5, atol=1e-5)
        again = g(follow, condition=cache.condition)
        torch.testing.assert_close(again, g(follow, condition=condition.select(rows)))


@every_case
@pytest.mark.parametrize("cached", [False, True])
def test_left_padded_rows_equal_each_alone(case, cached):
    g, condition = build(case, 3)
    longest, prompts = 7, [ids(1, n, seed=n) for n in (7, 3, 1)]
    follow = ids(3, 3, seed=9)
    pad = torch.tensor([longest - p.size(1) for p in prompts])
    batch = torch.cat([F.pad(p, (longest - p.size(1), 0), value=11) for p in prompts])
    whole = torch.cat([batch, follow], dim=1)
    with torch.no_grad():
        if cached:  # the second row begins in the second piece, the third in the third
            cache = g.new_cache(3, BLOCK, condition)
            got = torch.cat([g(x, left_pad=pad, cache=cache) for x in whole.split([1, 4, 1, 1, 3], dim=1)], dim=1)
        else:
            got = g(whole, left_pad=pad, condition=condition)
        for row, prompt in enumerate(prompts):
            own = condition.select(torch.tensor([row]))
            alone = g(torch.cat([prompt, follow[row : row + 1]], dim=1), condition=own)
            torch.testing.assert_close(got[row, pad[row] :], alone[0], rtol=1e-5, atol=1e-5)
    assert got.isfinite().all()


@every_case
def test_repeated_rows_stand_together(case):
    g, condition = build(case, 3)
    x = ids(3, 4)
    with torch.no_grad():
        got = g(x.repeat_interleave(2, dim=0), condition=condition.repeat(2))
        torch.testing.assert_close(got, g(x, condition=condition).repeat_interleave(2, dim=0))


@every_case
def test_causality_by_gradient(case):
    g, condition = build(case, 2)
    t, x = 5, F.one_hot(ids(2, BLOCK), V).float().requires_grad_()
    g(x, condition=condition)[:, t].square().sum().backward()
    influence = x.grad.abs().amax(dim=(0, 2))
    assert (influence[: t + 1] > 0).all()
    assert (influence[t + 1 :] == 0).all()


def leaves(condition):
    """Every tensor of a condition, by name."""
    if isinstance(condition, LSTMCondition):
        named = {"extra": condition.extra}
        return named | dict(zip(("h", "c"), condition.state or (), strict=False))
    named = {f"shift {i}": x for i, x in enumerate(condition.shifts or ()) if x is not None}
    return named | {
        f"{kv} {i}": x for i, pair in enumerate(condition.memory or ()) for kv, x in zip("kv", pair, strict=True)
    }


@every_case
def test_gradient_reaches_every_part_and_stays_in_its_row(case):
    g, condition = build(case, 3)
    parts = leaves(condition)
    for x in parts.values():
        x.requires_grad_()
    logits = g(ids(3, 5), condition=condition)[1]
    grads = torch.autograd.grad(logits.square().sum(), [*parts.values()])
    for name, grad in zip(parts, grads, strict=True):
        rows = grad.transpose(0, 1) if name in "hc" else grad
        assert (rows[1] != 0).any(), name
        assert (rows[[0, 2]] == 0).all(), name


def test_condition_equals_hugging_face_gpt2_with_a_past():
    """Memory is what GPT-2 has looked at before the text; the first shift is part of its embeddings."""
    from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

    g = transformer()
    config = GPT2Config(vocab_size=V, n_positions=BLOCK, n_embd=D, n_layer=2, n_head=4)
    hf = GPT2LMHeadModel(config).eval()
    state = g.state_dict()
    theirs = {k: state[k.removeprefix("transformer.")] for k in hf.state_dict() if k != "lm_head.weight"}
    hf.load_state_dict({k: v.T if ".c_" in k and v.dim() == 2 else v for k, v in theirs.items()}, strict=False)
    condition, x = of_transformer(g, 3), ids(3, 8)
    condition = condition._replace(shifts=(condition.shifts[0], None))
    past = DynamicCache(config=config)
    for i, (k, v) in enumerate(condition.memory):
        past.update(k, v, i)
    with torch.no_grad():
        embedded = hf.transformer.wte(x) + condition.shifts[0][:, None]
        expected = hf(
            inputs_embeds=embedded,
            past_key_values=past,
            position_ids=torch.arange(8)[None],
            attention_mask=torch.ones(3, 9),
        ).logits
        torch.testing.assert_close(g(x, condition=condition), expected, rtol=1e-5, atol=1e-5)


def test_memory_is_one_more_key_in_a_hand_made_attention():
    g = transformer(n_layer=1)
    attn, x = g.h[0].attn, normal(2, 4, D)
    k0, v0 = normal(2, 2, 4, 1, 4, seed=5)
    q, k, v = (part.view(2, 4, 4, 4) for part in attn.c_attn(x).split(D, dim=2))  # (B, T, H, d)
    y = torch.zeros(2, 4, 4, 4)
    for b in range(2):
        for t in range(4):
            for h in range(4):
                keys = torch.cat([k0[b, h], k[b, : t + 1, h]])
                values = torch.cat([v0[b, h], v[b, : t + 1, h]])
                weights = torch.softmax(keys @ q[b, t, h] / 4**0.5, dim=0)
                y[b, t, h] = weights @ values
    expected = attn.c_proj(y.reshape(2, 4, D))
    mask = F.pad(torch.ones(4, 4, dtype=torch.bool).tril(), (1, 0), value=True)
    got = attn(x, mask=mask, causal=False, memory=(k0, v0))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_a_shift_is_added_to_the_input_of_its_block():
    g = transformer()
    condition, seen = of_transformer(g, 2, memory=False), {}
    g.h[1].register_forward_hook(lambda module, inputs, output: seen.setdefault("into 1", inputs[0]))
    g.h[0].register_forward_hook(lambda module, inputs, output: seen.update({"into 0": inputs[0], "out of 0": output}))
    x = ids(2, 5)
    with torch.no_grad():
        g(x, condition=condition)
    plain = g.wte(x) + g.wpe(torch.arange(5))
    torch.testing.assert_close(seen["into 0"], plain + condition.shifts[0][:, None])
    torch.testing.assert_close(seen["into 1"], seen["out of 0"] + condition.shifts[1][:, None])


def test_dropout_is_on_embeddings_with_their_shift():
    torch.manual_seed(0)
    g, seen = Generator(V, BLOCK, 1, 2, 200, dropout=0.25).train(), []
    g.h[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    g(ids(2, 5), condition=Condition((normal(2, 200),)))
    assert (seen[0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("make, of", [(transformer, of_transformer), (lstm, of_lstm)])
def test_scaled_logits_are_divided_and_biased(make, of):
    g, x = make(), ids(3, 5)
    condition, bias = of(g, 3), normal(V)
    with torch.no_grad():
        g.logit_bias.copy_(normal(V, seed=8))
        before = g(x, condition=condition)
        g.scale_logits_(1.7)
        torch.testing.assert_close(g(x, condition=condition), before / 1.7, rtol=1e-5, atol=1e-5)
        g.scale_logits_(0.5, bias)
        torch.testing.assert_close(g(x, condition=condition), before / 1.7 / 0.5 + bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make, of", [(transformer, of_transformer), (lstm, of_lstm)])
def test_works_under_bfloat16_autocast(make, of):
    g, x = make(), ids(3, BLOCK)
    condition, pad = of(g, 3), torch.tensor([0, 3, 5])
    with torch.no_grad():
        exact = g(x, condition=condition, left_pad=pad)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low, cache = g(x, condition=condition, left_pad=pad), g.new_cache(3, BLOCK, condition)
            steps = torch.cat([g(piece, left_pad=pad, cache=cache) for piece in x.split([6, 1, 5], dim=1)], dim=1)
    for row in range(3):
        torch.testing.assert_close(low[row, pad[row] :].float(), exact[row, pad[row] :], rtol=0.1, atol=0.1)
        torch.testing.assert_close(steps[row, pad[row] :].float(), exact[row, pad[row] :], rtol=0.1, atol=0.1)


@pytest.mark.parametrize("make, of", [(transformer, of_transformer), (lstm, of_lstm)])
def test_condition_and_cache_together_are_refused(make, of):
    g = make()
    condition = of(g, 2)
    with torch.no_grad(), pytest.raises(ValueError, match="give `condition` to `new_cache`"):
        g(ids(2, 3), cache=g.new_cache(2, 4, condition), condition=condition)


def test_conditions_of_another_shape_are_refused():
    g, x = transformer(), ids(2, 3)
    right = of_transformer(g, 2)
    with pytest.raises(ValueError, match="1 shifts, but `n_layer=2`"):
        g(x, condition=Condition(right.shifts[:1], None))
    with pytest.raises(ValueError, match="3 memory, but `n_layer=2`"):
        g(x, condition=Condition(None, right.memory + right.memory[:1]))
    with pytest.raises(ValueError, match=r"a shift must be \(2, 16\), not \(1, 16\)"):
        g(x, condition=right.select(torch.tensor([0])))
    with pytest.raises(ValueError, match=r"must be \(3, 4, 1, 4\), not \(2, 4, 1, 4\)"):
        g.new_cache(3, 4, of_transformer(g, 2, shifts=False))

    g = lstm()
    right = of_lstm(g, 2)
    with pytest.raises(ValueError, match=r"`n_extra=5`: `extra` must be \(2, 5\), not \(\)"):
        g(x)
    with pytest.raises(ValueError, match=r"must be \(3, 5\), not \(2, 5\)"):
        g.new_cache(3, 4, right)
    with pytest.raises(ValueError, match=r"two tensors \(2, 2, 7\), not \(1, 2, 7\)"):
        g(x, condition=right._replace(state=(right.state[0][:1], right.state[1])))

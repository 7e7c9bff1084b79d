"""The generator against Hugging Face's GPT-2, and the equivalences that sampling and rollouts lean on."""

import pytest
import torch
import torch.nn.functional as F

from textgan.models.generator import Generator, KVCache
from textgan.models.transformer import attend, dropout

V, BLOCK, D = 23, 12, 16


def small(dropout=0.0, seed=0, **kw):
    torch.manual_seed(seed)
    sizes = {"vocab_size": V, "block_size": BLOCK, "n_layer": 2, "n_head": 4, "n_embd": D, **kw}
    g = Generator(**sizes, dropout=dropout)
    with torch.no_grad():  # the initial weights are so small that attention is nearly uniform: make it matter
        for p in g.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return g.eval()


def ids(*shape, seed=1):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def test_logits_equal_hugging_face_gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_positions=BLOCK, n_embd=D, n_layer=2, n_head=4)).eval()
    with torch.no_grad():
        for p in hf.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    ours = Generator(V, BLOCK, 2, 4, D).eval()
    state = ours.state_dict()
    theirs = {k.removeprefix("transformer."): v for k, v in hf.state_dict().items()}
    assert set(state) - {"logit_bias"} == set(theirs) - {"lm_head.weight"}
    for name in set(state) - {"logit_bias"}:
        conv1d = name.endswith("weight") and (".c_" in name)
        state[name] = theirs[name].T if conv1d else theirs[name]
    ours.load_state_dict(state)
    tokens = ids(3, BLOCK)
    with torch.no_grad():
        expected = hf(tokens).logits
        assert expected.std() > 0.5
        torch.testing.assert_close(ours(tokens), expected, rtol=1e-5, atol=1e-5)
    assert ours.num_parameters() == hf.num_parameters()


def test_initialisation_is_gpt2s():
    torch.manual_seed(0)
    g = Generator(500, 64, 4, 4, 128)
    assert g.wte.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert g.h[1].mlp.c_fc.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for proj in (g.h[0].attn.c_proj, g.h[3].mlp.c_proj):
        assert proj.weight.std().item() == pytest.approx(0.02 / 8**0.5, rel=0.05)
    assert g.h[0].attn.c_attn.bias.abs().max() == 0
    assert g.logit_bias.abs().max() == 0


def test_causality_by_gradient():
    g, t = small(), 5
    x = F.one_hot(ids(2, BLOCK), V).float().requires_grad_()
    g(x)[:, t].square().sum().backward()
    influence = x.grad.abs().amax(dim=(0, 2))
    assert (influence[: t + 1] > 0).all()
    assert (influence[t + 1 :] == 0).all()


@pytest.mark.parametrize("pieces", [[1] * BLOCK, [5, 1, 1, 4, 1], [BLOCK]])
def test_cached_equals_uncached(pieces):
    g, tokens = small(), ids(3, BLOCK)
    with torch.no_grad():
        whole, cache = g(tokens), KVCache(g, 3, BLOCK)
        parts = torch.cat([g(piece, cache=cache) for piece in tokens.split(pieces, dim=1)], dim=1)
    assert cache.length == BLOCK
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_selected_cache_rows_go_on_as_their_own():
    g, tokens, rows = small(), ids(4, 6), torch.tensor([2, 0, 2])
    follow = ids(3, 2, seed=7)
    with torch.no_grad():
        cache = KVCache(g, 4, BLOCK)
        g(tokens, cache=cache)
        cache.select(rows)
        got = g(follow, cache=cache)
        want = g(torch.cat([tokens[rows], follow], dim=1))[:, -2:]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_ids_equal_one_hot_vectors():
    g, tokens = small(), ids(3, BLOCK)
    with torch.no_grad():
        torch.testing.assert_close(g(F.one_hot(tokens, V).float()), g(tokens), rtol=1e-5, atol=1e-5)


def test_gradient_reaches_probability_vectors():
    g, tokens = small(), ids(1, 4)
    x = F.one_hot(tokens, V).double().requires_grad_()
    g = g.double()
    assert torch.autograd.gradcheck(lambda x: g(x)[:, -1, :3], (x,), atol=1e-4)
    (grad,) = torch.autograd.grad(g(x)[:, -1, 0].sum(), x)
    assert (grad.abs().amax(dim=(0, 2)) > 0).all()


@pytest.mark.parametrize("cached", [False, True])
def test_left_padded_prompts_equal_each_alone(cached):
    g, longest = small(), 7
    prompts = [ids(1, n, seed=n) for n in (7, 3, 1)]
    follow = ids(3, 3, seed=9)
    pad = torch.tensor([longest - p.size(1) for p in prompts])
    batch = torch.cat([F.pad(p, (longest - p.size(1), 0), value=11) for p in prompts])
    with torch.no_grad():
        if cached:
            cache = KVCache(g, 3, BLOCK)
            pieces = [batch, follow[:, :1], follow[:, 1:]]
            got = torch.cat([g(x, left_pad=pad, cache=cache) for x in pieces], dim=1)
        else:
            got = g(torch.cat([batch, follow], dim=1), left_pad=pad)
        for row, prompt in enumerate(prompts):
            alone = g(torch.cat([prompt, follow[row : row + 1]], dim=1))
            torch.testing.assert_close(got[row, pad[row] :], alone[0], rtol=1e-5, atol=1e-5)
    assert got.isfinite().all()


def test_logit_bias_is_added_and_saved():
    g, tokens = small(), ids(2, 3)
    with torch.no_grad():
        before = g(tokens)
        g.logit_bias[1] = -2.5
        torch.testing.assert_close(g(tokens) - before, g.logit_bias.expand_as(before), rtol=1e-5, atol=1e-5)
    assert "logit_bias" in g.state_dict()


def test_training_mode_drops_and_eval_mode_does_not():
    g, tokens = small(dropout=0.3), ids(2, BLOCK)
    with torch.no_grad():
        assert torch.equal(g(tokens), g(tokens))
        g.train()
        first, second = g(tokens), g(tokens)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_drops_the_share(p):
    torch.manual_seed(3)
    x = torch.full((1001, 301), 2.0, requires_grad=True)  # an odd number of entries
    y = dropout(x, p)
    n = x.numel()
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / n) ** 0.5)
    assert y.max().item() == pytest.approx(2 / (1 - p), rel=1e-3)
    assert y.detach().double().mean().item() == pytest.approx(2.0, abs=10 * (p / (1 - p) / n) ** 0.5)
    y.sum().backward()
    assert torch.equal(x.grad * 2, y.detach())
    # neighbours and columns are independent: the four draws of one 64-bit number too
    zero = (y.detach().view(-1) == 0).float() - p
    for lag in (1, 2, 3, 4, 301):
        assert (zero[lag:] * zero[:-lag]).mean().abs().item() < 5 * p * (1 - p) / n**0.5


def test_both_attention_paths_agree():
    q, k, v = torch.randn(3, 2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(1)) < 0.6
    mask = mask | torch.eye(6, dtype=torch.bool)
    for kw in (
        {"mask": None, "causal": True},
        {"mask": mask, "causal": False},
        {"mask": None, "causal": False},
    ):
        fused, plain = (attend(q, k, v, dropout_p=p, **kw) for p in (0.0, 1e-9))  # which drops nothing
        torch.testing.assert_close(plain, fused, rtol=1e-5, atol=1e-6)


def test_logits_at_columns_are_those_of_all_columns():
    g, x = small(), ids(3, 6)
    at = torch.tensor([[1, 0, 1, 1, 0, 0], [0] * 6, [0, 0, 0, 0, 0, 1]]).bool()
    assert g(x, at=at).shape == (4, V)
    torch.testing.assert_close(g(x, at=at), g(x)[at], rtol=1e-5, atol=1e-6)
    targets = ids(*x.shape, seed=7)
    losses = F.cross_entropy(g(x)[at], targets[at], reduction="none")
    torch.testing.assert_close(g.nll(x, targets, at=at), losses)
    torch.testing.assert_close(g.nll(x, targets, at=at, reduction="sum"), losses.sum())


def test_works_under_bfloat16_autocast():
    g, tokens = small(), ids(3, BLOCK)
    with torch.no_grad():
        exact = g(tokens)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low, cache = g(tokens), KVCache(g, 3, BLOCK)
            steps = torch.cat([g(tokens[:, t : t + 1], cache=cache) for t in range(BLOCK)], dim=1)
    torch.testing.assert_close(low.float(), exact, rtol=0.1, atol=0.1)
    torch.testing.assert_close(steps.float(), exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_embd": 100, "n_head": 8}, "`n_embd=100` is not divisible by `n_head=8`; try 96 or 104"),
        ({"n_embd": 3}, "`n_embd=3` is not divisible by `n_head=4`; try 4"),
        ({"n_layer": 0}, "`n_layer=0` must be a whole number of at least 1"),
        ({"vocab_size": 2.5}, "`vocab_size=2.5` must be a whole number"),
        ({"dropout": 1.0}, "`dropout=1.0` must be at least 0 and below 1"),
    ],
)
def test_bad_sizes_are_refused(change, message):
    sizes = {"vocab_size": V, "block_size": BLOCK, "n_layer": 2, "n_head": 4, "n_embd": D, **change}
    with pytest.raises(ValueError, match=message):
        Generator(**sizes)


def test_bad_inputs_are_refused():
    g = small()
    with pytest.raises(ValueError, match="13 columns, but `block_size=12`"):
        g(ids(1, BLOCK + 1))
    with pytest.raises(ValueError, match="without gradient only"):
        g(ids(1, 2), cache=KVCache(g, 1, 4))
    with torch.no_grad(), pytest.raises(ValueError, match="5 columns, but `max_len=4`"):
        g(ids(1, 5), cache=KVCache(g, 1, 4))
    with torch.no_grad(), pytest.raises(ValueError, match="holds 2 rows, the input has 1"):
        g(ids(1, 2), cache=KVCache(g, 2, 4))
    with pytest.raises(ValueError, match="`max_len=13` is above"):
        KVCache(g, 1, BLOCK + 1)
    with pytest.raises(ValueError, match=r"probability vectors must be \(B, T, 23\)"):
        g(torch.rand(2, 3, V + 1))

"""The LSTM generator against torch's cells run by hand, and what sampling leans on."""

import math

import pytest
import torch
import torch.nn.functional as F

from textgan.models.lstm import LSTMCondition, LSTMGenerator

V, BLOCK, E, H = 19, 12, 6, 7


def small(n_layer=1, dropout=0.0, n_extra=0, seed=0):
    torch.manual_seed(seed)
    g = LSTMGenerator(V, BLOCK, n_layer, E, H, dropout, n_extra)
    with torch.no_grad():
        for p in g.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return g.eval()


def ids(*shape, seed=1):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def by_hand(g, x, extra=None, state=None):
    """Logits from the four gates written out, one column and one layer at a time."""
    B, T = x.shape
    h = [torch.zeros(B, H) if state is None else state[0][i] for i in range(g.n_layer)]
    c = [torch.zeros(B, H) if state is None else state[1][i] for i in range(g.n_layer)]
    logits = []
    for t in range(T):
        y = g.wte.weight[x[:, t]]
        y = y if extra is None else torch.cat([y, extra], dim=1)
        for i, lstm in enumerate(g.lstm):
            gates = y @ lstm.weight_ih_l0.T + lstm.bias_ih_l0 + h[i] @ lstm.weight_hh_l0.T + lstm.bias_hh_l0
            enter, forget, cell, out = gates.chunk(4, dim=1)
            c[i] = forget.sigmoid() * c[i] + enter.sigmoid() * cell.tanh()
            y = h[i] = out.sigmoid() * c[i].tanh()
        logits.append(y @ g.head.weight.T + g.logit_bias)
    return torch.stack(logits, dim=1)


@pytest.mark.parametrize("n_layer", [1, 2, 3])
def test_logits_equal_the_gates_by_hand(n_layer):
    g, x = small(n_layer), ids(3, 6)
    with torch.no_grad():
        g.logit_bias.copy_(torch.linspace(-1, 1, V))
        torch.testing.assert_close(g(x), by_hand(g, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_layer", [1, 2])
def test_condition_equals_the_gates_by_hand(n_layer):
    g, x = small(n_layer, n_extra=4), ids(3, 6)
    extra, (h, c) = torch.randn(3, 4), torch.randn(2, n_layer, 3, H)
    with torch.no_grad():
        got = g(x, condition=LSTMCondition(extra, (h, c)))
        torch.testing.assert_close(got, by_hand(g, x, extra, (h, c)), rtol=1e-5, atol=1e-5)
        got = g(x, condition=LSTMCondition(extra))
        torch.testing.assert_close(got, by_hand(g, x, extra), rtol=1e-5, atol=1e-5)


def test_ids_equal_one_hot_vectors_and_gradient_reaches_them():
    g, x = small(), ids(2, 5)
    vectors = F.one_hot(x, V).float().requires_grad_()
    torch.testing.assert_close(g(vectors), g(x), rtol=1e-5, atol=1e-5)
    (grad,) = torch.autograd.grad(g(vectors)[:, 2].square().sum(), vectors)
    influence = grad.abs().amax(dim=(0, 2))
    assert (influence[:3] > 0).all()
    assert (influence[3:] == 0).all()


@pytest.mark.parametrize("pieces", [[1] * BLOCK, [5, 1, 1, 4, 1], [BLOCK]])
def test_cached_equals_uncached(pieces):
    g, x = small(2), ids(3, BLOCK)
    with torch.no_grad():
        cache = g.new_cache(3, BLOCK)
        parts = torch.cat([g(piece, cache=cache) for piece in x.split(pieces, dim=1)], dim=1)
        torch.testing.assert_close(parts, g(x), rtol=1e-5, atol=1e-5)
    assert cache.length == BLOCK


def test_logits_at_columns_are_those_of_all_columns():
    g, x = small(), ids(2, 4)
    at = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 1]]).bool()
    assert g(x, at=at).shape == (4, V)
    torch.testing.assert_close(g(x, at=at), g(x)[at], rtol=1e-5, atol=1e-6)
    targets = ids(*x.shape, seed=7)
    losses = F.cross_entropy(g(x)[at], targets[at], reduction="none")
    torch.testing.assert_close(g.nll(x, targets, at=at), losses)
    torch.testing.assert_close(g.nll(x, targets, at=at, reduction="sum"), losses.sum())


def test_padding_is_not_read():
    """Values of padding columns and gradients to them: none, also of a row that is padding up to its last column."""
    g, pad = small(2), torch.tensor([0, 2, 4])
    vectors = F.one_hot(ids(3, 5), V).float().requires_grad_()
    real = torch.arange(5) >= pad[:, None]
    logits = g(vectors, left_pad=pad)
    other = torch.where(real[..., None], vectors, 0.5)
    assert torch.equal(g(other, left_pad=pad)[real], logits[real])
    (grad,) = torch.autograd.grad(logits[real].square().sum(), vectors)
    assert (grad[~real] == 0).all()
    assert (grad[real].abs().amax(dim=1) > 0).all()


def test_dropout_is_on_embeddings_and_on_every_layers_output():
    torch.manual_seed(0)
    g = LSTMGenerator(V, 400, 1, 50, 50, dropout=0.25)
    x = torch.zeros(1, 400, dtype=torch.long)
    seen = {}
    g.lstm[0].register_forward_hook(lambda module, inputs, output: seen.update(into=inputs[0], out=output[0]))
    g.head.weight.data = torch.eye(V, 50)
    logits = g.train()(x).detach()
    assert (seen["into"] == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    kept = logits != 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.02)
    torch.testing.assert_close(logits[kept], (seen["out"][..., :V] / 0.75)[kept], rtol=1e-3, atol=1e-5)
    g.eval()
    assert torch.equal(g(x), g(x))


def test_gradient_passes_in_eval_mode_too():
    g = small(dropout=0.5)
    assert not g.training
    assert all(lstm.training for lstm in g.lstm)
    assert not g.drop.training
    g(ids(2, 3)).sum().backward()
    assert torch.nn.Sequential(g).eval()[0].lstm[0].training


def test_untied_head_and_sizes():
    g = LSTMGenerator(V, BLOCK, 2, E, H)
    first = 4 * H * (E + H + 2)
    second = 4 * H * (H + H + 2)
    assert g.num_parameters() == V * E + first + second + V * H
    assert g.wte.weight.abs().max() <= 0.1
    assert g.wte.weight.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.15)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_hidden": 0}, "`n_hidden=0` must be a whole number of at least 1"),
        ({"n_extra": -1}, "`n_extra=-1` must be a whole number"),
        ({"dropout": 1.0}, "`dropout=1.0` must be at least 0 and below 1"),
    ],
)
def test_bad_sizes_are_refused(change, message):
    sizes = {"vocab_size": V, "block_size": BLOCK, "n_layer": 1, "n_embd": E, "n_hidden": H, **change}
    with pytest.raises(ValueError, match=message):
        LSTMGenerator(**sizes)


def test_bad_inputs_are_refused():
    g = small()
    with pytest.raises(ValueError, match="13 columns, but `block_size=12`"):
        g(ids(1, BLOCK + 1))
    with pytest.raises(ValueError, match="without gradient only"):
        g(ids(1, 2), cache=g.new_cache(1, 4))
    with torch.no_grad(), pytest.raises(ValueError, match="5 columns, but `max_len=4`"):
        g(ids(1, 5), cache=g.new_cache(1, 4))
    with torch.no_grad(), pytest.raises(ValueError, match="holds 2 rows, the input has 1"):
        g(ids(1, 2), cache=g.new_cache(2, 4))
    with pytest.raises(ValueError, match="`max_len=13` is above"):
        g.new_cache(1, BLOCK + 1)

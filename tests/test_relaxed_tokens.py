"""The fused relaxation equals the plain one: the vectors of an estimator, times the table, by autograd."""

import pytest
import torch

from textgan.models.transformer import embed_tokens
from textgan.ops import linear_cross_entropy
from textgan.ops.relaxation import ESTIMATORS, HARD
from textgan.ops.relaxed_tokens import RelaxedTokens

B, T, V, D, E = 6, 9, 13, 5, 4
WITHOUT_NOISE = ["gapped", "reinmax"]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def parts(seed=0):
    """States of the real positions, weight, bias and table, all leaves; ids and mask."""
    g = rng(seed)
    mask = torch.arange(T) < torch.randint(1, T + 1, (B, 1), generator=g)
    shapes = ((int(mask.sum()), D), (V, D), (V,), (V, E))
    leaves = [torch.randn(shape, generator=g).requires_grad_() for shape in shapes]
    return leaves, torch.randint(V, (B, T), generator=g), mask


def relaxed(states, weight, bias, ids, mask, **options):
    places = mask.flatten().nonzero()[:, 0]
    return RelaxedTokens(states, weight, bias, ids[mask], places, tuple(mask.shape), **options)


def plainly(leaves, ids, mask, estimator, tau, noise_rng):
    """What `embed` gives, with all vectors at once and by autograd alone."""
    states, weight, bias, table = leaves
    vectors = ESTIMATORS[estimator](states @ weight.T + bias, ids[mask], tau=tau, generator=noise_rng)
    return torch.zeros(B, T, E, dtype=table.dtype).masked_scatter(mask[..., None], vectors @ table)


def curved(x):
    return (x.cumsum(1) * torch.randn(x.shape, generator=rng(5))).tanh().sum()


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
def test_value_and_all_gradients_are_those_of_the_vectors_times_the_table(estimator):
    leaves, ids, mask = parts()
    expected = plainly(leaves, ids, mask, estimator, 0.7, rng(3))
    tokens = relaxed(*leaves[:3], ids, mask, estimator=estimator, tau=0.7, rng=rng(3))
    assert tokens.shape == (B, T, V)
    found = embed_tokens(tokens, leaves[3])
    torch.testing.assert_close(found, expected)
    assert (found[~mask] == 0).all()
    wanted = torch.autograd.grad(curved(expected), leaves)
    got = torch.autograd.grad(curved(found), leaves)
    for name, a, b in zip(("states", "weight", "bias", "table"), wanted, got, strict=True):
        assert a.abs().max() > 0.01, name
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("estimator", WITHOUT_NOISE)
def test_the_size_of_the_blocks_changes_nothing(estimator, monkeypatch):
    leaves, ids, mask = parts()
    found = []
    for rows in (1, 7, 1000):
        monkeypatch.setattr(linear_cross_entropy, "LEAST_ROWS", rows)
        monkeypatch.setitem(linear_cross_entropy.BLOCK, "cpu", rows * V)
        tokens = relaxed(*leaves[:3], ids, mask, estimator=estimator, tau=0.7, rng=rng(3))
        found.append(torch.autograd.grad(curved(tokens.embed(leaves[3])), leaves))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimator", ["relgan", "straight_through", "gumbel_rao"])
def test_every_block_has_noise_of_its_own_and_every_use_the_same(estimator, monkeypatch):
    monkeypatch.setattr(linear_cross_entropy, "LEAST_ROWS", 2)
    monkeypatch.setitem(linear_cross_entropy.BLOCK, "cpu", 1)
    states = torch.zeros(8, D, requires_grad=True)
    weight, bias = torch.zeros(V, D), torch.zeros(V, requires_grad=True)
    ids, mask = torch.zeros(8, 1, dtype=torch.long), torch.ones(8, 1, dtype=torch.bool)
    source = rng(3)
    tokens = relaxed(states, weight + torch.eye(V, D), bias, ids, mask, estimator=estimator, tau=0.7, rng=source)
    table = torch.randn(V, E, generator=rng(1))
    torch.rand(5, generator=source)  # what others draw from it later changes nothing
    first, second = (torch.autograd.grad(tokens.embed(table).sum(), states)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert len(first.unique(dim=0)) == 8  # the positions are alike but for their noise


def test_only_what_needs_a_gradient_gets_one():
    (states, weight, bias, table), ids, mask = parts()
    tokens = relaxed(states, weight, bias, ids, mask, estimator="straight_through", tau=0.7, rng=rng())
    tokens.embed(table.detach()).sum().backward()
    assert table.grad is None
    assert states.grad.abs().sum() > 0
    with torch.no_grad():
        detached = relaxed(states, weight, bias, ids, mask, estimator="relgan", tau=0.7, rng=rng())
    detached.embed(table).square().sum().backward()
    assert table.grad.abs().sum() > 0


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
def test_under_bfloat16_autocast(estimator):
    leaves, ids, mask = parts()
    tokens = relaxed(*leaves[:3], ids, mask, estimator=estimator, tau=0.7, rng=rng(3))
    exact = torch.autograd.grad(curved(tokens.embed(leaves[3])), leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedded = tokens.embed(leaves[3])
    assert embedded.dtype == (torch.float32 if estimator in HARD else torch.bfloat16)
    rough = torch.autograd.grad(curved(embedded.float()), leaves)
    for a, b in zip(exact, rough, strict=True):
        assert b.dtype == torch.float32
        assert (a - b).norm() < 0.1 * a.norm()


def test_another_vocabulary_is_refused():
    leaves, ids, mask = parts()
    tokens = relaxed(*leaves[:3], ids, mask, estimator="reinmax", tau=1.0, rng=rng())
    with pytest.raises(ValueError, match=r"must be \(B, T, 14\), not \(6, 9, 13\)"):
        embed_tokens(tokens, torch.randn(14, E))

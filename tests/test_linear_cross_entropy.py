"""The fused output layer against `torch.nn.functional`: values, gradients, memory of types."""

import pytest
import torch
import torch.nn.functional as F

from textgan.ops import linear_cross_entropy as module
from textgan.ops.linear_cross_entropy import linear_cross_entropy

M, D, V = 150, 5, 41


def tensors(dtype=torch.float64, bias=True):
    rng = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, D, generator=rng, dtype=torch.float64).to(dtype) for n in (M, V))
    b = torch.randn(V, generator=rng, dtype=torch.float64).to(dtype) if bias else None
    return [t if t is None else t.requires_grad_() for t in (x, weight, b)], torch.randint(V, (M,), generator=rng)


def gradients(loss, leaves):
    return torch.autograd.grad(loss, [t for t in leaves if t is not None], retain_graph=True)


@pytest.fixture(params=[None, 1])
def blocks(request, monkeypatch):
    """All rows in one block, and 64 in each: 150 are three."""
    if request.param:
        monkeypatch.setitem(module.BLOCK, "cpu", request.param)


@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_torchs(blocks, bias):
    leaves, targets = tensors(bias=bias)
    expected = F.cross_entropy(F.linear(*leaves), targets, reduction="none")
    got = linear_cross_entropy(*leaves, targets)
    torch.testing.assert_close(got, expected)
    weights = torch.linspace(-1, 2, M, dtype=torch.float64)
    for ours, theirs in (
        (got @ weights, expected @ weights),
        (linear_cross_entropy(*leaves, targets, reduction="sum") * 3, expected.sum() * 3),
    ):
        torch.testing.assert_close(ours, theirs)
        for mine, yours in zip(gradients(ours, leaves), gradients(theirs, leaves), strict=True):
            torch.testing.assert_close(mine, yours)


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_autocast_is_that_of_torch(blocks, reduction):
    leaves, targets = tensors(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = linear_cross_entropy(*leaves, targets, reduction=reduction)
        expected = F.cross_entropy(F.linear(*leaves).float(), targets, reduction=reduction)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected)
    exact, _ = tensors(torch.float64)
    theirs = gradients(F.cross_entropy(F.linear(*exact), targets, reduction="sum"), exact)
    for mine, yours in zip(gradients(got.sum(), leaves), theirs, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - yours).norm() < 0.01 * yours.norm()


def test_large_logits_do_not_overflow():
    x, weight = torch.tensor([[200.0], [-200.0]], requires_grad=True), torch.tensor([[1.0], [-1.0], [0.0]])
    losses = linear_cross_entropy(x, weight, None, torch.tensor([0, 2]))
    torch.testing.assert_close(losses, torch.tensor([0.0, 200.0]))
    assert torch.autograd.grad(losses.sum(), x)[0].tolist() == [[0.0], [-1.0]]


def test_no_rows():
    leaves, targets = tensors()
    none = [leaves[0][:0], *leaves[1:]]
    assert linear_cross_entropy(*none, targets[:0]).shape == (0,)
    total = linear_cross_entropy(*none, targets[:0], reduction="sum")
    assert total.item() == 0
    assert not gradients(total, leaves[1:])[0].any()


def test_only_what_needs_a_gradient_gets_one():
    (x, weight, bias), targets = tensors()
    for reduction in ("none", "sum"):
        linear_cross_entropy(x.detach(), weight, bias.detach(), targets, reduction=reduction).sum().backward()
    torch.testing.assert_close(
        weight.grad, 2 * gradients(F.cross_entropy(x @ weight.T + bias, targets, reduction="sum"), [weight])[0]
    )
    with pytest.raises(ValueError, match="allowed: none, sum"):
        linear_cross_entropy(x, weight, bias, targets, reduction="mean")

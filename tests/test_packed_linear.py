"""Packed weights compute what plain ones do, and are there only where they are asked for."""

import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F

from textgan.models.generator import Generator
from textgan.models.lstm import LSTMGenerator
from textgan.ops import packed_linear
from textgan.ops.packed_linear import Linear, PackedLinear, can_pack, packed

WEIGHT = torch.zeros(1)
needs_kernels = pytest.mark.skipif(not can_pack(WEIGHT, torch.float32), reason="no kernels for packed weights here")


def generators():
    torch.manual_seed(0)
    return [
        Generator(50, 12, 2, 2, 16, dropout=0.3).eval(),
        LSTMGenerator(50, 12, 1, 16, 24, dropout=0.3).eval(),
    ]


def holders(model):
    """What is packed at the moment."""
    return [name for m in model.modules() for name in ("packed", "packed_output") if getattr(m, name, None) is not None]


@needs_kernels
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("shape", [(7,), (64, 7), (3, 5, 7)])
def test_the_product_is_that_of_the_plain_layer(shape, gelu):
    torch.manual_seed(0)
    layer = Linear(7, 33)
    x = torch.randn(shape) if len(shape) > 1 else torch.randn(1, *shape)
    with torch.no_grad():
        plain = F.linear(x, layer.weight, layer.bias)
        plain = F.gelu(plain, approximate="tanh") if gelu else plain
        torch.testing.assert_close(layer(x, gelu=gelu), plain)
        found = PackedLinear(layer.weight, layer.bias, 64, torch.float32)(x, gelu)
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6)
        no_bias = PackedLinear(layer.weight, None, 64, torch.float32)(x)
        torch.testing.assert_close(no_bias, x @ layer.weight.T, rtol=1e-5, atol=1e-6)


@needs_kernels
@pytest.mark.parametrize("kind", [0, 1])
def test_a_packed_generator_has_the_same_logits(kind, monkeypatch):
    model = generators()[kind]
    ids = torch.randint(50, (5, 6), generator=torch.Generator().manual_seed(0))
    calls = []
    product = PackedLinear.__call__
    monkeypatch.setattr(PackedLinear, "__call__", lambda self, *args: calls.append(1) or product(self, *args))
    with torch.no_grad():
        plain = model(ids)
        assert not calls
        with packed(model, 5):
            assert len(holders(model)) == (9 if kind == 0 else 1)
            torch.testing.assert_close(model(ids), plain, rtol=1e-4, atol=1e-5)
    assert len(calls) == (9 if kind == 0 else 1)
    assert not holders(model)


@needs_kernels
def test_under_autocast_it_works_in_bfloat16():
    model, ids = generators()[0], torch.zeros(2, 3, dtype=torch.long)
    if not can_pack(WEIGHT, torch.bfloat16):
        pytest.skip("no bfloat16 kernels here")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        plain = model(ids)
        with packed(model, 2):
            found = model(ids)
    assert found.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(found, plain, rtol=0.05, atol=0.02)


def test_other_types_and_machines_without_kernels_stay_as_they_are(monkeypatch):
    model = generators()[0]
    with packed(copy.deepcopy(model).double(), 2):
        assert not holders(model)
    monkeypatch.setattr(packed_linear, "can_pack", lambda weight, dtype: False)
    with packed(model, 2):
        assert not holders(model)


@needs_kernels
def test_nothing_is_left_behind():
    model = generators()[0]
    before = copy.deepcopy(model.state_dict())
    try:
        with packed(model, 2):
            assert holders(model)
            assert model.state_dict().keys() == before.keys()
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert not holders(model)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    model(torch.zeros(1, 2, dtype=torch.long)).sum().backward()  # and it trains
    assert model.h[0].attn.c_attn.weight.grad.abs().sum() > 0


def test_little_is_multiplied_on_one_thread(monkeypatch):
    model = generators()[0]
    weights = sum(p.numel() for p in model.parameters())
    monkeypatch.setattr(packed_linear, "FOR_ONE_THREAD", 10 * weights)
    torch.set_num_threads(3)
    for rows, within in ((9, 1), (10, 3)):
        with contextlib.suppress(KeyboardInterrupt), packed(model, rows):
            found = torch.get_num_threads()
            raise KeyboardInterrupt
        assert found == within
        assert torch.get_num_threads() == 3

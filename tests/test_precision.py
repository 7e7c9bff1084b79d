"""Cheaper arithmetic: eight bits against torch's own dynamic quantisation and hand-made rounding; what it costs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.pretrained_models import noisy
from textgan.models.generator import Generator
from textgan.ops.int8 import Int8Linear, quantize_
from textgan.ops.packed_linear import Linear, packed
from textgan.sampling.decode import generate


def test_a_layer_is_that_of_torchs_dynamic_quantisation():
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    torch.manual_seed(0)
    layer = nn.Linear(96, 40)
    with pytest.warns(DeprecationWarning, match="quantiz"):
        theirs = quantize_dynamic(nn.Sequential(layer), {nn.Linear: per_channel_dynamic_qconfig})
    ours, x = Int8Linear(layer.weight, layer.bias), torch.randn(5, 3, 96)
    with torch.no_grad():
        exact = layer(x)
        error, of_theirs = ((found(x) - exact).std() / exact.std() for found in (ours, theirs))
        torch.testing.assert_close(ours(x, gelu=True), F.gelu(ours(x), approximate="tanh"))
    assert 1e-3 < error < 3e-2
    assert 0.9 < error / of_theirs < 1.1  # their scale is a little wider
    assert ours(x.double()).dtype == torch.float64


def test_weights_are_rounded_to_127_steps_a_row():
    weight = torch.tensor([[1.27, -0.01, 0.004], [-127.0, 63.4, 0.0], [0.0, 0.0, 0.0]])
    ours = Int8Linear(weight, None)
    rounded, bias = torch.ops.quantized.linear_unpack(ours.prepacked)
    expected = torch.tensor([[1.27, -0.01, 0.0], [-127.0, 63.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(rounded.dequantize(), expected)
    assert bias is None


def model():
    torch.manual_seed(0)
    return noisy(Generator(60, 24, 2, 2, 32), scale=0.05)


def test_every_linear_layer_and_the_output_layer_are_replaced():
    ours = model()
    ids, table = torch.randint(60, (4, 24)), ours.wte.weight.clone()
    with torch.no_grad():
        expected = ours(ids)
        quantize_(ours)
        found = ours(ids)
    assert not any(isinstance(module, Linear) for module in ours.modules())
    assert sum(isinstance(module, Int8Linear) for module in ours.modules()) == 2 * 4
    assert isinstance(ours.packed_output, Int8Linear)
    assert torch.equal(ours.wte.weight, table)
    error = (found - expected).norm() / expected.norm()
    assert 1e-3 < error < 5e-2


def test_it_writes_texts_with_a_cache_that_follow_its_own_logits():
    ours = model()
    quantize_(ours)
    kept = ours.packed_output
    (text,) = generate(ours, [[3, 4]], eos_id=0, temperature=0.0, max_new_tokens=12)
    assert ours.packed_output is kept
    ids = torch.tensor([[0, 3, 4, *text.ids]])
    with torch.no_grad():
        logits = ours(ids)[0, 2:-1]
    # Inputs are rounded by the range of all that is read at once, so a cache may tip a near tie, and no other.
    chosen = logits.gather(1, torch.tensor(text.ids)[:, None]).squeeze(1)
    assert (logits.amax(1) - chosen).max() < 0.1


def test_packing_leaves_it_as_it_is():
    ours = model()
    quantize_(ours)
    ids = torch.randint(60, (2, 5))
    with torch.no_grad():
        expected = ours(ids)
        with packed(ours, 2):
            assert torch.equal(ours(ids), expected)
        assert torch.equal(ours(ids), expected)

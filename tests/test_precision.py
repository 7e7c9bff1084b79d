"""Cheaper arithmetic: eight bits against torch's own dynamic quantisation and hand-made rounding; what it costs."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

from tests.pretrained_models import noisy
from textgan.analysis.precision import measured, set_precision
from textgan.cli.sample import sample
from textgan.configfile import load_config
from textgan.data.corpus import load_corpus
from textgan.models.generator import Generator
from textgan.ops.int8 import Int8Linear, quantize_
from textgan.ops.packed_linear import Linear, packed
from textgan.sampling.decode import generate
from textgan.training import run
from textgan.training.loading import load_for_sampling

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"


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


# The command line


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    small = ["threads=1", "mle.max_steps=30", "mle.lr=0.01", "data.size=300", "evaluation.samples=4"]
    small += ["evaluation.final_samples=4", "adversarial=none"]
    run.train(load_config(SMOKE, small), root / "run")
    run.train(load_config(SMOKE, [*small, "generator.kind=lstm"]), root / "lstm")
    return root


def texts_of(folder, *options):
    result = CliRunner().invoke(sample, [str(folder), "-n", "20", "--json", *options])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()], result.stderr


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_cheaper_samples_are_of_nearly_the_same_model(trained, precision):
    exact, _ = texts_of(trained / "run")
    cheap, told = texts_of(trained / "run", "--precision", precision)
    first = {record["text"]: record["log_prob"] for record in exact}
    same = [(record["log_prob"], first[record["text"]]) for record in cheap if record["text"] in first]
    assert len(same) > 2
    gap = max(abs(a - b) for a, b in same)
    assert (gap < 1e-4) if precision == "float32" else (1e-4 < gap < 1)
    assert ("nats a token)" in told) == (precision != "float32")


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_the_loss_that_is_told_is_that_of_dev_texts(trained, precision):
    model = load_for_sampling(trained / "run")
    data = load_config(trained / "run" / "config.yaml").data
    texts = load_corpus(
        data.source, **data.model_dump(exclude={"source", "too_long", "template", "condition_dropout"})
    ).dev
    rows = [[0, *model.tokenizer.encode(text), 0] for text in texts]

    def nll():
        kind = model.generator.wte.weight.dtype
        with torch.no_grad():
            losses = [
                F.cross_entropy(
                    model.generator(torch.tensor([row[:-1]]))[0].float(), torch.tensor(row[1:]), reduction="sum"
                )
                for row in rows
            ]
        assert kind == (torch.bfloat16 if precision == "bfloat16" and cheaper else torch.float32)
        return float(sum(losses)) / sum(len(row) - 1 for row in rows)

    cheaper = False
    exact, loss = nll(), measured(load_for_sampling(trained / "run"), precision)
    cheaper = True
    set_precision(model, precision)
    assert loss.texts == len(texts)
    assert loss.exact == pytest.approx(exact, abs=1e-5)
    assert loss.cheap == pytest.approx(nll(), abs=5e-3)  # inputs are rounded by the range of a batch
    assert abs(loss.cheap - loss.exact) < 0.1
    assert loss.cheap != loss.exact


def test_what_cannot_be_is_refused_and_what_is_not_there_is_said(trained, tmp_path):
    result = CliRunner().invoke(sample, [str(trained / "lstm"), "--precision", "int8"])
    assert "--precision int8 is for Transformers" in str(result.exception)
    shutil.copytree(trained / "run", tmp_path / "run")
    for path in (tmp_path / "run").rglob("config.yaml"):
        path.write_text(path.read_text().replace("source: stories", "source: gone.txt"))
    _, told = texts_of(tmp_path / "run", "--precision", "int8")
    assert "note: what int8 costs in likelihood is not known: " in told
    assert "gone.txt" in told

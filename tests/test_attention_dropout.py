"""A dropout of attention weights apart from that of all else: where it stands, what knows of it, who has none."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.commands import invoke
from tests.pretrained_models import save_llama
from textgan.cli.export import export
from textgan.config import Config
from textgan.configfile import load_config
from textgan.errors import UserError
from textgan.models import gpt2, transformer
from textgan.models.generator import Generator
from textgan.training import run
from textgan.training.building import build_generator
from textgan.training.pretrained import resolve

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")
SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
FEW = [
    "threads=1", "data.size=120", "mle.max_steps=1", "adversarial=none", "evaluation.samples=4",
    "evaluation.final_samples=4",
]  # fmt: skip


def config(*overrides):
    return load_config(SMOKE, [*FEW, *overrides])


def dropped(x, p):
    """A dropout that draws nothing: every third entry."""
    keep = torch.arange(x.numel()).view(x.shape) % 3 != 0
    return x * keep / (1 - p)


@pytest.mark.parametrize(("dropout", "attention"), [(0.0, 0.25), (0.5, 0.25), (0.5, 0.0), (0.5, None)])
def test_it_stands_where_gpt2s_attn_pdrop_does(monkeypatch, dropout, attention):
    from transformers import GPT2Config, GPT2LMHeadModel

    p = dropout if attention is None else attention
    sizes = {"vocab_size": 11, "n_positions": 6, "n_layer": 2, "n_head": 2, "n_embd": 8}
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(
        GPT2Config(**sizes, attn_pdrop=p, resid_pdrop=dropout, embd_pdrop=dropout, attn_implementation="eager")
    )
    ours = Generator(11, 6, 2, 2, 8, dropout=dropout, attention_dropout=attention)
    ours.load_state_dict(gpt2.ours(theirs.state_dict()))
    for model in (ours, theirs):
        model.train()
    monkeypatch.setattr(transformer, "dropout", dropped)
    monkeypatch.setattr(
        F, "dropout", lambda x, p=0.5, training=True, inplace=False: dropped(x, p) if training and p else x
    )
    ids = torch.randint(11, (3, 5), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-5, rtol=1e-5)


def test_the_config_reaches_the_blocks_and_none_is_the_dropout():
    for given, expected in (("0.25", 0.25), ("none", 0.1), ("0", 0.0)):
        model = build_generator(config(f"generator.attention_dropout={given}"), 30)
        assert [block.attn.dropout for block in model.h] == [expected]
        assert {block.attn.resid_dropout.p for block in model.h} == {model.drop.p} == {0.1}


@pytest.mark.parametrize("value", [1.0, -0.1])
def test_a_bad_share_is_refused(value):
    with pytest.raises(ValueError, match="dropout"):
        Generator(11, 6, 1, 2, 8, attention_dropout=value)


def test_an_lstm_has_no_attention():
    with pytest.raises(UserError, match=r"attention_dropout=0.2 is of Transformers"):
        config("generator.kind=lstm", "generator.attention_dropout=0.2")


def test_an_exported_model_keeps_it(tmp_path):
    run.train(config("generator.attention_dropout=0.3"), tmp_path / "run")
    invoke(export, tmp_path / "run", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert [written[name] for name in ("attn_pdrop", "resid_pdrop", "embd_pdrop")] == [0.3, 0.1, 0.1]


def test_models_of_transformers_take_it_by_their_names_or_refuse_it(tmp_path):
    save_llama(tmp_path / "llama")
    settings = resolve(
        Config(generator={"init_from": str(tmp_path / "llama"), "attention_dropout": 0.3, "dropout": 0.2})
    )
    model = build_generator(settings, json.loads(settings.generator.causal_lm)["vocab_size"])
    assert {module.attention_dropout for module in model.modules() if hasattr(module, "attention_dropout")} == {0.3}
    shape = settings.generator
    values = {k: v for k, v in json.loads(shape.causal_lm).items() if k != "attention_dropout"}
    other = shape.model_copy(update={"causal_lm": json.dumps(values)})
    with pytest.raises(UserError, match="has no dropout of its attention weights"):
        build_generator(settings.model_copy(update={"generator": other}), 30)

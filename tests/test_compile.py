"""``compile: true``: the same numbers from compiled blocks, in every phase that trains, and none while sampling."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._inductor import config as inductor_config

from textgan.configfile import load_config
from textgan.errors import UserError
from textgan.models.transformer import Block
from textgan.training import run

CONFIGS = Path(__file__).parents[1] / "configs"
FEW = ["threads=1", "log_every=1", "generator.dropout=0", "discriminator.dropout=0", "encoder.dropout=0"]
PHASES = {
    "adversarial": ["mle.max_steps=2", "adversarial.max_steps=2", "adversarial.d_pretrain_steps=1"],
    "vae": ["vae.max_steps=2", "vae.pretrain_steps=0", "vae.kl_ramp_steps=1", "mle=none"],
}


def logged(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if any(name.startswith("train/") for name in line)]


@pytest.fixture
def compiled(monkeypatch):
    """Blocks that were compiled, and the shapes that compiled ones were called with; no compiler is needed."""
    blocks, calls = [], []

    def trace(self, *, dynamic):
        assert dynamic
        blocks.append(self)
        nn.Module.compile(self, backend="aot_eager", dynamic=True)
        plain = self._compiled_call_impl

        def call(x, **options):
            calls.append((self, x.shape, options.get("cache")))
            return plain(x, **options)

        self._compiled_call_impl = call

    monkeypatch.setattr(Block, "compile", trace)
    yield blocks, calls
    torch._dynamo.reset()


@pytest.mark.parametrize("config, phase", [("smoke", "adversarial"), ("vae/smoke", "vae")])
def test_compiled_blocks_train_alike(config, phase, compiled, tmp_path):
    blocks, calls = compiled
    options = [*FEW, *PHASES[phase]]
    found = []
    for flag in ("false", "true"):
        assert not blocks
        run.train(load_config(CONFIGS / f"{config}.yaml", [*options, f"compile={flag}"]), tmp_path / flag)
        found.append(logged(tmp_path / flag))
    assert len(found[0]) >= 2
    for plain, fast in zip(*found, strict=True):
        assert plain == pytest.approx(fast, rel=1e-3, abs=1e-5)
    assert blocks
    assert {id(block) for block, _, _ in calls} == {id(block) for block in blocks}
    assert all(cache is None for _, _, cache in calls)


def test_without_a_compiler_nothing_begins(tmp_path):
    missing = inductor_config.patch({"cpp.cxx": ("/nowhere/c++",)})
    with missing, pytest.raises(UserError, match="compile=true needs a C\\+\\+ compiler"):
        run.train(load_config(CONFIGS / "smoke.yaml", ["compile=true"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()

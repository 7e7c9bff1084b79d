"""Runs that start from pretrained models: what they learn, keep, judge and refuse, from the config to the samples."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.commands import invoke
from tests.kills import Killed, everything
from tests.pretrained_models import forget_pretrained, save_gpt2, save_llama
from textgan.analysis.export import export
from textgan.cli.sample import sample
from textgan.cli.train import train as train_command
from textgan.configfile import load_config
from textgan.errors import UserError
from textgan.training import run
from textgan.training.checkpoint import arms
from textgan.training.experiment import Experiment
from textgan.training.loading import load_for_sampling
from textgan.training.pretrained import pretrained_weights

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")
SETTINGS = """
name: tuned
threads: 1
data: {source: stories, size: 120}
generator: {init_from: MODEL, block_size: 96}
discriminator: {n_layer: 1, n_head: 2, n_embd: 16}
mle: {max_steps: 4, batch_size: 8, warmup_steps: 1, lr: 0.01}
adversarial: {max_steps: 2, batch_size: 4, d_pretrain_steps: 1, warmup_steps: 1}
evaluation: {every: 2, samples: 4, final_samples: 4}
checkpoint: {every: 1}
log_every: 1
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save_gpt2(root / "gpt2", extra_rows=3)
    save_llama(root / "llama")
    return root


def config_of(tmp_path, model, *overrides):
    path = tmp_path / "config.yaml"
    path.write_text(SETTINGS.replace("MODEL", str(model)))
    return load_config(path, overrides)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def trained(request, models, tmp_path_factory, no_waiting_for_the_disk):
    """A run from a pretrained model, whose folder is gone when it is over."""
    root = tmp_path_factory.mktemp(request.param)
    shutil.copytree(models / request.param, root / "model")
    results = run.train(config_of(root, root / "model"), root / "run")
    forget_pretrained()
    shutil.rmtree(root / "model")
    return root / "run", results


def test_before_and_after_are_judged_alike(trained):
    folder, results = trained
    assert list(results["phases"])[:3] == ["pretrained", "mle", "adversarial"]
    before, after = (results["phases"][name] for name in ("pretrained", "mle"))
    assert before["step"] == 0
    assert before["calibration"] is not None
    assert after["metrics"]["nll"] < before["metrics"]["nll"] - 0.01
    assert before["metrics"].keys() == after["metrics"].keys()
    assert list(arms(folder)) == ["pretrained", "mle", "adversarial"]
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == 0
    assert "quality/nll" in first


def test_a_checkpoint_needs_the_pretrained_model_no_more(trained):
    folder, _ = trained
    model = load_for_sampling(folder)
    assert model.tokenizer.kind == "pretrained"
    shown = invoke(sample, folder, "-n", 2, "--lines", "--prompt", "The")
    assert len(shown.stdout.splitlines()) == 2
    beams = invoke(sample, folder, "--num-beams", 3, "--max-new-tokens", 5, "--lines")
    assert len(beams.stdout.splitlines()) == 1


def test_other_runs_start_from_it(trained, tmp_path):
    folder, _ = trained
    config = load_config(folder / "config.yaml", ["mle=none", f"adversarial.init_from={folder}", "name=again"])
    results = run.train(config, tmp_path / "again")
    assert list(results["phases"])[:2] == ["mle", "adversarial"]
    weights = [
        load_for_sampling(path).generator.state_dict() for path in (folder, tmp_path / "again" / "checkpoints" / "mle")
    ]
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_killed_and_resumed_it_ends_with_the_same_bits(models, tmp_path, monkeypatch, kind):
    config = config_of(tmp_path, models / kind)
    run.train(config, tmp_path / "whole")
    saving, count = Experiment.save, 0

    def deadly(self, name, **kwargs):
        nonlocal count
        count += 1
        if count in (1, 4, 7):
            raise Killed
        return saving(self, name, **kwargs)

    monkeypatch.setattr(Experiment, "save", deadly)
    for k in range(3):
        with pytest.raises(Killed):
            run.train(config, tmp_path / "killed", resume=k > 0)
    run.train(config, tmp_path / "killed", resume=True)
    assert everything(tmp_path / "killed") == everything(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("adapter", ["lora", "adalora"])
def test_low_rank_adapters_alone_are_trained_and_folded_in(models, tmp_path, monkeypatch, kind, adapter):
    """From the pretrained model to a folder for transformers, killed on the way; the base stays what it was."""
    settings = [f"adapter.kind={adapter}", "adversarial.kl_weight=0.1", "adversarial.mle_weight=1"]
    if adapter == "adalora":
        settings += ["adapter.init_r=4", "adapter.target_r=2"]
    config = config_of(tmp_path, models / kind, *settings)
    results = run.train(config, tmp_path / "whole")
    assert results["phases"]["mle"]["metrics"]["nll"] != results["phases"]["pretrained"]["metrics"]["nll"]
    saving, count = Experiment.save, 0

    def deadly(self, name, **kwargs):
        nonlocal count
        count += 1
        if count in (4, 9):
            raise Killed
        return saving(self, name, **kwargs)

    monkeypatch.setattr(Experiment, "save", deadly)
    for k in range(2):
        with pytest.raises(Killed):
            run.train(config, tmp_path / "killed", resume=k > 0)
    run.train(config, tmp_path / "killed", resume=True)
    assert everything(tmp_path / "killed") == everything(tmp_path / "whole")

    kept = tmp_path / "whole" / "checkpoints" / "adversarial"
    adapted = load_file(kept / "adapter.safetensors")
    assert all("lora" in name or name.startswith(("ln_f", "logit", "opening")) or "keep" in name for name in adapted)
    base, theirs = load_file(kept / "model.safetensors"), pretrained_weights(str(models / kind))
    for name, tensor in base.items():
        rows = theirs[name][: len(tensor)]
        assert torch.equal(rows, tensor), name

    export(tmp_path / "whole", "hf", tmp_path / "out")
    ours, merged = load_for_sampling(tmp_path / "whole"), AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.arange(20)[None] * 7
    opening = ids.masked_fill(ids == 0, merged.config.bos_token_id)
    with torch.no_grad():
        expected = ours.generator(ids.masked_fill(ids == 0, ours.tokenizer.eos_id))
        torch.testing.assert_close(merged(opening).logits, expected, rtol=0, atol=1e-5)


def test_other_adapters_are_for_gpt2s_layers(models, tmp_path):
    for kind in ("bottleneck", "prefix", "prompt"):
        with pytest.raises(
            UserError, match=f"adapter.kind={kind} is for GPT-2's layers; a LlamaModel takes lora or adalora"
        ):
            run.train(config_of(tmp_path, models / "llama", f"adapter.kind={kind}"), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    run.train(config_of(tmp_path, models / "gpt2", "adapter.kind=prefix", "adversarial=none"), tmp_path / "prefix")
    with pytest.raises(UserError, match=r"cannot be folded .*give --format safetensors"):
        export(tmp_path / "prefix", "hf", tmp_path / "out")
    export(tmp_path / "prefix", "safetensors", tmp_path / "kept")
    texts = [invoke(sample, tmp_path / name, "-n", 2, "--lines").stdout for name in ("prefix", "kept")]
    assert texts[0] == texts[1]


def test_the_pretrained_model_itself_can_be_the_parent(models, tmp_path):
    results = run.train(config_of(tmp_path, models / "gpt2", "mle=none"), tmp_path / "run")
    assert list(results["phases"])[:2] == ["mle", "adversarial"]
    assert results["phases"]["mle"]["step"] == 0


def test_a_vae_begins_with_the_tuned_model_as_decoder(models, tmp_path):
    few = ["mle.max_steps=2", "vae.max_steps=2", "vae.kl_ramp_steps=1", "vae.batch_size=4", "vae.warmup_steps=1"]
    small = ["encoder.n_layer=1", "encoder.n_head=2", "encoder.n_embd=16", "vae.z_size=4"]
    config = config_of(tmp_path, models / "gpt2", "adversarial=none", "vae={}", "vae.init_from=mle", *few, *small)
    assert "vae" in run.train(config, tmp_path / "run")["phases"]


def test_what_cannot_be_loaded_leaves_nothing_behind(models, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(models / "gpt2", broken)
    (broken / "model.safetensors").write_bytes(b"broken")
    forget_pretrained()
    with pytest.raises(UserError, match="broken cannot be loaded"):
        run.train(config_of(tmp_path, broken), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_dry_run_counts_it(models, tmp_path, kind):
    config_of(tmp_path, models / kind)
    facts = json.loads(invoke(train_command, tmp_path / "config.yaml", "--dry-run", "--json").stdout)
    parameters = sum(p.numel() for p in pretrained_weights(str(models / kind)).values())
    assert 0.8 * parameters < facts["generator_parameters"] <= parameters
    assert facts["tokenizer"] == "pretrained"


def test_dropout_of_the_config_reaches_a_model_of_transformers(models, tmp_path):
    found = []
    for share in (0.0, 0.4):
        config = config_of(
            tmp_path, models / "llama", f"generator.dropout={share}", "adversarial=none", "mle.max_steps=1"
        )
        found.append(run.train(config, tmp_path / str(share))["phases"]["mle"]["metrics"]["nll"])
    assert found[0] != found[1]

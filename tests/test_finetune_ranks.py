"""All of ``finetune`` at once, on several processes and with a divided optimiser, and from a pretrained model."""

import json
from pathlib import Path

import pytest
import torch

from tests.pretrained_models import save_llama
from tests.processes import torchrun
from textgan.config import Config
from textgan.configfile import load_config
from textgan.errors import UserError
from textgan.training import run
from textgan.training.checkpoint import load_weights

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")
SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
TUNED = [
    "finetune.freeze=[wpe]", "finetune.layer_lr_decay=0.7", "finetune.unfreeze_every=1", "finetune.label_smoothing=0.1",
    "finetune.l1=0.01", "finetune.l2=0.02", "finetune.l2_sp=0.5", "generator.gradient_checkpointing=true",
]  # fmt: skip
EQUAL = [
    "threads=1", "data.size=200", "generator.n_layer=2", "generator.dropout=0", "mle.batch_size=10", "mle.max_steps=4",
    "mle.accumulate=2", "adversarial=none", "evaluation.every=2", "evaluation.samples=4", "evaluation.final_samples=4",
]  # fmt: skip
MORE = {"continuation": "steps", "ema": 0}


def logged(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_processes_with_a_divided_optimiser_train_what_one_does(tmp_path):
    """Penalties are added once, not by each; what waits to be thawed waits on all."""
    run.train(load_config(SMOKE, [*EQUAL, *TUNED]), tmp_path / "one")
    options = [*EQUAL, *TUNED, "shard_optimizer=true"]
    together = torchrun(2, "train", SMOKE, "--run-folder", tmp_path / "two", *options)
    _, err = together.communicate(timeout=300)
    assert together.returncode == 0, err
    for a, b in zip(logged(tmp_path / "one"), logged(tmp_path / "two"), strict=True):
        for name in ("train/loss", "train/nll", "train/grad_norm", "quality/nll"):
            if name in a:
                assert b[name] == pytest.approx(a[name], rel=1e-3), (a["step"], name)
    one, two = (load_weights(tmp_path / name / "checkpoints" / "mle") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-3, rtol=1e-2)
    assert torch.equal(one["wpe.weight"], two["wpe.weight"])


def test_a_pretrained_model_of_another_kind(tmp_path):
    """Its blocks thaw one after the other, what is frozen stays as it was pretrained, in all arms."""
    theirs = save_llama(tmp_path / "llama")
    settings = Config(
        threads=1,
        data={"source": "stories", "size": 120},
        generator={"init_from": str(tmp_path / "llama"), "block_size": 96, "gradient_checkpointing": True},
        discriminator={"n_layer": 1, "n_head": 2, "n_embd": 16},
        finetune={"freeze": ["layers.0.mlp"], "layer_lr_decay": 0.8, "unfreeze_every": 1, "l2_sp": 0.1},
        mle={"max_steps": 3, "batch_size": 8, "lr": 0.01, "warmup_steps": 0, "ema": 0, "weight_decay": 1},
        adversarial={"max_steps": 3, "batch_size": 4, "d_pretrain_steps": 1, "warmup_steps": 0} | MORE,
        evaluation={"every": 5, "samples": 4, "final_samples": 4},
        checkpoint={"every": 1, "keep_last": 9},
    )  # fmt: skip
    run.train(settings, tmp_path / "run")
    root = tmp_path / "run" / "checkpoints"
    start = {f"base.{name}": tensor for name, tensor in theirs.model.state_dict().items()}
    first, second, third = (load_weights(root / f"step-{k:08d}") for k in (1, 2, 3))

    table = "base.embed_tokens.weight"
    start[table] = start[table][: len(first[table])]  # rows beyond the tokenizer's are left out

    def moved(before, after):
        return {name for name in start if not torch.equal(before[name], after[name])}

    assert not any("layers.0" in name or "embed" in name for name in moved(start, first))
    assert any("layers.1" in name for name in moved(start, first))
    assert any("layers.0.self_attn" in name for name in moved(first, second))
    assert not any("embed" in name for name in moved(first, second))
    assert any("embed" in name for name in moved(second, third))
    for arm in ("mle", "adversarial", "continued"):
        end = load_weights(root / arm)
        same = {name for name in start if torch.equal(start[name], end[name])}
        assert same == {name for name in start if "layers.0.mlp" in name}, arm


def test_layers_of_another_library_are_not_compiled_and_computed_again(tmp_path):
    save_llama(tmp_path / "llama")
    both = {"init_from": str(tmp_path / "llama"), "gradient_checkpointing": True}
    with pytest.raises(UserError, match="do not go together"):
        run.train(Config(generator=both, compile=True, data={"size": 120}), tmp_path / "run")

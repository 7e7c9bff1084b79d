"""Every option of the MLE phase does something."""

from pathlib import Path

import pytest
import torch

from textgan.configfile import load_config
from textgan.training import run
from textgan.training.checkpoint import load_weights

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
FEW = [
    "threads=1", "data.size=100", "adversarial=none", "mle.max_steps=4", "mle.calibrate=false",
    "evaluation.every=4", "evaluation.samples=2", "evaluation.final_samples=2",
]  # fmt: skip


def train(folder, *options):
    run.train(load_config(SMOKE, [*FEW, *options]), folder)
    return load_weights(folder / "checkpoints" / "mle")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "base")


@pytest.mark.parametrize(
    "option",
    [
        "mle.batch_size=4",
        "mle.lr=2e-3",
        "mle.final_lr_ratio=0.9",
        "mle.warmup_steps=1",
        "mle.betas=[0.5,0.98]",
        "mle.betas=[0.9,0.5]",
        "mle.weight_decay=3",
        "mle.grad_clip=0.01",
        "mle.ema=0",
        "mle.calibrate=true",
        "generator.dropout=0.5",
        "precision=bfloat16",
        "seed=1",
    ],
)
def test_every_option_moves_the_weights(base, tmp_path, option):
    found = train(tmp_path / "run", option)
    assert any(not torch.equal(found[name], base[name]) for name in base), "the option was ignored"


def test_a_clip_far_above_the_norm_clips_nothing(tmp_path):
    found = train(tmp_path / "run", "mle.grad_clip=1000")
    unclipped = train(tmp_path / "none", "mle.grad_clip=0")
    assert all(torch.equal(found[name], unclipped[name]) for name in found)

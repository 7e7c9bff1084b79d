"""The MLE phase learns, stops early at its best, and hears every option."""

import json
import math
from pathlib import Path

import pytest
import torch

from textgan.configfile import load_config
from textgan.training import run
from textgan.training.checkpoint import load_weights

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
FEW = [
    "data.size=100", "adversarial=none", "mle.max_steps=4", "mle.calibrate=false",
    "evaluation.every=4", "evaluation.samples=2", "evaluation.final_samples=2",
]  # fmt: skip


def config(*overrides):
    return load_config(SMOKE, ["threads=1", *overrides])


def weights(folder):
    return load_weights(folder / "checkpoints" / "mle")


def train(folder, *options):
    run.train(config(*FEW, *options), folder)
    return weights(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "base")


@pytest.mark.parametrize(
    "option",
    [
        "mle.batch_size=4",
        "mle.batch_tokens=200",
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


def test_learns_eight_texts_by_heart(tmp_path):
    text = tmp_path / "texts.txt"
    text.write_text("\n".join(f"{a} {b} saw the {c} ." for a in "AB" for b in "CD" for c in "EF"))
    settings = config(
        f"data.source={text}", f"data.dev={text}", "data.test_fraction=0", "generator.dropout=0", "mle.ema=0",
        "generator.n_embd=32", "mle.max_steps=150", "mle.lr=1e-2", "mle.calibrate=false", "adversarial=none",
        "evaluation.every=150", "log_every=50",
    )  # fmt: skip
    results = run.train(settings, tmp_path / "run")
    nll = results["phases"]["mle"]["metrics"]["nll_text"]
    assert nll == pytest.approx(math.log(8), abs=0.02)  # the entropy of eight equally likely texts
    assert nll > math.log(8) - 1e-6  # and no model can be below it


def test_accumulation_is_the_same_batch(tmp_path):
    common = ["generator.dropout=0", "mle.max_steps=3", "adversarial=none", "mle.calibrate=false"]
    run.train(config(*common), tmp_path / "whole")
    run.train(config(*common, "mle.accumulate=4"), tmp_path / "parts")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-5, rtol=1e-4, msg=name)


def test_early_stopping_keeps_the_best(tmp_path):
    settings = config("mle.max_steps=60", "mle.lr=1", "mle.patience=2", "adversarial=none", "evaluation.every=5")
    run.train(settings, tmp_path / "run")
    log = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    curve = [(r["quality/nll"], r["step"]) for r in log if "quality/nll" in r][:-1]
    best, step = min(curve)
    assert curve[-1][1] == step + 10 < 60  # two evaluations without a better one
    meta = json.loads((tmp_path / "run" / "checkpoints" / "mle" / "meta.json").read_text())
    assert meta["metrics"]["quality/nll"] <= best  # calibrated from the best, not from the last


def test_calibration_moves_the_unk_logit_where_dev_has_unknown_words(tmp_path):
    bias = train(tmp_path / "run", "mle.calibrate=true", "tokenizer.min_count=20")["logit_bias"]
    assert bias[1] != 0.0
    assert bias.count_nonzero() == 1

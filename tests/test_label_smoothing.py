"""Label smoothing: the fused loss against torch's, in every arm of a run, and what is reported beside it."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from textgan.configfile import load_config
from textgan.data.dataset import Batch
from textgan.errors import UserError
from textgan.models.generator import Generator
from textgan.ops import linear_cross_entropy as module
from textgan.ops.linear_cross_entropy import smoothed_cross_entropy
from textgan.training import run
from textgan.training.checkpoint import load_weights
from textgan.training.objectives import mle_loss, mle_loss_and_nll

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")
SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
M, D, V = 150, 5, 41


def tensors(dtype=torch.float64, bias=True, m=M):
    rng = torch.Generator().manual_seed(0)
    x, weight, b = (torch.randn(*size, generator=rng, dtype=torch.float64).to(dtype) for size in ((m, D), (V, D), (V,)))
    return [t.requires_grad_() for t in (x, weight, b)[: 3 if bias else 2]], torch.randint(V, (m,), generator=rng)


def layer(leaves):
    return (*leaves, None)[:3]


@pytest.mark.parametrize("rows", [None, 1])  # all in one block; 64 in each
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("smoothing", [0.1, 0.7])
def test_value_and_gradients_are_torchs(monkeypatch, rows, bias, smoothing):
    if rows:
        monkeypatch.setitem(module.BLOCK, "cpu", rows)
    leaves, targets = tensors(bias=bias)
    loss, nll = smoothed_cross_entropy(*layer(leaves), targets, smoothing)
    logits = F.linear(*leaves)
    expected = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(nll, F.cross_entropy(logits, targets, reduction="sum"))
    assert not nll.requires_grad
    for ours, theirs in zip(
        torch.autograd.grad(loss * 3, leaves), torch.autograd.grad(expected * 3, leaves), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_gradients_are_those_of_finite_differences():
    leaves, targets = tensors(m=7)
    assert gradcheck(lambda *given: smoothed_cross_entropy(*given, targets, 0.2)[0], leaves)


def test_by_hand():
    """Two tokens with logits (0, log 3): p = (1/4, 3/4), target 1, a fifth of it spread: (0.1, 0.9)."""
    x, weight = torch.ones(1, 1, dtype=torch.float64), torch.tensor([[0.0], [math.log(3)]], dtype=torch.float64)
    weight.requires_grad_()
    loss, nll = smoothed_cross_entropy(x, weight, None, torch.tensor([1]), 0.2)
    assert loss.item() == pytest.approx(0.1 * math.log(4) + 0.9 * math.log(4 / 3))
    assert nll.item() == pytest.approx(math.log(4 / 3))
    loss.backward()
    assert weight.grad.flatten().tolist() == pytest.approx([0.25 - 0.1, 0.75 - 0.9])


def test_under_autocast():
    leaves, targets = tensors(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, nll = smoothed_cross_entropy(*leaves, targets, 0.1)
        logits = F.linear(*leaves).float()
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets, reduction="sum", label_smoothing=0.1))
    torch.testing.assert_close(nll, F.cross_entropy(logits, targets, reduction="sum"))
    loss.backward()
    assert all(leaf.grad.dtype == torch.float32 for leaf in leaves)


def test_no_more_than_a_block_of_logits_is_held():
    """Of 4,000 rows, what waits for the way back is as small as the gradients of inputs and layer."""
    leaves, targets = tensors(torch.float32, m=4000)
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t.numel()) or t, lambda t: t):
        smoothed_cross_entropy(*leaves, targets, 0.1)
    assert sum(held) == sum(leaf.numel() for leaf in leaves) < 4000 * V / 4


def test_the_mle_loss_of_a_batch_and_its_likelihood():
    torch.manual_seed(0)
    model = Generator(5, 6, 1, 2, 8, dropout=0.0)
    batch = Batch(torch.tensor([[0, 1, 2, 3, 0], [0, 4, 0, 0, 0]]), torch.tensor([4, 2]))
    loss, nll = mle_loss_and_nll(model, batch, 7.0, 0.3)
    real = model(batch.inputs)[batch.mask], batch.targets[batch.mask]
    torch.testing.assert_close(loss, F.cross_entropy(*real, reduction="sum", label_smoothing=0.3) / 7)
    torch.testing.assert_close(nll, mle_loss(model, batch, 7.0).detach())


FEW = [
    "threads=1", "data.size=120", "mle.max_steps=1", "mle.ema=0", "mle.calibrate=false", "generator.dropout=0",
    "adversarial.calibrate=false", "adversarial.max_steps=1", "adversarial.ema=0", "adversarial.d_pretrain_steps=1",
    "evaluation.samples=4", "evaluation.final_samples=4",
]  # fmt: skip


def records(folder):
    return {
        (record["step"], tag): value
        for record in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        for tag, value in record.items()
        if tag.startswith("train/")
    }


def test_it_changes_the_loss_of_every_arm_and_not_the_likelihood_that_is_told(tmp_path):
    for name, share in (("plain", 0.0), ("smooth", 0.4)):
        run.train(load_config(SMOKE, [*FEW, f"finetune.label_smoothing={share}"]), tmp_path / name)
    plain, smooth = (records(tmp_path / name) for name in ("plain", "smooth"))
    assert smooth[1, "train/nll"] == pytest.approx(plain[1, "train/nll"], rel=1e-6)  # before the first update
    assert smooth[1, "train/loss"] != pytest.approx(plain[1, "train/loss"], rel=1e-6)
    assert smooth[1, "train/grad_norm"] < 0.9 * plain[1, "train/grad_norm"]
    start = tmp_path / "plain" / "checkpoints" / "mle"
    more = [*FEW, "mle=none", f"adversarial.init_from={start}"]
    for name, share in (("plain-2", 0.0), ("smooth-2", 0.4)):
        run.train(load_config(SMOKE, [*more, f"finetune.label_smoothing={share}"]), tmp_path / name)
    for arm, beside in (("adversarial", "."), ("continued", "continued")):
        plain, smooth = (records(tmp_path / name / beside) for name in ("plain-2", "smooth-2"))
        assert smooth[2, "train/mle_loss"] != pytest.approx(plain[2, "train/mle_loss"], rel=1e-6), arm
        a, b = (load_weights(tmp_path / name / "checkpoints" / arm) for name in ("plain-2", "smooth-2"))
        assert not torch.equal(a["wte.weight"], b["wte.weight"])


def test_refused_where_there_is_no_mle_loss():
    with pytest.raises(UserError, match="is of the MLE loss, of which"):
        load_config(
            SMOKE, ["finetune.label_smoothing=0.1", "mle=none", "adversarial.init_from=x", "adversarial.mle_weight=0",
                    "adversarial.adv_ratio=none"]
        )  # fmt: skip

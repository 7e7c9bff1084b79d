"""L1, L2 and L2-SP: gradients by hand and torch's own L2, in every arm of a run, and killed runs."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.kills import Killed, everything
from textgan.configfile import load_config
from textgan.configfinetune import Finetune
from textgan.errors import UserError
from textgan.models.generator import Generator
from textgan.training import run
from textgan.training.checkpoint import load_weights
from textgan.training.experiment import Experiment
from textgan.training.optim import adamw, set_lr
from textgan.training.penalties import Penalties

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")
SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
FEW = [
    "threads=1", "data.size=120", "mle.max_steps=3", "mle.ema=0", "mle.calibrate=false", "mle.weight_decay=0",
    "adversarial.weight_decay=0", "adversarial.calibrate=false", "adversarial.max_steps=3", "adversarial.ema=0",
    "adversarial.d_pretrain_steps=1", "adversarial.lr=0.01", "mle.lr=0.01", "adversarial.max_nll_rise=none",
    "evaluation.every=3", "evaluation.samples=4", "evaluation.final_samples=4", "checkpoint.every=1",
]  # fmt: skip


def config(*overrides):
    return load_config(SMOKE, [*FEW, *overrides])


def test_gradients_by_hand():
    model = nn.Linear(2, 1)
    model.weight.data = torch.tensor([[3.0, -2.0]])
    penalties = Penalties(Finetune(l1=0.5, l2=0.1, l2_sp=10.0), model)
    model.weight.data = torch.tensor([[3.5, 0.0]])
    model.weight.grad, model.bias.grad = torch.tensor([[1.0, 1.0]]), torch.tensor([7.0])
    penalties.add()
    # sign: +1, 0; weight: 3.5, 0; moved: 0.5, 2
    torch.testing.assert_close(model.weight.grad, torch.tensor([[1 + 0.5 + 0.35 + 5.0, 1 + 0.0 + 0.0 + 20.0]]))
    assert model.bias.grad.tolist() == [7.0]


def test_gradients_are_those_of_the_losses_that_are_documented():
    torch.manual_seed(0)
    model = Generator(9, 6, 1, 2, 8, dropout=0.0)
    model.wpe.weight.requires_grad_(False)
    settings = Finetune(l1=0.3, l2=0.2, l2_sp=0.7)
    penalties = Penalties(settings, model)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.data.add_(torch.randn_like(p))
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    penalties.add()
    held = [name for name, p in model.named_parameters() if p.dim() == 2 and name != "wpe.weight"]
    weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    loss = sum(
        0.3 * w.abs().sum() + 0.1 * w.square().sum() + 0.35 * (w - start[name]).square().sum()
        for name, w in weights.items()
        if name in held
    )
    loss.backward()
    for name, p in model.named_parameters():
        if name in held:
            torch.testing.assert_close(p.grad, weights[name].grad)
        else:
            assert p.grad is None or not p.grad.any()


def test_l2_is_that_of_torchs_adam():
    """``torch.optim.Adam(weight_decay=...)`` couples it to the gradient, as the papers before AdamW do."""
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
    theirs.load_state_dict(ours.state_dict())
    first = adamw(ours, betas=(0.9, 0.98), weight_decay=0.0)
    set_lr(first, 0.01)
    second = torch.optim.Adam(theirs.parameters(), lr=0.01, betas=(0.9, 0.98), weight_decay=0.3)
    penalties = Penalties(Finetune(l2=0.3), ours)
    for k in range(5):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(k))
        for model in (ours, theirs):
            model.zero_grad()
            model(x).square().sum().backward()
        penalties.add()
        first.step()
        second.step()
        torch.testing.assert_close(ours.weight, theirs.weight)


def test_every_arm_adds_them_before_it_clips(tmp_path, monkeypatch):
    """Seen at the call, whose place is told by the norm that is logged."""
    seen = []

    def watched(self):
        before = {name: p.grad.clone() for name, p in self.matrices.items()}
        add(self)
        whole = torch.nn.utils.get_total_norm([p.grad for p in self.generator.parameters()])
        seen.append(
            ({name: (p.detach().clone(), before[name], p.grad.clone()) for name, p in self.matrices.items()}, whole)
        )

    add, make = Penalties.add, Penalties.__init__

    def made(self, settings, generator):
        make(self, settings, generator)
        self.generator = generator

    monkeypatch.setattr(Penalties, "add", watched)
    monkeypatch.setattr(Penalties, "__init__", made)
    run.train(config("finetune.l1=0.01", "finetune.l2=0.02", "finetune.l2_sp=3"), tmp_path / "run")
    assert len(seen) == 9
    parent = load_weights(tmp_path / "run" / "checkpoints" / "mle")
    logged = []
    for folder in (".", "continued"):
        logged += norms(tmp_path / "run" / folder)
    assert [round(float(norm), 4) for _, norm in seen] == [round(x, 4) for x in logged]
    for k, (found, _) in enumerate(seen):
        for name, (weight, before, after) in found.items():
            start = seen[0][0][name][0] if k < 3 else parent[name]
            expected = 0.01 * weight.sign() + 0.02 * weight + 3 * (weight - start)
            torch.testing.assert_close(after - before, expected, atol=1e-5, rtol=1e-4)


def norms(folder):
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record["train/grad_norm"] for record in records if "train/grad_norm" in record]


def test_they_hold_weights_where_they_say(tmp_path):
    """In every arm: L2 and L1 make matrices smaller than they are without, L2-SP keeps them nearer to the parent."""
    options = {"plain": [], "l1": ["finetune.l1=10"], "l2": ["finetune.l2=100"], "l2_sp": ["finetune.l2_sp=100"]}
    run.train(config("adversarial=none"), tmp_path / "parent")
    start = f"adversarial.init_from={tmp_path / 'parent' / 'checkpoints' / 'mle'}"
    ends = {}
    for name, more in options.items():
        run.train(config("mle=none", start, *more), tmp_path / name)
        ends[name] = {arm: load_weights(tmp_path / name / "checkpoints" / arm) for arm in ("adversarial", "continued")}
    parent = load_weights(tmp_path / "parent" / "checkpoints" / "mle")
    matrices = [name for name, w in parent.items() if w.dim() == 2]
    for arm in ("adversarial", "continued"):

        def total(name, measure, arm=arm):
            return sum(float(measure(ends[name][arm][w], parent[w])) for w in matrices)

        assert total("l1", lambda w, _: w.abs().sum()) < total("plain", lambda w, _: w.abs().sum())
        assert total("l2", lambda w, _: w.square().sum()) < total("plain", lambda w, _: w.square().sum())
        moved = {name: total(name, lambda w, p: (w - p).square().sum()) for name in ("plain", "l2_sp")}
        assert moved["l2_sp"] < 0.8 * moved["plain"]


@pytest.mark.parametrize("step", [2, 4])
def test_a_killed_run_still_knows_where_it_began(tmp_path, monkeypatch, step):
    settings = config("finetune.l2_sp=2", "mle.lr=0.05")
    run.train(settings, tmp_path / "whole")
    save = Experiment.save

    def deadly(self, name, **kwargs):
        save(self, name, **kwargs)
        if kwargs["step"] == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "save", deadly)
        with pytest.raises(Killed):
            run.train(settings, tmp_path / "run")
    run.train(settings, tmp_path / "run", resume=True)
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")


def test_refused_where_nothing_would_feel_them(tmp_path):
    with pytest.raises(UserError, match="an adapter freezes"):
        config("finetune.l2=1", "adapter.kind=lora")
    with pytest.raises(UserError, match="are of matrices, and none of the generator trains"):
        run.train(
            config("finetune.l1=1", "finetune.freeze=['wte', 'wpe', '*c_attn*', '*c_proj*', '*c_fc*']"),
            tmp_path / "run",
        )

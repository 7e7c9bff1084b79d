"""AdamW divided among processes: the same bits as whole, in a share of the memory, and kept in the same checkpoints."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.processes import on_ranks
from textgan.configfile import load_config
from textgan.models.generator import Generator
from textgan.training import run
from textgan.training.checkpoint import load_state
from textgan.training.experiment import Experiment
from textgan.training.optim import adamw, set_lr
from textgan.training.ranks import Ranks

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
SETTINGS = {"betas": (0.9, 0.98), "weight_decay": 0.1}


def _model() -> nn.Module:
    torch.manual_seed(0)
    return Generator(40, 8, 3, 2, 16, dropout=0.0)


def _learn(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for k in steps:
        set_lr(optimizer, 0.01 * (k + 1))
        optimizer.zero_grad()
        ids = torch.randint(40, (4, 8), generator=torch.Generator().manual_seed(k))
        model(ids).square().mean().backward()
        optimizer.step()


def _kept(optimizer: torch.optim.Optimizer) -> int:
    """Numbers of moments that this process has."""
    return sum(x.numel() for state in optimizer.state.values() for name, x in state.items() if name != "step")


def _weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def _trained(ranks: Ranks, before: dict | None) -> dict:
    """Three steps, with an optimiser that goes on from the state ``before`` where there is one."""
    model = _model()
    optimizer = adamw(model, **SETTINGS, shards=ranks if ranks.size > 1 else None)
    if before:
        before = copy.deepcopy(before)
        model.load_state_dict(before["weights"])
        optimizer.load_state_dict(before["state"])
    _learn(model, optimizer, range(3, 6) if before else range(3))
    found = {"weights": model.state_dict(), "kept": _kept(optimizer), "all": _weights(model)}
    return copy.deepcopy(found | {"state": ranks.same(optimizer.state_dict())})


def _trained_twice(ranks: Ranks, whole: dict) -> dict:
    """Three steps, and three more from one's own state and from that of a ``whole`` optimiser."""
    first = _trained(ranks, None)
    return {"first": first, "on": _trained(ranks, first)["all"], "on_whole": _trained(ranks, whole)["all"]}


@pytest.mark.parametrize("size", [2, 3])
def test_steps_are_to_the_bit_those_of_a_whole_adamw(size, tmp_path):
    """Also from its state on, and it goes on from theirs."""
    whole = _trained(Ranks(), None)
    longer = _trained(Ranks(), whole)
    assert not torch.equal(longer["all"], whole["all"])
    found = on_ranks(size, _trained_twice, tmp_path / "out", whole)
    for rank in found:
        assert torch.equal(rank["first"]["all"], whole["all"])
        assert torch.equal(rank["on"], longer["all"])
        assert torch.equal(rank["on_whole"], longer["all"])
    first = found[0]["first"]
    assert torch.equal(_trained(Ranks(), first)["all"], longer["all"])
    for key, entry in whole["state"]["state"].items():
        for name, value in entry.items():
            assert torch.equal(first["state"]["state"][key][name], value)
    kept = [rank["first"]["kept"] for rank in found]
    assert sum(kept) == whole["kept"] == 2 * _model().num_parameters()
    assert max(kept) < 1.1 * whole["kept"] / size


def _stop(*args):
    raise KeyboardInterrupt


def _runs(ranks: Ranks, folder: str) -> list[bool]:
    """A run as it is, one that is sharded, and one that is sharded until it is stopped."""
    folder = Path(folder)
    few = ["data.size=60", "threads=1", "mle.max_steps=6", "adversarial.max_steps=6", "evaluation.every=2"]
    few += [
        "checkpoint.every=2",
        "adversarial.continuation=none",
        "evaluation.samples=20",
        "evaluation.final_samples=20",
    ]
    plain, sharded = (load_config(SMOKE, [*few, f"shard_optimizer={value}"]) for value in ("false", "true"))
    run.train(plain, folder / "plain", ranks=ranks)
    run.train(sharded, folder / "sharded", ranks=ranks)
    evaluate, seen, kinds = Experiment.evaluate, [], []

    def stopping(self, *args):
        seen.append(args)
        kinds.append(self.shards is not None)
        return _stop() if len(seen) == 6 else evaluate(self, *args)  # in the middle of the adversarial phase

    Experiment.evaluate = stopping
    try:
        run.train(sharded, folder / "stopped", ranks=ranks)
    except KeyboardInterrupt:
        seen += [None]
    run.train(plain, folder / "stopped", ranks=ranks, resume=True)
    return kinds


def test_runs_are_the_same_to_the_bit_and_go_on_either_way(tmp_path):
    kinds = on_ranks(2, _runs, tmp_path / "out", str(tmp_path))
    assert kinds[0] == kinds[1]
    assert kinds[0][:6] == [True] * 6
    assert kinds[0][6:] == [False] * len(kinds[0][6:]) != []
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("plain", "sharded", "stopped")]
    assert logs[0] == logs[1] == logs[2]
    assert len(logs[0].splitlines()) > 6
    states = [load_state(tmp_path / name / "checkpoints" / "step-00000012") for name in ("plain", "sharded")]
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("plain", "sharded", "stopped")]
    assert results[0]["phases"] == results[1]["phases"] == results[2]["phases"]
    for name in ("optimizer", "optimizer_d"):
        whole, parts = (state["players"][name] for state in states)
        assert whole["state"].keys() == parts["state"].keys()
        assert whole["param_groups"] == parts["param_groups"]

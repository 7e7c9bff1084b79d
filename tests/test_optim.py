"""Schedules, weight average, gradient norms, seeds and replay against hand-worked values."""

import math

import pytest
import torch
from torch import nn

from textgan.training.optim import WeightAverage, adamw, clip_gradients, grad_norm, lr_at
from textgan.training.replay import Replay, concatenate
from textgan.training.seeding import seed_dropout, stream, stream_seed


def test_lr_warms_up_linearly_then_follows_a_cosine():
    shape = {"total_steps": 110, "peak": 2.0, "warmup_steps": 10, "final_ratio": 0.1}
    assert lr_at(0, **shape) == pytest.approx(0.2)
    assert lr_at(9, **shape) == pytest.approx(2.0)
    assert lr_at(10, **shape) == pytest.approx(2.0)
    assert lr_at(60, **shape) == pytest.approx(2.0 * 0.55)  # half way: the mean of peak and end
    assert lr_at(35, **shape) == pytest.approx(2.0 * (0.1 + 0.45 * (1 + math.cos(math.pi / 4))))
    assert lr_at(110, **shape) == pytest.approx(0.2)
    assert lr_at(500, **shape) == pytest.approx(0.2)


def test_weight_average_follows_the_recurrence():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = WeightAverage(model, 0.5)
    expected = 1.0
    for n, value in enumerate([3.0, -2.0, 7.0], start=1):
        nn.init.constant_(model.weight, value)
        average.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    assert average.module.weight.item() == pytest.approx(expected)
    assert not average.module.weight.requires_grad

    again = WeightAverage(nn.Linear(1, 1, bias=False), 0.5)
    again.load_state_dict(average.state_dict())
    assert again.updates == 3
    assert torch.equal(again.module.weight, average.module.weight)


def test_weight_average_without_decay_is_the_model():
    model = nn.Linear(2, 2)
    assert WeightAverage(model, 0.0).module is model


def test_weight_decay_is_on_matrices_only():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    groups = adamw(model, betas=(0.9, 0.99), weight_decay=0.3).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in model.named_parameters()} == {
        "0.weight": 0.3,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
    }


def test_clip_gradients_returns_the_norm_before_and_scales():
    model = nn.Linear(2, 1)
    model.weight.grad = torch.tensor([[3.0, 0.0]])
    model.bias.grad = torch.tensor([4.0])
    assert clip_gradients(model, 0.0).item() == pytest.approx(5.0)
    assert model.bias.grad.item() == 4.0  # 0 means: leave them alone
    assert clip_gradients(model, 1.0).item() == pytest.approx(5.0)
    assert grad_norm(p.grad for p in model.parameters()).item() == pytest.approx(1.0, rel=1e-5)
    assert model.bias.grad.item() == pytest.approx(0.8, rel=1e-5)


def test_streams_depend_on_every_part_and_on_nothing_else():
    assert stream_seed(1, "a", 2) == stream_seed(1, "a", 2)
    assert len({stream_seed(0, "a"), stream_seed(0, "b"), stream_seed(1, "a"), stream_seed("0a")}) == 4
    torch.manual_seed(5)
    first = torch.rand(3, generator=stream("cpu", 7, "x"))
    torch.rand(10)
    assert torch.equal(first, torch.rand(3, generator=stream("cpu", 7, "x")))
    seed_dropout(1, 2)
    a = torch.rand(2)
    seed_dropout(1, 2)
    assert torch.equal(a, torch.rand(2))


def test_replay_fills_up_with_old_fakes_and_forgets_the_oldest():
    replay = Replay(capacity=2, share=0.5)
    rng = torch.Generator().manual_seed(0)
    assert replay.fresh(4, 3) == [4, 2, 2]
    for value in (1, 2, 3):
        (n,) = replay.fresh(4, 1)
        fresh = torch.full((n, value), value)
        ids, lengths = replay.mix(fresh, torch.full((n,), value), 4, eos_id=0, rng=rng)
        assert ids.shape[0] == lengths.shape[0] == 4
        assert torch.equal(ids[:n, :value], fresh)
        for row, length in zip(ids[n:], lengths[n:], strict=True):
            assert length < value  # an older batch
            assert (row[:length] == length).all()
            assert (row[length:] == 0).all()
    assert replay.fresh(4, 2) == [2, 2]
    assert [int(lengths[0]) for _, lengths in replay.batches] == [2, 3]

    copy = Replay(capacity=2, share=0.5)
    copy.load_state_dict(replay.state_dict())
    pairs = zip(copy.batches, replay.batches, strict=True)
    assert all(torch.equal(x, y) for a, b in pairs for x, y in zip(a, b, strict=True))


def test_replay_without_capacity_keeps_nothing():
    replay = Replay(capacity=0, share=0.5)
    ids, _ = replay.mix(torch.ones(4, 2, dtype=torch.long), torch.full((4,), 2), 4, eos_id=0, rng=torch.Generator())
    assert replay.fresh(4, 2) == [4, 4]
    assert not replay.batches
    assert ids.shape == (4, 2)


def test_concatenate_pads_with_eos():
    ids, lengths = concatenate(
        [(torch.tensor([[5, 6]]), torch.tensor([2])), (torch.tensor([[7]]), torch.tensor([1]))], 9
    )
    assert ids.tolist() == [[5, 6], [7, 9]]
    assert lengths.tolist() == [2, 1]

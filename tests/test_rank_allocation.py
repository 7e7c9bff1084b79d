"""AdaLoRA's ranks: equal to those that the library peft finds, kept for good, and moved by every option."""

import copy

import pytest
import torch
from torch import nn

from tests.processes import on_ranks
from textgan.configadapter import Adapter
from textgan.models.adapters import AdaptiveRank, put_on
from textgan.models.generator import Generator
from textgan.training.optim import WeightAverage, adamw, set_lr
from textgan.training.rank_allocation import RankAllocator, budget_at, orthogonality
from textgan.training.ranks import Ranks

V, STEPS = 11, 14
OPTIONS = {"kind": "adalora", "init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 3, "deltaT": 2, "targets": ["*"]}


def adapter(**more):
    return Adapter.model_validate(OPTIONS | more)


def generator_with(settings):
    torch.manual_seed(0)
    generator = put_on(Generator(V, 8, 1, 2, 8, dropout=0.0), **settings.shape)
    for module in generator.modules():
        if isinstance(module, AdaptiveRank):
            module.lora_A.data.mul_(10)
            module.lora_B.data.mul_(10)
    return generator


def data(step):
    rng = torch.Generator().manual_seed(step)
    return torch.randint(V, (6, 7), generator=rng), torch.randint(V, (6, 7), generator=rng)


def loss(generator, step):
    x, targets = data(step)
    return generator.nll(x, targets, at=torch.ones(6, 7, dtype=torch.bool), reduction="sum") / 42


def train(settings, steps=STEPS, total=STEPS, ema=0.0, watch=None):
    """A generator with its allocator after so many updates by SGD."""
    generator = generator_with(settings)
    average = WeightAverage(generator, ema)
    allocator = RankAllocator(generator, average.module, settings, total)
    for step in range(steps):
        update(generator, average, allocator, step)
        if watch:
            watch(step + 1, generator, average, allocator)
    return generator, average, allocator


def update(generator, average, allocator, step, lr=0.5):
    generator.zero_grad()
    loss(generator, step).backward()
    allocator.observe()
    with torch.no_grad():
        for p in generator.parameters():
            if p.grad is not None:
                p.sub_(lr * p.grad)
    average.update()
    allocator.prune()


def values(generator):
    return [module.lora_E for module in generator.modules() if isinstance(module, AdaptiveRank)]


def ranks(generator):
    return [int((e != 0).sum()) for e in values(generator)]


def test_the_ranks_are_those_of_peft():
    """The same gradients given to both: the same values are masked at every step."""
    from peft import AdaLoraConfig
    from peft.tuners.adalora.layer import RankAllocator as Theirs

    settings = adapter(orth_reg_weight=0, beta1=0.6, beta2=0.9)
    config = AdaLoraConfig(
        init_r=4, target_r=2, tinit=2, tfinal=3, deltaT=2, beta1=0.6, beta2=0.9, total_step=STEPS, target_modules=["x"]
    )
    generator = generator_with(settings)
    mirror = nn.Module()  # parameters under peft's names
    layers = {n: m for n, m in generator.named_modules() if isinstance(m, AdaptiveRank)}
    for name, layer in layers.items():
        for part in ("lora_A", "lora_E", "lora_B"):
            value = getattr(layer, part).detach()
            holder = nn.ParameterDict(
                {"default": nn.Parameter((value[:, None] if part == "lora_E" else value).clone())}
            )
            mirror.add_module(f"{name.replace('.', '_')}_{part}", holder)
    theirs = Theirs(mirror, config, "default")
    named = dict(mirror.named_parameters())

    def pairs():
        for name, layer in layers.items():
            for part in ("lora_A", "lora_E", "lora_B"):
                yield getattr(layer, part), named[f"{name.replace('.', '_')}_{part}.default"]

    average = WeightAverage(generator, 0.0)
    allocator = RankAllocator(generator, average.module, settings, STEPS)
    pattern, masked = None, 0
    final = STEPS - config.tfinal
    for step in range(1, STEPS + 1):
        for own, other in pairs():
            other.data.copy_(own.detach().view_as(other))
        generator.zero_grad()
        loss(generator, step).backward()
        for own, other in pairs():
            other.grad = own.grad.clone().view_as(other)
        allocator.observe()
        if step < final:
            theirs.update_ipt(mirror)
        with torch.no_grad():
            for own, other in pairs():
                own.sub_(0.5 * own.grad)
                other.sub_(0.5 * other.grad)
        allocator.prune()
        budget, now = theirs.budget_schedule(step)  # from here on as peft's update_and_allocate
        if step <= final and (now or step == final):
            pattern = theirs.mask_to_budget(mirror, budget)
        elif step > final:
            theirs.mask_using_rank_pattern(mirror, pattern)
        for own, other in pairs():
            torch.testing.assert_close(own, other.view_as(own))
        masked += sum(int((e == 0).sum()) for e in values(generator))
    assert masked > 20
    assert sum(ranks(generator)) == 2 * len(layers)


def test_the_budget_by_hand():
    """Two updates of ranks 4, which fall to 2 between steps 2 and 12 of 14."""
    options = {"init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 2, "deltaT": 3}
    found = {step: budget_at(step, 14, 2, options) for step in range(1, 15)}
    assert found[1] == found[2] == (8, False, False)
    assert found[3] == (int(4 * 0.9**3 + 4), True, False)
    assert found[4] == (int(4 * 0.8**3 + 4), False, False)
    assert found[6][1]
    assert found[9] == (4, True, False)
    assert found[12] == found[14] == (4, True, True)


def test_the_penalty_by_hand():
    torch.manual_seed(0)
    layers = [AdaptiveRank(torch.zeros(5, 7), 3, 1.0, 0.0).double() for _ in range(2)]
    with torch.no_grad():
        for layer in layers:
            layer.lora_A.normal_()
            layer.lora_B.normal_()
    expected = 0
    for layer in layers:
        a, b = layer.lora_A.detach().numpy(), layer.lora_B.detach().numpy()
        for gram in (a @ a.T, b.T @ b):
            expected += sum((gram[i, j] - (i == j)) ** 2 for i in range(3) for j in range(3)) ** 0.5
    assert orthogonality(layers).item() == pytest.approx(expected / 4)
    with torch.no_grad():
        for layer in layers:
            layer.lora_A.copy_(torch.eye(3, 7))
            layer.lora_B.copy_(torch.eye(5, 3))
    assert orthogonality(layers).item() == 0


def test_the_penalty_is_part_of_the_gradient():
    with_it, without = (generator_with(adapter(orth_reg_weight=w)) for w in (0.3, 0))
    for generator, weight in ((with_it, 0.3), (without, 0)):
        loss(generator, 0).backward()
        RankAllocator(generator, generator, adapter(orth_reg_weight=weight), STEPS).observe()
    layers = [module for module in without.modules() if isinstance(module, AdaptiveRank)]
    own = [p for layer in layers for p in (layer.lora_A, layer.lora_B)]
    expected = [p.grad + 0.3 * g for p, g in zip(own, torch.autograd.grad(orthogonality(layers), own), strict=True)]
    layers = [module for module in with_it.modules() if isinstance(module, AdaptiveRank)]
    found = [p.grad for layer in layers for p in (layer.lora_A, layer.lora_B)]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_ranks_fall_to_the_mean_asked_for_and_stay():
    seen = []
    generator, average, _ = train(
        adapter(), steps=STEPS + 3, ema=0.5, watch=lambda step, g, a, _: seen.append((ranks(g), ranks(a.module)))
    )
    totals = [sum(of_model) for of_model, _ in seen]
    assert totals[1] == 16  # four layers of rank 4 until tinit
    assert totals[STEPS - 4] == totals[-1] == 8
    settled = [of_model for of_model, _ in seen[STEPS - 4 :]]
    assert all(found == settled[0] for found in settled)
    assert all(of_average == of_model for of_model, of_average in seen[STEPS - 4 :])
    assert len(set(settled[0])) > 1  # not two of each: where they matter
    for network in (generator, average.module):
        for module in network.modules():
            if isinstance(module, AdaptiveRank):
                assert torch.equal(module.keep, module.lora_E != 0)


def test_a_later_phase_keeps_the_ranks():
    generator, _, _ = train(adapter())
    before = ranks(generator)
    later = copy.deepcopy(generator)
    average = WeightAverage(later, 0.5)
    allocator = RankAllocator(later, average.module, adapter(), 50)
    for step in range(5):
        update(later, average, allocator, step)
        assert ranks(later) == ranks(average.module) == before
    assert not all(torch.equal(a, b) for a, b in zip(values(later), values(generator), strict=True))


@pytest.mark.parametrize("stop", [1, 5, 10, 11, 12])
def test_resumed_it_is_the_same(stop):
    whole, _, _ = train(adapter())
    generator, average, allocator = train(adapter(), steps=stop)
    state, weights = copy.deepcopy(allocator.state_dict()), copy.deepcopy(generator.state_dict())
    again = generator_with(adapter())
    average = WeightAverage(again, 0.0)
    allocator = RankAllocator(again, average.module, adapter(), STEPS)
    again.load_state_dict(weights)
    allocator.load_state_dict(state)
    for step in range(stop, STEPS):
        update(again, average, allocator, step)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"init_r": 5},
        {"target_r": 1},
        {"tinit": 6},
        {"tfinal": 9},
        {"deltaT": 5},
        {"beta1": 0.1},
        {"beta2": 0.99},
        {"orth_reg_weight": 0.1},
        {"alpha": 2.0},
        {"targets": ["c_attn"]},
        {"dropout": 0.5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_option_moves_something(change):
    def path(settings):
        torch.manual_seed(1)
        found = []
        train(settings, watch=lambda step, g, a, own: found.append(torch.cat([*values(g), own.scores()]).detach()))
        return torch.cat(found)

    one, other = path(adapter()), path(adapter(**change))
    assert one.shape != other.shape or not torch.equal(one, other)
    assert torch.equal(one, path(adapter()))


def test_without_such_layers_it_does_nothing():
    settings = Adapter(kind="lora")
    generator = generator_with(settings)
    allocator = RankAllocator(generator, generator, settings, 5)
    loss(generator, 0).backward()
    trained = [p for p in generator.parameters() if p.requires_grad]
    before = [p.grad.clone() for p in trained]
    allocator.observe()
    allocator.prune()
    assert all(torch.equal(a, p.grad) for a, p in zip(before, trained, strict=True))
    assert allocator.state_dict() == {}
    allocator.load_state_dict({})
    assert RankAllocator(Generator(V, 8, 1, 2, 8), generator, None, 5).state_dict() == {}


def _together(ranks_, sharded):
    settings = adapter()
    generator = generator_with(settings)
    optimizer = adamw(generator, betas=(0.9, 0.98), weight_decay=0.1, shards=ranks_ if sharded else None)
    average = WeightAverage(generator, 0.5)
    allocator = RankAllocator(generator, average.module, settings, STEPS)
    set_lr(optimizer, 0.05)
    for step in range(STEPS):
        optimizer.zero_grad()
        x, targets = (ranks_.own(part) for part in data(step))
        at = torch.ones(x.shape, dtype=torch.bool)
        (generator.nll(x, targets, at=at, reduction="sum") / 42).backward()
        ranks_.add_up(generator)
        allocator.observe()
        optimizer.step()
        average.update()
        allocator.prune()
    return {"values": torch.stack(values(generator)).detach(), "average": torch.stack(values(average.module))}


def _whole_and_sharded(ranks_):
    return [_together(ranks_, sharded) for sharded in (False, True)]


def test_two_processes_find_the_ranks_of_one(tmp_path):
    alone = _together(Ranks(), False)
    assert (alone["values"] == 0).any()
    for of_rank in on_ranks(2, _whole_and_sharded, tmp_path / "out"):
        for found in of_rank:
            for name in alone:
                torch.testing.assert_close(found[name], alone[name], rtol=1e-3, atol=1e-5)

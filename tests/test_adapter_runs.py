"""Runs with an adapter: what moves, what is saved once, what a checkpoint is alone, and how runs go on from runs."""

import contextlib
import copy
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.kills import Killed, everything
from tests.processes import torchrun
from tests.test_ranks import EQUAL, assert_same_log, logged
from textgan.config import Config
from textgan.configfile import load_config
from textgan.data.dataset import Batch
from textgan.errors import UserError
from textgan.models.adapters import merge
from textgan.models.generator import Generator
from textgan.models.sharing import copy_of, count, frozen, own_state
from textgan.ops.packed_linear import Linear
from textgan.sampling.decode import generate
from textgan.training import dry_run, estimate, mle, run, work
from textgan.training.adapting import plain_weights, pupil
from textgan.training.adversarial_steps import draw_texts, generator_step
from textgan.training.building import build_adapted, build_generator
from textgan.training.checkpoint import (
    adapter_of,
    arms,
    check_checkpoint,
    find_checkpoint,
    load_model,
    load_state,
    load_weights,
)
from textgan.training.loading import load_for_sampling
from textgan.training.objectives import kl_to_parent
from textgan.training.players import set_up
from textgan.training.progress import Progress
from textgan.training.ranks import Ranks

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
KINDS = {
    "lora": ["adapter.kind=lora", "adapter.rank=2", "adapter.dropout=0.1", "adapter.targets=['*']"],
    "adalora": ["adapter.kind=adalora", "adapter.init_r=3", "adapter.target_r=1", "adapter.tfinal=1"],
    "bottleneck": ["adapter.kind=bottleneck", "adapter.bottleneck=3"],
    "prefix": ["adapter.kind=prefix", "adapter.n_tokens=3"],
    "prompt": ["adapter.kind=prompt", "adapter.n_tokens=3"],
}
SMALL = {"prefix": {"n_tokens": 2}, "prompt": {"n_tokens": 2}}  # for texts of a few tokens
every_kind = pytest.mark.parametrize("kind", KINDS)
pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Overrides for a run of a moment, as in ``test_resume``; English and Chinese words."""
    text = tmp_path_factory.mktemp("data") / "texts.txt"
    text.write_text("\n".join(f"{a} {b} {c} 。" for a in "abcd" for b in "天地人和水" for c in "abcde"))
    return [
        "threads=1", f"data.source={text}", "generator.block_size=8", "mle.max_steps=4", "mle.lr=0.05", "mle.ema=0.5",
        "adversarial.max_steps=3", "adversarial.batch_size=4", "adversarial.d_pretrain_steps=1", "log_every=1",
        "adversarial.max_nll_rise=none", "adversarial.lr=0.05", "adversarial.ema=0.5", "adversarial.kl_weight=0.5",
        "evaluation.every=1", "evaluation.samples=4", "evaluation.final_samples=4",
        "checkpoint.every=1", "checkpoint.keep_last=9",
    ]  # fmt: skip


def config(*overrides: str) -> Config:
    return load_config(SMOKE, overrides)


@pytest.fixture(scope="module")
def base(few, tmp_path_factory, no_waiting_for_the_disk):
    """A finished run without adapter."""
    folder = tmp_path_factory.mktemp("runs") / "base"
    run.train(config(*few, "adversarial=none"), folder)
    return folder


@pytest.fixture(scope="module")
def tuned(few, base, tmp_path_factory):
    """By kind: a finished adversarial run with an adapter on that base; trained when first asked for."""
    folders = {}

    def of(kind):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("tuned") / kind
            run.train(config(*few, "mle=none", f"adversarial.init_from={base}", *KINDS[kind]), folders[kind])
        return folders[kind]

    return of


def steps(folder):
    return sorted(path for path in (folder / "checkpoints").glob("*step-*"))


# ------------------------------------------------------------------------------------------- what moves and is kept


@every_kind
def test_the_adversarial_phase_moves_the_adapter_alone(tuned, base, kind):
    start, folder = load_weights(find_checkpoint(base)), tuned(kind)
    parent = arms(folder)["mle"]
    assert adapter_of(parent) is None
    assert all(torch.equal(tensor, start[name]) for name, tensor in load_weights(parent).items())
    first, last = (load_weights(path) for path in (steps(folder)[0], steps(folder)[-1]))
    for found in (first, last):
        for name, tensor in start.items():
            assert torch.equal(found[name], tensor), name
    new = last.keys() - start.keys()
    assert new
    for name in new:
        assert name.endswith("keep") or not torch.equal(first[name], last[name]), name


@every_kind
def test_the_continuation_moves_it_too_from_the_same_adapter(few, base, tmp_path, kind, monkeypatch):
    starts = []
    trainer = run.continue_mle.__globals__["pupil"]

    def noted(*args):
        found = trainer(*args)
        starts.append(copy.deepcopy(own_state(found)))
        return found

    for method in (run.continue_mle, run.train_adversarial.__globals__["set_up"]):
        monkeypatch.setitem(method.__globals__, "pupil", noted)
    run.train(config(*few, "mle=none", f"adversarial.init_from={base}", *KINDS[kind]), tmp_path / "run")
    game, beside = starts
    assert all(torch.equal(game[name], beside[name]) for name in game)
    first, end = (load_weights(arms(tmp_path / "run")[name]) for name in ("adversarial", "continued"))
    assert any(not torch.equal(first[name], end[name]) for name in game)


@every_kind
def test_the_base_is_on_the_disk_once_and_steps_are_small(tuned, kind):
    folder = tuned(kind)
    written = [path for path in (folder / "checkpoints").iterdir() if (path / "adapter.safetensors").is_file()]
    assert len(written) >= 6
    assert len({(path / "model.safetensors").stat().st_ino for path in written}) == 1
    for path in written:
        assert check_checkpoint(path)["adapter"] == kind
        model = load_model(path, load_config(path / "config.yaml"), len(load_weights(path)["wte.weight"]))
        own = sum(tensor.numel() * tensor.element_size() for tensor in own_state(model).values())
        assert own < (path / "adapter.safetensors").stat().st_size < own + 5000
        frozen_names = set(frozen(model))
        for state in (load_state(path).get("players", {}), load_state(path).get("learner", {})):
            if state:
                assert not frozen_names & state["generator"].keys()
                assert not frozen_names & state["average"]["weights"].keys()


@every_kind
def test_a_checkpoint_is_sampled_from_alone(tuned, tmp_path, kind):
    """Moved away, with its run gone; the same texts as the generator of the phase writes."""
    source = steps(tuned(kind))[-1]
    shutil.copytree(source, tmp_path / "alone")
    model = load_for_sampling(tmp_path / "alone")
    plain = load_model(source, model.config, model.tokenizer.vocab_size).eval()
    x = torch.randint(model.tokenizer.vocab_size, (5, 8), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.generator(x), plain(x), rtol=1e-5, atol=1e-5)
    greedy = {"eos_id": model.tokenizer.eos_id, "temperature": 0.0}
    texts = [[sample.ids for sample in generate(g, [[]] * 2, **greedy)] for g in (model.generator, plain)]
    assert texts[0] == texts[1]
    folded = not any(layer.delta for layer in model.generator.modules() if isinstance(layer, Linear))
    assert folded
    assert (model.generator.trained is None) == (kind in ("lora", "adalora"))


def test_a_checkpoint_without_its_adapter_is_not_whole(tuned, tmp_path):
    shutil.copytree(steps(tuned("lora"))[-1], tmp_path / "alone")
    (tmp_path / "alone" / "adapter.safetensors").unlink()
    with pytest.raises(UserError, match=r"not a whole checkpoint: no adapter.safetensors"):
        load_for_sampling(tmp_path / "alone")
    (tmp_path / "alone" / "adapter.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"adapter.safetensors cannot be read"):
        load_for_sampling(tmp_path / "alone")


def test_without_links_every_checkpoint_has_its_own_base(few, base, tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    settings = [*few, "mle=none", f"adversarial.init_from={base}", *KINDS["lora"], "adversarial.max_steps=2"]
    run.train(config(*settings), tmp_path / "run")
    files = [path / "model.safetensors" for path in steps(tmp_path / "run")]
    assert len({path.stat().st_ino for path in files}) == len(files) > 1
    assert len({path.read_bytes() for path in files}) == 1


def test_calibration_is_saved_with_the_adapter(few, base, tmp_path):
    settings = [*few, "mle=none", f"adversarial.init_from={base}", *KINDS["prefix"], "adversarial.continuation=none"]
    run.train(config(*settings), tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    temperature = check_checkpoint(folder / "adversarial")["calibration"]["temperature"]
    assert temperature != 1.0
    before, after = (load_weights(folder / name) for name in ("step-00000007", "adversarial"))
    torch.testing.assert_close(after["ln_f.weight"], before["ln_f.weight"] / temperature)
    assert torch.equal(after["prefix.memory"], before["prefix.memory"])
    ids = torch.tensor([[0, 3, 4]])
    sampled = load_for_sampling(folder / "adversarial").generator(ids)
    torch.testing.assert_close(sampled * temperature, load_for_sampling(folder / "step-00000007").generator(ids))


# ------------------------------------------------------------------------------------------- both phases, resumed


@pytest.fixture(scope="module")
def both(few, tmp_path_factory, no_waiting_for_the_disk):
    """By kind: a run that trains an adapter by maximum likelihood and goes on with it adversarially."""
    folders = {}

    def of(kind):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("both") / kind
            run.train(config(*few, *KINDS[kind]), folders[kind])
        return folders[kind]

    return of


@every_kind
def test_the_phases_train_one_adapter_on_one_base(both, kind):
    folder = both(kind)
    first, parent, end = (
        load_weights(path) for path in (steps(folder)[2], arms(folder)["mle"], arms(folder)["adversarial"])
    )
    changed = {name for name in end if not torch.equal(end[name], parent[name])}
    base = {name for name in end if "delta" not in name and "adapter" not in name and "prefix" not in name}
    assert changed - base
    assert changed & base <= {"ln_f.weight", "ln_f.bias", "logit_bias"}  # calibration
    assert all(torch.equal(first[name], end[name]) for name in base - {"ln_f.weight", "ln_f.bias", "logit_bias"})
    inodes = {(path / "model.safetensors").stat().st_ino for path in [*steps(folder), *arms(folder).values()]}
    assert len(inodes) == 1


@pytest.mark.parametrize(
    "kind, step", [("lora", 2), ("lora", 5), ("lora", 9), ("adalora", 3), ("adalora", 6), ("prompt", 2), ("prefix", 6)]
)
def test_killed_and_resumed_equals_uninterrupted_to_the_bit(few, both, tmp_path, monkeypatch, kind, step):
    advance, counted = Progress.advance, []

    def fatal(self, **counts):
        advance(self, **counts)
        counted.append(self.label != "discriminator")
        if sum(counted) == step and counted[-1]:
            raise Killed

    monkeypatch.setattr(Progress, "advance", fatal)
    with pytest.raises(Killed):
        run.train(config(*few, *KINDS[kind]), tmp_path / "run")
    monkeypatch.undo()
    run.train(config(*few, *KINDS[kind]), tmp_path / "run", resume=True)
    assert everything(tmp_path / "run") == everything(both(kind))


def test_a_resumed_run_takes_its_base_from_its_checkpoint(few, tmp_path, monkeypatch):
    """Wherever that came from at the start, which may be another by now, or out of reach."""
    settings, build = [*few, *KINDS["lora"], "adversarial=none"], mle.build_generator
    pretrained = 0.3

    def filled(*args):
        generator = build(*args)
        with torch.no_grad():
            generator.h[0].mlp.c_fc.weight.add_(pretrained)
        return generator

    monkeypatch.setattr(mle, "build_generator", filled)
    run.train(config(*settings), tmp_path / "whole")
    advance = Progress.advance

    def fatal(self, **counts):
        advance(self, **counts)
        if self.steps - self.first == 3:
            raise Killed

    monkeypatch.setattr(Progress, "advance", fatal)
    with pytest.raises(Killed):
        run.train(config(*settings), tmp_path / "run")
    monkeypatch.setattr(Progress, "advance", advance)
    pretrained = 0.6
    run.train(config(*settings), tmp_path / "run", resume=True)
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")


def test_ranks_fall_in_the_first_phase_that_the_adapter_trains_in(both, tuned):
    """To one of three, in the only layer; the phases behind it keep the ranks that it has found."""

    def kept(path):
        weights = load_weights(path)
        (name,) = (name for name in weights if name.endswith("keep"))
        values = weights[name.replace("keep", "lora_E")]
        assert torch.equal(weights[name], values != 0)
        return weights[name]

    parent = kept(steps(both("adalora"))[3])
    assert parent.sum() == 1
    for arm in ("mle", "adversarial", "continued"):
        assert torch.equal(kept(arms(both("adalora"))[arm]), parent)
    for arm in ("adversarial", "continued"):
        assert kept(arms(tuned("adalora"))[arm]).sum() == 1


def test_an_adversarial_run_on_a_plain_base_is_resumed_to_the_bit(few, base, tuned, tmp_path, monkeypatch):
    settings = [*few, "mle=none", f"adversarial.init_from={base}", *KINDS["bottleneck"]]
    advance = Progress.advance

    def fatal(self, **counts):
        advance(self, **counts)
        if self.label == "adversarial" and self.steps - self.first == 2:
            raise Killed

    monkeypatch.setattr(Progress, "advance", fatal)
    with pytest.raises(Killed):
        run.train(config(*settings), tmp_path / "run")
    monkeypatch.undo()
    run.train(config(*settings), tmp_path / "run", resume=True)
    assert everything(tmp_path / "run") == everything(tuned("bottleneck"))


# ------------------------------------------------------------------------------------------- from run to run


def test_the_same_adapter_goes_on_from_another_run(few, both, tmp_path, capsys):
    settings = [*few, "mle=none", f"adversarial.init_from={both('prefix')}/checkpoints/mle", *KINDS["prefix"]]
    run.train(config(*settings), tmp_path / "run")
    assert "its adapter (prefix) goes on being trained" in capsys.readouterr().err
    theirs, ours = load_weights(arms(both("prefix"))["mle"]), load_weights(arms(tmp_path / "run")["mle"])
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())
    assert not torch.equal(load_weights(steps(tmp_path / "run")[-1])["prefix.memory"], ours["prefix.memory"])


@pytest.mark.parametrize("more", [["adapter=none"], KINDS["prompt"]])
def test_another_adapter_is_folded_into_the_base(few, both, tmp_path, capsys, more):
    origin = arms(both("lora"))["mle"]
    settings = [*few, "mle=none", f"adversarial.init_from={origin}", "adversarial.continuation=none"]
    run.train(config(*settings, *more), tmp_path / "run")
    assert "its adapter (lora) is folded into the weights" in capsys.readouterr().err
    parent = arms(tmp_path / "run")["mle"]
    assert adapter_of(parent) is None
    x = torch.tensor([[0, 3, 4, 5]])
    expected = load_model(origin, config(*few), len(load_weights(origin)["wte.weight"])).eval()(x)
    torch.testing.assert_close(load_for_sampling(parent).generator(x), expected, rtol=1e-5, atol=1e-5)
    last = adapter_of(steps(tmp_path / "run")[-1])
    assert (last and last.kind) == (None if more == ["adapter=none"] else "prompt")


def test_an_adapter_that_cannot_be_folded_is_refused(few, both, tmp_path):
    origin = arms(both("prefix"))["mle"]
    settings = [*few, "mle=none", f"adversarial.init_from={origin}"]
    with pytest.raises(UserError, match=r"of kind prefix cannot be folded.*give the same `adapter` section"):
        run.train(config(*settings), tmp_path / "run")


def test_the_weights_for_other_models_have_the_adapter_folded_in(both, base):
    origin = arms(both("lora"))["mle"]
    found, model = plain_weights(origin), load_for_sampling(origin)
    assert found.keys() == model.generator.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.generator.state_dict().items())
    plain = find_checkpoint(base)
    assert plain_weights(plain).keys() == load_weights(plain).keys()


# ------------------------------------------------------------------------------------------- the anchor


def players_of(adapter, **adversarial):
    """A run as the steps see it, its parent (with the adapter where it has one), and the players."""
    settings = Config.model_validate(
        {
            "generator": {"block_size": 6, "n_layer": 2, "n_head": 2, "n_embd": 8, "dropout": 0.0},
            "discriminator": {"n_layer": 1, "n_head": 2, "n_embd": 8},
            "adapter": adapter,
            "adversarial": {"batch_size": 4, "replay_batches": 0, "kl_weight": 1.0, **adversarial},
        }
    )
    tokenizer = SimpleNamespace(vocab_size=7, eos_id=0)
    dataset = SimpleNamespace(counted=torch.tensor([5, 5, 5, 5]))
    common = {"device": torch.device("cpu"), "tokenizer": tokenizer, "train": dataset, "ranks": Ranks(), "shards": None}
    made = SimpleNamespace(config=settings, autocast=contextlib.nullcontext, **common)
    torch.manual_seed(0)
    parent = Generator(7, 6, 2, 2, 8, dropout=0.0).eval()
    with torch.no_grad():
        for p in parent.parameters():
            p.add_(torch.randn_like(p) / 2)
    return made, parent


def storages(module):
    return {p.data_ptr(): p.numel() for p in (*module.parameters(), *module.buffers())}


def rough(generator):
    with torch.no_grad():
        for p in generator.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) / 2)


BATCH = Batch(torch.tensor([[0, 1, 2, 3, 4, 0]] * 2 + [[0, 6, 5, 4, 3, 0]] * 2), torch.tensor([5, 5, 5, 5]))


@pytest.mark.parametrize("adapted_parent", [False, True])
@every_kind
def test_the_anchor_of_a_frozen_base_is_no_second_copy(kind, adapted_parent):
    """All that the phase holds of generators: the base once, and what is small three times."""
    made, parent = players_of({"kind": kind, **SMALL.get(kind, {})})
    if adapted_parent:
        parent = pupil(made.config, parent)
        rough(parent)
    alone = copy.deepcopy(parent)
    players = set_up(made, parent)
    held = storages(parent) | storages(players.generator) | storages(players.average.module)
    small = sum(tensor.numel() for tensor in own_state(players.generator).values())
    base = sum(p.numel() for p in frozen(players.generator).values())
    assert sum(held.values()) <= base + 3 * small
    for name, p in frozen(players.generator).items():
        assert p.data_ptr() == parent.get_parameter(name).data_ptr()

    rough(players.generator)
    found = kl_to_parent(players.generator, parent, BATCH)
    assert torch.equal(found, kl_to_parent(copy.deepcopy(players.generator), alone, BATCH))
    assert found > 0.01


@every_kind
def test_a_step_moves_no_bit_of_the_base_nor_of_the_parent(kind):
    made, parent = players_of({"kind": kind, "train_also": ["ln_1"], **SMALL.get(kind, {})}, adv_ratio=0.5)
    before = copy.deepcopy(parent.state_dict())
    players = set_up(made, parent)
    start = copy.deepcopy(own_state(players.generator))
    for group in players.optimizer.param_groups:
        group["lr"] = 0.1
    for done in range(2):
        _, own = draw_texts(made, players, done)
        found = generator_step(made, players, parent, BATCH, own, 1.0, done)
        assert found["grad_norm"] > 0
    assert found["kl_parent"] > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in parent.state_dict().items())
    now = own_state(players.generator)
    moved = {name for name in now if not torch.equal(now[name], start[name])}
    assert moved == set(players.generator.trained)
    assert "h.0.ln_1.weight" in moved
    averaged = own_state(players.average.module)
    assert all(not torch.equal(averaged[name], start[name]) for name in moved)
    assert not any(torch.equal(averaged[name], now[name]) for name in moved if "keep" not in name)


# ------------------------------------------------------------------------------------------- options, words, refusals


@pytest.mark.parametrize(
    "one, other",
    [
        ({"rank": 2}, {"rank": 3}),
        ({"alpha": 4.0}, {"alpha": 8.0}),
        ({"targets": ["c_attn"]}, {"targets": ["c_proj"]}),
        ({"train_also": []}, {"train_also": ["wpe"]}),
        ({"kind": "bottleneck", "bottleneck": 2}, {"kind": "bottleneck", "bottleneck": 3}),
        ({"kind": "bottleneck", "targets": ["attn"]}, {"kind": "bottleneck", "targets": ["mlp"]}),
        ({"kind": "prefix", "n_tokens": 1}, {"kind": "prefix", "n_tokens": 2}),
        ({"kind": "prompt", "n_tokens": 1}, {"kind": "prompt", "n_tokens": 2}),
        ({"dropout": 0.0}, {"dropout": 0.5}),
        ({"kind": "adalora", "dropout": 0.0}, {"kind": "adalora", "dropout": 0.5}),
    ],
    ids=lambda options: ",".join(map(str, options)),
)
def test_every_option_moves_something(one, other):
    def logits(adapter):
        made, parent = players_of(adapter)
        generator = pupil(made.config, parent)
        optimizer = torch.optim.SGD([p for p in generator.parameters() if p.requires_grad], lr=0.5)
        generator.train()
        for _ in range(3):
            optimizer.zero_grad()
            generator.nll(BATCH.inputs, BATCH.targets, at=BATCH.mask, reduction="sum").backward()
            optimizer.step()
        return generator.eval()(BATCH.inputs)

    assert not torch.equal(logits(one), logits(other))
    assert torch.equal(logits(one), logits(one))


@every_kind
def test_the_share_of_trained_parameters_is_told(few, base, tmp_path, capsys, kind):
    settings = config(*few, "mle=none", f"adversarial.init_from={base}", *KINDS[kind])
    facts = dry_run.plan(settings, tmp_path / "run")
    generator = pupil(settings, build_generator(settings, facts["vocab_size"]))
    trained, everything_ = count(generator)
    assert (facts["trained_parameters"], facts["generator_parameters"]) == (trained, everything_)
    line = f"adapter: {kind}; {trained:,} of {everything_:,} parameters are trained ({trained / everything_:.2%})"
    assert line in dry_run.plan_text(settings, facts)
    run.train(settings, tmp_path / "run")
    assert line in capsys.readouterr().err


def test_frozen_weights_cost_less_work_and_memory_by_the_forecast():
    """Of a step: three products a weight that trains, two one that does not; and one number held instead of five."""
    settings = config("adapter.kind=lora", "adapter.rank=1")
    adapted, full = (
        work.net_of(work.on_meta(f, settings, 50), settings.generator, 50) for f in (build_adapted, build_generator)
    )
    D = settings.generator.n_embd
    assert adapted.parameters == 4 * D
    assert adapted.frozen == full.parameters
    assert estimate.trained_bytes(adapted, 0.9) == 4 * (5 * 4 * D + full.parameters)
    texts = work.Texts(2, 20, 20, 10)
    found, expected = (work.passes(net, texts, 3).products for net in (adapted, full))
    assert found - expected == 20 * 2 * (3 * 4 * D - 12 * D * D)
    found, expected = (work.output(net, texts, 3).products for net in (adapted, full))
    assert found == expected * 2 / 3
    assert work.passes(adapted, texts, 1).products == work.passes(full, texts, 1).products + 20 * 2 * 4 * D


def test_two_processes_train_what_one_does(tmp_path):
    settings = [*EQUAL, "adapter.kind=lora", "adapter.targets=['*']", "adversarial.kl_weight=0.5", "mle.lr=0.01"]
    run.train(config(*settings), tmp_path / "one")
    together = torchrun(2, "train", SMOKE, "--run-folder", tmp_path / "two", *settings, "shard_optimizer=true")
    _, err = together.communicate(timeout=300)
    assert together.returncode == 0, err
    assert_same_log(logged(tmp_path / "one"), logged(tmp_path / "two"))
    inodes = {path.stat().st_ino for path in (tmp_path / "two" / "checkpoints").glob("*/model.safetensors")}
    assert len(inodes) == 1


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["adapter.kind=lora", "adapter.n_tokens=3"], r"adapter.n_tokens=3 is not of adapter.kind=lora.*rank, alpha"),
        (
            ["adapter.kind=prefix", "adapter.targets=[attn]"],
            r"adapter.targets=\['attn'\] is not of adapter.kind=prefix",
        ),
        (["adapter.kind=prompt", "adapter.dropout=0.1"], "adapter.dropout=0.1 is not of adapter.kind=prompt"),
        (["adapter.kind=bottleneck", "adapter.rank=2"], "adapter.rank=2 is not of adapter.kind=bottleneck"),
        (["adapter.kind=adalora", "adapter.rank=2"], "adapter.rank=2 is not of adapter.kind=adalora"),
        (["adapter.kind=lora", "adapter.init_r=2"], "adapter.init_r=2 is not of adapter.kind=lora"),
        (["adapter.kind=lora", "adapter.targets=[]"], "adapter.targets is empty"),
        (["adapter.kind=adalora", "adapter.init_r=8"], "adapter.target_r=8 must be below adapter.init_r=8"),
        (["adapter.kind=adalora", "adapter.tinit=5", "adapter.tfinal=1"], "leave no step of mle.max_steps=6"),
        (["adapter.kind=lora", "generator.kind=lstm"], "is for Transformers, not generator.kind=lstm"),
        (["adapter.kind=lora", "vae.max_steps=3000", "adversarial=none"], "a `vae` section trains the whole"),
    ],
)
def test_what_has_no_effect_is_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        config(*overrides)


def test_what_does_not_fit_is_refused_before_anything_is_written(few, tmp_path):
    for option, message in (
        ("adapter.targets=[c_atn]", "did you mean c_attn"),
        ("adapter.train_also=[x]", "there are"),
    ):
        with pytest.raises(UserError, match=message):
            run.train(config(*few, "adapter.kind=lora", option), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_config_with_an_adapter_round_trips(tmp_path):
    settings = config("adapter.kind=adalora", "adapter.deltaT=2", "adapter.tfinal=1")
    assert settings.adapter.options["deltaT"] == 2
    assert settings.adapter.options["init_r"] == 12
    assert Config.model_validate(settings.model_dump()) == settings


def test_a_merged_copy_does_not_touch_the_phase(both):
    """As an evaluation between two steps might do it."""
    path = arms(both("lora"))["mle"]
    model = load_model(path, config("threads=1", "generator.block_size=8"), len(load_weights(path)["wte.weight"]))
    before = copy.deepcopy(model.state_dict())
    merge(copy_of(model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

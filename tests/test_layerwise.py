"""Learning rates that fall from layer to layer, and layers thawed one by one: what moves, when, and how far."""

import copy
from pathlib import Path

import pytest
import torch

from tests.kills import Killed, everything
from tests.processes import on_ranks
from textgan.configfile import load_config
from textgan.errors import UserError
from textgan.models.causal_lm import CausalLM
from textgan.models.generator import Generator
from textgan.models.lstm import LSTMGenerator
from textgan.training import run
from textgan.training.building import build_generator
from textgan.training.checkpoint import load_state, load_weights
from textgan.training.experiment import Experiment
from textgan.training.finetune import depths, freeze, thaw, tuned_adamw
from textgan.training.optim import set_lr
from textgan.training.ranks import Ranks
from textgan.training.seeding import seed_dropout

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")
SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
FEW = [
    "threads=1", "data.size=120", "generator.n_layer=2", "mle.max_steps=1", "mle.warmup_steps=0", "mle.ema=0",
    "mle.lr=0.01", "mle.calibrate=false", "adversarial.calibrate=false", "adversarial.max_steps=1", "adversarial.ema=0",
    "adversarial.lr=0.01", "adversarial.warmup_steps=0", "adversarial.d_pretrain_steps=1", "adversarial.batch_size=4",
    "adversarial.max_nll_rise=none", "mle.batch_size=4", "evaluation.every=50", "evaluation.samples=4",
    "evaluation.final_samples=4", "checkpoint.every=1", "checkpoint.keep_last=50",
]  # fmt: skip


def config(*overrides):
    return load_config(SMOKE, [*FEW, *overrides])


def weights(folder, name):
    return load_weights(folder / "checkpoints" / name)


def at_first(settings, vocab_size):
    """The weights that a run starts from."""
    seed_dropout(settings.seed, "init")
    return build_generator(settings, vocab_size).state_dict()


def depth_of(name):
    """Of the two-layer generator, worked out by hand."""
    return {"wte": 0, "wpe": 0, "h.0": 1, "h.1": 2}.get(".".join(name.split(".")[:2]), {"w": 0}.get(name[0], 3))


def test_depths_of_each_kind_of_generator():
    assert set(depths(Generator(9, 8, 2, 2, 8)).items()) >= {
        ("wte.weight", 0), ("wpe.weight", 0), ("h.0.ln_1.bias", 1), ("h.1.mlp.c_fc.weight", 2), ("ln_f.weight", 3),
    }  # fmt: skip
    lstm = depths(LSTMGenerator(9, 8, 2, 4, 6))
    assert (lstm["wte.weight"], lstm["lstm.0.weight_ih_l0"], lstm["lstm.1.bias_hh_l0"], lstm["head.weight"]) == (
        0,
        1,
        2,
        3,
    )
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2}
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=9, **sizes))
    found = depths(CausalLM(llama.model, llama.lm_head, 8))
    assert {name: d for name, d in found.items() if "proj" not in name and "layernorm" not in name} == {
        "base.embed_tokens.weight": 0, "base.norm.weight": 3, "head.weight": 3,
    }  # fmt: skip
    assert {d for name, d in found.items() if name.startswith("base.layers.1.")} == {2}


def test_learning_rates_are_those_of_the_formula_whatever_the_schedule_says():
    settings = config("finetune.layer_lr_decay=0.5", "generator.n_layer=3")
    model = build_generator(settings, 30)
    optimizer = tuned_adamw(settings, model, settings.mle)
    names = {id(p): name for name, p in model.named_parameters()}
    for lr in (1.0, 0.25):
        set_lr(optimizer, lr)
        rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert len(rates) == len(names)
        for name, share in (("ln_f.bias", 1), ("h.2.ln_1.weight", 1 / 2), ("h.1.attn.c_attn.weight", 1 / 4)):
            assert rates[name] == lr * share
        assert rates["h.0.mlp.c_fc.bias"] == lr / 8
        assert rates["wte.weight"] == rates["wpe.weight"] == lr / 16
    decays = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert (decays["h.0.mlp.c_fc.weight"], decays["h.0.mlp.c_fc.bias"], decays["ln_f.weight"]) == (0.1, 0.0, 0.0)


def test_every_arm_moves_each_layer_by_its_share(tmp_path):
    """Adam's first step is lr in each direction, whatever the gradient: so far goes a layer without weight decay."""
    settings = config("finetune.layer_lr_decay=0.5", "mle.weight_decay=0", "adversarial.weight_decay=0")
    run.train(settings, tmp_path / "run")
    mle = weights(tmp_path / "run", "mle")
    start = at_first(settings, len(mle["wte.weight"]))
    arms = {"mle": (start, mle)} | {arm: (mle, weights(tmp_path / "run", arm)) for arm in ("adversarial", "continued")}
    for arm, (before, after) in arms.items():
        for name in before:
            if name != "logit_bias" and not name.endswith("c_attn.bias"):  # keys' biases have no gradient
                moved = (after[name] - before[name]).abs().max().item()
                assert moved == pytest.approx(0.01 * 0.5 ** (3 - depth_of(name)), rel=0.02), (arm, name)


THAWED = [
    "finetune.unfreeze_every=2", "mle.max_steps=6", "adversarial.max_steps=6", "adversarial.d_steps=1",
    "adversarial.batch_size=4", "mle.weight_decay=0.5", "adversarial.weight_decay=0.5",
]  # fmt: skip


@pytest.fixture(scope="module")
def thawed(tmp_path_factory, no_waiting_for_the_disk):
    folder = tmp_path_factory.mktemp("thawed") / "run"
    run.train(config(*THAWED), folder)
    return folder


@pytest.mark.parametrize(("first", "name"), [(0, "step-{:08d}"), (6, "step-{:08d}"), (6, "continued-step-{:08d}")])
def test_layers_thaw_from_the_top_down_and_weight_decay_waits_too(thawed, first, name):
    """In every arm alike; what is not thawed keeps every bit."""
    parent = weights(thawed, "mle")
    before = at_first(config(), len(parent["wte.weight"])) if first == 0 else parent
    for step in range(first, first + 6):
        after = weights(thawed, name.format(step + 1))
        moved = {depth_of(key) for key in before if not torch.equal(before[key], after[key])}
        assert (
            moved
            == {(0, 1): {2, 3}, (2, 3): {1, 2, 3}, (4, 5): {0, 1, 2, 3}}[
                (step - first) // 2 * 2, (step - first) // 2 * 2 + 1
            ]
        )
        before = after


def test_a_baseline_with_more_updates_thaws_at_the_same_shares_of_its_schedule(tmp_path):
    run.train(config(*THAWED, "adversarial.max_steps=5", "adversarial.continuation=tokens"), tmp_path / "run")
    budget = load_state(tmp_path / "run" / "checkpoints" / "continued")["budget"]
    assert budget["steps"] > 10
    still = 0
    while torch.equal(
        weights(tmp_path / "run", f"continued-step-{6 + still:08d}")["wte.weight"],
        weights(tmp_path / "run", f"continued-step-{7 + still:08d}")["wte.weight"],
    ):
        still += 1
    assert still == -(-4 * budget["schedule_steps"] // 5)  # of 5, the adversarial phase waits for 4


def test_moments_begin_when_a_layer_thaws(thawed):
    states = load_state(thawed / "checkpoints" / "step-00000003")["optimizer"]
    kept = {i for i, state in states["state"].items() if state["exp_avg"].abs().sum() > 0}
    groups = {group["depth"]: group["params"] for group in states["param_groups"] if group["weight_decay"]}
    assert [any(i in kept for i in groups[depth]) for depth in (0, 1, 2)] == [False, True, True]
    steps = {int(states["state"][i]["step"]) for i in groups[1]}
    assert steps == {1}


@pytest.mark.parametrize("step", [1, 3, 8])
def test_a_killed_run_resumes_to_the_same_bits(thawed, tmp_path, monkeypatch, step):
    save = Experiment.save

    def deadly(self, name, **kwargs):
        save(self, name, **kwargs)
        if kwargs["step"] == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "save", deadly)
        with pytest.raises(Killed):
            run.train(config(*THAWED), tmp_path / "run")
    run.train(config(*THAWED), tmp_path / "run", resume=True)
    assert everything(tmp_path / "run") == everything(thawed)


def _steps(ranks):
    settings = config("finetune.unfreeze_every=2", "finetune.layer_lr_decay=0.5", "finetune.freeze=[wpe]")
    torch.manual_seed(0)
    model = freeze(settings, Generator(40, 8, 2, 2, 16, dropout=0.0))
    optimizer = tuned_adamw(settings, model, settings.mle, ranks if ranks.size > 1 else None)
    found = []
    for k in range(6):
        set_lr(optimizer, 0.01)
        thaw(settings, optimizer, k)
        optimizer.zero_grad()
        ids = torch.randint(40, (4, 8), generator=torch.Generator().manual_seed(k))
        model(ids).square().mean().backward()
        optimizer.step()
        optimizer.load_state_dict(copy.deepcopy(ranks.same(optimizer.state_dict())))
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    return found


def test_a_divided_optimiser_makes_the_same_bits(tmp_path):
    whole = _steps(Ranks())
    for rank in on_ranks(2, _steps, tmp_path / "out"):
        assert all(torch.equal(a, b) for a, b in zip(rank, whole, strict=True))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["finetune.unfreeze_every=3", "mle.max_steps=6"], r"thaws the lowest layer at update 6, and mle.max_steps=6"),
        (
            ["finetune.unfreeze_every=1", "mle.max_steps=6", "adversarial.max_steps=2"],
            r"adversarial.max_steps=2 ends before",
        ),
        (["finetune.unfreeze_every=1", "finetune.freeze=['h.1', ln_f]", "mle.max_steps=9"], "begins with the topmost"),
        (["finetune.layer_lr_decay=0.5", "finetune.freeze=['h.*', ln_f]"], "stands in one: leave it away"),
        (["finetune.layer_lr_decay=0.5", "adapter.kind=prefix"], "stands in one: leave it away"),
    ],
)
def test_what_would_have_no_effect_is_refused(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        run.train(config(*overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_combinations_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="continuation=seconds times an update"):
        config("finetune.unfreeze_every=1", "adversarial.continuation=seconds")
    with pytest.raises(UserError, match="adalora weighs the updates of all layers"):
        config("finetune.unfreeze_every=1", "adapter.kind=adalora", "mle.max_steps=9")


def test_what_does_not_thaw_in_time_may_be_frozen(tmp_path):
    """Then the lowest layer that trains is another."""
    few = ["adversarial=none", "finetune.unfreeze_every=1", "mle.max_steps=2"]
    with pytest.raises(UserError, match="at update 2"):
        run.train(config(*few), tmp_path / "run")
    run.train(config(*few, "finetune.freeze=[wte, wpe]"), tmp_path / "run")

"""Blocks computed again on the way back: the same bits, less kept, in every kind of pass, of both Transformers."""

import copy
import json
from pathlib import Path

import pytest
import torch

from tests.commands import invoke
from tests.kills import Killed, everything
from textgan.cli.train import train as train_command
from textgan.configfile import load_config
from textgan.confignets import Generator as Shape
from textgan.errors import UserError
from textgan.models import transformer
from textgan.models.causal_lm import CausalLM
from textgan.models.generator import Condition, Generator
from textgan.sampling.rollout import rollout
from textgan.training import run, work
from textgan.training.building import build_generator
from textgan.training.experiment import Experiment

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")
SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
FEW = [
    "threads=1", "data.size=120", "generator.n_layer=2", "generator.dropout=0.2", "mle.max_steps=2",
    "adversarial.max_steps=2", "adversarial.d_pretrain_steps=1", "evaluation.every=2", "evaluation.samples=4",
    "evaluation.final_samples=4", "checkpoint.every=1",
]  # fmt: skip
IDS = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(0))


def config(*overrides):
    return load_config(SMOKE, [*FEW, *overrides])


def gpt2(gradient_checkpointing, n_layer=4):
    torch.manual_seed(0)
    return Generator(11, 10, n_layer, 2, 16, dropout=0.3, gradient_checkpointing=gradient_checkpointing)


def llama(gradient_checkpointing, n_layer=4):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": n_layer}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=11, attention_dropout=0.3, bos_token_id=1, eos_token_id=2, **sizes))
    return CausalLM(model.model, model.lm_head, 10, gradient_checkpointing)


def mle(model):
    """Of a training step, with a draw behind it that tells whether the random state is what it would be."""
    torch.manual_seed(1)
    loss = model.train().nll(IDS[:, :-1], IDS[:, 1:], at=torch.ones(3, 8, dtype=torch.bool), reduction="sum")
    drawn = torch.rand(3)
    loss.backward()
    return [loss.detach(), drawn, torch.rand(3)]


def relaxed(model):
    """Of the adversarial pass through sampled tokens, without dropout."""
    rng = torch.Generator().manual_seed(2)
    lengths = torch.tensor([8, 5, 3])
    found = rollout(model.eval(), IDS[:, 1:], lengths, eos_id=0, estimator="straight_through", tau=1.0, rng=rng)
    embedded = found.tokens.embed(torch.randn(11, 6, generator=torch.Generator().manual_seed(3)))
    embedded.square().sum().backward()
    return [embedded.detach()]


@pytest.mark.parametrize("build", [gpt2, llama])
@pytest.mark.parametrize("work", [mle, relaxed])
def test_the_same_bits(build, work):
    found = []
    for again in (False, True):
        model = build(again)
        found.append((work(model), [p.grad for p in model.parameters()]))
    (values, grads), (other_values, other_grads) = found
    assert all(torch.equal(a, b) for a, b in zip(values, other_values, strict=True))
    assert sum(g is not None for g in grads) > 10
    for a, b in zip(grads, other_grads, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("build", [gpt2, llama])
@pytest.mark.parametrize("train", [True, False])
def test_a_block_keeps_no_more_than_its_inputs(build, train):
    """What two more blocks keep: nothing by autograd's own, where they kept many times their input without."""
    grown = {}
    for again in (False, True):
        kept = []
        for n_layer in (2, 4):
            model, held = build(again, n_layer).train(train), []
            with torch.autograd.graph.saved_tensors_hooks(
                lambda t, held=held: held.append(t.numel()) or t, lambda t: t
            ):
                model(IDS)
            kept.append(sum(held))
        grown[again] = (kept[1] - kept[0]) / (2 * IDS.numel() * 16)  # in states a block
    assert grown[False] > 10
    assert grown[True] <= 2


def test_sampling_and_copies_know_how():
    """A cache is not read twice; a copy computes its own blocks, not those of what it was copied from."""
    for build in (gpt2, llama):
        model = build(True).eval()
        with torch.no_grad():
            cache = model.new_cache(3, 9)
            parts = [model(part, cache=cache) for part in (IDS[:, :4], IDS[:, 4:])]
            torch.testing.assert_close(torch.cat(parts, 1), model(IDS), atol=1e-5, rtol=1e-5)
        other = copy.deepcopy(model)
        with torch.no_grad():
            for p in other.parameters():
                p.add_(0.1)
        other(IDS).sum().backward()
        assert all(p.grad is None for p in model.parameters())
        assert all(p.grad is not None for name, p in other.named_parameters() if "layers" in name or "h." in name)
        assert not torch.equal(model(IDS), other(IDS))


@pytest.mark.parametrize("build", [gpt2, llama])
def test_frozen_blocks_let_gradients_through_and_reading_alone_computes_nothing_twice(build, monkeypatch):
    found = []
    for again in (False, True):
        model = build(again).eval()
        model.requires_grad_(False)
        weight = model.wte.weight.requires_grad_()
        model(IDS).square().sum().backward()
        found.append(weight.grad)
    assert torch.equal(*found)
    model.requires_grad_(False)

    def refuse(*args, **kwargs):
        raise AssertionError("nobody asks for a gradient")

    monkeypatch.setattr(transformer, "checkpoint", refuse)
    model(IDS)


def test_a_condition_goes_along():
    """What a VAE's decoder reads beside: gradients reach it all the same."""
    found = []
    for again in (False, True):
        rng = torch.Generator().manual_seed(4)
        shift = torch.randn(3, 16, generator=rng).requires_grad_()
        k, v = (torch.randn(3, 2, 1, 8, generator=rng).requires_grad_() for _ in range(2))
        condition = Condition(shifts=(shift, None, shift, None), memory=((k, v),) * 4)
        gpt2(again).eval()(IDS, condition=condition).square().sum().backward()
        found.append([x.grad for x in (shift, k, v)])
    for a, b in zip(*found, strict=True):
        assert a.abs().sum() > 0
        assert torch.equal(a, b)


def test_a_run_ends_with_the_same_bits_and_may_take_it_up_when_resumed(tmp_path, monkeypatch):
    run.train(config(), tmp_path / "plain")
    run.train(config("generator.gradient_checkpointing=true"), tmp_path / "again")
    plain, again = (everything(tmp_path / name) for name in ("plain", "again"))
    assert again == plain
    save = Experiment.save

    def deadly(self, name, **kwargs):
        save(self, name, **kwargs)
        if kwargs["step"] == 1:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "save", deadly)
        with pytest.raises(Killed):
            run.train(config(), tmp_path / "run")
    run.train(config("generator.gradient_checkpointing=true"), tmp_path / "run", resume=True)
    assert everything(tmp_path / "run") == plain


def test_the_config_reaches_the_model_and_an_lstm_refuses_it():
    assert build_generator(config("generator.gradient_checkpointing=true"), 30).gradient_checkpointing
    assert not build_generator(config(), 30).gradient_checkpointing
    with pytest.raises(UserError, match=r"kind=lstm has not"):
        config("generator.kind=lstm", "generator.gradient_checkpointing=true")


def test_a_dry_run_expects_less_memory_and_more_work():
    plans, more = [], ["generator.n_layer=6", "generator.n_embd=64", "mle.batch_size=100", "adversarial=none"]
    for again in ("false", "true"):
        override = f"generator.gradient_checkpointing={again}"
        plans.append(json.loads(invoke(train_command, SMOKE, *FEW, *more, override, "--dry-run", "--json").stdout))
    assert plans[1]["peak_bytes"] < plans[0]["peak_bytes"]
    texts = work.Texts(4, 48, 48, 12)
    nets = [work.net_of(gpt2(again), Shape(n_head=2, gradient_checkpointing=again), 11) for again in (False, True)]
    once = work.passes(nets[0], texts, 1)
    assert work.passes(nets[1], texts, 1) == once  # reading alone
    assert [work.passes(net, texts, 3).products for net in nets] == [3 * once.products, 4 * once.products]

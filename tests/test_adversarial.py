"""One step of each player against gradients worked out beside: weights, pairing, penalties, and what stays fixed."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical, kl_divergence

from textgan.config import Config
from textgan.data.dataset import TokenDataset
from textgan.models.generator import Generator
from textgan.models.transformer import differentiable_twice
from textgan.sampling.rollout import rollout, sample_ids
from textgan.training.adversarial_steps import discriminator_step, draw_fakes, draw_texts, generator_step
from textgan.training.players import set_rates, set_up
from textgan.training.ranks import Ranks
from textgan.training.seeding import stream

SEED, V, LENGTH, MEAN_LENGTH = 3, 7, 6, 3.5
ROWS = [[0, 1, 2, 0], [0, 3, 0], [0, 4, 5, 6, 0], [0, 1, 1, 1, 1, 0], [0, 6, 2, 0], [0, 5, 5, 5, 0]]


def setting(dropout=0.0, **adversarial):
    """A run with six texts in a batch of eight (as at the end of an epoch), a parent, and players at their start."""
    adversarial = {"batch_size": 8, "accumulate": 2, "grad_clip": 0.0, "replay_batches": 0, **adversarial}
    config = Config.model_validate(
        {
            "seed": SEED,
            "generator": {"block_size": LENGTH, "n_layer": 1, "n_head": 2, "n_embd": 8, "dropout": dropout},
            "discriminator": {"n_layer": 1, "n_head": 2, "n_embd": 8, "dropout": 0.0},
            "adversarial": adversarial,
        }
    )
    offsets = torch.tensor([0, *torch.tensor([len(row) for row in ROWS]).cumsum(0)])
    data = TokenDataset(torch.tensor([token for row in ROWS for token in row]), offsets, 0)
    assert data.lengths.double().mean() == MEAN_LENGTH
    run = SimpleNamespace(
        config=config,
        device=torch.device("cpu"),
        tokenizer=SimpleNamespace(vocab_size=V, eos_id=0),
        train=data,
        autocast=contextlib.nullcontext,
        ranks=Ranks(),
        shards=None,
    )
    torch.manual_seed(0)
    parent = Generator(V, LENGTH, 1, 2, 8, dropout=dropout).eval()
    for parameter in parent.parameters():
        parameter.data.add_(torch.randn_like(parameter) / 2)
    players = set_up(run, parent)
    for parameter in [*players.generator.parameters(), *players.discriminator.parameters()]:
        parameter.data.add_(torch.randn_like(parameter) / 4)
    set_rates(players, config.adversarial, 0)
    return run, players, parent, data.batch(range(len(ROWS)))


def gradient(loss, network):
    return flat(network, torch.autograd.grad(loss, list(network.parameters()), allow_unused=True))


def left_behind(network):
    return flat(network, [p.grad for p in network.parameters()])


def flat(network, grads):
    """One vector; zeros for what the loss does not reach (the critic's head of token scores)."""
    pairs = zip(network.parameters(), grads, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs])


def copy_of(network):
    return [p.detach().clone() for p in network.parameters()]


def anchor(players, parent, batch, mle_weight, kl_weight):
    own, other = (Categorical(logits=net(batch.inputs)) for net in (players.generator, parent))
    nll, kl = -own.log_prob(batch.targets), kl_divergence(other, own)
    return ((mle_weight * nll + kl_weight * kl) * batch.mask).sum() / (8 * MEAN_LENGTH)


def push(players, fakes, batch, done, tau):
    """The GAN loss (rsgan) of the first six fakes, four and two at a time."""
    scores = []
    for i, part in enumerate((slice(0, 4), slice(4, 6))):
        ids, lengths = (x[part] for x in fakes)
        noise = stream("cpu", SEED, "noise", done, i)
        options = {"eos_id": 0, "estimator": "straight_through", "tau": tau, "rng": noise}
        fake = rollout(players.generator, ids, lengths, **options)
        scores.append(players.discriminator(fake.tokens, fake.lengths).sequence)
    real = players.discriminator(batch.targets, batch.lengths).sequence.detach()
    return F.softplus(real - torch.cat(scores)).mean()


@pytest.mark.parametrize("ratio", [0.3, None])
def test_the_generator_step_adds_the_adversarial_gradient_to_the_anchor(ratio):
    options = {"adv_ratio": ratio, "adv_weight": 0.7, "mle_weight": 0.5, "kl_weight": 2.0, "ema": 0.5}
    options |= {"lr": 0.1, "warmup_steps": 0}
    run, players, parent, batch = setting(**options)
    players.generator.eval()
    first = gradient(anchor(players, parent, batch, 0.5, 2.0), players.generator)
    _, fakes = draw_texts(run, players, 5)
    pushing = push(players, fakes, batch, 5, 0.8)
    second = gradient(pushing, players.generator)
    scale = 0.7 if ratio is None else ratio * first.norm() / second.norm()
    before = {name: copy_of(net) for name, net in (("parent", parent), ("discriminator", players.discriminator))}
    averaged = copy_of(players.average.module)

    found = generator_step(run, players, parent, batch, fakes, 0.8, 5)

    torch.testing.assert_close(left_behind(players.generator), first + scale * second, atol=1e-5, rtol=1e-4)
    assert float(found["grad_norm"]) == pytest.approx((first + scale * second).norm().item(), rel=1e-4)
    assert float(found["grad_norm_adv"]) == pytest.approx(second.norm().item(), rel=1e-4)
    assert float(found["g_loss"]) == pytest.approx(pushing.item(), rel=1e-4)
    assert all(p.grad is None for p in players.discriminator.parameters())
    for net, old in ((parent, before["parent"]), (players.discriminator, before["discriminator"])):
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), old, strict=True))
    share = 1 - 2 / 11  # the first update of a warming average
    for mean, old, new in zip(
        players.average.module.parameters(), averaged, players.generator.parameters(), strict=True
    ):
        torch.testing.assert_close(mean, torch.lerp(old, new.detach(), share))


def test_without_an_anchor_the_adversarial_gradient_stands_alone():
    run, players, parent, batch = setting(dropout=0.5, adv_ratio=None, adv_weight=0.7, mle_weight=0.0)
    players.generator.eval()
    _, fakes = draw_texts(run, players, 0)
    expected = 0.7 * gradient(push(players, fakes, batch, 0, 1.0), players.generator)
    found = generator_step(run, players, parent, batch, fakes, 1.0, 0)
    torch.testing.assert_close(left_behind(players.generator), expected, atol=1e-5, rtol=1e-4)
    assert not {"mle_loss", "kl_parent", "grad_norm_mle", "grad_cosine"} & set(found)


def test_dropout_is_on_in_the_mle_term_alone():
    run, players, parent, batch = setting(dropout=0.5)
    players.generator.eval()
    without = anchor(players, parent, batch, 1.0, 0.0).item()
    _, fakes = draw_texts(run, players, 0)
    pushed = gradient(push(players, fakes, batch, 0, 1.0), players.generator).norm().item()
    found = generator_step(run, players, parent, batch, fakes, 1.0, 0)
    assert float(found["mle_loss"]) != pytest.approx(without, rel=1e-3)
    assert float(found["grad_norm_adv"]) == pytest.approx(pushed, rel=1e-4)


def test_gradients_are_clipped_after_they_are_added():
    run, players, parent, batch = setting(grad_clip=0.01)
    (judged,), fakes = draw_texts(run, players, 0)
    found = generator_step(run, players, parent, batch, fakes, 1.0, 0)
    assert left_behind(players.generator).norm().item() == pytest.approx(0.01, rel=1e-3)
    assert found["grad_norm"] > 0.01
    found = discriminator_step(run, players, batch, judged, ("d", 0), 0)
    assert left_behind(players.discriminator).norm().item() == pytest.approx(0.01, rel=1e-3)
    assert found["grad_norm_d"] > 0.01


@pytest.mark.parametrize("count", [4, 5])
def test_the_discriminator_step_pairs_real_texts_with_the_generators_fakes(count):
    run, players, _, batch = setting(dropout=0.5, r1=3.0, penalty_every=2)
    critic = players.discriminator
    (judged,), _ = draw_fakes(run, players, 1, ("d", count))
    ids, lengths = (x[: len(ROWS)] for x in judged)
    real, fake = (critic(*texts).sequence for texts in ((batch.targets, batch.lengths), (ids, lengths)))
    loss = F.softplus(fake - real).mean()
    total = loss
    if count % 2 == 0:  # every second step, twice as strong
        embedded = critic.embed(batch.targets).detach().requires_grad_()
        with differentiable_twice():
            score = critic.score(embedded, batch.lengths).sequence.sum()
        (slope,) = torch.autograd.grad(score, embedded, create_graph=True)
        total = total + 2 * 3.0 / 2 * slope.square().sum((1, 2)).mean()
    expected = gradient(total, critic)
    above = (real[:4, None] > fake[:4]).float().mean() * 4 / 6 + (real[4:, None] > fake[4:]).float().mean() * 2 / 6
    generator = copy_of(players.generator)

    found = discriminator_step(run, players, batch, judged, ("d", count), count)

    torch.testing.assert_close(left_behind(critic), expected, atol=1e-5, rtol=1e-4)
    assert float(found["d_loss"]) == pytest.approx(loss.item(), rel=1e-5)
    assert float(found["d_acc"]) == pytest.approx(above.item())
    assert float(found["d_gap"]) == pytest.approx((real - fake).mean().item(), rel=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(generator, players.generator.parameters(), strict=True))


@pytest.mark.parametrize("d_steps, replay_batches", [(1, 0), (3, 0), (3, 2)])
def test_texts_of_an_iteration_are_sampled_together_for_each_step_anew(d_steps, replay_batches):
    """By the generator without dropout; of the critic's, but for the very first, half are old where some are kept."""
    run, players, _, _ = setting(dropout=0.5, d_steps=d_steps, replay_batches=replay_batches, replay_share=0.5)
    fresh = [8, *[4 if replay_batches else 8] * (d_steps - 1)]
    players.generator.eval()
    rng, drawn = stream("cpu", SEED, "fakes", "d", 7), []
    for number in (-(-(sum(fresh) + 8) // 2), (sum(fresh) + 8) // 2):  # accumulate: 2
        ids, lengths = sample_ids(players.generator, number, LENGTH, eos_id=0, rng=rng)
        drawn += [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]
    players.generator.train()

    judged, own = draw_texts(run, players, 7)

    found = [[row[:n].tolist() for row, n in zip(*texts, strict=True)] for texts in (*judged, own)]
    assert [len(texts) for texts in found] == [8] * (d_steps + 1)
    assert players.spent.tokens == sum(map(len, drawn))
    seen = []
    for texts, number in zip(found, (*fresh, 8), strict=True):
        assert texts[:number] == drawn[:number]
        assert all(text in seen for text in texts[number:])
        seen, drawn = seen + texts, drawn[number:]


def test_estimators_that_read_relaxed_vectors_back_sample_for_themselves():
    run, players, _, _ = setting(estimator="soft", d_steps=2)
    judged, own = draw_texts(run, players, 0)
    assert [len(lengths) for _, lengths in judged] == [8, 8]
    assert own is None


def test_losses_that_are_not_relativistic_do_not_judge_real_texts_again():
    run, players, parent, batch = setting(loss="hinge", adv_ratio=None, mle_weight=0.0)
    _, fakes = draw_texts(run, players, 0)
    seen = []
    players.discriminator.register_forward_pre_hook(lambda critic, args: seen.append(args[0].shape[0]))
    generator_step(run, players, parent, batch, fakes, 1.0, 0)
    assert seen == [4, 2]


def test_rates_warm_up_over_the_phase_for_each_player():
    _, players, *_ = setting(lr=1e-3, lr_d=4e-3, warmup_steps=4, max_steps=14, final_lr_ratio=0.1)
    settings = Config.model_validate({"adversarial": {"lr": 1e-3, "lr_d": 4e-3, "warmup_steps": 4, "max_steps": 14}})
    for done, share in ((0, 0.25), (3, 1.0), (9, 0.55)):
        rates = set_rates(players, settings.adversarial, done)
        assert rates == pytest.approx({"schedule/lr": 1e-3 * share, "schedule/lr_d": 4e-3 * share})
        assert players.optimizer.param_groups[0]["lr"] == rates["schedule/lr"]
        assert players.optimizer_d.param_groups[1]["lr"] == rates["schedule/lr_d"]

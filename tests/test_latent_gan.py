"""A GAN on the codes of a text autoencoder: single updates by hand, what moves and what stays, a toy that it learns."""

import contextlib
import copy
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from textgan.config import Config
from textgan.data.dataset import BatchPlan, TokenDataset
from textgan.errors import UserError
from textgan.models.encoder import TransformerEncoder
from textgan.models.generator import Generator
from textgan.models.vae import Inference, TextVAE
from textgan.ops.gan_losses import GAN_LOSSES
from textgan.training import codes as codes_module
from textgan.training.codes import codes_of, compare_codes, encode_rows, whitening_of
from textgan.training.latent_gan import set_up, shown
from textgan.training.latent_players import (
    autoencoder_step,
    critic_step,
    draw_codes,
    draw_noise,
    encoder_loss,
    mapper_step,
    set_rates,
)
from textgan.training.seeding import stream

SEED, V, LENGTH, Z = 3, 7, 6, 2
ROWS = [[0, 1, 2, 0], [0, 3, 0], [0, 4, 5, 6, 0], [0, 1, 1, 1, 1, 0], [0, 6, 2, 0], [0, 5, 5, 5, 0]]
ALL = torch.arange(6)


def dataset(rows):
    offsets = torch.tensor([0, *torch.tensor([len(row) for row in rows]).cumsum(0)])
    return TokenDataset(torch.tensor([token for row in rows for token in row]), offsets, 0)


def setting(vae=None, **options):
    """A run of six texts, and players at a random point, their learning rates set."""
    options = {"batch_size": 6, "n_layer": 1, "n_hidden": 8, "warmup_steps": 0, "r1": 0, "r2": 0, **options}
    config = Config.model_validate(
        {
            "seed": SEED,
            "generator": {"block_size": LENGTH, "n_layer": 1, "n_head": 2, "n_embd": 8, "dropout": 0},
            "vae": {"z_size": Z, "weight_decay": 0, "grad_clip": 0, **(vae or {})},
            "latent_gan": options,
        }
    )
    run = SimpleNamespace(
        config=config,
        device=torch.device("cpu"),
        tokenizer=SimpleNamespace(vocab_size=V, eos_id=0, unk_id=None),
        train=dataset(ROWS),
        dev=dataset(ROWS[::-1]),
        autocast=contextlib.nullcontext,
    )
    torch.manual_seed(0)
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 8, "dropout": 0.0}
    encoder, decoder = TransformerEncoder(V, LENGTH, **shape), Generator(V, LENGTH, **shape)
    parent = TextVAE(encoder, decoder, Z, bn_gamma=config.vae.bn_gamma)
    for parameter in parent.parameters():
        parameter.data.add_(torch.randn_like(parameter) / 2)
    players = set_up(run, parent.eval())
    for parameter in [*players.mapper.parameters(), *players.critic.parameters()]:
        parameter.data.add_(torch.randn_like(parameter) / 4)
    set_rates(players, config.latent_gan, 0)
    return run, players, parent


def copy_of(network):
    return [p.detach().clone() for p in network.parameters()]


def same(network, kept):
    return all(torch.equal(a, b) for a, b in zip(network.parameters(), kept, strict=True))


def gradient(loss, parameters, **options):
    found = torch.autograd.grad(loss, parameters, allow_unused=True, **options)
    pairs = zip(parameters, found, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs])


def left_behind(parameters):
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


# ------------------------------------------------------------------------------------------------- codes


def test_codes_are_draws_of_each_rows_own_posterior(monkeypatch):
    run, _players, parent = setting()
    run.config.evaluation.__dict__["batch_size"] = 4  # two parts
    features = encode_rows(run, parent, run.train)
    drawn = codes_of(run, parent, features, "x")
    noise = torch.randn(6, Z, generator=stream("cpu", SEED, "codes", "x"))
    for row in range(6):  # each text alone
        batch = run.train.batch([row])
        own = parent.infer(parent.encode(batch.targets, batch.lengths), noise[row : row + 1])
        torch.testing.assert_close(drawn[row : row + 1], own.z)
    torch.testing.assert_close(encode_rows(run, parent, run.train, torch.tensor([4, 1])), features[[4, 1]])
    other = codes_of(run, parent, features, "y")
    assert not torch.allclose(other, drawn)


def test_the_mean_of_a_posterior_can_be_the_code():
    run, players, parent = setting(posterior="mean")
    batch = run.train.batch(range(6))
    means = parent.infer(parent.encode(batch.targets, batch.lengths), torch.zeros(6, Z)).mu
    torch.testing.assert_close(draw_codes(run, players, ALL, "d", 0), means)
    torch.testing.assert_close(draw_codes(run, players, ALL, "d", 1), means)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_codes_come_from_features_kept_or_made_anew(weight):
    run, players, parent = setting(encoder_weight=weight)
    rows = torch.tensor([5, 0, 2])
    expected = codes_of(run, parent, encode_rows(run, parent, run.train)[rows], "d", 7)
    assert (players.features is None) == bool(weight)
    torch.testing.assert_close(draw_codes(run, players, rows, "d", 7), expected)


def test_both_players_see_codes_whitened_by_those_of_the_training_texts():
    run, players, parent = setting()
    codes = codes_of(run, parent, players.features, "fit")
    for player in (players.mapper, players.critic):
        torch.testing.assert_close(player.white.mean, codes.mean(0))
        torch.testing.assert_close(player.white.factor @ player.white.factor.T, codes.T.cov(), atol=1e-4, rtol=1e-4)


def test_codes_that_are_all_the_same_are_refused():
    with pytest.raises(UserError, match="the codes of all 4 texts are the same"):
        whitening_of(torch.ones(4, 2))
    with pytest.raises(UserError, match="more than one text"):
        whitening_of(torch.randn(1, 2))


def test_generated_codes_are_compared_beside_their_marks(monkeypatch):
    run, players, parent = setting()
    law = torch.Generator().manual_seed(0)
    many = torch.randn(4000, Z, generator=law) @ torch.tensor([[2.0, 1.0], [0.0, 0.5]]) + 5

    def fake_codes(run, vae, features, *name):
        return many[:2000] if name[-1] == "dev" else many[2000:]

    monkeypatch.setattr(codes_module, "codes_of", fake_codes)
    run.dev = dataset([ROWS[0]] * 2000)
    parent.latent_generator = players.mapper
    for parameter in players.mapper.network.parameters():
        parameter.data.zero_()
    players.mapper.linear.weight.data.copy_(torch.eye(2))
    players.mapper.white.fit(torch.tensor([4.0, 5.0]), torch.linalg.cholesky(many.T.cov()))
    values = compare_codes(run, parent)
    assert abs(values["latent/mmd_real"]) < 0.005 > abs(values["latent/mmd_gaussian"])  # the codes are normal
    assert values["latent/frechet_real"] < 0.02 > values["latent/frechet_gaussian"]
    # One unit away in a direction where the deviation is 2, the other one given: whitened, so 0.5^2 at the least.
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(many.T.cov()), torch.tensor([[1.0], [0.0]]), upper=False
    )
    assert values["latent/frechet"] == pytest.approx(float(white.square().sum()), rel=0.15)
    assert 0.01 < values["latent/mmd"] < values["latent/mmd_prior"]
    assert values["latent/frechet_prior"] > 10
    assert compare_codes(run, parent) == values
    assert {name.partition("/")[0] for name in values} == {"latent"}


# ------------------------------------------------------------------------------------------------- updates


@pytest.mark.parametrize("loss", list(GAN_LOSSES))
def test_the_critic_step_is_one_step_down_its_loss(loss):
    run, players, _ = setting(loss=loss, r1=2.0, r2=0.5)
    critic, before = players.critic, copy_of(players.mapper)
    real = draw_codes(run, players, ALL, "d", 4)
    fake = players.mapper(draw_noise(run, players.mapper, 6, "d", 4)).detach()
    white = players.critic.white
    real, fake = (torch.linalg.inv(white.factor) @ (z - white.mean).T for z in (real, fake))
    real, fake = (h.T.clone().requires_grad_() for h in (real, fake))
    plain = GAN_LOSSES[loss].discriminator(critic.score(real), critic.score(fake))
    slopes = [torch.autograd.grad(critic.score(h).sum(), h, create_graph=True)[0] for h in (real, fake)]
    steep = [slope.square().sum(1).mean() for slope in slopes]
    expected = gradient(plain + steep[0] + 0.25 * steep[1], list(critic.parameters()))

    found = critic_step(run, players, ALL, 4)

    torch.testing.assert_close(left_behind(critic.parameters()), expected, atol=1e-5, rtol=1e-3)
    assert float(found["d_loss"]) == pytest.approx(plain.item(), rel=1e-4)
    assert same(players.mapper, before)


def test_the_critic_learns_which_codes_are_real():
    run, players, _ = setting(loss="hinge", lr_d=0.02, posterior="mean")
    players.mapper.network[-1].bias.data += 3
    for k in range(60):
        found = critic_step(run, players, ALL, k)
    assert float(found["d_gap"]) > 1.5
    assert float(found["d_acc"]) > 0.95


def test_the_wasserstein_penalty_pulls_slopes_to_one():
    steepness = []
    for weight in (0.0, 50.0):
        run, players, _ = setting(loss="wasserstein", gradient_penalty=weight, spectral_norm=not weight, lr_d=0.02)
        for k in range(80):
            critic_step(run, players, ALL, k)
        h = torch.randn(64, Z, requires_grad=True)
        (slope,) = torch.autograd.grad(players.critic.eval().score(h).sum(), h)
        steepness.append(slope.norm(dim=1).mean().item())
    assert steepness[1] == pytest.approx(1, abs=0.35)
    assert steepness[0] <= 1 + 1e-3  # spectral norm: at most one


@pytest.mark.parametrize("loss", list(GAN_LOSSES))
def test_the_generators_step_is_one_step_down_its_loss(loss):
    run, players, _ = setting(loss=loss, spectral_norm=loss == "wasserstein")
    mapper, before = players.mapper, copy_of(players.critic)
    real = players.critic.eval()(draw_codes(run, players, ALL, "g", 4)).detach()
    score = players.critic(mapper(draw_noise(run, mapper, 6, "g", 4)))
    value = GAN_LOSSES[loss].generator(real, score)
    expected = gradient(value, list(mapper.parameters()))
    old = score.mean().item()

    found = mapper_step(run, players, ALL, 4)

    torch.testing.assert_close(left_behind(mapper.parameters()), expected, atol=1e-6, rtol=1e-4)
    assert float(found["g_loss"]) == pytest.approx(value.item(), rel=1e-5)
    assert same(players.critic, before)
    assert all(p.grad is None and p.requires_grad for p in players.critic.parameters())
    if loss != "least_squares":  # which goes to a score of 1 from either side
        assert players.critic(mapper(draw_noise(run, mapper, 6, "g", 4))).mean().item() > old


@pytest.mark.parametrize(
    "name, expected",
    [
        # Scores 2 of a code and -1 of a generated one: what pulls the first down to where the other is.
        ("non_saturating", math.log1p(math.exp(2))),
        ("hinge", 2.0),
        ("wasserstein", 2.0),
        ("least_squares", (2 - 0) ** 2 / 2),  # generated ones are called 0
        ("rsgan", math.log1p(math.exp(2 + 1))),
        ("ragan", 2 * math.log1p(math.exp(2 + 1))),
    ],
)
def test_the_encoder_is_paid_for_codes_that_look_generated(name, expected):
    real = torch.tensor([2.0], requires_grad=True)
    value = encoder_loss(name, real, torch.tensor([-1.0]))
    assert value.item() == pytest.approx(expected, rel=1e-6)
    value.backward()
    assert real.grad.item() > 0  # downhill is a lower score


@pytest.mark.parametrize("kl_weight, free_bits", [(0.7, 0.0), (0.7, 3.0), (0.0, 0.0)])
def test_the_autoencoders_step_adds_the_critics_gradient_to_the_bound(kl_weight, free_bits):
    run, players, _ = setting(
        {"kl_weight": kl_weight, "free_bits": free_bits}, encoder_weight=5.0, loss="non_saturating"
    )
    vae, critic = players.vae, players.critic
    kept = copy_of(players.mapper), copy_of(critic)
    batch = run.train.batch(range(6))
    noise = torch.randn(6, Z, generator=stream("cpu", SEED, "codes", "vae", 2))
    drawn = vae.infer(vae.encode(batch.targets, batch.lengths), noise)
    recon = -vae.log_likelihood(batch.ids, batch.lengths, drawn.z).mean()
    fooling = F.softplus(critic(drawn.z)).mean()
    kl = drawn.kl.mean(0).clamp(min=free_bits).sum() if free_bits else drawn.kl.sum(1).mean()
    mean_length = run.train.lengths.double().mean().item()
    loss = (recon + kl_weight * kl + 5.0 * fooling) / mean_length
    parameters = vae.encoder_parameters() + vae.decoder_parameters()
    encoder = gradient(5.0 * fooling / mean_length, vae.encoder_parameters(), retain_graph=True)
    expected = gradient(loss, parameters)
    assert encoder.norm() > 0.01 * expected.norm()

    found = autoencoder_step(run, players, ALL, 2)

    torch.testing.assert_close(left_behind(parameters), expected, atol=1e-5, rtol=1e-3)
    assert float(found["recon"]) == pytest.approx(recon.item(), rel=1e-4)
    assert float(found["kl"]) == pytest.approx(drawn.kl.sum(1).mean().item(), rel=1e-4)
    assert float(found["e_loss"]) == pytest.approx(fooling.item(), rel=1e-4)
    assert same(players.mapper, kept[0])
    assert same(critic, kept[1])


def test_learning_rates_are_set_for_whatever_moves():
    run, players, _ = setting(encoder_weight=1.0, lr=0.1, lr_d=0.2, lr_vae=0.3, max_steps=10, final_lr_ratio=0.5)
    rates = set_rates(players, run.config.latent_gan, 10)
    assert rates == {f"schedule/{k}": pytest.approx(v) for k, v in {"lr": 0.05, "lr_d": 0.1, "lr_vae": 0.15}.items()}
    for optimizer, rate in ((players.optimizer, 0.05), (players.optimizer_d, 0.1), (players.optimizer_vae, 0.15)):
        assert all(group["lr"] == pytest.approx(rate) for group in optimizer.param_groups)
    run, players, _ = setting()
    assert set(set_rates(players, run.config.latent_gan, 0)) == {"schedule/lr", "schedule/lr_d"}


def test_dev_must_have_texts_to_compare_with():
    run, _, parent = setting()
    run.dev = dataset(ROWS[:1])
    with pytest.raises(UserError, match="there is only 1; give more dev texts"):
        set_up(run, parent)


def steps(run, players, first, last):
    for done in range(first, last):
        set_rates(players, run.config.latent_gan, done)
        critic_step(run, players, ALL, done)
        mapper_step(run, players, ALL, done)
        if players.joint:
            autoencoder_step(run, players, ALL, done)
        players.average.update()


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_autoencoder_moves_only_where_asked_for(weight, ema):
    run, players, parent = setting(encoder_weight=weight, ema=ema, lr_vae=0.01)
    before, start = copy.deepcopy(parent.state_dict()), copy_of(players.mapper)
    steps(run, players, 0, 3)
    after = players.model.state_dict()
    moved = {name.partition(".")[0] for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert bool(moved) == bool(weight)
    assert not weight or {"encoder", "decoder", "posterior"} <= moved
    assert not same(players.mapper, start)
    assert {name for name in after if name not in before} == {
        f"latent_generator.{name}" for name in players.mapper.state_dict()
    }
    assert (ema > 0) != torch.equal(players.model.latent_generator.linear.weight, players.mapper.linear.weight)
    assert all(torch.equal(a, b) for a, b in zip(parent.state_dict().values(), before.values(), strict=True))
    assert parent.latent_generator is None


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_players_go_on_to_the_bit(weight, ema):
    options = {"encoder_weight": weight, "ema": ema, "spectral_norm": True, "loss": "ragan", "r1": 1.0}
    run, whole, _ = setting(**options)
    steps(run, whole, 0, 5)
    run, first, _ = setting(**options)
    steps(run, first, 0, 2)
    kept = copy.deepcopy(first.state_dict())
    run, second, _ = setting(**options)
    steps(run, second, 0, 1)  # elsewhere
    second.load_state_dict(kept)
    steps(run, second, 2, 5)
    for one, other in ((whole.model, second.model), (whole.critic, second.critic), (whole.mapper, second.mapper)):
        pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_looking_at_a_batch_norm_does_not_change_what_is_trained(ema):
    run, players, _ = setting({"bn_gamma": 0.5}, encoder_weight=1.0, ema=ema, lr_vae=0.05)
    steps(run, players, 0, 2)
    kept = copy.deepcopy(players.state_dict())
    model = shown(run, players)
    batch = run.train.batch(range(6))
    means = model.infer(model.encode(batch.targets, batch.lengths), torch.zeros(6, Z)).mu
    torch.testing.assert_close(means.var(0, correction=0), torch.full((Z,), 0.25), atol=1e-3, rtol=0)
    stale = players.model.bn[0].running_mean
    assert not torch.allclose(model.bn[0].running_mean, stale)
    after = players.state_dict()
    assert all(torch.equal(kept["vae"][name], after["vae"][name]) for name in kept["vae"])
    run, players, _ = setting({"bn_gamma": 0.5})
    assert shown(run, players) is players.vae  # frozen: its statistics are those of the phase before


# ------------------------------------------------------------------------------------------------- a toy


class Ring(TextVAE):
    """A VAE whose code of text i is a place on a ring around (5, -3): far from the prior, and with a hole in it."""

    def encode(self, tokens, lengths):
        return tokens[:, :1].float()

    def infer(self, features, noise):
        angle = features * (2 * math.pi / N_RING)
        z = torch.cat([5 + 2 * angle.cos(), -3 + angle.sin()], dim=1)
        return Inference(z + 0.05 * noise, z, torch.full_like(z, 2 * math.log(0.05)), 0 * z, 0 * z)


N_RING = 400


def test_the_generator_learns_codes_that_neither_prior_nor_gaussian_knows():
    options = {"batch_size": 128, "n_layer": 2, "n_hidden": 64, "r1": 0.03, "r2": 0.03, "lr": 2e-3, "lr_d": 5e-3}
    options |= {"max_steps": 500, "ema": 0.98}
    run, _, parent = setting(**options)
    run.train = run.dev = dataset([[0, i, 0] for i in range(N_RING)])
    parent.__class__ = Ring
    players = set_up(run, parent)
    before = compare_codes(run, players.model)
    assert abs(before["latent/mmd"] - before["latent/mmd_gaussian"]) < 0.05  # where it starts
    plan = BatchPlan(run.train.lengths, 128, 0)
    for done in range(500):
        set_rates(players, run.config.latent_gan, done)
        critic_step(run, players, plan.indices(2 * done), done)
        mapper_step(run, players, plan.indices(2 * done + 1), done)
        players.average.update()
    after = compare_codes(run, players.model)
    assert after["latent/mmd"] < 0.02 * before["latent/mmd_prior"]
    assert after["latent/mmd"] < 0.1 * before["latent/mmd_gaussian"]
    assert after["latent/frechet"] < 0.1
    z = players.model.latent_generator(torch.randn(1000, Z, generator=torch.Generator().manual_seed(0)))
    radius = ((z - torch.tensor([5.0, -3.0])) / torch.tensor([2.0, 1.0])).norm(dim=1)
    assert (radius - 1).abs().median() < 0.05
    assert (radius < 0.5).float().mean() < 0.05  # the hole; of the Gaussian more than a fifth lies there
    angles = torch.atan2(z[:, 1] + 3, (z[:, 0] - 5) / 2)
    assert torch.histc(angles, 8, -math.pi, math.pi).min() > 40  # all the way round: 125 of each eighth

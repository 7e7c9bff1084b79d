"""Texts of a VAE: where latents come from, and that decoding with one is the decoder's own step by step."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from textgan.models.encoder import LSTMEncoder, TransformerEncoder
from textgan.models.generator import Generator
from textgan.models.lstm import LSTMGenerator
from textgan.models.vae import TextVAE
from textgan.sampling import streams
from textgan.sampling.context import Context
from textgan.sampling.decode import generate
from textgan.sampling.latent import LatentGenerator
from textgan.sampling.samplers import CANDIDATES, PLAIN, Drawer, Sampler
from textgan.sampling.streams import LATENT_STREAMS, row_normals

V, T, Z, EOS = 9, 12, 4, 0
KINDS = ["flat", "layerwise", "lstm"]


def make_vae(kind="flat", seed=0, injection="both", scale=3.0):
    """A VAE in float64 whose texts move with the latent."""
    torch.manual_seed(seed)
    if kind == "lstm":
        decoder = LSTMGenerator(V, T, 1, 8, 10, dropout=0.0, n_extra=0 if injection == "memory" else Z)
        vae = TextVAE(LSTMEncoder(V, 1, 6, 7), decoder, Z, injection=injection)
    else:
        decoder = Generator(V, T, 2, 2, 16, dropout=0.0)
        encoder = TransformerEncoder(V, T, 2, 2, 8, dropout=0.0)
        vae = TextVAE(encoder, decoder, Z, latents=kind, injection=injection)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(scale * 0.1 * torch.randn_like(parameter))
        vae.aggregate_mean.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0]))
        vae.aggregate_factor.copy_(torch.randn(Z, Z).tril(-1) * 0.5 + torch.diag(torch.tensor([0.5, 1.0, 2.0, 0.1])))
    return vae.double().eval()


def free(n):
    return [[] for _ in range(n)]


def log_prob(vae, ids, z, prompt=()):
    """log p of the ids that follow the prompt, given z (Z,), by the decoder's forward pass over the whole row."""
    row = torch.tensor([[EOS, *prompt, *ids]])
    logits = vae.decoder(row[:, :-1], condition=vae.condition(z[None])).log_softmax(-1)
    return logits[0].gather(1, row[0, 1:, None])[len(prompt) :].sum().item()


# ------------------------------------------------------------------------------------------------ latents


def test_normals_of_a_row_follow_from_seed_and_row_alone():
    table = row_normals(5, 100, 2000, 6)
    assert torch.equal(row_normals(5, 700, 3, 4), table[600:603, :4])
    assert not torch.equal(row_normals(6, 100, 2000, 6), table)
    flat = table.flatten().numpy()
    assert abs(flat.mean()) < 4 / math.sqrt(len(flat))
    assert abs(flat.var() - 1) < 4 * math.sqrt(2 / len(flat))
    cells = np.bincount(np.searchsorted(stats.norm.ppf(np.linspace(0, 1, 21)[1:-1]), flat), minlength=20)
    assert stats.chisquare(cells).pvalue > 1e-3
    assert np.abs(np.corrcoef(table.numpy().T) - np.eye(6)).max() < 0.1


def test_normals_are_finite_and_symmetric_at_both_ends(monkeypatch):
    ends = np.array([[0.0, 1 - 2.0**-32]])
    monkeypatch.setattr(streams, "row_uniforms", lambda *args: ends)
    low, high = row_normals(0, 0, 1, 2)[0].tolist()
    assert low == pytest.approx(stats.norm.ppf(2.0**-33))
    assert high == pytest.approx(-low)


@pytest.mark.parametrize("kind", KINDS)
def test_latents_of_the_prior(kind):
    vae = make_vae(kind)
    model = LatentGenerator(vae)
    z = model.latents(3, 0, 50)
    assert z.shape == (50, Z)
    assert z.dtype == torch.float64
    assert torch.allclose(model.latents(3, 20, 7), z[20:27], rtol=0, atol=1e-12)
    assert not torch.equal(LatentGenerator(vae).latents(4, 0, 50), z)
    if kind != "layerwise":  # N(0, I), and the temperature is its deviation
        assert torch.allclose(model.at(z_temperature=0.5).latents(3, 0, 50), 0.5 * z, atol=1e-12)
    else:  # the first group has a standard normal prior, the second the learned one of the network
        cold = model.at(z_temperature=1e-9).latents(3, 0, 50)
        assert cold[:, :2].abs().max() < 1e-7
        assert torch.allclose(cold[:, 2:], vae.prior_net[0](cold[:, :2])[:, :2], atol=1e-7)
        many = model.latents(3, 0, 4000)
        mu, logvar = vae.prior_net[0](many[:, :2]).chunk(2, dim=1)
        white = (many[:, 2:] - mu) * torch.exp(-0.5 * logvar)
        assert abs(white.mean()) < 0.05
        assert abs(white.var() - 1) < 0.08


def test_latents_of_the_aggregate_have_its_moments():
    vae = make_vae()
    model = LatentGenerator(vae, "aggregate")
    z = model.latents(0, 0, 20_000)
    covariance = vae.aggregate_factor @ vae.aggregate_factor.T
    spread = covariance.diagonal().sqrt()
    assert ((z.mean(0) - vae.aggregate_mean).abs() < 4 * spread / math.sqrt(20_000)).all()
    assert ((z.T.cov() - covariance).abs() < 0.06 * spread[:, None] * spread).all()
    cold = model.at(z_temperature=1e-9).latents(0, 0, 3)
    assert torch.allclose(cold, vae.aggregate_mean.expand(3, Z), atol=1e-7)
    assert torch.allclose(model.at(z_temperature=2.0).latents(0, 0, 3), 2 * z[:3] - vae.aggregate_mean)


def test_latents_of_a_gan_come_through_its_network():
    class Twice(nn.Linear):
        noise_size = 6

    vae = make_vae()
    vae.latent_generator = Twice(6, Z).double()
    z = LatentGenerator(vae, "gan").latents(1, 4, 5)
    noise = row_normals(1, LATENT_STREAMS + 4, 5, 6)
    assert torch.equal(noise[:, :4], LatentGenerator(vae).latents(1, 4, 5))  # as of the prior, where that is N(0, I)
    assert torch.allclose(vae.latent_generator(noise), z)


def test_sources_and_temperatures_that_are_none():
    vae = make_vae()
    for source, message in (("posterior", "prior, aggregate, gan"), ("gan", "no generator of latents")):
        with pytest.raises(ValueError, match=message):
            LatentGenerator(vae, source)
    for temperature in (0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="above 0"):
            LatentGenerator(vae, z_temperature=temperature)


# ------------------------------------------------------------------------------------------------ decoding


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("injection", ["embedding", "memory", "both"])
def test_log_prob_is_that_of_the_text_given_its_latent(kind, injection):
    vae = make_vae(kind, injection=injection)
    model = LatentGenerator(vae)
    prompts = [[], [3, 4], [5], [], [2, 2, 2, 2, 2]]
    z = model.latents(7, 10, 5)
    for settings in ({}, {"temperature": 0}, {"num_beams": 3, "temperature": 1.0}):
        samples = generate(model, prompts, eos_id=EOS, seed=7, first_index=10, **settings)
        for sample, own in zip(samples, z, strict=True):
            assert sample.log_prob == pytest.approx(log_prob(vae, sample.ids, own, sample.prompt_ids), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_do_not_depend_on_the_batch(kind):
    model = LatentGenerator(make_vae(kind))
    prompts = [[], [3, 4], [5], [], [2, 2, 2, 2, 2], [], [1]]
    for settings in ({}, {"temperature": 0}, {"num_beams": 3}):
        whole = generate(model, prompts, eos_id=EOS, seed=2, batch_size=64, **settings)
        parts = generate(model, prompts, eos_id=EOS, seed=2, batch_size=2, **settings)
        one = generate(model, prompts[4:5], eos_id=EOS, seed=2, first_index=4, **settings)
        assert [s.ids for s in parts] == [s.ids for s in whole]
        assert one[0].ids == whole[4].ids


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_texts_and_beams_are_functions_of_the_latent(kind):
    vae = make_vae(kind)
    model = LatentGenerator(vae)
    z = torch.randn(40, Z, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    greedy = generate(model, free(40), eos_id=EOS, temperature=0, latents=z, seed=1)
    assert greedy == generate(model, free(40), eos_id=EOS, temperature=0, latents=z, seed=2, first_index=9)
    assert len({tuple(s.ids) for s in greedy}) > 10
    order = torch.randperm(40)
    shuffled = generate(model, free(40), eos_id=EOS, temperature=0, latents=z[order], batch_size=7)
    assert [s.ids for s in shuffled] == [greedy[i].ids for i in order.tolist()]
    for sample, own in zip(greedy, z, strict=True):  # by hand, without cache
        ids = [EOS]
        while len(ids) <= T:
            logits = vae.decoder(torch.tensor([ids]), condition=vae.condition(own[None]))
            ids.append(int(logits[0, -1].argmax()))
            if ids[-1] == EOS:
                break
        assert sample.ids == ids[1:]
    # Beams look further: by the score that they maximise they are as good as greedy texts nearly everywhere.
    beams = generate(model, free(40), eos_id=EOS, latents=z, num_beams=4)
    rates = [[s.log_prob / len(s.ids) for s in texts] for texts in (beams, greedy)]
    assert sum(b >= g - 1e-9 for b, g in zip(*rates, strict=True)) >= 36


def test_tokens_do_not_come_from_the_numbers_of_the_latent():
    """Uniforms of the tokens of row i are those of a generator without latent: streams are apart."""
    vae = make_vae(scale=0.0)  # nearly flat logits: texts follow from the uniforms
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.zero_()
    a = generate(LatentGenerator(vae), free(30), eos_id=EOS, seed=3)
    b = generate(vae.decoder, free(30), eos_id=EOS, seed=3)
    assert [s.ids for s in a] == [s.ids for s in b]


def test_a_context_reads_anew_with_its_condition():
    """Rows that outgrow the cache are moved to the left and read again; the latent must come along."""
    vae = make_vae()
    z = torch.randn(3, Z, dtype=torch.float64)
    with torch.no_grad():
        rows = [[EOS], [EOS, 1, 2, 3, 4, 5, 6], [EOS, 7]]
        context = Context(vae.decoder, rows, room=T - 1, pad_id=EOS, condition=vae.condition(z))
        keep = torch.tensor([2, 0])
        context.select(keep)
        written = []
        for t in range(9):
            context.append(torch.full((2,), 1 + t % 8))
            written.append(1 + t % 8)
        for i, row in enumerate([rows[2], rows[0]]):
            ids = torch.tensor([[*row, *written]])
            direct = vae.decoder(ids, condition=vae.condition(z[keep[i : i + 1]]))[0, -1]
            assert torch.allclose(context.logits[i], direct, atol=1e-9)


def test_latents_that_do_not_fit():
    vae = make_vae()
    with pytest.raises(ValueError, match=r"\(3, 4\), one for each prompt"):
        generate(LatentGenerator(vae), free(3), eos_id=EOS, latents=torch.zeros(2, Z))
    with pytest.raises(ValueError, match="this model has none"):
        generate(vae.decoder, free(3), eos_id=EOS, latents=torch.zeros(3, Z))


# ------------------------------------------------------------------------------------------------ samplers


def drawer(model, n=30, **settings):
    return Drawer(model, n, eos_id=EOS, max_new_tokens=T, **{"seed": 5, "batch_size": 8, **settings})


@pytest.mark.parametrize("source", ["prior", "aggregate"])
def test_a_temperature_of_latents_scales_them_and_leaves_tokens_alone(source):
    model = LatentGenerator(make_vae(), source)
    drawn = drawer(model)(Sampler("z_temperature", 0.5))
    z = model.at(z_temperature=0.5).latents(5, 0, 30)
    expected = generate(model, free(30), eos_id=EOS, seed=5, latents=z)
    assert drawn.ids == [s.ids for s in expected] != drawer(model)(PLAIN).ids
    by_hand = [log_prob(model.vae, ids, own) for ids, own in zip(drawn.ids, z, strict=True)]
    assert drawn.log_probs == pytest.approx(by_hand)
    assert model.z_temperature == 1
    assert drawer(model, batch_size=3)(Sampler("z_temperature", 0.5)).ids == drawn.ids


def test_cold_latents_are_all_alike():
    model = LatentGenerator(make_vae())
    drawn = drawer(model, temperature=0)(Sampler("z_temperature", 1e-6))
    assert len({tuple(ids) for ids in drawn.ids}) == 1


def test_candidates_of_rejection_have_latents_of_their_own():
    model = LatentGenerator(make_vae())
    sharp = drawer(model)(Sampler("rejection", 1000.0))
    pools = [
        generate(model, free(30), eos_id=EOS, seed=5, first_index=j * 2**40, max_new_tokens=T)
        for j in range(CANDIDATES)
    ]
    for i in range(30):
        best = max((pool[i] for pool in pools), key=lambda s: s.log_prob / len(s.ids))
        assert sharp.ids[i] == best.ids
    assert len({tuple(pool[0].ids) for pool in pools}) > 2


def test_a_generator_without_latents_has_no_temperature_of_them():
    cold = Sampler("z_temperature", 0.5)
    assert cold.fits(LatentGenerator(make_vae()))
    assert not cold.fits(make_vae().decoder)
    assert PLAIN.fits(make_vae().decoder)
    with pytest.raises(ValueError, match="is for models with latents"):
        drawer(make_vae().decoder)(cold)

"""The bound of a VAE's likelihood, and how its latent is used, against integrals and cases with known answers."""

import math

import pytest
import torch
from torch import nn

from tests.test_latent_sampling import EOS, KINDS, T, V, Z, make_vae
from textgan.data.dataset import TokenDataset
from textgan.metrics.latent import information_of_pairs
from textgan.models.encoder import TransformerEncoder
from textgan.models.generator import Generator
from textgan.models.vae import TextVAE
from textgan.sampling.latent import LatentGenerator
from textgan.sampling.latent_likelihood import diagnose, importance_nll, latent_information, latent_values
from textgan.training.evaluation import text_nll


def make_rows(n=23, seed=0):
    """Texts of all lengths, end included."""
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, T + 1, (n,), generator=rng)
    rows = [[EOS, *torch.randint(1, V, (k - 1,), generator=rng).tolist(), EOS] for k in lengths.tolist()]
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    return TokenDataset(torch.tensor([i for row in rows for i in row]), offsets, EOS)


def bound(model, rows, k, seed=0, batch_size=64):
    return importance_nll(model, rows, k=k, seed=seed, batch_size=batch_size, device="cpu")


def make_exact(z_size=1):
    """A VAE with one latent number, small enough for integrals over it."""
    torch.manual_seed(1)
    vae = TextVAE(TransformerEncoder(V, T, 1, 2, 8, dropout=0.0), Generator(V, T, 1, 2, 8, dropout=0.0), z_size)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        vae.aggregate_mean.fill_(0.7)
        vae.aggregate_factor.fill_(0.4)
    return vae.double().eval()


def integral(vae, rows, log_prior):
    """-log p(x) of each row by summation over a fine grid of z."""
    grid = torch.linspace(-8, 8, 2001, dtype=torch.float64)[:, None]
    found = []
    for i in range(len(rows)):
        ids, lengths, _ = rows.batch([i])
        with torch.no_grad():
            log_p = vae.log_likelihood(ids.expand(len(grid), -1), lengths.expand(len(grid)), grid)
        found.append(-(log_p + log_prior(grid[:, 0])).logsumexp(0) - math.log(16 / 2000))
    return torch.stack(found)


# ------------------------------------------------------------------------------------------------ the bound


@pytest.mark.parametrize("source, mean, sd", [("prior", 0.0, 1.0), ("aggregate", 0.7, 0.4)])
def test_the_bound_comes_to_the_exact_likelihood_from_above(source, mean, sd):
    vae, rows = make_exact(), make_rows(8)
    normal = torch.distributions.Normal(torch.tensor(mean, dtype=torch.float64), sd)
    exact = integral(vae, rows, normal.log_prob)
    model = LatentGenerator(vae, source)
    many = bound(model, rows, 2000)
    assert torch.allclose(many, exact, atol=0.12)
    assert abs((many - exact).mean()) < 0.03
    gaps = [torch.stack([bound(model, rows, k, seed) for seed in range(40)]).mean(0) - exact for k in (1, 4, 30)]
    assert gaps[0].mean() > gaps[1].mean() > gaps[2].mean() > -0.01


@pytest.mark.parametrize("kind", KINDS)
def test_one_draw_is_the_negative_elbo(kind):
    vae, rows = make_vae(kind), make_rows()
    found = diagnose(vae, rows, seed=3, batch_size=5, device="cpu")
    assert torch.allclose(bound(vae, rows, 1, seed=3), found.recon + found.log_ratio, atol=1e-9)
    # In the mean over draws the ratio is the KL, in whichever way the posterior is factored.
    many = [diagnose(vae, rows, seed=seed, batch_size=64, device="cpu") for seed in range(60)]
    difference = torch.stack([(d.log_ratio - d.kl).mean() for d in many])
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(60)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_of_the_row_not_of_the_batch(kind):
    vae, rows = make_vae(kind), make_rows()
    whole = bound(vae, rows, 6)
    for batch_size in (1, 4, 9, 1000):
        assert torch.allclose(bound(vae, rows, 6, batch_size=batch_size), whole, atol=1e-9)
    assert not torch.allclose(bound(vae, rows, 6, seed=1), whole)
    first = rows.select(torch.arange(9))
    assert torch.allclose(bound(vae, first, 6), whole[:9], atol=1e-9)
    # Each draw differs from the others, and more draws go on with those of fewer.
    assert not torch.allclose(bound(vae, rows, 2), bound(vae, rows, 1))
    weights = torch.stack([bound(vae, rows, k) for k in (1, 2, 3)])
    likelihoods = (-weights).exp() * torch.tensor([1.0, 2.0, 3.0])[:, None]  # sums of the weights
    assert (likelihoods.diff(dim=0) > 0).all()


def test_a_decoder_that_does_not_look_has_its_own_likelihood():
    """Where p(x|z) = p(x) and the posterior is the prior, every bound is the plain NLL."""
    vae, rows = make_vae(), make_rows()
    with torch.no_grad():
        for module in (vae.inject, vae.posterior):
            for parameter in module.parameters():
                parameter.zero_()
    plain = text_nll(vae.decoder, rows, batch_size=64, device=torch.device("cpu"))
    # The memory is then a key and value of zeros, which still takes its share of attention: decode with it.
    ids, lengths, _ = rows.batch(range(len(rows)))
    with torch.no_grad():
        told = -vae.log_likelihood(ids, lengths, torch.zeros(len(rows), Z, dtype=torch.float64))
    assert torch.allclose(bound(vae, rows, 1), told, atol=1e-9)
    assert torch.allclose(bound(vae, rows, 7), told, atol=1e-9)
    beside = make_vae(injection="embedding")
    with torch.no_grad():
        for module in (beside.inject, beside.posterior):
            for parameter in module.parameters():
                parameter.zero_()
        plain = text_nll(beside.decoder, rows, batch_size=64, device=torch.device("cpu"))
    assert torch.allclose(bound(beside, rows, 5), plain, atol=1e-5)
    # A posterior elsewhere loosens the bound, less so with more draws.
    with torch.no_grad():
        beside.posterior[0].bias[:Z] = 0.5
    loose = [torch.stack([bound(beside, rows, k, seed) for seed in range(30)]).mean() for k in (1, 10)]
    assert loose[0] == pytest.approx(plain.mean().item() + Z * 0.125, abs=0.15)
    assert plain.mean() - 0.05 < loose[1] < loose[0] - 0.2


def test_no_bound_without_density_or_draws():
    vae = make_vae()
    vae.latent_generator = nn.Linear(Z, Z).double()
    with pytest.raises(ValueError, match="no density"):
        bound(LatentGenerator(vae, "gan"), make_rows(), 2)
    with pytest.raises(ValueError, match="at least 1"):
        bound(vae, make_rows(), 0)


def test_dropout_is_off_for_the_call_alone():
    torch.manual_seed(0)
    vae = TextVAE(TransformerEncoder(V, T, 1, 2, 8, dropout=0.5), Generator(V, T, 1, 2, 8, dropout=0.5), Z).train()
    rows = make_rows()
    assert torch.equal(bound(vae, rows, 2), bound(vae, rows, 2))
    assert vae.training
    assert vae.decoder.training
    assert torch.equal(*(diagnose(vae, rows, seed=0, batch_size=8, device="cpu").recon for _ in range(2)))


# ------------------------------------------------------------------------------------------------ the diagnosis


@pytest.mark.parametrize("kind", KINDS)
def test_the_diagnosis_is_of_each_text(kind):
    vae, rows = make_vae(kind), make_rows()
    found = diagnose(vae, rows, seed=0, batch_size=4, device="cpu")
    assert found.mu.shape == found.z.shape == (len(rows), Z)
    assert found.kl_dims.shape == (Z,)
    assert found.kl_dims.sum().item() == pytest.approx(found.kl.mean().item())
    with torch.no_grad():
        for i in (0, 7, 22):
            ids, lengths, _ = rows.batch([i])
            features = vae.encode(ids[:, 1:], lengths)
            drawn = vae.infer_at(features, found.z[i : i + 1])
            assert torch.allclose(found.mu[i], drawn.mu[0])
            assert torch.allclose(found.logvar[i], drawn.logvar[0])
            assert torch.allclose(found.offset[i], drawn.offset[0], atol=1e-6)
            still = vae.infer(features, torch.zeros(1, Z))
            assert torch.allclose(found.mean[i], still.z[0])
            assert torch.allclose(still.z, still.mu)
            assert found.kl[i].item() == pytest.approx(drawn.kl.sum().item())
            logits = vae.decoder(ids[:, :-1], condition=vae.condition(found.z[i : i + 1])).log_softmax(-1)
            own = -logits[0].gather(1, ids[0, 1:, None]).sum().item()
            assert found.recon[i].item() == pytest.approx(own)
    again = diagnose(vae, rows, seed=0, batch_size=100, device="cpu")
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(found, again, strict=True))


def test_units_of_a_collapsed_layerwise_posterior_are_not_active():
    """Its means move with the drawn groups before them, as those of its prior do."""
    vae, rows = make_vae("layerwise"), make_rows()
    with torch.no_grad():
        for parameter in vae.posterior.parameters():
            parameter.zero_()
    values, found = latent_values(vae, rows, seed=0, batch_size=8, device="cpu")
    assert values["kl"] == 0
    assert (found.mu.var(0) > 0.01).any()
    assert values["active_units"] == 0


def test_every_text_is_read_with_the_latent_of_another_once():
    vae, rows = make_vae(scale=5.0), make_rows()
    found = diagnose(vae, rows, seed=2, batch_size=6, device="cpu")
    taken = []
    with torch.no_grad():
        for i in range(len(rows)):
            ids, lengths, _ = rows.batch([i])
            every = -vae.log_likelihood(ids.expand(len(rows), -1), lengths.expand(len(rows)), found.z)
            taken.append(int((every - found.shuffled_recon[i]).abs().argmin()))
            assert every[taken[-1]].item() == pytest.approx(found.shuffled_recon[i].item(), abs=1e-9)
    assert sorted(taken) == list(range(len(rows)))
    assert all(i != j for i, j in enumerate(taken))
    two = rows.select(torch.tensor([0, 1]))
    assert len(diagnose(vae, two, seed=0, batch_size=6, device="cpu").recon) == 2
    with pytest.raises(ValueError, match="at least 2"):
        diagnose(vae, rows.select(torch.tensor([0])), seed=0, batch_size=6, device="cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_information_is_that_of_all_pairs(kind):
    vae, rows = make_vae(kind), make_rows()
    found = diagnose(vae, rows, seed=0, batch_size=4, device="cpu")
    value = latent_information(vae, rows, found, seed=0, batch_size=4, device="cpu")
    with torch.no_grad():
        pairs = torch.empty(len(rows), len(rows), dtype=torch.float64)
        for j in range(len(rows)):
            ids, lengths, _ = rows.batch([j])
            features = vae.encode(ids[:, 1:], lengths)
            pairs[:, j] = vae.infer_at(features.expand(len(rows), *features.shape[1:]), found.z).log_q
    expected = information_of_pairs(pairs)
    assert value.value == pytest.approx(expected.value, abs=1e-9)
    assert value.ceiling == math.log(len(rows))


def test_values_by_name():
    vae, rows = make_vae(), make_rows()
    values, found = latent_values(vae, rows, seed=0, batch_size=8, device="cpu")
    assert values["recon"] == found.recon.mean().item()
    assert values["kl"] == found.kl.mean().item()
    assert values["elbo"] == values["recon"] + values["kl"]
    assert values["shuffled_recon"] == found.shuffled_recon.mean().item()
    assert values["active_units"] == (found.mu.var(0) > 0.01).sum()
    assert (
        values["active_directions"]
        == (torch.linalg.svdvals(found.mu - found.mu.mean(0)) ** 2 / (len(found.mu) - 1) > 0.01).sum()
    )
    assert values["z_size"] == Z
    assert 0 < values["mi"] < values["mi_ceiling"] == math.log(len(rows))

"""A whole text VAE against exact answers: with one or two latent numbers p(x) is an integral that can be computed.

The integral runs over the standard normal noise that `TextVAE.prior` reads, so neither log q nor log p nor the KL has
a part in it. What the importance-weighted bound, the ELBO and the KL of real code say is held against it.
"""

import functools
import itertools
import math
from collections import Counter

import pytest
import torch

from textgan.data.dataset import TokenDataset
from textgan.models.encoder import LSTMEncoder, TransformerEncoder
from textgan.models.generator import Generator
from textgan.models.lstm import LSTMGenerator
from textgan.models.vae import TextVAE
from textgan.ops.elbo import free_bits, importance_bound
from textgan.sampling.decode import generate
from textgan.sampling.latent import LatentGenerator
from textgan.sampling.latent_likelihood import importance_nll, latent_values

V, EOS, T = 4, 0, 5
# Texts of the words 1 to 3, one of them without a word; the last fills the block.
TEXTS = [[1, 2, 1], [3, 3], [], [2, 1, 3, 1]]
# decoder, size of z, latents, injection
KINDS = {
    "flat": ("transformer", 2, "flat", "both"),
    "embedding": ("transformer", 1, "flat", "embedding"),
    "layerwise": ("transformer", 2, "layerwise", "both"),
    "lstm": ("lstm", 2, "flat", "both"),
    "lstm state": ("lstm", 1, "flat", "memory"),
}
KINDS_AND_AGES = pytest.mark.parametrize("kind, steps", list(itertools.product(KINDS, (0, 40))))


def rows_of(texts):
    """(ids (B, T + 1), lengths (B,)) of texts, padded with the closing token."""
    ids = torch.tensor([[EOS, *text, *[EOS] * (T - len(text))] for text in texts])
    return ids, torch.tensor([len(text) + 1 for text in texts])


def noise_of(rows, z_size, seed):
    return torch.randn(rows, z_size, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


@functools.cache
def make(kind, steps):
    """A float64 VAE in eval mode after so many updates."""
    decoder, z_size, latents, injection = KINDS[kind]
    torch.manual_seed(1)
    if decoder == "lstm":
        encoder = LSTMEncoder(V, n_layer=1, n_embd=6, n_hidden=8)
        extra = 0 if injection == "memory" else z_size
        decoder = LSTMGenerator(V, T, n_layer=1, n_embd=6, n_hidden=8, dropout=0.0, n_extra=extra)
    else:
        encoder = TransformerEncoder(V, T, n_layer=2, n_head=2, n_embd=8, dropout=0.0)
        decoder = Generator(V, T, n_layer=2, n_head=2, n_embd=8, dropout=0.0)
    vae = TextVAE(encoder, decoder, z_size, latents, injection).double()
    # Posteriors start as the prior and z hardly matters at the start: make all of it matter.
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if not name.startswith(("encoder", "decoder")):
                parameter.add_(0.15 * torch.randn_like(parameter))
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.01)
    ids, lengths = rows_of(TEXTS * 4)
    for step in range(steps):
        found = vae.infer(vae.encode(ids[:, 1:], lengths), noise_of(len(ids), z_size, step))
        loss = free_bits(found.kl, 0.2, "dimension") - vae.log_likelihood(ids, lengths, found.z).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return vae.eval()


def quadrature(z_size, nodes=None):
    """Points (N, Z) and log weights (N,) of the mean under N(0, I): an even grid, which is exact to many digits."""
    side = torch.linspace(-6, 6, nodes or {1: 401, 2: 51}[z_size], dtype=torch.double)
    grid = torch.cartesian_prod(*[side] * z_size).view(-1, z_size)
    return grid, (-0.5 * grid.square().sum(1)).log_softmax(0)


@torch.no_grad()
def exact_log_p(vae, ids, lengths, nodes=None):
    """log p(x) of rows, (B,)."""
    grid, log_weights = quadrature(vae.z_size, nodes)
    z, N = vae.prior(grid), len(grid)
    every = vae.log_likelihood(ids.repeat_interleave(N, 0), lengths.repeat_interleave(N), z.repeat(len(ids), 1))
    return (every.view(len(ids), N) + log_weights).logsumexp(1)


@torch.no_grad()
def draws(vae, ids, lengths, noise):
    """For K noises (K, Z) an Inference of all (B K, Z), and log p(x|z), (B, K)."""
    K, B = len(noise), len(ids)
    features = vae.encode(ids[:, 1:], lengths).repeat_interleave(K, 0)
    found = vae.infer(features, noise.repeat(B, 1))
    log_x = vae.log_likelihood(ids.repeat_interleave(K, 0), lengths.repeat_interleave(K), found.z)
    return found, log_x.view(B, K)


@KINDS_AND_AGES
def test_the_probabilities_of_all_texts_add_up_to_one(kind, steps):
    """All closed texts, and all openings that fill the block without an end; any quadrature keeps the sum."""
    closed = [list(words) for n in range(T) for words in itertools.product((1, 2, 3), repeat=n)]
    full = [list(words) for words in itertools.product((1, 2, 3), repeat=T)]
    ids, lengths = rows_of(closed + full)
    lengths = lengths.clamp(max=T)
    assert exact_log_p(make(kind, steps), ids, lengths, nodes=4).exp().sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_bound_of_many_draws_is_the_exact_likelihood(kind):
    vae, (ids, lengths) = make(kind, 40), rows_of(TEXTS)
    exact = exact_log_p(vae, ids, lengths)
    torch.testing.assert_close(exact, exact_log_p(vae, ids, lengths, nodes=75), rtol=0, atol=5e-4)
    K = 4000
    found, log_x = draws(vae, ids, lengths, noise_of(K, vae.z_size, 9))
    log_weights = log_x + (found.log_p - found.log_q).view(-1, K)
    error = (log_weights - exact[:, None]).exp().std(1) / math.sqrt(K)
    assert error.max() < 0.05
    assert ((importance_bound(log_weights) - exact).abs() < 4 * error + 1e-3).all()
    # From below, and tighter the more draws.
    means = [importance_bound(log_weights.view(len(ids), -1, k)).mean() for k in (1, 4, 40)]
    assert means[0] < means[1] < means[2] < exact.mean() + 0.01


@KINDS_AND_AGES
def test_the_elbo_by_its_closed_kl_is_that_of_the_log_densities_and_lies_below(kind, steps):
    vae, (ids, lengths) = make(kind, steps), rows_of(TEXTS)
    grid, log_weights = quadrature(vae.z_size)
    found, log_x = draws(vae, ids, lengths, grid)
    mean = log_weights.exp()
    closed = (log_x - found.kl.sum(1).view_as(log_x)) @ mean
    sampled = (log_x + (found.log_p - found.log_q).view_as(log_x)) @ mean
    torch.testing.assert_close(closed, sampled, rtol=0, atol=1e-5)
    gap = exact_log_p(vae, ids, lengths) - closed
    assert (gap > 0).all()
    assert gap.max() > 1e-3  # else nothing is told apart here


@pytest.mark.parametrize("kind", [kind for kind, (_, _, latents, _) in KINDS.items() if latents == "flat"])
def test_what_the_elbo_lacks_is_the_kl_to_the_true_posterior(kind):
    """The true posterior by Bayes' rule on a grid of z."""
    vae, (ids, lengths) = make(kind, 40), rows_of(TEXTS)
    grid, log_weights = quadrature(vae.z_size)
    found, log_x = draws(vae, ids, lengths, grid)
    elbo = (log_x - found.kl.sum(1).view_as(log_x)) @ log_weights.exp()
    side = torch.linspace(-7, 7, {1: 701, 2: 101}[vae.z_size], dtype=torch.double)
    z = torch.cartesian_prod(*[side] * vae.z_size).view(-1, vae.z_size)
    area = (side[1] - side[0]) ** vae.z_size
    exact = exact_log_p(vae, ids, lengths)
    mu, deviation = found.mu[:: len(grid)], found.logvar[:: len(grid)].mul(0.5).exp()
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    for row in range(len(ids)):
        log_q = torch.distributions.Normal(mu[row], deviation[row]).log_prob(z).sum(1)
        with torch.no_grad():
            log_x = vae.log_likelihood(ids[row].expand(len(z), -1), lengths[row].expand(len(z)), z)
        posterior = log_x + log_prior - exact[row]
        assert (posterior.exp().sum() * area).item() == pytest.approx(1, abs=1e-3)
        gap = (log_q.exp() * (log_q - posterior)).sum() * area
        assert gap.item() == pytest.approx((exact[row] - elbo[row]).item(), abs=2e-3)


def dataset_of(ids, lengths):
    rows = [row[: n + 1] for row, n in zip(ids, lengths.tolist(), strict=True)]
    offsets = torch.tensor([0, *itertools.accumulate(map(len, rows))])
    return TokenDataset(torch.cat(rows), offsets, EOS)


@KINDS_AND_AGES
def test_the_bound_of_a_data_set_is_the_exact_likelihood(kind, steps):
    """K = 2000 draws of each row, by the function that evaluation calls."""
    vae, (ids, lengths) = make(kind, steps), rows_of(TEXTS)
    exact = exact_log_p(vae, ids, lengths)
    data, K = dataset_of(ids, lengths), 2000
    found, log_x = draws(vae, ids, lengths, noise_of(K, vae.z_size, 9))
    relative = (log_x + (found.log_p - found.log_q).view(-1, K) - exact[:, None]).exp()
    error = relative.std(1) / math.sqrt(K)
    nll = importance_nll(vae, data, k=K, seed=3, batch_size=512, device="cpu")
    assert ((nll + exact).abs() < 4 * error + 1e-4).all()
    # One draw a row is the ELBO on average; rows here are the same texts again and again.
    many = dataset_of(*rows_of(TEXTS * 250))
    single = importance_nll(vae, many, k=1, seed=3, batch_size=512, device="cpu").view(250, -1)
    grid, log_weights = quadrature(vae.z_size)
    found, log_x = draws(vae, ids, lengths, grid)
    elbo = (log_x - found.kl.sum(1).view_as(log_x)) @ log_weights.exp()
    assert ((single.mean(0) + elbo).abs() < 4 * single.std(0) / math.sqrt(250) + 1e-6).all()


@pytest.mark.parametrize("kind", ["flat", "layerwise"])
def test_the_bound_under_a_fitted_aggregate_posterior_is_that_models_likelihood(kind):
    vae, (ids, lengths) = make(kind, 40), rows_of(TEXTS)
    mean, factor = torch.tensor([0.3, -0.2]).double(), torch.tensor([[1.2, 0.0], [0.5, 0.9]]).double()
    before = vae.aggregate_mean.clone(), vae.aggregate_factor.clone()
    grid, log_weights = quadrature(2)
    try:
        vae.aggregate_mean.copy_(mean)
        vae.aggregate_factor.copy_(factor)
        N, z = len(grid), mean + grid @ factor.T
        with torch.no_grad():
            log_x = vae.log_likelihood(ids.repeat_interleave(N, 0), lengths.repeat_interleave(N), z.repeat(4, 1))
        exact = (log_x.view(4, N) + log_weights).logsumexp(1)
        model = LatentGenerator(vae, "aggregate")
        nll = importance_nll(model, dataset_of(ids, lengths), k=4000, seed=1, batch_size=512, device="cpu")
        torch.testing.assert_close(-nll, exact, rtol=0, atol=0.1)
        assert (exact - exact_log_p(vae, ids, lengths)).abs().max() > 0.02  # another model than that of the prior
    finally:
        vae.aggregate_mean.copy_(before[0])
        vae.aggregate_factor.copy_(before[1])


@pytest.mark.parametrize("kind", ["flat", "layerwise", "lstm"])
def test_texts_are_sampled_with_their_exact_probabilities(kind):
    """A latent a row, the decoder step by step with its cache: the frequencies of whole texts are those of p(x)."""
    vae, n = make(kind, 40), 2000
    samples = generate(LatentGenerator(vae), [[]] * n, eos_id=EOS, seed=5, batch_size=1000)
    counts = Counter(tuple(sample.ids) for sample in samples)
    texts = [list(words) for k in range(3) for words in itertools.product((1, 2, 3), repeat=k)] + TEXTS[::3]
    expected = n * exact_log_p(vae, *rows_of(texts)).exp()
    seen = torch.tensor([counts[(*text, EOS)] for text in texts])
    expected, seen = (torch.cat([x, n - x.sum(0, keepdim=True)]) for x in (expected, seen))
    assert ((seen - expected).square() / expected).sum() < 44.3  # once in 10,000 times, with 15 degrees of freedom


@pytest.mark.parametrize("kind", ["flat", "layerwise"])
def test_the_diagnosis_against_exact_means(kind):
    vae, copies = make(kind, 40), 250
    ids, lengths = rows_of(TEXTS)
    values, found = latent_values(vae, dataset_of(*rows_of(TEXTS * copies)), seed=2, batch_size=500, device="cpu")
    grid, log_weights = quadrature(2)
    mean = log_weights.exp()
    drawn, log_x = draws(vae, ids, lengths, grid)
    kl, recon = drawn.kl.sum(1).view_as(log_x) @ mean, -(log_x @ mean)

    def near(seen, exact):
        assert seen.mean().item() == pytest.approx(exact.mean().item(), abs=4 * seen.std().item() / math.sqrt(1000))

    near(found.kl, kl)
    near(found.recon, recon)
    torch.testing.assert_close(found.kl_dims.sum(), found.kl.mean())
    assert values["elbo"] == pytest.approx(values["kl"] + values["recon"])
    # Another row's latent is, texts being four, that of a random text: E over both of -log p(x_i | z_j).
    z = drawn.z.view(4, -1, 2)
    with torch.no_grad():
        N = z.size(1)
        shuffled = [
            -vae.log_likelihood(ids[i].expand(N, -1), lengths[i].expand(N), z[j]) @ mean
            for i, j in itertools.product(range(4), repeat=2)
        ]
    near(found.shuffled_recon, torch.stack(shuffled))
    # What z tells of four texts: E log q(z|x_i) - log 1/4 sum_j q(z|x_j), by quadrature over z given each text.
    features = vae.encode(ids[:, 1:], lengths)
    with torch.no_grad():
        log_q = torch.stack(
            [vae.infer_at(f.expand(4 * N, *f.shape), z.flatten(0, 1)).log_q.view(4, N) for f in features], dim=2
        )
    own = torch.stack([log_q[i, :, i] for i in range(4)])
    exact = ((own - log_q.logsumexp(2) + math.log(4)) @ mean).mean().item()
    assert values["mi"] == pytest.approx(exact, abs=0.07)  # four standard errors
    assert exact > 0.3

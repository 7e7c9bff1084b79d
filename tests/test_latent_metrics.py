"""Latent diagnostics on posteriors whose answer is known, and an alarm that rings when it should."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

import textgan.metrics.latent as latent
from textgan.metrics.latent import (
    active_units,
    fit_gaussian,
    information_of_pairs,
    mutual_information,
    posterior_collapse,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def posterior_draws(mu, logvar, seed=5):
    return mu + (0.5 * logvar).exp() * draw(*mu.shape, seed=seed).to(mu)


def test_units_are_counted_above_the_threshold():
    # deviations +-1 over 3 degrees of freedom: factors squared times 4/3
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None]
    means = 7 + signs * torch.tensor([1.0, 0.0, 0.05, 0.1, 0.4])
    units = active_units(means)
    expected = torch.tensor([4 / 3, 0, 0.0033333, 0.0133333, 0.2133333], dtype=torch.double)
    torch.testing.assert_close(units.variance, expected, rtol=1e-4, atol=1e-9)
    assert units.count == 3
    assert units.directions == 1  # all of them follow the same sign
    assert active_units(means, threshold=0.2).count == 2  # DELLA's
    assert active_units(means, threshold=0.5).count == 1


def test_directions_do_not_count_copies_nor_depend_on_the_axes():
    own = draw(500, 3) * torch.tensor([1.0, 0.5, 0.02])  # variances 1, 0.25, 0.0004
    copies = torch.cat([own, own[:, :1], -own[:, :1] + own[:, 1:2]], dim=1)
    rotation = torch.linalg.qr(draw(3, 3, seed=1)).Q
    assert (active_units(own).count, active_units(own).directions) == (2, 2)
    assert (active_units(copies).count, active_units(copies).directions) == (4, 2)
    assert (active_units(own @ rotation).count, active_units(own @ rotation).directions) == (3, 2)
    assert active_units(own[:, :1]).directions == 1
    assert active_units(torch.zeros(4, 2)).directions == 0


def test_a_far_mean_does_not_blur_the_variance():
    means = 1e4 + 0.25 * torch.tensor([[1.0], [-1.0]])
    assert float(active_units(means).variance) == pytest.approx(0.125)


def test_identical_posteriors_tell_nothing():
    mu, logvar = torch.ones(50, 3), torch.full((50, 3), -1.0)
    found = mutual_information(mu, logvar, posterior_draws(mu, logvar))
    assert found.value == pytest.approx(0, abs=1e-9)
    assert found.se == pytest.approx(0, abs=1e-9)
    assert found.ceiling == pytest.approx(math.log(50))


@pytest.mark.parametrize("clusters", [2, 7])
def test_separate_clusters_tell_their_logarithm(clusters):
    mu = 50.0 * (torch.arange(70) % clusters)[:, None] * torch.tensor([[1.0, -1.0]])
    logvar = torch.zeros_like(mu)
    found = mutual_information(mu, logvar, posterior_draws(mu, logvar))
    assert found.value == pytest.approx(math.log(clusters), abs=1e-6)


def test_all_texts_apart_reach_the_ceiling():
    mu = 1e3 * torch.arange(40.0)[:, None]
    found = mutual_information(mu, torch.zeros_like(mu), mu)
    assert found.value == pytest.approx(math.log(40), abs=1e-9)
    assert found.ceiling == pytest.approx(math.log(40))


def test_a_gaussian_channel():
    """x ~ N(0, s), z = x + N(0, n): I = 1/2 log(1 + s/n) a dimension; N rows are enough where log N is far above."""
    signal, noise = torch.tensor([1.0, 0.5, 0.0]).double(), torch.tensor([1.0, 0.25, 2.0]).double()
    mu = draw(3000, 3, seed=1) * signal.sqrt()
    logvar = noise.log().expand(3000, 3)
    found = mutual_information(mu, logvar, posterior_draws(mu, logvar))
    exact = 0.5 * torch.log1p(signal / noise).sum().item()
    assert found.value == pytest.approx(exact, abs=4 * found.se + 0.02)
    # spread of log q(z|x) - log q(z): known too, for the two densities are Gaussian
    assert 0.005 < found.se < 0.03
    assert found.ceiling > 5 * found.value


def test_the_standard_error_is_that_of_repeated_draws():
    mu, logvar = draw(200, 2, seed=1), torch.full((200, 2), -0.5).double()
    found = [mutual_information(mu, logvar, posterior_draws(mu, logvar, seed=s)) for s in range(10, 110)]
    spread = torch.tensor([one.value for one in found]).std().item()
    claimed = sum(one.se for one in found) / len(found)
    assert 0.8 * spread < claimed < 1.6 * spread


def test_information_against_the_dense_formula_and_in_blocks(monkeypatch):
    mu, logvar = draw(23, 4, seed=1), draw(23, 4, seed=2)
    z = posterior_draws(mu, logvar)
    posterior = torch.distributions.Normal(mu, (0.5 * logvar).exp())
    log_q = posterior.log_prob(z[:, None]).sum(-1)  # [i, j] = log q(z_i | x_j)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(23)), torch.distributions.Independent(posterior, 1)
    )
    gains = log_q.diagonal() - mixture.log_prob(z)
    whole = mutual_information(mu, logvar, z)
    assert whole.value == pytest.approx(gains.mean().item(), rel=1e-6)
    assert whole.se == pytest.approx(gains.std().item() / math.sqrt(23), rel=1e-6)
    pairs = information_of_pairs(log_q)
    assert pairs == pytest.approx(whole, rel=1e-9)
    monkeypatch.setattr(latent, "PAIRS", 23 * 5)  # blocks of 5, the last of 3
    assert mutual_information(mu, logvar, z) == pytest.approx(whole, rel=1e-12)
    monkeypatch.setattr(latent, "PAIRS", 1)
    assert mutual_information(mu, logvar, z) == pytest.approx(whole, rel=1e-12)


def test_it_is_the_mean_kl_less_that_of_the_aggregate():
    """The definition by two KLs, the second one by numerical integration over one dimension."""
    mu, logvar = torch.tensor([[-1.0], [0.5], [2.0]]).double(), torch.tensor([[-1.0], [0.0], [-2.0]]).double()
    grid = torch.linspace(-12, 12, 20_001).double()
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(grid)
    aggregate = torch.distributions.Normal(mu, (0.5 * logvar).exp()).log_prob(grid).logsumexp(0) - math.log(3)
    marginal_kl = torch.trapezoid(aggregate.exp() * (aggregate - prior), grid)
    mean_kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).mean()
    # the three texts many times over: the same mixture and many draws
    many_mu, many_logvar = mu.repeat(1000, 1), logvar.repeat(1000, 1)
    found = mutual_information(many_mu, many_logvar, posterior_draws(many_mu, many_logvar))
    assert found.value == pytest.approx(float(mean_kl - marginal_kl), abs=4 * found.se)


def test_narrow_posteriors_of_an_autoencoder_stay_exact():
    mu, logvar = draw(100, 8, seed=1) * 5 + 30, torch.full((100, 8), -18.0).double()
    found = mutual_information(mu, logvar, posterior_draws(mu, logvar))
    assert found.value == pytest.approx(math.log(100), abs=1e-5)


def test_five_thousand_rows_do_not_need_all_pairs_at_once():
    """Of 25 million densities at most PAIRS are held: told by the largest product of matrices."""
    held = []

    class Spy(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                held.append(out.numel())
            return out

    mu = draw(5000, 2, seed=1)
    with Spy():
        found = mutual_information(mu, torch.zeros_like(mu), posterior_draws(mu, torch.zeros_like(mu)))
    assert max(held) <= latent.PAIRS
    assert found.value == pytest.approx(math.log(2), abs=4 * found.se + 0.02)


def test_fitted_gaussian():
    truth = MultivariateNormal(
        torch.tensor([1.0, -2.0, 0.0]), torch.tensor([[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]])
    )
    z = truth.mean + draw(50_000, 3, seed=1).float() @ truth.scale_tril.T
    mean, factor = fit_gaussian(z)
    assert mean.dtype == factor.dtype == torch.float32
    assert torch.equal(factor, factor.tril())
    torch.testing.assert_close(mean, truth.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(factor @ factor.T, truth.covariance_matrix, rtol=0, atol=0.05)
    torch.testing.assert_close(factor @ factor.T, torch.cov(z.T), rtol=0, atol=1e-4)


def test_fitted_gaussian_of_dead_dimensions_and_few_rows():
    z = draw(5, 8, seed=1)
    z[:, 3] = 2.0
    mean, factor = fit_gaussian(z)
    torch.testing.assert_close(mean, z.mean(0))
    torch.testing.assert_close(factor @ factor.T, torch.cov(z.T), rtol=0, atol=1e-5)
    mean, factor = fit_gaussian(torch.ones(4, 2))
    assert torch.equal(mean, torch.ones(2))
    assert factor.abs().max() < 1e-5


@pytest.mark.parametrize("function", [active_units, fit_gaussian, lambda z: mutual_information(z, z, z)])
def test_bad_latents_are_refused(function):
    with pytest.raises(ValueError, match="not finite"):
        function(torch.tensor([[1.0, math.nan], [0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"\(N, Z\)"):
        function(torch.zeros(3))
    with pytest.raises(ValueError, match=r"\(N, Z\)"):
        function(torch.zeros(0, 3))


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        mutual_information(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"\(N, N\)"):
        information_of_pairs(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="at least 2"):
        active_units(torch.zeros(1, 3))


HEALTHY = {"kl": 8.0, "active_units": 20, "z_size": 32, "mi": 6.0, "recon": 90.0, "shuffled_recon": 110.0}


def test_the_alarm_is_silent_on_healthy_latents():
    assert posterior_collapse(HEALTHY) is None
    assert posterior_collapse({"kl": 3.1, "active_units": 4, "z_size": 32}) is None  # what is not known is not judged
    assert posterior_collapse({"kl": 0.2, "active_units": 1, "z_size": 8, "mi": 0.1}) is None
    assert posterior_collapse(HEALTHY | {"active_units": 4}) is None  # 4 of 32 is more than a tenth
    assert posterior_collapse(HEALTHY | {"active_directions": 4}) is None
    assert posterior_collapse(HEALTHY | {"temperature": 0.0}) is None


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"kl": 0.03}, ["Posterior collapse", "KL is 0.030", "free_bits", "kl_schedule"]),
        ({"kl": 0.03, "active_units": 0, "mi": -0.002}, ["none of 32 units", "-0.002 nats", "word_dropout"]),
        ({"active_units": 0}, ["not used", "none of 32 units is active", "pretrain_steps"]),
        ({"mi": 0.01}, ["not used", "0.010 nats about its text", "will not help"]),
        ({"shuffled_recon": 90.02}, ["not used", "+0.020 nats", "word_dropout"]),
        ({"shuffled_recon": 89.0}, ["not used", "-1.000 nats"]),
        ({"active_units": 3}, ["Partial collapse: 3 of 32", "free_bits_mode: dimension", "bn_gamma"]),
        ({"active_units": 3, "active_directions": 3}, ["Partial collapse: 3 of 32", "bn_gamma"]),
        ({"active_directions": 3}, ["20 of 32 units are active", "3 of 32 directions", "bn_whiten: true"]),
    ],
)
def test_the_alarm_rings(wrong, words):
    said = posterior_collapse(HEALTHY | wrong)
    for word in words:
        assert word in said
    assert len(said.splitlines()) <= 3


def test_a_kl_held_up_by_its_floor_alone_is_not_taken_for_a_used_latent():
    """Free bits of 8 nats on posteriors that are the same for every text."""
    mu = torch.full((200, 32), math.sqrt(0.5))
    logvar = torch.zeros_like(mu)
    values = {
        "kl": 0.5 * mu.square().sum(1).mean().item(),
        "active_units": active_units(mu).count,
        "z_size": 32,
        "mi": mutual_information(mu, logvar, posterior_draws(mu, logvar)).value,
    }
    assert values["kl"] == pytest.approx(8)
    assert "buys nothing" in posterior_collapse(values)


def test_each_value_is_needed_or_not():
    for name in ("kl", "active_units", "z_size"):
        with pytest.raises(KeyError):
            posterior_collapse({key: value for key, value in HEALTHY.items() if key != name})

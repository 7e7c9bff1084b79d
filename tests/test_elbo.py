"""The objective's parts against torch.distributions, Monte Carlo, hand-worked schedules and an exact likelihood."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from textgan.ops.elbo import (
    FREE_BITS,
    KL_SCHEDULES,
    MMD_SCALES,
    free_bits,
    gaussian_kl,
    importance_bound,
    kl_weight_at,
    kl_weight_settles,
    log_normal,
    mmd_to_prior,
    word_dropout,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=generator(seed), dtype=torch.double)


def law(mu, logvar):
    return Normal(mu, (0.5 * logvar).exp())


def test_kl_against_torch():
    mu, logvar, prior_mu, prior_logvar = (draw(5, 4, seed=s, scale=1.5) for s in range(4))
    expected = kl_divergence(law(mu, logvar), law(prior_mu, prior_logvar))
    torch.testing.assert_close(gaussian_kl(mu, logvar, prior_mu, prior_logvar), expected)
    standard = kl_divergence(law(mu, logvar), law(torch.zeros_like(mu), torch.zeros_like(mu)))
    torch.testing.assert_close(gaussian_kl(mu, logvar), standard)


def test_kl_is_the_mean_log_ratio_of_draws():
    mu, logvar, prior_mu, prior_logvar = (draw(1, 3, seed=s) for s in range(4))
    z = mu + (0.5 * logvar).exp() * draw(200_000, 3, seed=9)
    ratio = log_normal(z, mu, logvar) - log_normal(z, prior_mu, prior_logvar)
    error = 4 * ratio.std(0) / math.sqrt(len(z))
    assert ((ratio.mean(0) - gaussian_kl(mu, logvar, prior_mu, prior_logvar)[0]).abs() < error).all()


def test_small_kl_survives_half_precision_and_float32():
    mu, logvar = torch.full((1, 1), 1e-5), torch.full((1, 1), 1e-4)
    exact = 0.5 * (1e-8 / 2 + 1e-10)  # (e^v - 1 - v) / 2 = v^2 / 4 to leading order
    assert gaussian_kl(mu, logvar).item() == pytest.approx(exact, rel=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gaussian_kl(mu.bfloat16(), logvar.bfloat16()).dtype == torch.float32
        z = torch.randn(6, 4, generator=generator())
        inside = mmd_to_prior(z, z + 1)
    assert torch.equal(inside, mmd_to_prior(z, z + 1))  # no bfloat16 product of matrices


def test_log_normal_against_torch():
    z, mu, logvar = (draw(5, 4, seed=s) for s in range(3))
    torch.testing.assert_close(log_normal(z, mu, logvar), law(mu, logvar).log_prob(z))
    torch.testing.assert_close(log_normal(z), law(torch.zeros_like(z), torch.zeros_like(z)).log_prob(z))


def weights(schedule, steps, *, weight=1.0, start=0.0, total_steps=16, ramp_steps=4, cycles=2, ramp_share=0.5):
    return [
        kl_weight_at(
            schedule,
            step,
            weight=weight,
            start=start,
            total_steps=total_steps,
            ramp_steps=ramp_steps,
            cycles=cycles,
            ramp_share=ramp_share,
        )
        for step in range(steps)
    ]


@pytest.mark.parametrize(
    "schedule, settings, expected",
    [
        ("constant", {"weight": 0.4, "start": 0.1}, [0.4, 0.4, 0.4]),
        ("linear", {}, [0, 0.25, 0.5, 0.75, 1, 1]),
        ("linear", {"weight": 0.5, "start": 0.1}, [0.1, 0.2, 0.3, 0.4, 0.5, 0.5]),
        ("linear", {"weight": 0.2, "start": 1.0}, [1, 0.8, 0.6, 0.4, 0.2, 0.2]),  # down is allowed
        ("linear", {"ramp_steps": 0}, [1, 1]),
        # training of 16 ends at half of the ramp: it is cut off, not made steeper
        ("linear", {"ramp_steps": 32}, [step / 32 for step in range(16)]),
        # two cycles of 8: 4 up, 4 flat
        ("cyclical", {}, [0, 0.25, 0.5, 0.75, 1, 1, 1, 1] * 2),
        ("cyclical", {"weight": 0.5, "start": 0.1}, [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5] * 2),
        ("cyclical", {"cycles": 1, "ramp_share": 0.25}, [0, 0.25, 0.5, 0.75] + [1] * 12),
        ("cyclical", {"ramp_share": 1.0}, [step / 8 for step in range(8)] * 2 + [1, 1]),
        ("cyclical", {"cycles": 4, "ramp_share": 0.0}, [1] * 16),
        # 10 updates hold 4 cycles of 2.5: they start at 0, 2.5, 5, 7.5
        ("cyclical", {"total_steps": 10, "cycles": 4}, [0, 0.8, 1, 0.4, 1, 0, 0.8, 1, 0.4, 1, 1]),
    ],
)
def test_kl_weight_worked_by_hand(schedule, settings, expected):
    assert weights(schedule, len(expected), **settings) == pytest.approx(expected, abs=1e-12)


def test_the_papers_schedule():
    """Fu et al. 2019, eq. 6, where the updates of training are a multiple of the cycles."""
    T, M, R = 240, 4, 0.5

    def beta(t):  # counts from 1
        tau = ((t - 1) % math.ceil(T / M)) / (T / M)
        return tau / R if tau <= R else 1.0

    given = weights("cyclical", T, total_steps=T, cycles=M, ramp_share=R)
    assert given == pytest.approx([beta(t) for t in range(1, T + 1)], abs=1e-12)


@pytest.mark.parametrize("schedule", sorted(KL_SCHEDULES))
@pytest.mark.parametrize("weight, start", [(0.3, 0.1), (1.0, 0.0), (0.9, 0.2)])
def test_a_ramp_ends_exactly_at_the_weight_and_only_falls_where_a_cycle_starts(schedule, weight, start):
    given = weights(schedule, 101, weight=weight, start=start, total_steps=100, ramp_steps=37, cycles=3)
    assert given[-1] == given[-2] == weight  # not 0.2 + (0.9 - 0.2), which is another float
    falls = [step for step in range(1, 100) if given[step] < given[step - 1]]
    assert falls == ([34, 67] if schedule == "cyclical" else [])
    assert min(given) >= start
    assert max(given) == weight


@pytest.mark.parametrize(
    "settings",
    [
        {"ramp_share": 0.5},
        {"cycles": 1},
        {"total_steps": 10, "cycles": 4},
        {"total_steps": 6, "cycles": 4},  # the last update is inside a ramp
        {"ramp_share": 1.0},
        {"ramp_share": 0.0},
        {"ramp_steps": 0},
        {"ramp_steps": 40},
    ],
)
@pytest.mark.parametrize("schedule", sorted(KL_SCHEDULES))
def test_where_the_weight_settles(schedule, settings):
    settings = {"total_steps": 16, "ramp_steps": 4, "cycles": 2, "ramp_share": 0.5} | settings
    given = weights(schedule, 60, weight=0.3, start=0.1, **settings)
    settles = kl_weight_settles(schedule, **settings)
    assert all(value == 0.3 for value in given[settles:])
    assert settles == 0 or given[settles - 1] != 0.3


def test_unknown_names_are_refused():
    with pytest.raises(KeyError):
        weights("logistic", 1)
    with pytest.raises(KeyError):
        kl_weight_settles("logistic", total_steps=1, ramp_steps=1, cycles=1, ramp_share=0.5)
    with pytest.raises(KeyError):
        free_bits(torch.ones(2, 2), 0.1, "batch")


# Means over the batch: 0.3, 0.75, 0 and in sum 1.05.
KL = [[0.1, 1.0, 0.0], [0.5, 0.5, 0.0]]


@pytest.mark.parametrize(
    "mode, floor, expected, through",
    [
        ("dimension", 0.0, 1.05, [1, 1, 1]),
        ("dimension", 0.2, 0.3 + 0.75 + 0.2, [1, 1, 0]),
        ("dimension", 0.4, 0.4 + 0.75 + 0.4, [0, 1, 0]),  # 0.5 of the second text alone would not be below
        ("dimension", 2.0, 6.0, [0, 0, 0]),
        ("total", 0.0, 1.05, [1, 1, 1]),
        ("total", 1.0, 1.05, [1, 1, 1]),
        ("total", 1.2, 1.2, [0, 0, 0]),
    ],
)
def test_free_bits_worked_by_hand(mode, floor, expected, through):
    kl = torch.tensor(KL, requires_grad=True)
    value = free_bits(kl, floor, mode)
    assert value.item() == pytest.approx(expected, rel=1e-6)
    (gradient,) = torch.autograd.grad(value, kl)
    assert torch.equal(gradient.sum(0), torch.tensor(through, dtype=torch.float))
    assert torch.equal(gradient[0], gradient[1])  # the mean over the batch comes first


@pytest.mark.parametrize("mode", sorted(FREE_BITS))
def test_the_floor_holds_in_training(mode):
    """Nothing but the KL is minimised: it falls to its floor and no further."""
    mu, logvar = torch.full((8, 4), 2.0, requires_grad=True), torch.zeros(8, 4, requires_grad=True)
    optimizer = torch.optim.SGD([mu, logvar], lr=0.5)
    floor = {"dimension": 0.3, "total": 1.2}[mode]
    for _ in range(200):
        optimizer.zero_grad()
        free_bits(gaussian_kl(mu, logvar), floor, mode).backward()
        optimizer.step()
    left = gaussian_kl(mu, logvar).mean(0)
    assert torch.allclose(left, torch.full((4,), 0.3), atol=0.05)


def test_word_dropout_keeps_the_opening_token_and_drops_its_share():
    inputs = torch.randint(5, 50, (400, 101), generator=generator(1))
    inputs[:, 0] = 0
    kept = inputs.clone()
    dropped = word_dropout(inputs, 0.3, 3, generator(2))
    assert torch.equal(inputs, kept)  # a copy
    assert torch.equal(dropped[:, 0], inputs[:, 0])
    changed = dropped != inputs
    assert (dropped[changed] == 3).all()
    assert changed[:, 1:].double().mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 40_000))
    # places are drawn one by one: neither whole rows nor whole columns
    for axis, others in ((0, 400), (1, 100)):
        shares = changed[:, 1:].double().mean(axis)
        assert (shares - 0.3).abs().max() < 6 * math.sqrt(0.21 / others)


def test_word_dropout_follows_from_its_generator():
    inputs = torch.arange(40).view(4, 10)
    assert torch.equal(word_dropout(inputs, 0.5, 99, generator(3)), word_dropout(inputs, 0.5, 99, generator(3)))
    assert not torch.equal(word_dropout(inputs, 0.5, 99, generator(3)), word_dropout(inputs, 0.5, 99, generator(4)))
    rng = generator(3)
    assert word_dropout(inputs, 0.0, 99, rng) is inputs
    assert torch.equal(rng.get_state(), generator(3).get_state())
    everything = word_dropout(inputs, 1.0, 99, rng)
    assert (everything[:, 1:] == 99).all()
    assert torch.equal(everything[:, 0], inputs[:, 0])


class LinearGaussian:
    """x = W z + noise: p(x) and p(z|x) are known; the proposal may be wrong by a shift and a factor."""

    def __init__(self, D=3, Z=2, noise=0.5, rows=6):
        self.W, self.noise = draw(D, Z, seed=1), noise
        self.x = (draw(rows, Z, seed=2) @ self.W.T) + noise * draw(rows, D, seed=3)
        covariance = self.W @ self.W.T + noise**2 * torch.eye(D).double()
        self.log_p = MultivariateNormal(torch.zeros(D).double(), covariance).log_prob(self.x)
        precision = torch.eye(Z).double() + self.W.T @ self.W / noise**2
        self.posterior = MultivariateNormal(
            torch.linalg.solve(precision, self.W.T @ self.x.T / noise**2).T, precision_matrix=precision
        )

    def log_weights(self, K, *, shift=0.0, widen=1.0, seed=0):
        mu = self.posterior.mean + shift
        factor = self.posterior.scale_tril * widen
        noise = draw(K, *mu.shape, seed=seed)
        z = mu + (factor @ noise[..., None]).squeeze(-1)  # (K, B, Z)
        log_q = log_normal(noise).sum(-1) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_prior = log_normal(z).sum(-1)
        log_x = log_normal(self.x, z @ self.W.T, 2 * math.log(self.noise)).sum(-1)
        return (log_x + log_prior - log_q).T  # (B, K)


def test_the_bound_of_the_exact_posterior_is_the_likelihood_at_any_K():
    model = LinearGaussian()
    for K in (1, 2, 7):
        torch.testing.assert_close(importance_bound(model.log_weights(K)), model.log_p)


def test_the_bound_approaches_the_exact_likelihood_from_below():
    model = LinearGaussian()
    wrong = {"shift": 0.15, "widen": 1.3}
    log_weights = model.log_weights(400_000, **wrong)
    repeated = {K: importance_bound(log_weights.view(len(model.x), -1, K)) for K in (1, 5, 50)}
    means = {K: values.mean(1) for K, values in repeated.items()}
    errors = {K: values.std(1) / math.sqrt(values.size(1)) for K, values in repeated.items()}
    for K, more in ((1, 5), (5, 50)):
        assert (means[K] + 4 * errors[K] < means[more]).all()
    # The gap falls like the variance of the weights over 2 K; the mean weight, known to be 1, takes noise out.
    relative = (log_weights - model.log_p[:, None]).exp()
    excess = relative.view(len(model.x), -1, 50).mean(2) - 1
    gap = (excess - repeated[50] + model.log_p[:, None]).mean(1)
    torch.testing.assert_close(gap, relative.var(1) / 100, rtol=0.1, atol=0)
    torch.testing.assert_close(importance_bound(log_weights), model.log_p, rtol=0, atol=0.01)


def test_the_bound_of_one_draw_is_the_elbo():
    model = LinearGaussian(Z=1)  # one dimension: the posterior is diagonal
    log_weights = model.log_weights(200_000, shift=0.2, widen=0.8)
    assert torch.equal(importance_bound(log_weights[:, :1]), log_weights[:, 0])
    mu = model.posterior.mean + 0.2
    logvar = 2 * (model.posterior.scale_tril[:, 0] * 0.8).log()
    # E_q of -|x - W z|^2 / (2 s^2) in closed form
    squares = (model.x - mu @ model.W.T).square().sum(1) + logvar.exp().sum(1) * model.W.square().sum()
    expected = -0.5 * (squares / model.noise**2 + 3 * math.log(2 * math.pi * model.noise**2))
    elbo = expected - gaussian_kl(mu, logvar).sum(1)
    drawn = importance_bound(log_weights[..., None])
    assert ((drawn.mean(1) - elbo).abs() < 4 * drawn.std(1) / math.sqrt(200_000)).all()
    assert (elbo < model.log_p).all()


def test_the_bound_of_long_texts_does_not_underflow():
    log_weights = torch.tensor([[-2000.0, -2000.0 + math.log(3)]])
    assert importance_bound(log_weights).item() == pytest.approx(-2000 + math.log(2), abs=1e-3)


def mmd_by_loops(x, y):
    def kernel(a, b):
        width = 2 * len(a)
        distance = sum((p - q) ** 2 for p, q in zip(a, b, strict=True))
        return sum(scale * width / (scale * width + distance) for scale in MMD_SCALES)

    x, y = x.tolist(), y.tolist()
    within = [
        sum(kernel(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j) / (len(s) * (len(s) - 1))
        for s in (x, y)
    ]
    return sum(within) - 2 * sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))


def test_mmd_against_loops():
    x, y = draw(7, 3, seed=1, scale=1.5), draw(5, 3, seed=2)
    assert mmd_to_prior(x, y).item() == pytest.approx(mmd_by_loops(x, y), rel=1e-9)
    assert mmd_to_prior(y, x).item() == pytest.approx(mmd_by_loops(x, y), rel=1e-9)
    wide = mmd_to_prior(x, y, scales=(1e6,))  # the kernel flattens to 1
    assert abs(wide.item()) < 1e-5


def test_mmd_is_unbiased_and_feels_differences():
    same, other = [], []
    for seed in range(400):
        prior = draw(8, 2, seed=2 * seed)
        same.append(mmd_to_prior(draw(6, 2, seed=2 * seed + 1), prior))
        other.append(mmd_to_prior(draw(6, 2, seed=2 * seed + 1, scale=0.3), prior))
    same, other = torch.stack(same), torch.stack(other)
    assert abs(same.mean()) < 4 * same.std() / 20
    assert (same < 0).any()
    assert other.mean() > 8 * other.std() / 20


def test_mmd_pulls_latents_to_the_prior():
    z = draw(64, 2, seed=1, scale=0.1).add(1).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05)
    for step in range(150):
        optimizer.zero_grad()
        mmd_to_prior(z, draw(64, 2, seed=100 + step)).backward()
        optimizer.step()
    assert z.mean(0).abs().max() < 0.35
    assert (z.std(0) - 1).abs().max() < 0.35


def test_mmd_needs_two_of_each():
    with pytest.raises(ValueError, match="given 1 and 3"):
        mmd_to_prior(torch.zeros(1, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="given 3 and 1"):
        mmd_to_prior(torch.zeros(3, 2), torch.zeros(1, 2))

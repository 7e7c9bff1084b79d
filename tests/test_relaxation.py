"""Estimators against the exact gradient of a problem small enough to enumerate; the laws of the noise."""

import math

import pytest
import torch
import torch.nn.functional as F

from textgan.ops.relaxation import (
    ESTIMATORS,
    FEEDBACK,
    HARD,
    TAU_SCHEDULES,
    conditional_gumbel,
    gumbel_noise,
    soft,
    tau_at,
)

LOGITS = torch.tensor([0.8, -0.4, 0.1, -1.2])
V = len(LOGITS)
straight_through, gapped, gumbel_rao, reinmax = map(
    ESTIMATORS.get, ("straight_through", "gapped", "gumbel_rao", "reinmax")
)
_w = torch.Generator().manual_seed(5)
A, W = torch.randn(V, V, generator=_w), torch.randn(V, generator=_w)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def quadratic(y):
    """A loss of (..., V) vectors, quadratic in them."""
    return (y @ A).square().sum(dim=-1)


def curved(y):
    """A loss with higher derivatives."""
    return (0.6 * (y @ W.to(y)) + 0.3).exp()


def exact_gradient(f):
    """Gradient of sum_i p_i f(e_i), by enumeration."""
    logits = LOGITS.clone().requires_grad_()
    (torch.softmax(logits, 0) * f(torch.eye(V))).sum().backward()
    return logits.grad


def single_gradients(estimator, f, n, *, tau, seed=0, **options):
    """(n, V): the gradient estimate of each of n independent samples."""
    g = rng(seed)
    logits = LOGITS.repeat(n, 1).requires_grad_()
    ids = (logits + gumbel_noise((n, V), generator=g, device="cpu")).argmax(dim=-1)
    f(estimator(logits, ids, tau=tau, generator=g, **options)).sum().backward()
    return logits.grad


def enumerated_gradient(estimator, f, *, tau, **options):
    """The exact mean gradient of an estimator that is a function of the ids alone."""
    logits = LOGITS.repeat(V, 1).requires_grad_()
    f(estimator(logits, torch.arange(V), tau=tau, **options)).backward(torch.softmax(LOGITS, 0))
    return logits.grad.sum(dim=0)


def ks_gumbel(x):
    """Kolmogorov-Smirnov statistic against the Gumbel law times sqrt(n): above 1.95 one time in a thousand."""
    cdf = (-(-x.double().sort().values).exp()).exp()
    steps = torch.arange(len(x) + 1) / len(x)
    return max((steps[1:] - cdf).max().item(), (cdf - steps[:-1]).max().item()) * len(x) ** 0.5


def ks_two(x, y):
    """The same for two samples."""
    both = torch.cat([x, y]).sort().values
    apart = torch.searchsorted(x.sort().values, both, right=True) / len(x)
    apart = apart - torch.searchsorted(y.sort().values, both, right=True) / len(y)
    return apart.abs().max().item() * (len(x) * len(y) / (len(x) + len(y))) ** 0.5


def bias(mean, f):
    exact = exact_gradient(f)
    return ((mean - exact).norm() / exact.norm()).item()


# --- noise ---------------------------------------------------------------------------------------------------


def test_gumbel_noise_has_the_gumbel_law():
    g = gumbel_noise((20000,), generator=rng(), device="cpu")
    assert g.dtype == torch.float32
    assert ks_gumbel(g) < 1.95
    assert ks_gumbel(g + 0.05) > 1.95  # the test itself sees a small shift
    assert g.mean().item() == pytest.approx(0.57722, abs=0.03)
    assert gumbel_noise((500, 1000), generator=rng(1), device="cpu").isfinite().all()


def test_gumbel_noise_is_a_function_of_its_generator():
    a, b, c = (gumbel_noise((9,), generator=rng(s), device="cpu") for s in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_conditional_noise_always_lets_the_ids_win(scale):
    n, v = 3000, 50
    logits = torch.randn(n, v, generator=rng(1)) * scale
    ids = torch.randint(v, (n,), generator=rng(2))  # any ids, however improbable
    noise = conditional_gumbel(logits, ids, generator=rng(3))
    assert noise.isfinite().all()
    assert torch.equal((logits + noise).argmax(dim=-1), ids)


def test_conditional_noise_breaks_near_ties():
    """A token so probable that its truncated noise would round to the winner's."""
    n = 500_000
    logits = torch.tensor([200.0, 0.0]).repeat(n, 1)
    ids = torch.ones(n, dtype=torch.long)
    noise = conditional_gumbel(logits, ids, generator=rng())
    gap = (logits + noise).topk(2).values
    assert torch.equal((logits + noise).argmax(dim=-1), ids)
    assert (gap[:, 0] > gap[:, 1]).all()


def test_conditional_noise_given_each_id_has_the_law_of_noise_kept_from_sampling():
    """For each id and each coordinate: the noise of samples that gave this id, against drawn given this id."""
    n = 60000
    noise = gumbel_noise((n, V), generator=rng(1), device="cpu")
    ids = (LOGITS + noise).argmax(dim=-1)
    drawn = conditional_gumbel(LOGITS.expand(n, V), ids, generator=rng(2))
    for i in range(V):
        kept, made = noise[ids == i], drawn[ids == i]
        for j in range(V):
            assert ks_two(kept[:, j], made[:, j]) < 2.2
        # and the coordinates hang together in the same way
        torch.testing.assert_close(torch.cov(made.T), torch.cov(kept.T), rtol=0.15, atol=0.1)


def test_conditional_noise_over_sampled_ids_is_unconditional_noise():
    n = 20000
    ids = torch.multinomial(torch.softmax(LOGITS, 0), n, replacement=True, generator=rng(1))
    noise = conditional_gumbel(LOGITS.expand(n, V), ids, generator=rng(2))
    for j in range(V):
        assert ks_gumbel(noise[:, j]) < 1.95
    assert (torch.corrcoef(noise.T) - torch.eye(V)).abs().max() < 5 / n**0.5


# --- forward values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(HARD))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hard_estimators_are_exactly_one_hot(name, dtype):
    logits = (torch.randn(40, 7, 30, generator=rng()) * 5).to(dtype).requires_grad_()
    ids = torch.randint(30, (40, 7), generator=rng(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ESTIMATORS[name](logits, ids, tau=0.7, generator=rng(2))
    assert y.dtype == torch.float32
    assert torch.equal(y, F.one_hot(ids, 30).float())
    y.mul(torch.randn(30, generator=rng(3))).sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["soft", "relgan"])
def test_soft_estimators_are_probabilities_that_lean_to_the_ids(name):
    logits = torch.randn(40, 30, generator=rng())
    ids = torch.randint(30, (40,), generator=rng(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ESTIMATORS[name](logits.bfloat16(), ids, tau=0.5, generator=rng(2))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.sum(dim=-1), torch.ones(40))
    assert torch.equal(y.argmax(dim=-1), ids)
    assert (y.amax(dim=-1) < 1).any()


def test_worked_values():
    logits, noise = torch.tensor([math.log(2), 0.0, 0.0]), torch.tensor([0.0, math.log(4), 0.0])
    ids = torch.tensor(1)
    # (2, 4, 1) / 7 at tau 1; the square roots of the same at tau 2
    torch.testing.assert_close(soft(logits, ids, tau=1.0, noise=noise), torch.tensor([2.0, 4, 1]) / 7)
    root = torch.tensor([2**0.5, 2.0, 1.0])
    torch.testing.assert_close(soft(logits, ids, tau=2.0, noise=noise), root / root.sum())


def backward_softmax(y, g):
    return y * (g - (y * g).sum())


@pytest.mark.parametrize(
    "name, tau, point",
    [
        ("straight_through", 0.5, lambda x, n: torch.softmax((x + n) / 0.5, 0)),
        # the sampled logit (index 2) raised to the maximum .8; those above .8 - 1 lowered to it
        ("gapped", 0.5, lambda x, n: torch.softmax(torch.tensor([-0.2, -0.4, 0.8, -1.2]) / 0.5, 0)),
    ],
)
def test_backward_is_the_softmax_jacobian_at_the_known_point(name, tau, point):
    logits, ids = LOGITS.clone().requires_grad_(), torch.tensor(2)
    noise, g = torch.tensor([0.1, 0.2, 2.0, -0.3]), torch.tensor([1.0, -2.0, 0.5, 3.0])
    (ESTIMATORS[name](logits, ids, tau=tau, noise=noise) * g).sum().backward()
    torch.testing.assert_close(logits.grad, backward_softmax(point(LOGITS, noise), g) / tau)


def test_gap_is_how_far_the_others_are_pushed_down():
    logits, ids, g = LOGITS.clone().requires_grad_(), torch.tensor(0), torch.tensor([1.0, -2.0, 0.5, 3.0])
    (gapped(logits, ids, tau=1.0, gap=0.25) * g).sum().backward()
    point = torch.softmax(torch.tensor([0.8, -0.4, 0.1, -1.2]), 0)  # the sample leads by .7: nothing moves
    torch.testing.assert_close(logits.grad, backward_softmax(point, g))
    (grad,) = torch.autograd.grad((gapped(logits, ids, tau=1.0, gap=2.0) * g).sum(), logits)
    point = torch.softmax(torch.tensor([0.8, -1.2, -1.2, -1.2]), 0)
    torch.testing.assert_close(grad, backward_softmax(point, g))


def test_reinmax_backward_is_its_formula():
    logits, tau, g = LOGITS.clone().requires_grad_(), 1.3, torch.tensor([1.0, -2.0, 0.5, 3.0])
    (reinmax(logits, torch.tensor(2), tau=tau) * g).sum().backward()
    p = torch.softmax(LOGITS, 0)
    q = (torch.softmax(LOGITS / tau, 0) + torch.tensor([0.0, 0, 1, 0])) / 2
    torch.testing.assert_close(logits.grad, 2 * backward_softmax(q, g) - backward_softmax(p, g) / 2)


def test_extreme_logits_give_finite_gradients():
    logits = torch.tensor([[300.0, -300.0, 0.0]]).repeat(3, 1).requires_grad_()
    for name in sorted(HARD):
        (grad,) = torch.autograd.grad(
            (ESTIMATORS[name](logits, torch.arange(3), tau=0.5, generator=rng()) * torch.randn(3)).sum(), logits
        )
        assert grad.isfinite().all(), name


# --- mean gradient and variance against the exact gradient ----------------------------------------------------


def test_soft_is_the_exact_gradient_of_the_relaxed_objective():
    """By central differences of the mean relaxed loss under the same noise."""
    noise, tau = gumbel_noise((500, V), generator=rng(), device="cpu"), 0.8

    def objective(logits):
        return curved(soft(logits, None, tau=tau, noise=noise).double()).mean()

    logits = LOGITS.clone().requires_grad_()
    (grad,) = torch.autograd.grad(objective(logits), logits)
    for j in range(V):
        step = torch.zeros(V)
        step[j] = 1e-2
        slope = (objective(LOGITS + step) - objective(LOGITS - step)) / 2e-2
        assert grad[j].item() == pytest.approx(slope.item(), rel=1e-2, abs=1e-3)


def test_reinmax_is_exact_for_quadratic_losses_at_tau_one():
    got = enumerated_gradient(reinmax, quadratic, tau=1.0)
    torch.testing.assert_close(got, exact_gradient(quadratic), rtol=1e-4, atol=1e-4)
    # and not by accident: the first-order estimators are off on the same loss
    assert bias(enumerated_gradient(gapped, quadratic, tau=1.0), quadratic) > 0.05
    assert bias(single_gradients(straight_through, quadratic, 40000, tau=1.0).mean(0), quadratic) > 0.05


def test_reinmax_has_less_bias_than_straight_through_and_gapped():
    reinmax_bias = bias(enumerated_gradient(reinmax, curved, tau=1.0), curved)
    for other in (straight_through, gapped):
        grads = single_gradients(other, curved, 40000, tau=1.0)
        noise = (grads.std(0) / 40000**0.5 / exact_gradient(curved).norm()).norm().item()
        assert reinmax_bias < bias(grads.mean(0), curved) - 3 * noise


def test_gumbel_rao_has_straight_throughs_mean_and_less_variance():
    n, tau = 40000, 0.5
    st = single_gradients(straight_through, curved, n, tau=tau, seed=1)
    spread = [st.var(0).sum().item()]
    for k in (1, 4, 16):
        rao = single_gradients(gumbel_rao, curved, n, tau=tau, seed=2, samples=k)
        error = ((st.var(0) + rao.var(0)) / n).sqrt()
        assert ((rao.mean(0) - st.mean(0)).abs() < 4.5 * error).all()
        spread.append(rao.var(0).sum().item())
    assert spread[1] == pytest.approx(spread[0], rel=0.1)  # one draw is straight-through itself
    assert spread[1] > 1.1 * spread[2] > 1.1 * spread[3]


def test_straight_through_with_drawn_noise_equals_it_with_kept_noise():
    """Noise drawn after the fact gives the mean and the variance of noise kept from the sampling."""
    n, tau = 40000, 0.7
    after = single_gradients(straight_through, curved, n, tau=tau, seed=1)
    noise = gumbel_noise((n, V), generator=rng(2), device="cpu")
    logits = LOGITS.repeat(n, 1).requires_grad_()
    ids = (LOGITS + noise).argmax(dim=-1)
    curved(straight_through(logits, ids, tau=tau, noise=noise)).sum().backward()
    kept = logits.grad
    error = ((after.var(0) + kept.var(0)) / n).sqrt()
    assert ((after.mean(0) - kept.mean(0)).abs() < 4.5 * error).all()
    assert after.var(0).sum().item() == pytest.approx(kept.var(0).sum().item(), rel=0.1)


def test_straight_through_variance_grows_and_bias_falls_as_tau_falls():
    hot, cold = (single_gradients(straight_through, quadratic, 40000, tau=tau) for tau in (2.0, 0.3))
    assert cold.var(0).sum() > 2 * hot.var(0).sum()
    assert bias(cold.mean(0), quadratic) < 0.5 * bias(hot.mean(0), quadratic)


def test_gapped_varies_less_than_straight_through():
    at = {e: single_gradients(e, curved, 40000, tau=0.5).var(0).sum() for e in (gapped, straight_through)}
    assert at[gapped] < 0.8 * at[straight_through]


@pytest.mark.parametrize("name", sorted(HARD))
def test_every_estimator_points_downhill(name):
    tau = 1.0
    mean = single_gradients(ESTIMATORS[name], curved, 20000, tau=tau).mean(0)
    assert F.cosine_similarity(mean, exact_gradient(curved), dim=0) > 0.8


def test_feedback_is_told_for_every_estimator():
    assert FEEDBACK.keys() == ESTIMATORS.keys() == HARD | {"soft", "relgan"}
    assert [name for name, kind in FEEDBACK.items() if kind == "soft"] == ["soft"]


# --- schedules -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, middle, quarter",
    [
        ("constant", 4.0, 4.0),
        ("linear", 2.125, 3.0625),
        ("exponential", 1.0, 2.0),  # 4 * (1/16) ** share
        ("cosine", 2.125, 0.25 + 3.75 * (1 + 0.5**0.5) / 2),
    ],
)
def test_schedules(kind, middle, quarter):
    assert tau_at(kind, 4.0, 0.25, 0, 200) == pytest.approx(4.0)
    assert tau_at(kind, 4.0, 0.25, 50, 200) == pytest.approx(quarter)
    assert tau_at(kind, 4.0, 0.25, 100, 200) == pytest.approx(middle)
    end = 4.0 if kind == "constant" else 0.25
    assert tau_at(kind, 4.0, 0.25, 200, 200) == pytest.approx(end)
    assert tau_at(kind, 4.0, 0.25, 300, 200) == pytest.approx(end)
    assert tau_at(kind, 4.0, 0.25, 10, 20) == pytest.approx(middle)  # the run's own length


def test_bad_schedules_are_refused():
    with pytest.raises(ValueError, match=f"unknown tau schedule `step`; choose one of {', '.join(TAU_SCHEDULES)}"):
        tau_at("step", 1, 1, 0, 1)
    with pytest.raises(ValueError, match="tau must be positive"):
        tau_at("linear", 1.0, 0.0, 0, 1)

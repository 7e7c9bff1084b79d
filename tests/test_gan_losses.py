"""Losses against numbers worked by hand; penalties against closed forms of a linear critic."""

import math

import pytest
import torch

from textgan.models.discriminator import DISCRIMINATORS, CNNCritic, TransformerCritic
from textgan.models.transformer import differentiable_twice
from textgan.ops.gan_losses import GAN_LOSSES, gradient_penalty, r1_penalty

# sigmoid(log 3) = 3/4, sigmoid(-log 3) = 1/4, sigmoid(0) = 1/2
LOG3 = math.log(3)
LN2, LN43, LN4 = math.log(2), math.log(4 / 3), math.log(4)


@pytest.mark.parametrize(
    "name, real, fake, d, g",
    [
        # -log s(r): log 4/3, log 2; -log(1 - s(f)): log 4/3, log 2; -log s(f): log 4, log 2
        ("non_saturating", [LOG3, 0], [-LOG3, 0], LN43 + LN2, (LN4 + LN2) / 2),
        # relu(1 - r): .5, 0; relu(1 + f): 0, 1.5
        ("hinge", [0.5, 3], [-2, 0.5], 0.25 + 0.75, 0.75),
        # (r - 1)^2: .25, 4; f^2: 4, .25; (f - 1)^2: 9, .25
        ("least_squares", [0.5, 3], [-2, 0.5], (2.125 + 2.125) / 2, 4.625 / 2),
        ("wasserstein", [0.5, 3], [-2, 0.5], -0.75 - 1.75, 0.75),
        # differences r - f: log 3, 0
        ("rsgan", [LOG3 + 1, 2], [1, 2], (LN43 + LN2) / 2, (LN4 + LN2) / 2),
        # r - mean f: log 3, -log 3; f - mean r: twice 0
        ("ragan", [LOG3, -LOG3], [0, 0], (LN43 + LN4) / 2 + LN2, (LN4 + LN43) / 2 + LN2),
        # not symmetric: mean f = 0, mean r = log 3; r - mean f: log 3 twice; f - mean r: 0, -2 log 3
        (
            "ragan",
            [LOG3, LOG3],
            [LOG3, -LOG3],
            LN43 + (LN2 + math.log(10 / 9)) / 2,
            (LN2 + math.log(10)) / 2 + LN4,
        ),
    ],
)
def test_worked_values(name, real, fake, d, g):
    real, fake = torch.tensor(real, dtype=torch.float32), torch.tensor(fake, dtype=torch.float32)
    assert GAN_LOSSES[name].discriminator(real, fake).item() == pytest.approx(d, rel=1e-5)
    assert GAN_LOSSES[name].generator(real, fake).item() == pytest.approx(g, rel=1e-5)


@pytest.mark.parametrize("name", sorted(GAN_LOSSES))
def test_signs_of_the_gradients(name):
    real, fake = torch.tensor([0.3, -0.2], requires_grad=True), torch.tensor([0.1, 0.4], requires_grad=True)
    d_real, d_fake = torch.autograd.grad(GAN_LOSSES[name].discriminator(real, fake), (real, fake))
    assert (d_real < 0).all()  # the critic raises the score of reals
    assert (d_fake > 0).all()
    (g_fake,) = torch.autograd.grad(GAN_LOSSES[name].generator(real, fake), fake)
    assert (g_fake < 0).all()  # the generator raises that of fakes


@pytest.mark.parametrize("name", sorted(GAN_LOSSES))
def test_losses_are_float32_and_take_any_shape(name):
    real, fake = torch.randn(4, 6), torch.randn(4, 6)
    loss = GAN_LOSSES[name].discriminator(real.bfloat16(), fake.bfloat16())
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    flat = GAN_LOSSES[name].discriminator(real.flatten(), fake.flatten())
    assert loss.item() == pytest.approx(flat.item(), abs=0.03)


def test_losses_that_ignore_reals_say_so_by_taking_none():
    fake = torch.zeros(3)
    for name in ("non_saturating", "hinge", "least_squares", "wasserstein"):
        assert GAN_LOSSES[name].generator(None, fake).isfinite()


def test_paired_loss_refuses_unequal_batches():
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(2,\) differ"):
        GAN_LOSSES["rsgan"].discriminator(torch.zeros(3), torch.zeros(2))


def linear_critic(embeddings, weight, lengths):
    """score_b = sum over real columns of weight . e: gradient `weight` at each of them."""
    mask = torch.arange(embeddings.size(1)) < lengths[:, None]
    return ((embeddings @ weight) * mask).sum(dim=1)


WEIGHT, LENGTHS = [3.0, -4.0], torch.tensor([1, 4, 2])  # |weight|^2 = 25


def test_r1_closed_form_and_its_derivative():
    weight = torch.tensor(WEIGHT, requires_grad=True)
    e = torch.randn(3, 4, 2, requires_grad=True)
    penalty = r1_penalty(linear_critic(e, weight, LENGTHS), e)
    mean_length = 7 / 3
    assert penalty.item() == pytest.approx(25 * mean_length, rel=1e-5)
    penalty.backward()
    torch.testing.assert_close(weight.grad, 2 * mean_length * torch.tensor(WEIGHT))


def test_gradient_penalty_closed_form_and_its_derivative():
    weight = torch.tensor(WEIGHT, requires_grad=True)
    real, fake = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    penalty = gradient_penalty(lambda e: linear_critic(e, weight, LENGTHS), real, fake, generator=torch.Generator())
    norms = 5 * LENGTHS.sqrt()
    assert penalty.item() == pytest.approx((norms - 1).square().mean().item(), rel=1e-5)
    penalty.backward()
    # d/dw (|w| sqrt(n) - 1)^2 = 2 (|w| sqrt(n) - 1) sqrt(n) w / |w|
    expected = (2 * (norms - 1) * LENGTHS.sqrt()).mean() * torch.tensor(WEIGHT) / 5
    torch.testing.assert_close(weight.grad, expected)


def test_gradient_penalty_is_taken_between_real_and_fake():
    """score = sum e^2 / 2 has gradient e, so the norms tell where it was taken."""
    real, fake = torch.zeros(500, 1, 1), torch.full((500, 1, 1), 3.0)
    seen = []

    def score(e):
        seen.append(e)
        return e.square().flatten(1).sum(dim=1) / 2

    penalty = gradient_penalty(score, real, fake, generator=torch.Generator().manual_seed(0))
    at = seen[0].flatten()
    assert 0 <= at.min() < 0.1
    assert 2.9 < at.max() <= 3
    assert at.mean().item() == pytest.approx(1.5, abs=0.2)
    assert penalty.item() == pytest.approx((at - 1).square().mean().item(), rel=1e-4)


def test_gradient_penalty_survives_a_critic_that_says_nothing():
    weight = torch.zeros(2, requires_grad=True)
    real = torch.randn(3, 4, 2)
    gradient_penalty(lambda e: linear_critic(e, weight, LENGTHS), real, real, generator=torch.Generator()).backward()
    assert weight.grad.isfinite().all()
    with pytest.raises(ValueError, match="must be of one shape"):
        gradient_penalty(lambda e: e.sum((1, 2)), real, real[:2], generator=torch.Generator())


@pytest.mark.parametrize("kind", sorted(DISCRIMINATORS))
@pytest.mark.parametrize("penalty", ["r1", "gp"])
@differentiable_twice()
def test_penalties_train_the_critics_and_respect_lengths(kind, penalty):
    torch.manual_seed(0)
    c = TransformerCritic(11, 6, 1, 2, 8, 0.0) if kind == "transformer" else CNNCritic(11, 6, 8, 2, 4)
    c.eval()
    lengths = torch.tensor([6, 2, 3])
    past = torch.arange(6) >= lengths[:, None]

    def value(ids):
        e = c.embed(ids).detach().requires_grad_()
        if penalty == "r1":
            return r1_penalty(c.score(e, lengths).sequence, e)
        g = torch.Generator().manual_seed(1)
        return gradient_penalty(lambda e: c.score(e, lengths).sequence, e, e.flip(2), generator=g)

    ids = torch.randint(11, (3, 6))
    other = torch.where(past, (ids + 5) % 11, ids)
    first = value(ids)
    assert first.item() == value(other).item()
    optimizer = torch.optim.SGD([p for p in c.parameters() if p.requires_grad], lr=0.01)
    first.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in c.parameters())
    optimizer.step()
    assert value(ids).item() < first.item()

"""The pull of the aggregate posterior to the prior: hand-worked gradients, and whole autoencoders on a toy."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from textgan.ops.elbo import mmd_to_prior
from textgan.training.aggregate import AdversarialTerm, MmdTerm, build_aggregate_term
from textgan.training.seeding import stream

CPU = torch.device("cpu")


def adversarial(z_size=2, **options):
    return AdversarialTerm(z_size, seed=3, device=CPU, **{"n_layer": 1, "n_hidden": 16, **options})


def test_each_name_has_its_term():
    assert build_aggregate_term("none", 2, seed=0, device=CPU) is None
    mmd = build_aggregate_term("mmd", 2, seed=0, device=CPU)
    assert isinstance(mmd, MmdTerm)
    assert mmd.weight == 10
    for kind in ("mmd", "adversarial"):
        assert build_aggregate_term(kind, 2, 0.5, seed=0, device=CPU).weight == 0.5
    term = build_aggregate_term("adversarial", 2, seed=0, device=CPU, lr=0.25)
    assert term.critic.z_size == 2
    assert term.weight == 1
    assert {group["lr"] for group in term.optimizer.param_groups} == {0.25}
    with pytest.raises(KeyError):
        build_aggregate_term("moments", 2, seed=0, device=CPU)


def test_the_mmd_of_two_pairs_by_hand(monkeypatch):
    monkeypatch.setattr("textgan.training.aggregate.mmd_to_prior", lambda z, p: mmd_to_prior(z, p, scales=[1.0]))
    z = torch.tensor([[0.0], [1.0]], requires_grad=True)
    prior_z = torch.tensor([[0.0], [3.0]], requires_grad=True)
    term = MmdTerm()
    value = term.loss(z, prior_z)  # the kernel is 2 / (2 + distance squared)
    by_hand = 2 / 3 + 2 / 11 - 2 * (1 + 2 / 11 + 2 / 3 + 2 / 6) / 4
    assert value.item() == pytest.approx(by_hand)
    value.backward()
    assert prior_z.grad is None
    # d/dz_0 of 2/(2+(z0-z1)^2) is -4 (z0-z1)/(...)^2 = 4/9; of the cross terms only the draw at 3 pulls: 12/121.
    assert z.grad[0].item() == pytest.approx(4 / 9 - 12 / 121 / 2)
    assert term.update() == {"aggregate": pytest.approx(by_hand)}


def test_mmd_values_are_averaged_over_the_texts_of_a_step():
    rng = torch.Generator().manual_seed(0)
    z, prior_z = torch.randn(12, 3, generator=rng), torch.randn(12, 3, generator=rng)
    term = MmdTerm()
    parts = [term.loss(z[rows], prior_z[rows]).item() for rows in (slice(0, 8), slice(8, 12))]
    assert float(term.update()["aggregate"]) == pytest.approx((8 * parts[0] + 4 * parts[1]) / 12, rel=1e-5)
    again = term.loss(z[:8], prior_z[:8]).item()
    assert float(term.update()["aggregate"]) == pytest.approx(again)


def test_a_single_code_has_no_discrepancy_and_no_gradient():
    z = torch.ones(1, 3, requires_grad=True)
    term = MmdTerm()
    value = term.loss(z, torch.zeros(1, 3))
    value.backward()
    assert value.item() == 0
    assert not z.grad.any()
    assert term.update() == {"aggregate": 0}


def test_the_encoder_is_paid_for_fooling_the_critic():
    term = adversarial(1)
    for parameter in term.critic.parameters():
        nn.init.zeros_(parameter)
    term.critic.network[0].weight.data[0] = 1.0
    term.critic.network[2].weight.data[0, 0] = 2.0  # score 2z for z > 0: higher z looks more like the prior
    z = torch.tensor([[1.0], [3.0]], requires_grad=True)
    value = term.loss(z, torch.zeros(2, 1))
    assert value.item() == pytest.approx((F.softplus(torch.tensor(-2.0)) + F.softplus(torch.tensor(-6.0))).item() / 2)
    value.backward()
    expected = -2 * torch.sigmoid(torch.tensor([[-2.0], [-6.0]])) / 2  # downhill is to a higher score
    torch.testing.assert_close(z.grad, expected)
    assert all(p.grad is None and p.requires_grad for p in term.critic.parameters())


def test_the_critic_learns_that_the_prior_is_real():
    term = adversarial(2, lr=0.01)
    rng = torch.Generator().manual_seed(0)
    prior_z, codes = torch.randn(64, 2, generator=rng), torch.randn(64, 2, generator=rng) + 4
    for _ in range(30):
        term.loss(codes, prior_z)
        found = term.update()
    assert term.critic(prior_z).mean() > 0 > term.critic(codes).mean()
    assert float(found["aggregate_acc"]) > 0.99
    assert float(found["aggregate"]) == pytest.approx(term.loss(codes, prior_z).item(), rel=0.2)


def test_one_update_of_the_critic_is_adam_on_the_loss_worked_out_beside():
    term, twin = adversarial(2, penalty=3.0), adversarial(2).critic
    rng = torch.Generator().manual_seed(0)
    prior_z, codes = torch.randn(6, 2, generator=rng), torch.randn(6, 2, generator=rng)
    for rows in (slice(0, 4), slice(4, 6)):  # two micro-batches, one update
        term.loss(codes[rows], prior_z[rows])
    found = term.update()
    plain = nn.functional.binary_cross_entropy_with_logits(twin(prior_z), torch.ones(6))
    plain = plain + nn.functional.binary_cross_entropy_with_logits(twin(codes), torch.zeros(6))
    both = torch.cat([prior_z, codes]).requires_grad_()
    (slope,) = torch.autograd.grad(twin(both).sum(), both, create_graph=True)
    loss = plain + 3.0 / 2 * (slope[:6].square().sum(1).mean() + slope[6:].square().sum(1).mean())
    gradients = torch.autograd.grad(loss, list(twin.parameters()), allow_unused=True)
    for parameter, gradient in zip(term.critic.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, torch.zeros_like(parameter) if gradient is None else gradient)
    assert float(found["aggregate_d_loss"]) == pytest.approx(plain.item(), rel=1e-5)


def test_resumed_to_the_bit():
    def steps(term, first, last):
        found = []
        for step in range(first, last):
            rng = stream(CPU, 1, "toy", step)
            prior_z, codes = torch.randn(8, 2, generator=rng), torch.randn(8, 2, generator=rng) * 3
            found.append(term.loss(codes, prior_z).item())
            found += map(float, term.update().values())
        return found

    whole, first, second = adversarial(), adversarial(), AdversarialTerm(2, seed=9, device=CPU, n_layer=1, n_hidden=16)
    values = steps(whole, 0, 6)
    assert steps(first, 0, 3) == values[:12]
    second.load_state_dict(first.state_dict())
    assert steps(second, 3, 6) == values[12:]
    assert all(map(torch.equal, whole.critic.parameters(), second.critic.parameters()))


def patch(n, rng):
    """Points spread evenly over a slanted patch of the plane, off its centre: not normal, not white."""
    square = torch.rand(n, 2, generator=rng) * torch.tensor([8.0, 4.0]) + torch.tensor([2.0, -1.0])
    return square @ torch.tensor([[1.0, 0.5], [0.0, 1.0]])


def trained_autoencoder(kind, weight, steps=300):
    """Held-out codes of a deterministic autoencoder of the patch, its squared error, and the codes' MMD to N(0, I)."""
    torch.manual_seed(0)
    encoder, decoder = (nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 2)) for _ in range(2))
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)
    term = build_aggregate_term(kind, 2, seed=0, device=CPU, lr=1e-3)
    for step in range(steps):
        rng = stream(CPU, 0, "toy", step)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / steps)
        x = patch(128, rng)
        z = encoder(x)
        loss = (decoder(z) - x).square().sum(1).mean()
        if term:
            loss = loss + weight * term.loss(z, torch.randn(z.shape, generator=rng))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if term:
            term.update()
    with torch.no_grad():
        rng = stream(CPU, 0, "held out")
        x = patch(2000, rng)
        z = encoder(x)
        error = (decoder(z) - x).square().sum(1).mean().item()
        return z, error, mmd_to_prior(z, torch.randn(z.shape, generator=rng)).item()


@pytest.fixture(scope="module")
def untouched():
    return trained_autoencoder("none", 0.0)


@pytest.mark.parametrize("kind, weight", [("mmd", 30.0), ("adversarial", 30.0)])
def test_the_aggregate_posterior_goes_to_the_prior_and_reconstruction_stays(kind, weight, untouched):
    z, error, mmd = trained_autoencoder(kind, weight)
    assert mmd < 0.15 * untouched[2]
    assert error < 0.05 * 8.0  # the patch's variance
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=0.25, rtol=0)
    torch.testing.assert_close(z.T.cov(), torch.eye(2), atol=0.35, rtol=0)
    assert (untouched[0].T.cov() - torch.eye(2)).abs().max() > 0.5

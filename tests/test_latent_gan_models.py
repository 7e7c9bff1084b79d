"""The players on z: where the mapper starts, what whitening does, and what the critic's scores depend on."""

import pytest
import torch
from torch import nn

from textgan.models.latent_gan import LatentCritic, LatentMapper, Whitening

MEAN = torch.tensor([1.0, -2.0])
FACTOR = torch.tensor([[2.0, 0.0], [3.0, 0.5]])


def test_whitening_is_the_affine_map_worked_out_by_hand():
    white = Whitening(2)
    white.fit(MEAN, FACTOR)
    h = torch.tensor([[1.0, 4.0], [0.0, 0.0]])
    expected = torch.tensor([[1 + 2.0, -2 + 3 + 2.0], [1.0, -2.0]])  # the second column mixes both: not factor.T
    torch.testing.assert_close(white.colour(h), expected)
    torch.testing.assert_close(white.whiten(expected), h)


@pytest.mark.parametrize(
    "mean, factor, said",
    [
        (torch.zeros(3), FACTOR, "z_size=2"),
        (MEAN, torch.eye(3), "z_size=2"),
        (MEAN, FACTOR.T, "lower triangular"),
        (MEAN, torch.tensor([[2.0, 0.0], [3.0, 0.0]]), "diagonal above 0"),
        (MEAN, torch.tensor([[-2.0, 0.0], [3.0, 1.0]]), "diagonal above 0"),
        (torch.tensor([float("nan"), 0.0]), FACTOR, "finite"),
    ],
)
def test_what_is_no_gaussian_is_refused(mean, factor, said):
    white = Whitening(2)
    with pytest.raises(ValueError, match=said):
        white.fit(mean, factor)
    assert torch.equal(white.factor, torch.eye(2))


@pytest.mark.parametrize("noise_size", [None, 5])
def test_the_mapper_starts_as_the_gaussian_it_is_given(noise_size):
    torch.manual_seed(0)
    mapper = LatentMapper(2, noise_size, n_layer=1, n_hidden=8)
    mapper.white.fit(MEAN, FACTOR)
    noise = torch.randn(200_000, mapper.noise_size)
    z = mapper(noise).detach()
    torch.testing.assert_close(z.mean(0), MEAN, atol=0.03, rtol=0)
    torch.testing.assert_close(z.T.cov(), FACTOR @ FACTOR.T, atol=0.1, rtol=0.02)


def test_the_mapper_is_its_layers():
    torch.manual_seed(0)
    mapper = LatentMapper(3, 2, n_layer=2, n_hidden=4)
    for parameter in mapper.parameters():
        parameter.data = torch.randn_like(parameter)
    factor = torch.linalg.cholesky(torch.tensor([[2.0, 1, 0], [1, 2, 1], [0, 1, 2]]))
    mapper.white.fit(torch.arange(3.0), factor)
    noise = torch.randn(5, 2)
    (a, b, c) = (layer for layer in mapper.network if isinstance(layer, nn.Linear))
    x = nn.functional.leaky_relu(noise @ a.weight.T + a.bias, 0.2)
    x = nn.functional.leaky_relu(x @ b.weight.T + b.bias, 0.2)
    h = x @ c.weight.T + c.bias + noise @ mapper.linear.weight.T
    torch.testing.assert_close(mapper(noise), torch.arange(3.0) + h @ factor.T)


def test_rows_do_not_see_each_other():
    torch.manual_seed(0)
    mapper, critic = LatentMapper(4).double(), LatentCritic(4).double()
    for parameter in mapper.parameters():
        parameter.data.add_(torch.randn_like(parameter) / 4)
    noise = torch.randn(6, 4, dtype=torch.float64)
    z = mapper(noise)
    torch.testing.assert_close(mapper(noise[2:3]), z[2:3])
    torch.testing.assert_close(critic(z[2:3]), critic(z)[2:3])
    assert critic(z).shape == (6,)


def test_the_critic_scores_whitened_vectors():
    torch.manual_seed(0)
    critic = LatentCritic(2, n_layer=1, n_hidden=3)
    h = torch.randn(4, 2)
    plain = critic(h)
    critic.white.fit(MEAN, FACTOR)
    torch.testing.assert_close(critic(MEAN + h @ FACTOR.T), plain)
    torch.testing.assert_close(critic.score(h), plain)


def test_spectral_norm_bounds_the_critic():
    torch.manual_seed(0)
    free, bounded = LatentCritic(2, 1, 16), LatentCritic(2, 1, 16, spectral_norm=True)
    for critic in (free, bounded):
        for _ in range(20):  # power iterations
            critic.train()(torch.zeros(1, 2))
        critic.eval()
    a, b = torch.randn(2, 500, 2)

    def steepest(critic):
        return ((critic(a) - critic(b)).abs() / (a - b).norm(dim=1)).max().item()

    for layer in bounded.network[::2]:
        assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1, abs=1e-3)
    assert steepest(bounded) <= 1 + 1e-3
    assert steepest(free) > 1


@pytest.mark.parametrize("bad", [{"z_size": 0}, {"z_size": 2, "n_layer": 0}, {"z_size": 2, "n_hidden": 1.5}])
@pytest.mark.parametrize("kind", [LatentMapper, LatentCritic])
def test_bad_sizes_are_named(kind, bad):
    with pytest.raises(ValueError, match="must be a whole number of at least 1"):
        kind(**bad)


def test_bad_inputs_are_named():
    with pytest.raises(ValueError, match=r"noise \(3, 2\) must be \(B, noise_size=4\)"):
        LatentMapper(2, 4)(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"z \(2,\) must be \(B, z_size=2\)"):
        LatentCritic(2)(torch.zeros(2))
    with pytest.raises(ValueError, match="noise_size"):
        LatentMapper(2, 0)

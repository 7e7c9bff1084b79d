"""Ways through a latent space: geometry against closed forms, models against their own densities."""

import math
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textgan.metrics.edits import edit_distance
from textgan.models.encoder import TransformerEncoder
from textgan.models.generator import Generator
from textgan.models.vae import TextVAE
from textgan.sampling.latent_walks import (
    around,
    difference,
    interpolate,
    read_texts,
    shift,
    to_noise,
    way_between,
)

V, T, Z, EOS = 9, 10, 6, 0
KINDS = ["flat", "layerwise"]
TEXTS = [[3, 4, 5], [6], [7, 8, 1, 2, 3, 3], []]


@cache
def make_vae(latents):
    torch.manual_seed(5)
    encoder = TransformerEncoder(V, T, 2, 2, 8, dropout=0.0)
    vae = TextVAE(encoder, Generator(V, T, 2, 2, 8, dropout=0.0), Z, latents=latents)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return vae.double().eval()


def vectors(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def angle(a, b):
    return math.acos(torch.nn.functional.cosine_similarity(a, b, dim=0).clamp(-1, 1).item())


# ------------------------------------------------------------------------------------------- interpolation


@pytest.mark.parametrize("path", ["spherical", "linear"])
@pytest.mark.parametrize("steps", [2, 3, 7])
def test_ends_are_exact_and_both_ways_are_one(path, steps):
    for seed in range(20):
        a, b = vectors(seed, 2, 5)
        points = interpolate(a, b, steps, path)
        assert points.shape == (steps, 5)
        assert torch.equal(points[0], a)
        assert torch.equal(points[-1], b)
        assert torch.allclose(points.flip(0), interpolate(b, a, steps, path), atol=1e-12)


def test_spherical_is_the_default_and_turns_evenly():
    a, b = 3 * vectors(1, 8), vectors(2, 8)
    points = interpolate(a, b, 5)
    assert torch.equal(points, interpolate(a, b, 5, "spherical"))
    expected = [a.norm() + i / 4 * (b.norm() - a.norm()) for i in range(5)]
    assert points.norm(dim=1).tolist() == pytest.approx([norm.item() for norm in expected])
    turns = [angle(points[i], points[i + 1]) for i in range(4)]
    assert turns == pytest.approx([angle(a, b) / 4] * 4)
    assert torch.linalg.matrix_rank(points, tol=1e-9) == 2


def test_a_quarter_turn_by_hand():
    a, b = torch.tensor([2.0, 0.0]).double(), torch.tensor([0.0, 4.0]).double()
    middle = interpolate(a, b, 3)[1]
    assert middle.tolist() == pytest.approx([3 / math.sqrt(2)] * 2)
    assert interpolate(a, b, 3, "linear")[1].tolist() == [1.0, 2.0]
    assert interpolate(a, b, 5, "linear")[1].tolist() == [1.5, 1.0]


def test_only_the_sphere_keeps_the_norm_of_the_prior():
    """Of N(0, I) in 32 dimensions, hardly one point in a thousand has the norm of the middle of a line."""
    a, b = vectors(3, 2, 500, 32)
    norms = {path: torch.stack([interpolate(*ab, 3, path)[1].norm() for ab in zip(a, b, strict=True)])
             for path in ("spherical", "linear")}  # fmt: skip
    usual = torch.cat([a, b]).norm(dim=1)
    assert norms["spherical"].mean() == pytest.approx(usual.mean().item(), rel=0.02)
    assert norms["linear"].mean() == pytest.approx(usual.mean().item() / math.sqrt(2), rel=0.02)
    assert (usual < norms["linear"].mean()).double().mean() < 0.01


@pytest.mark.parametrize("factor", [1.0, 2.5, -1.0, -0.3, 0.0])
def test_without_a_plane_it_goes_straight(factor):
    a = vectors(4, 5)
    for ends in ((a, factor * a), (factor * a, a)):
        points = interpolate(*ends, 5)
        assert torch.allclose(points, interpolate(*ends, 5, "linear"))


def test_small_angles_are_smooth():
    a, side = vectors(5, 2, 6)
    b = a + 3e-4 * side  # near where it changes to straight
    assert torch.allclose(interpolate(a, b, 4), interpolate(a, b, 4, "linear"), atol=1e-7)


def test_refused_interpolations():
    with pytest.raises(ValueError, match="`steps=1` must be at least 2"):
        interpolate(*vectors(0, 2, 3), 1)
    with pytest.raises(ValueError, match="unknown path `round`; choose one of spherical, linear"):
        interpolate(*vectors(0, 2, 3), 3, "round")


# ------------------------------------------------------------------------------------------- texts read


@pytest.mark.parametrize("kind", KINDS)
def test_reading_texts(kind):
    vae = make_vae(kind)
    reading = read_texts(vae, TEXTS, EOS)
    assert reading.means.z.shape == (4, Z)
    assert torch.equal(reading.means.z, reading.means.mu)
    for i, ids in enumerate(TEXTS):
        alone = read_texts(vae, [ids], EOS)
        assert torch.allclose(alone.means.z[0], reading.means.z[i], atol=1e-10)
        row = torch.tensor([[EOS, *ids, EOS]])
        with torch.no_grad():
            logits = vae.decoder(row[:, :-1], condition=vae.condition(reading.means.z[i : i + 1]))[0]
        expected = logits.log_softmax(-1).gather(1, row[0, 1:, None]).sum()
        assert reading.log_likelihood[i].item() == pytest.approx(expected.item(), abs=1e-9)


def test_texts_that_do_not_fit():
    vae = make_vae("flat")
    read_texts(vae, [[3] * (T - 1)], EOS)
    with pytest.raises(ValueError, match="1 texts of up to 11 ids with the end; the model reads 10"):
        read_texts(vae, [[3] * T], EOS)
    with pytest.raises(ValueError, match="0 texts"):
        read_texts(vae, [], EOS)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_and_latents(kind):
    vae = make_vae(kind)
    h = vectors(6, 5, Z)
    with torch.no_grad():
        z = vae.prior(h)
        drawn = vae.infer_at(read_texts(vae, [[3]] * 5, EOS).features, z)
    assert torch.allclose(to_noise(drawn), h, atol=1e-9)
    assert torch.equal(z, h) == (kind == "flat")


@pytest.mark.parametrize("path", ["spherical", "linear"])
@pytest.mark.parametrize("kind", KINDS)
def test_way_between_texts(kind, path):
    vae = make_vae(kind)
    reading = read_texts(vae, TEXTS[:2], EOS)
    z = way_between(vae, reading.means, 5, path)
    assert torch.equal(z[0], reading.means.z[0])
    assert torch.equal(z[-1], reading.means.z[1])
    with torch.no_grad():
        h = to_noise(vae.infer_at(reading.features[:1].expand(5, *reading.features.shape[1:]), z))
    assert torch.allclose(h, interpolate(h[0], h[-1], 5, path), atol=1e-9)


# ------------------------------------------------------------------------------------------- around a text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [0.5, 1.0, 4.0])
def test_every_point_is_at_the_radius(kind, radius):
    vae = make_vae(kind)
    features = read_texts(vae, TEXTS[:1], EOS).features
    noise = vectors(7, 6, Z)
    z = around(vae, features, noise, radius)
    with torch.no_grad():
        law = vae.infer_at(features.expand(6, *features.shape[1:]), z)
    steps = (z - law.mu) / torch.exp(0.5 * law.logvar)
    assert steps.square().mean(1).sqrt().tolist() == pytest.approx([radius] * 6)
    assert torch.allclose(torch.nn.functional.cosine_similarity(steps, noise), torch.ones(6).double())
    assert torch.allclose(around(vae, features, 10 * noise[2:4], radius), z[2:4], atol=1e-10)


def test_at_radius_one_lie_the_draws_of_the_posterior():
    noise = vectors(8, 4000, 32)
    assert noise.square().mean(1).sqrt().mean() == pytest.approx(1, abs=0.01)


# ------------------------------------------------------------------------------------------- attributes


def test_difference_by_hand():
    source, target = torch.tensor([[0.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 5.0], [3.0, 5.0], [3.0, 5.0]])
    found = difference(source.double(), target.double())
    assert found.vector.tolist() == [3, 4]
    assert found.length == pytest.approx(5)
    assert found.separation == 1
    assert difference(target.double(), source.double()).vector.tolist() == [-3, -4]


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 5), st.integers(2, 5), st.integers(1, 4), st.integers(0, 10**6))
def test_separation_leaves_each_text_out(a, b, width, seed):
    sets = [vectors(seed, a, width), vectors(seed + 1, b, width) + 0.7]
    shares = []
    for own, other in (sets, sets[::-1]):
        right = 0
        for i in range(len(own)):
            rest = torch.cat([own[:i], own[i + 1 :]]).mean(0)
            right += (own[i] - rest).norm() < (own[i] - other.mean(0)).norm()
        shares.append(float(right) / len(own))
    assert difference(*sets).separation == pytest.approx(sum(shares) / 2)


def test_separation_is_no_illusion_of_many_dimensions():
    """Between two small sets of one law the way is long in 64 dimensions; the separation stays at chance."""
    found = [difference(vectors(i, 8, 64), vectors(1000 + i, 8, 64)) for i in range(60)]
    assert sum(direction.length for direction in found) / 60 == pytest.approx(math.sqrt(64 * 2 / 8), rel=0.05)
    assert sum(direction.separation for direction in found) / 60 < 0.55


def test_sets_of_alike_texts_are_at_chance():
    same = torch.ones(3, 2).double()
    found = difference(same, same)
    assert (found.length, found.separation) == (0, 0.5)


def test_small_sets():
    assert difference(vectors(0, 1, 3), vectors(1, 4, 3)).separation is None
    assert difference(vectors(0, 4, 3), vectors(1, 1, 3)).separation is None
    for sizes in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match=f"sets of {sizes[0]} and {sizes[1]} texts"):
            difference(*(torch.zeros(n, 2) for n in sizes))


@pytest.mark.parametrize("kind", KINDS)
def test_shifted_texts(kind):
    vae = make_vae(kind)
    reading = read_texts(vae, TEXTS, EOS)
    direction = vectors(9, Z)
    assert torch.allclose(shift(vae, reading.means, direction, 0.0), reading.means.z, atol=1e-10)
    moved = shift(vae, reading.means, direction, -1.5)
    with torch.no_grad():
        h = to_noise(vae.infer_at(reading.features, moved))
    assert torch.allclose(h, to_noise(reading.means) - 1.5 * direction, atol=1e-9)


# ------------------------------------------------------------------------------------------- edits


@cache
def slow_distance(a, b):
    if not a or not b:
        return len(a) + len(b)
    changed = slow_distance(a[1:], b[1:]) + (a[0] != b[0])
    return min(changed, slow_distance(a[1:], b) + 1, slow_distance(a, b[1:]) + 1)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=7), st.lists(st.integers(0, 3), max_size=7))
def test_edit_distance_is_the_recursion(a, b):
    assert edit_distance(a, b) == slow_distance(tuple(a), tuple(b)) == edit_distance(b, a)


def test_edit_distance_of_words():
    assert edit_distance([*map(ord, "kitten")], [*map(ord, "sitting")]) == 3
    assert edit_distance([], []) == 0
    assert edit_distance([], [1, 2]) == 2

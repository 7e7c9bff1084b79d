"""The text VAE: densities against torch.distributions, Monte Carlo and sums over every text."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from textgan.models.encoder import LSTMEncoder, TransformerEncoder
from textgan.models.generator import Generator
from textgan.models.injection import INJECTIONS
from textgan.models.lstm import LSTMGenerator
from textgan.models.vae import ScaledBatchNorm, TextVAE

V, BLOCK, Z = 13, 9, 6
LENGTHS = torch.tensor([7, 1, 4])


def rough(model, seed=0, scale=0.2):
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * scale)
    return model.eval()


def build(latents="flat", injection="both", kind="transformer", n_layer=3, encoder_layers=3, vocab=V, **kw):
    torch.manual_seed(0)
    if kind == "lstm":
        encoder = LSTMEncoder(vocab, 1, 5, 8)
        extra = 0 if injection == "memory" else Z
        decoder = LSTMGenerator(vocab, BLOCK, n_layer, 5, 7, dropout=0.0, n_extra=extra)
    else:
        encoder = TransformerEncoder(vocab, BLOCK, encoder_layers, 2, 8, dropout=0.0)
        decoder = Generator(vocab, BLOCK, n_layer, 2, 8, dropout=0.0)
    return rough(TextVAE(encoder, decoder, Z, latents, injection, **kw))


def rows(n=3, seed=1):
    return torch.randint(V, (n, BLOCK), generator=torch.Generator().manual_seed(seed))


def normal(*shape, seed=2):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def encoded(vae, ids=None):
    ids = rows() if ids is None else ids
    return vae.encode(ids[:, 1:], LENGTHS)


KINDS = [
    pytest.param(kind, latents, injection, id=f"{kind}-{latents}-{injection}")
    for kind, latents, injection in itertools.product(("transformer", "lstm"), ("flat", "layerwise"), INJECTIONS)
    if (kind, latents) != ("lstm", "layerwise")
]
every_kind = pytest.mark.parametrize("kind, latents, injection", KINDS)
both_latents = pytest.mark.parametrize("latents", ["flat", "layerwise"])


@every_kind
def test_log_likelihood_is_the_cross_entropy_of_the_decoders_logits(kind, latents, injection):
    vae, ids, z = build(latents, injection, kind), rows(), normal(3, Z)
    with torch.no_grad():
        got = vae.log_likelihood(ids, LENGTHS, z)
        logits = vae.decoder(ids[:, :-1], condition=vae.condition(z))
        for row, n in enumerate(LENGTHS.tolist()):
            expected = sum(logits[row, t].log_softmax(-1)[ids[row, t + 1]].item() for t in range(n))
            assert got[row].item() == pytest.approx(expected, rel=1e-5)
        dropped = torch.zeros_like(ids[:, :-1])
        logits = vae.decoder(dropped, condition=vae.condition(z))
        losses = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        expected = sum(losses[row, :n].sum() for row, n in enumerate(LENGTHS.tolist()))
        torch.testing.assert_close(vae.reconstruction(ids, LENGTHS, z, inputs=dropped), expected)
        torch.testing.assert_close(vae.reconstruction(ids, LENGTHS, z), -got.sum())


@every_kind
def test_likelihoods_of_all_texts_sum_to_one(kind, latents, injection):
    """Texts of at most two tokens over three words, and those that have not ended after two."""
    vae, eos = build(latents, injection, kind, vocab=3), 0
    texts = [[eos], *([w, eos] for w in (1, 2)), *([w, x] for w in (1, 2) for x in (1, 2))]
    ids = torch.tensor([[eos, *text, eos][:3] for text in texts])
    lengths = torch.tensor([len(text) for text in texts])
    z = normal(1, Z).expand(len(texts), Z)
    with torch.no_grad():
        assert vae.log_likelihood(ids, lengths, z).exp().sum().item() == pytest.approx(1.0, abs=1e-5)


@every_kind
def test_every_entry_of_z_reaches_every_column(kind, latents, injection):
    vae, z = build(latents, injection, kind), normal(2, Z).requires_grad_()
    logits = vae.decoder(rows(2), condition=vae.condition(z))
    for t in (0, BLOCK - 1):
        (grad,) = torch.autograd.grad(logits[0, t].square().sum(), z, retain_graph=True)
        assert (grad[0].abs() > 1e-6).all()
        assert (grad[1] == 0).all()


@every_kind
def test_gradient_of_the_elbo_reaches_every_parameter(kind, latents, injection):
    vae, ids = build(latents, injection, kind).train(), rows()
    drawn = vae.infer(encoded(vae, ids), normal(3, Z))
    (vae.log_likelihood(ids, LENGTHS, drawn.z) - drawn.kl.sum(1)).sum().backward()
    assert [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.any()] == []
    both = vae.encoder_parameters() + vae.decoder_parameters()
    assert {id(p) for p in both} == {id(p) for p in vae.parameters()}
    assert len(both) == len(list(vae.parameters()))
    assert vae.num_parameters() == sum(p.numel() for p in vae.parameters())


def test_the_likelihood_alone_moves_both_sides_and_the_prior_only_through_the_kl():
    vae, ids = build("layerwise"), rows()
    drawn = vae.infer(encoded(vae, ids), normal(3, Z))
    of_encoder = torch.autograd.grad(drawn.kl.sum(), vae.encoder_parameters(), retain_graph=True)
    assert all(grad.any() for grad in of_encoder)
    of_decoder = torch.autograd.grad(drawn.kl.sum(), vae.decoder.parameters(), allow_unused=True)
    assert all(grad is None for grad in of_decoder)


@both_latents
def test_densities_and_kl_equal_torchs_on_the_drawn_z(latents):
    vae = build(latents)
    with torch.no_grad():
        drawn = vae.infer(encoded(vae), normal(3, Z))
    q = Normal(drawn.mu, (drawn.logvar / 2).exp())
    p = Normal(drawn.prior_mu, (drawn.prior_logvar / 2).exp())
    torch.testing.assert_close(drawn.log_q, q.log_prob(drawn.z).sum(1))
    torch.testing.assert_close(drawn.log_p, p.log_prob(drawn.z).sum(1))
    torch.testing.assert_close(drawn.kl, kl_divergence(q, p), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(drawn.z, q.loc + q.scale * normal(3, Z))
    torch.testing.assert_close(drawn.offset, (q.loc - p.loc) / p.scale)
    if latents == "flat":
        assert torch.equal(drawn.offset, drawn.mu)


@both_latents
def test_laws_of_a_group_follow_from_the_groups_before_it(latents):
    """By its own linear maps: the prior from z_<l, the posterior from z_<l and the encoder's layer l."""
    vae = build(latents)
    with torch.no_grad():
        features = encoded(vae)
        drawn = vae.infer(features, normal(3, Z))
        size = Z // vae.groups
        assert vae.groups == (3 if latents == "layerwise" else 1)
        for g in range(vae.groups):
            own, before = slice(g * size, (g + 1) * size), drawn.z[:, : g * size]
            mu, logvar = torch.zeros(3, size), torch.zeros(3, size)
            if g:
                first, _, last = vae.prior_net[g - 1]
                mu, logvar = last(F.gelu(first(before))).split(size, dim=1)
                assert mu.abs().max() > 0.05
            torch.testing.assert_close(drawn.prior_mu[:, own], mu)
            torch.testing.assert_close(drawn.prior_logvar[:, own], logvar)
            seen = features[:, g] if latents == "layerwise" else features
            shift, scale = vae.posterior[g](torch.cat([seen, before], dim=1)).split(size, dim=1)
            torch.testing.assert_close(drawn.mu[:, own], mu + (logvar / 2).exp() * shift)
            torch.testing.assert_close(drawn.logvar[:, own], logvar + scale)


def test_mean_of_the_kl_equals_monte_carlo_of_the_log_ratio():
    vae, n = build("layerwise"), 100_000
    with torch.no_grad():
        features = encoded(vae)[:1].expand(n, -1, -1)
        drawn = vae.infer(features, normal(n, Z))
        ratio, kl = drawn.log_q - drawn.log_p, drawn.kl.sum(1)
        assert kl.mean() > 0.3
        error = (ratio - kl).std().item() / n**0.5
        assert abs((ratio - kl).mean().item()) < 4 * error
        # and it is a KL of the joint law: importance weights p / q of its draws have the mean one
        weights = (-ratio).exp()
        assert weights.mean().item() == pytest.approx(1.0, abs=4 * weights.std().item() / n**0.5)


@both_latents
def test_prior_is_a_change_of_variables_of_noise(latents):
    """log p(prior(noise)) = log N(noise; 0, I) - log |d prior / d noise|, with the Jacobian taken by autograd."""
    vae = build(latents).double()
    noise = normal(2, Z).double()
    with torch.no_grad():
        z = vae.prior(noise)
        log_p = vae.infer_at(encoded(vae)[:2], z).log_p
    for row in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda e: vae.prior(e[None])[0], noise[row])
        expected = Normal(0.0, 1.0).log_prob(noise[row]).sum() - torch.linalg.slogdet(jacobian).logabsdet
        assert log_p[row].item() == pytest.approx(expected.item(), rel=1e-9)
    if latents == "flat":
        assert torch.equal(z, noise)
    else:
        assert (z[:, 2:] - noise[:, 2:]).abs().max() > 0.05


@both_latents
def test_posterior_at_a_drawn_z_is_that_of_the_draw(latents):
    vae = build(latents)
    with torch.no_grad():
        features = encoded(vae)
        drawn = vae.infer(features, normal(3, Z))
        for got, expected in zip(vae.infer_at(features, drawn.z), drawn, strict=True):
            assert torch.equal(got, expected)
        # of another text at the same z: another posterior, the same prior
        other = vae.infer_at(features[[1, 2, 0]], drawn.z)
        torch.testing.assert_close(other.log_p, drawn.log_p)
        assert (other.log_q - drawn.log_q).abs().max() > 0.1


@both_latents
def test_importance_bound_approaches_the_likelihood(latents):
    """log p(x) by draws of the prior and by weighted draws of the posterior: two estimates of one number."""
    vae, ids, n = build(latents), rows(1), 20_000
    lengths = torch.tensor([5])
    with torch.no_grad():
        for p in vae.posterior.parameters():  # near enough to the prior that few draws carry no weight
            p.mul_(0.4)

        def log_mean(x):
            """Logarithm of the mean of exp(x), and its standard error."""
            weights = (x - x.max()).exp()
            return (x.logsumexp(0) - math.log(len(x))).item(), (weights.std() / weights.mean()).item() / len(x) ** 0.5

        def log_likelihood(z):
            return vae.log_likelihood(ids[:, :6].expand(n, -1), lengths.expand(n), z)

        of_prior = log_likelihood(vae.prior(normal(n, Z)))
        features = vae.encode(ids[:, 1:], lengths).repeat_interleave(n, dim=0)
        drawn = vae.infer(features, normal(n, Z, seed=4))
        of_posterior = log_likelihood(drawn.z) + drawn.log_p - drawn.log_q
        assert of_posterior.std() > 0.3
        (bound, error), (exact, error_of_prior) = log_mean(of_posterior), log_mean(of_prior)
        error = (error**2 + error_of_prior**2) ** 0.5
        assert error < 0.08
        assert bound == pytest.approx(exact, abs=4 * error)
        elbo = (log_likelihood(drawn.z) - drawn.kl.sum(1)).mean().item()
        assert elbo < bound - 0.05


def test_layerwise_with_one_layer_is_flat():
    flat, layerwise = (build(latents, n_layer=1, encoder_layers=1) for latents in ("flat", "layerwise"))
    assert flat.state_dict().keys() == layerwise.state_dict().keys()
    layerwise.load_state_dict(flat.state_dict())
    ids, noise = rows(), normal(3, Z)
    with torch.no_grad():
        a, b = (vae.infer(encoded(vae, ids), noise) for vae in (flat, layerwise))
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y)
        torch.testing.assert_close(flat.log_likelihood(ids, LENGTHS, a.z), layerwise.log_likelihood(ids, LENGTHS, b.z))


def test_a_collapsed_layerwise_posterior_has_no_offset_though_its_means_move():
    vae = build("layerwise")
    with torch.no_grad():
        for p in vae.posterior.parameters():
            p.zero_()
        drawn = vae.infer(encoded(vae), normal(3, Z))
    assert drawn.kl.abs().max() == 0
    assert drawn.offset.abs().max() == 0
    assert drawn.mu[:, 2:].var(0).min() > 0


def test_each_group_goes_into_its_layer_alone():
    vae, z = build("layerwise"), normal(2, Z).requires_grad_()
    condition = vae.condition(z)
    for layer in range(3):
        told = condition.shifts[layer].sum() + sum(x.sum() for x in condition.memory[layer])
        (grad,) = torch.autograd.grad(told, z, retain_graph=True)
        own = torch.arange(Z) // 2 == layer
        assert (grad[:, own] != 0).all()
        assert (grad[:, ~own] == 0).all()


@pytest.mark.parametrize("injection", INJECTIONS)
def test_flat_condition_is_linear_in_z_and_where_it_is_said_to_be(injection):
    vae, z = build(injection=injection), normal(2, Z)
    with torch.no_grad():
        shifts, memory = vae.condition(z)
        assert (shifts is None) == (injection == "memory")
        assert (memory is None) == (injection == "embedding")
        if shifts:
            (linear,) = vae.inject.shift
            torch.testing.assert_close(shifts[0], z @ linear.weight.T + linear.bias)
            assert shifts[1:] == (None, None)
        if memory:
            for pair, linear in zip(memory, vae.inject.memory, strict=True):
                flat = torch.cat([x.reshape(2, -1) for x in pair], dim=1)
                torch.testing.assert_close(flat, z @ linear.weight.T + linear.bias)


@pytest.mark.parametrize("injection", INJECTIONS)
def test_lstm_condition(injection):
    vae, z = build(injection=injection, kind="lstm", n_layer=2), normal(3, Z)
    with torch.no_grad():
        extra, state = vae.condition(z)
        assert (extra is None) == (injection == "memory")
        assert (state is None) == (injection == "embedding")
        if state:
            weight = vae.inject.state.weight
            for layer in range(2):
                c = z @ weight[7 * layer : 7 * (layer + 1)].T
                torch.testing.assert_close(state[1][layer], c)
                torch.testing.assert_close(state[0][layer], c.tanh())
        if extra is not None:
            assert torch.equal(extra, z)


@pytest.mark.parametrize("encoder_layers, told", [(3, [0, 1, 2]), (1, [0, 0, 0]), (2, [0, 1, 1]), (6, [1, 3, 5])])
def test_layers_of_the_encoder_stand_by_those_of_the_decoder(encoder_layers, told):
    vae, ids = build("layerwise", encoder_layers=encoder_layers), rows()
    with torch.no_grad():
        torch.testing.assert_close(encoded(vae, ids), vae.encoder.layers(ids[:, 1:], LENGTHS)[:, told])


def test_an_lstm_encoder_serves_a_layerwise_transformer():
    vae = TextVAE(LSTMEncoder(V, 1, 5, 8), Generator(V, BLOCK, 3, 2, 8), Z, "layerwise")
    assert vae.encode(rows()[:, 1:], LENGTHS).shape == (3, 3, 8)
    assert vae.infer(encoded(vae), normal(3, Z)).kl.shape == (3, Z)


def test_learned_prior_starts_as_the_standard_normal():
    torch.manual_seed(0)
    vae = TextVAE(TransformerEncoder(V, BLOCK, 2, 2, 8), Generator(V, BLOCK, 2, 2, 8), Z, "layerwise")
    noise = normal(5, Z)
    assert torch.equal(vae.prior(noise), noise)
    assert vae.infer(encoded(vae), noise[:3]).kl.sum(1).max() < 1.0


@both_latents
def test_batch_norm_keeps_the_kl_above_its_bound(latents):
    """d gamma^2 / 2 with shift zero, (d / 2)(gamma^2 + beta^2) with shift beta (Zhu et al. 2020, eq. 7)."""
    vae, gamma, n = build(latents, bn_gamma=0.7).train(), 0.7, 64
    ids = torch.randint(V, (n, BLOCK), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for p in vae.posterior.parameters():  # a collapsed posterior but for what the norm keeps
            p.mul_(0.1)
        for beta in (0.0, 0.5):
            for bn in vae.bn:
                bn.bias.fill_(beta)
            features = vae.encode(ids[:, 1:], torch.full((n,), BLOCK - 1))
            kl = vae.infer(features, normal(n, Z)).kl.mean(0)
            bound = (gamma**2 + beta**2) / 2
            assert (kl > bound * 0.98).all()  # the norm's epsilon takes a little
            assert kl.sum().item() == pytest.approx(Z * bound, rel=0.02)


def test_batch_norm_of_one_batch_and_of_running_statistics():
    bn, x = ScaledBatchNorm(4, 0.5), normal(256, 4) * 3 + 2
    theirs = torch.nn.BatchNorm1d(4)
    torch.nn.init.constant_(theirs.weight, 0.5)
    y = bn(x)
    torch.testing.assert_close(y, theirs(x))
    torch.testing.assert_close(y.std(0, unbiased=False), torch.full((4,), 0.5))
    torch.testing.assert_close(y.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    for _ in range(100):
        bn(x)
    bn.eval()
    # in eval mode a row's result does not depend on the others
    torch.testing.assert_close(bn(x[:1]), bn(x)[:1])
    expected = 0.5 * (x - x.mean(0)) / x.std(0)
    torch.testing.assert_close(bn(x), expected, rtol=1e-3, atol=1e-3)
    # a batch of one row while training has no spread of its own
    torch.testing.assert_close(bn.train()(x[:1]), expected[:1], rtol=1e-3, atol=1e-3)
    assert [name for name, _ in bn.named_parameters()] == ["bias"]


def test_whitening_batch_norm_takes_out_correlations():
    mix = torch.tensor([[2.0, 0, 0], [-1, 0.1, 0], [1, 1, 0.5]])
    bn, x = ScaledBatchNorm(3, 0.5, whiten=True), normal(256, 3) @ mix.T + 7
    y = bn(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.T.cov(correction=0), 0.25 * torch.eye(3), atol=2e-3, rtol=0)
    # No entry is mixed into those before it, and none turns its sign.
    assert torch.corrcoef(torch.stack([y[:, 0], x[:, 0]]))[0, 1] > 0.999
    # In eval mode a row's result does not depend on the others; what was seen of batches comes to the same.
    for _ in range(200):
        bn(x)
    bn.eval()
    torch.testing.assert_close(bn(x[:1]), bn(x)[:1])
    torch.testing.assert_close(bn(x), y.detach(), rtol=1e-3, atol=2e-3)
    fitted = ScaledBatchNorm(3, 0.5, whiten=True)
    fitted.fit(x)
    torch.testing.assert_close(fitted.eval()(x), y.detach(), rtol=1e-3, atol=1e-3)
    # Three rows of three entries lie on a plane: they are judged by what was seen before.
    torch.testing.assert_close(bn.train()(x[:3]), y[:3].detach(), rtol=1e-3, atol=2e-3)


def test_whitening_batch_norm_takes_entries_that_are_copies():
    x = normal(64, 2).repeat(1, 8) + 3
    bn = ScaledBatchNorm(16, 0.5, whiten=True)
    bn.fit(x)
    for y in (bn(x), bn.eval()(x)):
        assert y.isfinite().all()
        assert y.abs().max() < 4
        torch.testing.assert_close(y[:, :2].T.cov(correction=0), 0.25 * torch.eye(2), atol=1e-3, rtol=0)
    constant = torch.ones(64, 3)
    assert ScaledBatchNorm(3, 0.5, whiten=True)(constant).abs().max() < 1e-3


def test_whitening_batch_norm_keeps_what_is_left_of_all_but_copies():
    """Else the KL could be had below its bound by entries that are nearly the same."""
    x = normal(64, 2) @ torch.tensor([[1.0, 1.0], [0.0, 1e-3]])
    bn = ScaledBatchNorm(2, 0.5, whiten=True)
    bn.fit(x)
    for y in (bn(x), bn.eval()(x)):
        torch.testing.assert_close(y.T.cov(correction=0), 0.25 * torch.eye(2), atol=1e-3, rtol=0)


def test_whitening_batch_norm_has_the_right_gradient():
    bn = ScaledBatchNorm(3, 0.5, whiten=True).double()
    x = normal(8, 3).double().requires_grad_()
    torch.autograd.gradcheck(lambda x: bn(x).sin(), x, atol=1e-4)


def test_batch_norm_norms_each_dimension_of_each_group_alone():
    vae = build("layerwise", bn_gamma=0.5).train()
    ids = torch.randint(V, (64, BLOCK), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        drawn = vae.infer(vae.encode(ids[:, 1:], torch.full((64,), BLOCK - 1)), torch.zeros(64, Z))
    moved = (drawn.mu - drawn.prior_mu) / (drawn.prior_logvar / 2).exp()
    for g, bn in enumerate(vae.bn):
        own = moved[:, 2 * g : 2 * g + 2] - bn.bias
        torch.testing.assert_close(own.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
        torch.testing.assert_close(own.std(0, unbiased=False), torch.full((2,), 0.5), rtol=0.02, atol=0)
        assert bn.running_mean.abs().max() > 0


def test_latent_is_computed_in_full_precision_under_autocast():
    vae, ids = build("layerwise"), rows()
    with torch.no_grad():
        features, noise = encoded(vae, ids), normal(3, Z)
        exact = vae.infer(features, noise)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            drawn, z = vae.infer(features, noise), vae.prior(noise)
            assert vae.log_likelihood(ids, LENGTHS, drawn.z).dtype == torch.float32
            low = vae.infer(encoded(vae, ids), noise)
    for got, expected in zip(drawn, exact, strict=True):
        assert torch.equal(got, expected)
    assert torch.equal(z, vae.prior(noise))
    assert low.kl.dtype == torch.float32
    torch.testing.assert_close(low.mu, exact.mu, rtol=0.1, atol=0.1)


def test_buffers_and_latent_generator_travel_with_the_weights():
    vae, other = build(), build()
    assert torch.equal(vae.aggregate_mean, torch.zeros(Z))
    assert torch.equal(vae.aggregate_factor, torch.eye(Z))
    vae.aggregate_mean.fill_(0.5)
    vae.latent_generator, other.latent_generator = torch.nn.Linear(Z, Z), torch.nn.Linear(Z, Z)
    other.load_state_dict(vae.state_dict())
    assert torch.equal(other.aggregate_mean, vae.aggregate_mean)
    assert torch.equal(other.latent_generator.weight, vae.latent_generator.weight)
    assert vae.num_parameters() == build().num_parameters()
    assert (vae.vocab_size, vae.block_size, vae.device) == (V, BLOCK, torch.device("cpu"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"latents": "deep"}, "unknown latents `deep`; choose one of flat, layerwise"),
        ({"injection": "cross"}, "unknown injection `cross`; choose one of embedding, memory, both"),
        ({"latents": "layerwise", "z_size": 8}, "`z_size=8` does not split evenly into the decoder's 3 layers"),
        ({"z_size": 0}, "`z_size=0` must be a whole number of at least 1"),
        ({"bn_gamma": 0.0}, "`bn_gamma=0.0` must be above 0"),
        ({"encoder": TransformerEncoder(V + 1, BLOCK, 1, 2, 8)}, "the encoder knows 14 tokens, the decoder 13"),
        ({"decoder": LSTMGenerator(V, BLOCK, 3, 5, 7), "latents": "layerwise"}, "needs a Transformer decoder"),
        ({"decoder": LSTMGenerator(V, BLOCK, 1, 5, 7)}, "needs an LSTM decoder of `n_extra=6`, not 0"),
        (
            {"decoder": LSTMGenerator(V, BLOCK, 1, 5, 7, n_extra=6), "injection": "memory"},
            "needs an LSTM decoder of `n_extra=0`, not 6",
        ),
    ],
)
def test_bad_settings_are_refused(change, message):
    settings = {
        "encoder": TransformerEncoder(V, BLOCK, 1, 2, 8),
        "decoder": Generator(V, BLOCK, 3, 2, 8),
        "z_size": Z,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        TextVAE(**settings)

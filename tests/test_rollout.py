"""Rollouts: sampling has the model's law; the parallel passes equal step-by-step sampling in value and gradient."""

import pytest
import torch
import torch.nn.functional as F

from textgan.models.discriminator import TransformerCritic
from textgan.models.generator import Generator
from textgan.models.transformer import embed_tokens
from textgan.ops import parts
from textgan.ops.relaxation import ESTIMATORS, FEEDBACK, HARD, conditional_gumbel, gumbel_noise
from textgan.ops.relaxed_tokens import RelaxedTokens
from textgan.sampling.rollout import rollout, sample_ids, sample_soft, sequential_rollout

V, T, B, EOS = 11, 7, 5, 0
HARD_FEEDBACK = [name for name, kind in FEEDBACK.items() if kind == "hard"]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def model(vocab=V, block=T, seed=0, scale=0.4, eos_bias=0.0):
    torch.manual_seed(seed)
    g = Generator(vocab, block, 2, 2, 8, dropout=0.2)
    with torch.no_grad():
        for p in g.parameters():
            p.add_(torch.randn_like(p) * scale)
        g.logit_bias[EOS] = eos_bias
    return g.eval()


def vectors(out):
    """The relaxed vectors (B, T, V) of a rollout as a tensor."""
    return out.tokens.vectors() if isinstance(out.tokens, RelaxedTokens) else out.tokens


def gradients(generator, out, seed=7):
    """Gradients of a nonlinear function of the relaxed vectors, in which later positions meet earlier ones."""
    w = torch.randn(V, 4, generator=rng(seed))
    h = embed_tokens(out.tokens, w).cumsum(dim=1)
    mask = torch.arange(h.size(1)) < out.lengths[:, None]
    loss = ((h * h.roll(1, dims=-1)).tanh() * mask[..., None]).sum()
    return loss.item(), torch.autograd.grad(loss, tuple(generator.parameters()), allow_unused=True)


def assert_same_gradients(a, b, tolerance=1e-4):
    for x, y in zip(a, b, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            scale = max(x.abs().max().item(), 1e-3)
            torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance * scale)


def differ(a, b):
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True) if x is not None)


# --- sampling ids --------------------------------------------------------------------------------------------


def test_sampled_texts_have_the_models_law():
    """Every text of at most two tokens over three words, counted, against its probability."""
    g = model(vocab=3, block=2, eos_bias=0.3)
    n = 30000
    ids, lengths = sample_ids(g, n, 2, eos_id=EOS, rng=rng())
    assert ids.shape == (n, 2)
    with torch.no_grad():
        first = torch.softmax(g(torch.tensor([[EOS]]))[0, 0], 0)
        second = torch.softmax(g(torch.tensor([[EOS, w] for w in range(3)]))[:, 1], 1)
    expected = {(EOS, EOS): first[EOS].item()}
    expected |= {(a, b): (first[a] * second[a, b]).item() for a in (1, 2) for b in range(3)}
    assert sum(expected.values()) == pytest.approx(1, abs=1e-5)
    chi2 = 0.0
    for (a, b), p in expected.items():
        count = ((ids[:, 0] == a) & (ids[:, 1] == b)).sum().item()
        chi2 += (count - n * p) ** 2 / (n * p)
    assert chi2 < 26  # six degrees of freedom: 0.02 % above
    assert torch.equal(lengths, torch.where(ids[:, 0] == EOS, 1, 2))


def test_sampled_texts_end_at_eos():
    g = model(vocab=V, block=24, eos_bias=1.0)
    ids, lengths = sample_ids(g, 64, 24, eos_id=EOS, rng=rng())
    assert ids.size(1) == lengths.max()
    for row, n in zip(ids.tolist(), lengths.tolist(), strict=True):
        assert EOS not in row[: n - 1]
        assert n == 24 or row[n - 1] == EOS
        assert set(row[n:]) <= {EOS}
    assert lengths.unique().numel() > 5


def test_leaving_out_finished_rows_and_stopping_early_change_nothing():
    """Against the plainest loop: whole prefixes, no cache, nothing left out."""
    g, n, longest = model(block=24, eos_bias=1.5), 40, 24
    ids, lengths = sample_ids(g, n, longest, eos_id=EOS, rng=rng(3))
    assert (lengths <= 8).sum() > n // 2  # so rows are left out at step 8
    assert (lengths > 9).any()
    uniform = torch.rand(n, longest, generator=rng(3))
    read, done = torch.full((n, 1), EOS), torch.zeros(n, dtype=torch.bool)
    with torch.no_grad():
        for t in range(longest):
            cdf = torch.softmax(g(read)[:, -1], -1).cumsum(-1)
            new = (cdf <= uniform[:, t, None]).sum(-1).clamp(max=V - 1).masked_fill(done, EOS)
            done |= new == EOS
            read = torch.cat([read, new[:, None]], dim=1)
    assert torch.equal(read[:, 1:][:, : ids.size(1)], ids)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_no_token_of_probability_zero_is_drawn(uniform, monkeypatch):
    for seed in range(20):  # sums of the distribution function a little below and above one
        g = model(vocab=300, seed=seed, scale=0.2)
        g.logit_bias[[0, 1, 298, 299]] = -1e4
        monkeypatch.setattr(torch, "rand", lambda *size, **kw: torch.full(size, uniform))
        ids, _ = sample_ids(g, B, T, eos_id=EOS, rng=rng())
        monkeypatch.undo()
        assert 2 <= ids.min() <= ids.max() <= 297


def test_sampling_uses_its_generator_only_and_the_same_amount_of_it():
    g = model(block=24, eos_bias=1.0)
    state = torch.get_rng_state()
    a, b = rng(1), rng(1)
    first = sample_ids(g, 16, 24, eos_id=EOS, rng=a)[0]
    g.logit_bias[EOS] = 30.0  # all texts end at once: no further steps, but the same draws
    assert sample_ids(g, 16, 24, eos_id=EOS, rng=b)[0].shape == (16, 1)
    assert torch.equal(a.get_state(), b.get_state())
    assert torch.equal(state, torch.get_rng_state())
    g.logit_bias[EOS] = 1.0
    assert torch.equal(sample_ids(g, 16, 24, eos_id=EOS, rng=rng(1))[0], first)


def test_max_len_above_the_block_size_is_refused():
    with pytest.raises(ValueError, match="`max_len=8` is above"):
        sample_ids(model(), 2, T + 1, eos_id=EOS, rng=rng())


# --- hard feedback -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", HARD_FEEDBACK)
def test_parallel_equals_sequential_with_hard_feedback(estimator):
    g, tau = model(eos_bias=0.5), 0.8
    with torch.no_grad():
        noise = gumbel_noise((B, T, V), generator=rng(4), device="cpu")
        drawn = sequential_rollout(g, noise, eos_id=EOS, estimator="straight_through", tau=tau)
        assert drawn.lengths.unique().numel() > 1

        # the noise that the parallel pass draws for its real positions, packed row by row: so few rows are one part
        mask, source = torch.arange(T) < drawn.lengths[:, None], rng(8)
        logits, ids = g(drawn.inputs)[mask], drawn.ids[mask]
        noise = torch.zeros(8 if estimator == "gumbel_rao" else 1, B, T, V)
        for draw in noise:
            draw[mask] = conditional_gumbel(logits, ids, generator=source)
        noise = noise if estimator == "gumbel_rao" else noise[0]
    one = sequential_rollout(g, noise, eos_id=EOS, estimator=estimator, tau=tau, ids=drawn.ids)
    two = rollout(g, drawn.ids, drawn.lengths, eos_id=EOS, estimator=estimator, tau=tau, rng=rng(8))

    assert torch.equal(one.ids, two.ids)
    assert torch.equal(one.lengths, two.lengths)
    torch.testing.assert_close(vectors(one), vectors(two), rtol=1e-4, atol=1e-5)
    (value_1, grad_1), (value_2, grad_2) = gradients(g, one), gradients(g, two)
    assert value_1 == pytest.approx(value_2, rel=1e-4)
    assert max(x.abs().max().item() for x in grad_1) > 0.01
    assert_same_gradients(grad_1, grad_2)


@pytest.mark.parametrize("estimator", HARD_FEEDBACK)
def test_hard_rollout_of_sampled_ids(estimator):
    g = model(eos_bias=1.0)
    ids, lengths = sample_ids(g, 16, T, eos_id=EOS, rng=rng(2))
    out = rollout(g, ids, lengths, eos_id=EOS, estimator=estimator, tau=0.5, rng=rng(3))
    mask = torch.arange(ids.size(1)) < lengths[:, None]
    assert not mask.all()
    assert torch.equal(out.ids, ids)
    tokens = vectors(out)
    assert torch.equal(tokens.argmax(-1)[mask], ids[mask])
    if estimator in HARD:
        assert torch.equal(tokens, F.one_hot(ids, V).float() * mask[..., None])
    assert (tokens[~mask] == 0).all()


@pytest.mark.parametrize("estimator", ["gapped", "reinmax"])
def test_parts_of_like_length_change_nothing(estimator, monkeypatch):
    """Value and gradient through a critic, which reads in parts too, against all rows at once."""
    g = model(eos_bias=1.0)
    ids, lengths = sample_ids(g, 40, T, eos_id=EOS, rng=rng(2))
    critic = TransformerCritic(V, T, 1, 2, 8, dropout=0.0).eval()
    found = []
    for worth_it, pieces in ((0.0, 1), (0.9, 3)):
        monkeypatch.setattr(parts, "WORTH_IT", worth_it)
        assert len(parts.like_lengths(lengths)) == pieces
        out = rollout(g, ids, lengths, eos_id=EOS, estimator=estimator, tau=1.0, rng=rng(3))
        scores = critic(out.tokens, out.lengths)
        value = (scores.sequence * torch.arange(40)).sum() + (scores.tokens * torch.arange(T)[: ids.size(1)]).sum()
        found.append((scores, torch.autograd.grad(value, list(g.parameters()))))
    torch.testing.assert_close(found[0][0].sequence, found[1][0].sequence)
    torch.testing.assert_close(found[0][0].tokens, found[1][0].tokens)
    assert_same_gradients(found[0][1], found[1][1])


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
def test_no_gradient_comes_from_past_the_end(estimator):
    """Neither through the relaxed vectors nor through a critic, whatever it is asked."""
    g = model(eos_bias=1.0)
    ids, lengths = sample_ids(g, 16, T, eos_id=EOS, rng=rng(2))
    states = []
    g.ln_f.register_forward_hook(lambda module, inputs, output: states.append(output))
    out = rollout(g, ids, lengths, eos_id=EOS, estimator=estimator, tau=0.5, rng=rng(3), hops=0)
    mask = torch.arange(out.ids.size(1)) < out.lengths[:, None]
    assert not mask.all()
    critic = TransformerCritic(V, T, 1, 2, 8, dropout=0.0).eval()
    scores = critic(out.tokens, out.lengths)
    tokens = vectors(out)
    for value in (
        (tokens * torch.randn(tokens.shape, generator=rng())).sum(),
        scores.sequence.sum() + scores.tokens.sum(),
    ):
        (found,) = torch.autograd.grad(value, states[-1], retain_graph=True)
        assert (found[~mask] == 0).all()
        assert (found[mask].abs().amax(dim=-1) > 0).all()


def test_rollout_reads_its_own_generator_only():
    g = model()
    ids, lengths = sample_ids(g, 4, T, eos_id=EOS, rng=rng(2))
    state = torch.get_rng_state()
    kw = {"eos_id": EOS, "estimator": "relgan", "tau": 0.5}
    a, b, c = (vectors(rollout(g, ids, lengths, rng=rng(s), **kw)) for s in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(state, torch.get_rng_state())


# --- soft feedback -------------------------------------------------------------------------------------------


def soft_pair(hops, tau=0.7):
    g = model(eos_bias=-1.0)
    noise = gumbel_noise((B, T, V), generator=rng(4), device="cpu")
    sequential = sequential_rollout(g, noise, eos_id=EOS, estimator="soft", tau=tau)
    sample = sample_soft(g, B, T, eos_id=EOS, tau=tau, rng=rng(4))  # the same noise
    parallel = rollout(
        g, sample.ids, sample.lengths, eos_id=EOS, estimator="soft", tau=tau, rng=rng(), hops=hops, sample=sample
    )
    return g, sequential, sample, parallel


def test_soft_values_are_the_same_in_sampling_and_every_pass():
    for hops in (0, 2):
        _, sequential, sample, parallel = soft_pair(hops)
        n = sample.ids.size(1)
        for out in (sample, parallel):
            assert torch.equal(out.ids, sequential.ids[:, :n])
            assert torch.equal(out.lengths, sequential.lengths)
            torch.testing.assert_close(out.tokens, sequential.tokens[:, :n], rtol=1e-4, atol=1e-5)


def test_soft_gradient_with_enough_hops_is_the_whole_gradient():
    g, sequential, _, parallel = soft_pair(hops=T)
    value, whole = gradients(g, sequential)
    value_2, got = gradients(g, parallel)
    assert value == pytest.approx(value_2, rel=1e-4)
    assert_same_gradients(whole, got)


def test_each_hop_comes_closer_to_the_whole_gradient():
    found = []
    for hops in (0, 1, T - 1):
        g, sequential, _, parallel = soft_pair(hops)
        found.append(differ(gradients(g, sequential)[1], gradients(g, parallel)[1]))
    assert found[0] > found[1] > 10 * found[2]


def test_one_hop_of_soft_feedback_is_truncated_backpropagation():
    """Against step-by-step feedback that is cut one position back."""
    g, tau = model(eos_bias=-20.0), 0.7
    noise = gumbel_noise((B, T, V), generator=rng(4), device="cpu")
    sample = sample_soft(g, B, T, eos_id=EOS, tau=tau, rng=rng(4))
    out = rollout(
        g, sample.ids, sample.lengths, eos_id=EOS, estimator="soft", tau=tau, rng=rng(), hops=1, sample=sample
    )
    opening = F.one_hot(torch.full((B, 1), EOS), V).float()
    stored = torch.cat([opening, sample.tokens[:, :-1]], dim=1)
    tokens = []
    for t in range(T):
        # y_j for j < t from what was stored, with gradient; then y_t from those
        before = torch.softmax((g(stored[:, :t]) + noise[:, :t]) / tau, -1) if t else stored[:, :0]
        logits = g(torch.cat([opening, before], dim=1))[:, -1]
        tokens.append(torch.softmax((logits + noise[:, t]) / tau, dim=-1))
    expected = out._replace(tokens=torch.stack(tokens, dim=1))
    assert_same_gradients(gradients(g, expected)[1], gradients(g, out)[1])


def test_soft_rollout_draws_its_own_sample():
    g = model(eos_bias=-1.0)
    ids, lengths = sample_ids(g, B, T, eos_id=EOS, rng=rng(1))
    kw = {"eos_id": EOS, "estimator": "soft", "tau": 0.5}
    own = rollout(g, ids, lengths, rng=rng(4), **kw)
    sample = sample_soft(g, *ids.shape, eos_id=EOS, tau=0.5, rng=rng(4))
    given = rollout(g, ids, lengths, rng=rng(9), sample=sample, **kw)
    assert torch.equal(own.ids, given.ids)
    assert torch.equal(own.tokens, given.tokens)


def test_soft_samples_end_at_eos_and_are_zero_past_it():
    g = model(block=24, eos_bias=1.0)
    s = sample_soft(g, 32, 24, eos_id=EOS, tau=0.5, rng=rng(1))
    mask = torch.arange(s.ids.size(1)) < s.lengths[:, None]
    assert s.ids.size(1) == s.lengths.max() == s.noise.size(1)
    assert (s.ids[~mask] == EOS).all()
    assert (s.tokens[~mask] == 0).all()
    assert torch.equal(s.tokens.argmax(-1)[mask], s.ids[mask])
    ends = s.ids.gather(1, (s.lengths - 1)[:, None])[:, 0]
    assert ((ends == EOS) | (s.lengths == 24)).all()
    assert ((s.ids == EOS) & mask).sum(1).max() <= 1


# --- both ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["straight_through", "reinmax", "soft"])
def test_rollout_under_bfloat16_autocast(estimator):
    g = model(eos_bias=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ids, lengths = sample_ids(g, 8, T, eos_id=EOS, rng=rng(1))
        out = rollout(g, ids, lengths, eos_id=EOS, estimator=estimator, tau=0.8, rng=rng(2))
    tokens = vectors(out)
    assert tokens.dtype == torch.float32
    tokens.square().cumsum(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in g.parameters())


def test_training_the_generator_through_a_rollout_raises_its_score():
    """A fixed loss, the share of word 3, falls by straight-through gradients from sampled texts."""
    g = model(scale=0.05)
    optimizer = torch.optim.Adam(g.parameters(), lr=0.02)
    share, source = [], rng(0)
    for _ in range(25):
        ids, lengths = sample_ids(g, 64, T, eos_id=EOS, rng=source)
        out = rollout(g, ids, lengths, eos_id=EOS, estimator="straight_through", tau=1.0, rng=source)
        share.append((ids == 3).float().mean().item())
        optimizer.zero_grad()
        (-vectors(out)[..., 3].mean()).backward()
        optimizer.step()
    assert share[-1] > share[0] + 0.3


def test_bad_requests_are_refused():
    g = model()
    ids, lengths = sample_ids(g, 2, T, eos_id=EOS, rng=rng())
    with pytest.raises(ValueError, match="unknown estimator `hard`; choose one of soft, relgan"):
        rollout(g, ids, lengths, eos_id=EOS, estimator="hard", tau=1.0, rng=rng())
    with pytest.raises(ValueError, match="`gapped` feeds back hard tokens"):
        rollout(g, ids, lengths, eos_id=EOS, estimator="gapped", tau=1.0, rng=rng(), hops=1)

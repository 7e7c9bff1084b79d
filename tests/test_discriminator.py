"""The critics: ids equal one-hots, nothing past a text's end matters, second derivatives exist."""

import pytest
import torch
import torch.nn.functional as F

from textgan.models.discriminator import DISCRIMINATORS, CNNCritic, TransformerCritic
from textgan.models.transformer import differentiable_twice

V, BLOCK = 19, 9
LENGTHS = torch.tensor([9, 4, 1, 2])


def critic(kind, spectral_norm=False, dropout=0.0, seed=0):
    torch.manual_seed(seed)
    if kind == "transformer":
        c = TransformerCritic(V, BLOCK, 2, 2, 8, dropout=dropout, spectral_norm=spectral_norm)
    else:
        c = CNNCritic(V, BLOCK, 8, 4, 6, dropout=dropout, spectral_norm=spectral_norm)
    if not spectral_norm:
        with torch.no_grad():
            for p in c.parameters():
                p.add_(torch.randn_like(p) * 0.3)
    return c.eval()


def ids(B=4, T=BLOCK, seed=1):
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))


kinds = pytest.mark.parametrize("kind", sorted(DISCRIMINATORS))


@kinds
def test_ids_equal_one_hot_vectors(kind):
    c, tokens = critic(kind), ids()
    hard, soft = c(tokens, LENGTHS), c(F.one_hot(tokens, V).float(), LENGTHS)
    assert hard.sequence.shape == (4,)
    assert hard.sequence.std() > 0.05
    torch.testing.assert_close(soft.sequence, hard.sequence, rtol=1e-5, atol=1e-5)
    if kind == "transformer":
        assert hard.tokens.shape == (4, BLOCK)
        torch.testing.assert_close(soft.tokens, hard.tokens, rtol=1e-5, atol=1e-5)
    else:
        assert hard.tokens is None


@kinds
def test_what_follows_the_end_changes_nothing(kind):
    c = critic(kind)
    past = torch.arange(BLOCK) >= LENGTHS[:, None]
    first, other = ids(), torch.where(past, ids(seed=5), ids())
    assert not torch.equal(first, other)
    a, b = c(first, LENGTHS), c(other, LENGTHS)
    assert torch.equal(a.sequence, b.sequence)
    broken = c.embed(first).masked_fill(past[..., None], float("nan"))
    assert torch.equal(c.score(broken, LENGTHS).sequence, a.sequence)
    if a.tokens is not None:
        assert torch.equal(a.tokens, b.tokens)
        assert (a.tokens[past] == 0).all()
        assert (a.tokens[~past] != 0).all()


@kinds
def test_what_is_in_the_text_matters_and_nothing_else_by_gradient(kind):
    c = critic(kind)
    past = torch.arange(BLOCK) >= LENGTHS[:, None]
    embeddings = c.embed(ids()).detach().requires_grad_()
    out = c.score(embeddings, LENGTHS)
    total = out.sequence.sum() + (0 if out.tokens is None else out.tokens.square().sum())
    (grad,) = torch.autograd.grad(total, embeddings)
    size = grad.abs().amax(dim=-1)
    assert (size[past] == 0).all()
    if kind == "transformer":
        assert (size[~past] > 0).all()
    else:  # a maximum over time looks at some columns only, but at some in every text
        assert (size.amax(dim=1) > 0).all()


@kinds
def test_padding_to_another_width_changes_nothing(kind):
    """A text alone, without a padding column (shorter than the widest kernel), scores as in the batch."""
    c, tokens = critic(kind), ids()
    batch = c(tokens, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = c(tokens[row : row + 1, :length], LENGTHS[row : row + 1])
        torch.testing.assert_close(alone.sequence[0], batch.sequence[row], rtol=1e-5, atol=1e-5)
        if batch.tokens is not None:
            torch.testing.assert_close(alone.tokens[0], batch.tokens[row, :length], rtol=1e-5, atol=1e-5)


def test_cnn_equals_a_window_by_window_count():
    """The convolution path against loops over representations, windows and rows."""
    c, tokens = critic("cnn"), ids()
    embedded = c.embed(tokens)
    for row, length in enumerate(LENGTHS.tolist()):
        scores = []
        for s in range(4):
            x = F.pad(embedded[row, :length, 2 * s : 2 * s + 2], (0, 0, 0, 4))
            features = []
            for conv, width in zip(c.convs, (2, 3, 4, 5), strict=True):
                windows = torch.stack([x[t : t + width].T for t in range(length)])
                features.append(torch.einsum("tcw,ocw->to", windows, conv.weight).amax(0) + conv.bias)
            f = torch.cat(features).relu()
            gate, new = c.highway(f).chunk(2)
            f = gate.sigmoid() * new.relu() + (1 - gate.sigmoid()) * f
            scores.append(c.head(f))
        expected = torch.stack(scores).mean()
        torch.testing.assert_close(c(tokens, LENGTHS).sequence[row], expected, rtol=1e-5, atol=1e-5)


def test_transformer_looks_both_ways_and_pooling_starts_as_the_mean():
    c = TransformerCritic(V, BLOCK, 1, 2, 8, dropout=0.0).eval()
    states = []
    c.ln_f.register_forward_hook(lambda module, args, out: states.append(out))
    embeddings = c.embed(ids()).detach().requires_grad_()
    out = c.score(embeddings, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        mean = c.sequence_head(states[0][row, :length].mean(dim=0))[0]
        torch.testing.assert_close(out.sequence[row], mean, rtol=1e-5, atol=1e-6)
    (grad,) = torch.autograd.grad(out.tokens[0, 0], embeddings)
    assert grad[0, 8].abs().max() > 0
    assert grad[1:].abs().max() == 0


@kinds
@differentiable_twice()
def test_second_derivatives_exist_and_are_right(kind):
    c = critic(kind).double()
    tokens, lengths = ids(2, 4), torch.tensor([4, 2])
    embeddings = c.embed(tokens).detach().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda e: c.score(e, lengths).sequence, (embeddings,), atol=1e-4)


@kinds
def test_spectral_norm_bounds_every_linear_map(kind):
    c = critic(kind, spectral_norm=True).train()
    for _ in range(60):  # power iteration goes on at each forward pass
        c(ids(), LENGTHS)
    c.eval()
    maps = [m for m in c.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv1d)]
    assert len(maps) == {"transformer": 2 * 4 + 2, "cnn": 4 + 2}[kind]
    for m in maps:
        largest = torch.linalg.svdvals(m.weight.detach().flatten(1))[0].item()
        assert largest == pytest.approx(1.0, abs=0.05)
    state = {k: v.clone() for k, v in c.state_dict().items()}
    again = critic(kind, spectral_norm=True, seed=9)
    again.load_state_dict(state)
    assert torch.equal(again(ids(), LENGTHS).sequence, c(ids(), LENGTHS).sequence)


@kinds
def test_learns_to_tell_two_kinds_of_text_apart(kind):
    c = critic(kind, dropout=0.1).train()
    optimizer = torch.optim.Adam(c.parameters(), lr=0.01)
    rng = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, BLOCK + 1, (64,), generator=rng)
    real = torch.randint(V, (64, BLOCK), generator=rng)
    fake = real.clone()
    fake[:, 1] = fake[:, 0]  # a repeated first word
    real[:, 1] = (real[:, 0] + 1 + torch.randint(V - 1, (64,), generator=rng)) % V
    for _ in range(400):
        loss = F.softplus(c(fake, lengths).sequence).mean() + F.softplus(-c(real, lengths).sequence).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    c.eval()
    right = (c(real, lengths).sequence > 0).float().mean() + (c(fake, lengths).sequence < 0).float().mean()
    assert right / 2 > 0.9


@kinds
def test_works_under_bfloat16_autocast(kind):
    c, tokens = critic(kind), ids()
    exact = c(tokens, LENGTHS).sequence
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = c(F.one_hot(tokens, V).float(), LENGTHS).sequence
    torch.testing.assert_close(low.float(), exact, rtol=0.1, atol=0.2)


@pytest.mark.parametrize(
    "build, message",
    [
        (
            lambda: TransformerCritic(V, BLOCK, 1, 3, 8),
            "`n_embd=8` is not divisible by `n_head=3`; try 6 or 9",
        ),
        (lambda: CNNCritic(V, BLOCK, 8, 3, 4), "`n_embd=8` is not divisible by `n_representations=3`"),
        (lambda: CNNCritic(V, BLOCK, 8, 2, 4, widths=()), "at least one kernel width"),
        (lambda: CNNCritic(V, BLOCK, 8, 2, 4, widths=(2, 0)), "`widths=0` must be a whole number"),
        (lambda: CNNCritic(V, BLOCK, 8, 2, 4, dropout=-0.1), "`dropout=-0.1` must be at least 0"),
        (lambda: critic("cnn")(ids(1, BLOCK + 1), torch.tensor([BLOCK + 1])), "10 columns, but `block_size=9`"),
    ],
)
def test_bad_values_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()

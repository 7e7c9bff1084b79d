"""What the loops minimise, against torch.distributions and hand-worked critics."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical, kl_divergence

from textgan.configphases import Adversarial
from textgan.data.dataset import Batch
from textgan.models.discriminator import Critique
from textgan.models.encoder import TransformerEncoder
from textgan.models.generator import Generator
from textgan.models.vae import TextVAE
from textgan.ops import parts
from textgan.training.objectives import (
    critic_penalty,
    gan_loss,
    kl_to_parent,
    mle_loss,
    reconstruct,
    split,
    text_entropy,
)

IDS = torch.tensor([[0, 1, 2, 3, 0], [0, 4, 0, 0, 0], [0, 2, 2, 0, 0]])
BATCH = Batch(IDS, torch.tensor([4, 2, 3]))
REAL = [(b, t) for b, n in enumerate([4, 2, 3]) for t in range(n)]


def generator(seed):
    torch.manual_seed(seed)
    model = Generator(5, 6, 1, 2, 8, dropout=0.0)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    return model


def test_mle_loss_is_the_sum_over_real_tokens_over_the_constant():
    model = generator(0)
    law = Categorical(logits=model(IDS[:, :-1]))
    nll = -law.log_prob(IDS[:, 1:])
    expected = sum(nll[b, t] for b, t in REAL) / 7.0
    torch.testing.assert_close(mle_loss(model, BATCH, 7.0), expected)
    parts = sum(mle_loss(model, part, 7.0) for part in split(BATCH, 2))
    torch.testing.assert_close(parts, expected)


@pytest.mark.parametrize("rows", [1, 2, 16])
def test_texts_are_written_anew_as_each_alone(monkeypatch, rows):
    """In parts of like length, with words dropped: the same posteriors in the same order, the same likelihood."""
    torch.manual_seed(3)
    vae = TextVAE(TransformerEncoder(5, 6, 1, 2, 8, dropout=0.0), generator(0), 4)
    for parameter in vae.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    noise, inputs = torch.randn(3, 4), torch.where(torch.arange(4) == 1, 3, BATCH.inputs)
    monkeypatch.setattr(parts, "ROWS", rows)
    monkeypatch.setattr(parts, "WORTH_IT", 1.0)
    inference, recon = reconstruct(vae, BATCH, noise, inputs)
    expected = 0.0
    for b, n in enumerate([4, 2, 3]):
        alone = vae.infer(vae.encode(IDS[b : b + 1, 1 : n + 1], torch.tensor([n])), noise[b : b + 1])
        for ours, theirs in zip(inference, alone, strict=True):
            torch.testing.assert_close(ours[b : b + 1], theirs)
        logits = vae.decoder(inputs[b : b + 1, :n], condition=vae.condition(alone.z))
        expected += F.cross_entropy(logits[0], IDS[b, 1 : n + 1], reduction="sum")
    torch.testing.assert_close(recon, expected)


def test_kl_is_from_the_parent_to_the_generator_on_real_positions():
    own, parent = generator(0), generator(1)
    kl = kl_divergence(*(Categorical(logits=model(IDS[:, :-1])) for model in (parent, own)))
    found = kl_to_parent(own, parent, BATCH)
    torch.testing.assert_close(found, sum(kl[b, t] for b, t in REAL))
    found.backward()
    assert all(p.grad is None for p in parent.parameters())
    assert own.wte.weight.grad is not None


def test_text_entropy_counts_real_positions_only():
    model = generator(0)
    entropy = Categorical(logits=model(BATCH.inputs)).entropy()
    expected = torch.stack([sum(entropy[b, t] for b, t in REAL if b == row) for row in range(3)])
    torch.testing.assert_close(text_entropy(model, BATCH.inputs, BATCH.lengths), expected)


def test_split_keeps_the_order_and_every_text():
    parts = split(BATCH, 2)
    assert [len(part.lengths) for part in parts] == [2, 1]
    assert torch.equal(torch.cat([part.ids for part in parts]), IDS)
    assert torch.equal(torch.cat([part.lengths for part in parts]), BATCH.lengths)


def critique(sequence, tokens):
    return Critique(torch.tensor(sequence), torch.tensor(tokens))


def test_token_scores_count_where_texts_are_and_rsgan_where_both_are():
    real = critique([1.0, 2.0], [[1.0, 2.0, 9.0], [3.0, 4.0, 5.0]])
    fake = critique([0.5, -1.0], [[0.0, 1.0], [2.0, 9.0]])
    lengths = (torch.tensor([2, 3]), torch.tensor([2, 1]))
    wasserstein = Adversarial(loss="wasserstein", token_weight=2.0)
    expected = (-0.25 - 1.5) + 2.0 * (1.0 - 3.0)  # means of fake minus real: texts, then the 3 and 5 tokens
    assert gan_loss("discriminator", wasserstein, real, fake, *lengths).item() == pytest.approx(expected)
    assert gan_loss("generator", wasserstein, real, fake, *lengths).item() == pytest.approx(0.25 + 2.0 * -1.0)
    rsgan = Adversarial(loss="rsgan", token_weight=2.0)
    texts, tokens = torch.tensor([0.5, 3.0]), torch.tensor([1.0, 1.0, 1.0])  # real minus fake where both reach
    for side, sign in (("discriminator", -1), ("generator", 1)):
        expected = F.softplus(sign * texts).mean() + 2.0 * F.softplus(sign * tokens).mean()
        torch.testing.assert_close(gan_loss(side, rsgan, real, fake, *lengths), expected)
    alone = Adversarial(loss="rsgan")
    torch.testing.assert_close(gan_loss("generator", alone, real, fake, *lengths), F.softplus(texts).mean())


class Sums(nn.Module):
    """A critic whose score is the sum over real columns of w . e, or of (w . e)^2: its gradient is known by hand."""

    def __init__(self, power):
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
        self.w = nn.Parameter(torch.tensor([1.0, 2.0, -2.0]))  # of norm 3
        self.power = power

    def embed(self, ids):
        return self.table[ids]

    def score(self, embedded, lengths):
        mask = torch.arange(embedded.shape[1]) < lengths[:, None]
        return SimpleNamespace(sequence=((embedded @ self.w) ** self.power * mask).sum(1))


TEXTS = (torch.tensor([[1, 2, 0], [3, 0, 0]]), torch.tensor([3, 2]))
FAKES = (torch.tensor([[4, 4, 4, 0], [1, 0, 0, 0]]), torch.tensor([4, 1]))


@pytest.mark.parametrize(
    "weights, expected",
    [
        ({"r1": 2.0}, 2.0 / 2 * 9 * (3 + 2) / 2),
        ({"r2": 4.0}, 4.0 / 2 * 9 * (4 + 1) / 2),
        ({"gradient_penalty": 5.0}, 5.0 * ((3 * 4**0.5 - 1) ** 2 + (3 * 2**0.5 - 1) ** 2) / 2),  # the longer of each
        ({"r1": 2.0, "r2": 4.0}, 9 * 2.5 + 18 * 2.5),
    ],
)
def test_penalties_of_a_linear_critic(weights, expected):
    critic = Sums(1)
    found = critic_penalty(Adversarial(**weights), critic, TEXTS, FAKES, (0,))
    assert found.item() == pytest.approx(expected, rel=1e-5)
    found.backward()
    assert critic.w.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["r1", "r2", "gradient_penalty"])
def test_penalties_do_not_see_what_follows_the_end(name):
    critic, settings = Sums(2), Adversarial(**{name: 1.0})
    wider = [(F.pad(ids, (0, 3), value=0), lengths) for ids, lengths in (TEXTS, FAKES)]
    other = [
        (torch.where(torch.arange(ids.shape[1]) < lengths[:, None], ids, 2), lengths) for ids, lengths in (TEXTS, FAKES)
    ]
    expected = critic_penalty(settings, critic, TEXTS, FAKES, (0,))
    torch.testing.assert_close(critic_penalty(settings, critic, *wider, (0,)), expected)
    torch.testing.assert_close(critic_penalty(settings, critic, *other, (0,)), expected)
    torch.testing.assert_close(critic_penalty(settings, critic, wider[0], FAKES, (0,)), expected)


def test_the_mixing_weights_of_the_gradient_penalty_follow_the_name():
    critic, settings = Sums(2), Adversarial(gradient_penalty=1.0)
    first, again, other = (critic_penalty(settings, critic, TEXTS, FAKES, name).item() for name in ((0,), (0,), (1,)))
    assert first == again != other

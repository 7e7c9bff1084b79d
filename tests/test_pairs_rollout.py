"""Texts that continue given openings: sampled side by side, and with gradient through what was sampled alone."""

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaModel

from textgan.config import Config
from textgan.configadapter import Adapter
from textgan.configphases import Adversarial
from textgan.models.causal_lm import CausalLM
from textgan.models.discriminator import TransformerCritic
from textgan.models.generator import Generator
from textgan.models.lstm import LSTMGenerator
from textgan.ops.relaxation import ESTIMATORS
from textgan.sampling.rollout import rollout, sample_continuations
from textgan.training.building import fit_adapter
from textgan.training.objectives import gan_loss, text_entropy

EOS, V, BLOCK = 0, 5, 12
STARTS = torch.tensor([0, 3, 1, 6, 3, 11])


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def model(kind="transformer"):
    torch.manual_seed(0)
    sizes = {"vocab_size": V, "block_size": BLOCK, "n_layer": 1, "n_embd": 8, "dropout": 0.0}
    if kind == "lstm":
        g = LSTMGenerator(n_hidden=8, **sizes)
    elif kind == "llama":
        shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        g = CausalLM(LlamaModel(LlamaConfig(vocab_size=V, **shape)), None, BLOCK)
    else:
        g = Generator(n_head=2, **sizes)
    if kind in ("prefix", "prompt"):
        fit_adapter(g, Adapter(kind=kind, n_tokens=3))
    with torch.no_grad():
        for p in g.parameters():
            p.add_(torch.randn_like(p) * 0.4)
        if kind != "llama":
            g.logit_bias[EOS] = -0.5
    return g.eval()


def openings():
    return torch.randint(1, V, (len(STARTS), int(STARTS.max())), generator=rng(1))


@pytest.mark.parametrize("kind", ["transformer", "lstm", "llama", "prefix", "prompt"])
def test_continuations_are_those_of_each_opening_by_itself(kind):
    """Against the plainest loop: one text at a time, whole prefixes, no cache, no padding."""
    g, given = model(kind), openings()
    for seed in range(4):
        ids, lengths = sample_continuations(g, given, STARTS, BLOCK, eos_id=EOS, rng=rng(seed))
        uniform = torch.rand(len(STARTS), BLOCK, generator=rng(seed))
        assert ids.size(1) == lengths.max()
        for i, start in enumerate(STARTS.tolist()):
            row = given[i, :start].tolist()
            with torch.no_grad():
                while len(row) < BLOCK and (len(row) == start or row[-1] != EOS):
                    cdf = torch.softmax(g(torch.tensor([[EOS, *row]]))[0, -1], -1).cumsum(-1)
                    row.append(min(int((cdf <= uniform[i, len(row)]).sum()), V - 1))
            assert ids[i, : lengths[i]].tolist() == row
            assert set(ids[i, lengths[i] :].tolist()) <= {EOS}


def test_an_opening_without_room_is_refused():
    with pytest.raises(ValueError, match="leaves no room"):
        sample_continuations(model(), openings(), STARTS + 1, BLOCK, eos_id=EOS, rng=rng())


def critic():
    torch.manual_seed(3)
    net = TransformerCritic(V, BLOCK, 1, 2, 8, dropout=0.0)
    for p in net.parameters():
        p.data.add_(torch.randn_like(p) * 0.3)
    return net


def one_by_one(generator, ids, lengths, starts, estimator, tau):
    """Vectors (B, T, V): one-hots of what was given, then step by step what the estimator makes of the logits."""
    rows = []
    for i, start in enumerate(starts.tolist()):
        vectors = list(F.one_hot(ids[i, :start], V).float())
        for t in range(start, int(lengths[i])):
            logits = generator(torch.tensor([[EOS, *ids[i, :t].tolist()]]))[:, -1]
            vectors.append(ESTIMATORS[estimator](logits, ids[i, t : t + 1], tau=tau, noise=None)[0])
        rows.append(torch.stack([*vectors, *[torch.zeros(V)] * (ids.size(1) - len(vectors))]))
    return torch.stack(rows)


@pytest.mark.parametrize("estimator", ["gapped", "reinmax"])  # those without noise
def test_the_critic_sees_the_pair_and_gradient_passes_through_the_text_alone(estimator):
    g, net, tau = model(), critic(), 1.1
    ids, lengths = sample_continuations(g, openings(), STARTS, BLOCK, eos_id=EOS, rng=rng())
    fake = rollout(g, ids, lengths, eos_id=EOS, estimator=estimator, tau=tau, rng=rng(5), starts=STARTS)
    reference = one_by_one(g, ids, lengths, STARTS, estimator, tau)
    real_positions = torch.arange(ids.size(1)) < lengths[:, None]
    expected = F.one_hot(ids, V).float() * real_positions[..., None]
    torch.testing.assert_close(fake.tokens.vectors(), expected)
    torch.testing.assert_close(reference, expected)
    scores = [net(tokens, lengths) for tokens in (fake.tokens, reference)]
    torch.testing.assert_close(scores[0].sequence, net(ids, lengths).sequence)
    found, wanted = (
        torch.autograd.grad(score.sequence.tanh().sum(), [*g.parameters(), *net.parameters()], allow_unused=True)
        for score in scores
    )
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert any(a is not None and a.abs().max() > 1e-4 for a in found[: len(list(g.parameters()))])


def test_soft_feedback_has_no_openings():
    ids = torch.zeros(1, 3, dtype=torch.long)
    options = {"eos_id": EOS, "estimator": "soft", "tau": 1.0, "rng": rng()}
    with pytest.raises(ValueError, match="`starts` are for hard feedback"):
        rollout(model(), ids, torch.tensor([3]), **options, starts=torch.tensor([1]))


def test_tokens_that_were_given_are_not_scored_one_by_one():
    net, settings = critic(), Adversarial(loss="hinge", token_weight=2.0)
    real, fake = (torch.randint(1, V, (2, 5), generator=rng(k)) for k in (1, 2))
    lengths, starts = (torch.tensor([5, 4]), torch.tensor([4, 3])), torch.tensor([3, 0])
    judged = [net(ids, ends) for ids, ends in zip((real, fake), lengths, strict=True)]
    found = gan_loss("discriminator", settings, *judged, *lengths, starts)

    def hinge(score, sign):
        return F.relu(1 - sign * score)

    own = [
        torch.cat([score.tokens[i, starts[i] : ends[i]] for i in range(2)])
        for score, ends in zip(judged, lengths, strict=True)
    ]
    wanted = sum(hinge(score.sequence, sign).mean() for score, sign in zip(judged, (1, -1), strict=True))
    wanted = wanted + 2.0 * sum(hinge(score, sign).mean() for score, sign in zip(own, (1, -1), strict=True))
    torch.testing.assert_close(found, wanted)


def test_entropy_is_of_the_text_alone():
    g, ids = model(), openings()[:2, :4]
    inputs, lengths = F.pad(ids, (1, 0), value=EOS), torch.tensor([5, 4])
    found = text_entropy(g, inputs, lengths, torch.tensor([2, 0]))
    log_probs = g(inputs).log_softmax(-1)
    each = -(log_probs.exp() * log_probs).sum(-1)
    torch.testing.assert_close(found, torch.stack([each[0, 2:5].sum(), each[1, :4].sum()]))


@pytest.mark.parametrize(
    ("adversarial", "message"),
    [
        ({"estimator": "soft"}, "needs an estimator that reads hard tokens back"),
        ({"share_fakes": True, "replay_batches": 0}, "adversarial.share_fakes=true has none to share"),
        ({"replay_batches": 2}, "adversarial.replay_batches=0, not 2"),
    ],
)
def test_what_cannot_continue_conditions_is_refused(adversarial, message):
    with pytest.raises(ValueError, match=message):
        Config.model_validate({"data": {"condition": "t"}, "adversarial": adversarial})

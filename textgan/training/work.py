"""How much work the steps of a run are, counted from shapes: what :mod:`textgan.training.estimate` turns into seconds.

A Transformer's pass over P positions multiplies each with every weight once: 2 FLOP a weight forward, 4 backward
(Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1). What those counts leave out costs a small
model as much again: passes over logits, over activations and over the optimiser's state, and calls. Each is counted in
its own unit; what a unit costs is measured, not derived.
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from typing import NamedTuple

import torch
from torch import nn

from textgan.config import Config
from textgan.confignets import Discriminator as DiscriminatorShape
from textgan.confignets import Generator as GeneratorShape
from textgan.configvae import Encoder as EncoderShape
from textgan.models.bert import PretrainedEncoder
from textgan.models.causal_lm import CausalLM
from textgan.models.lstm import LSTMGenerator
from textgan.ops.gan_losses import GAN_LOSSES
from textgan.ops.relaxation import FEEDBACK, HARD

STANDING = 1.15  # texts that have ended are computed on until they are half of a batch: so much more is sampled


@dataclass(frozen=True)
class Work:
    """Amounts of work of each kind.

    Attributes:
        products: FLOP of matrix products over whole texts, attention's among them.
        activations: numbers in the residual stream of all layers, forward and backward once.
        dropped: the same, of passes with dropout.
        logits: numbers that a softmax, its loss and its gradient pass over.
        relaxed: numbers of relaxed tokens that a gradient passes through.
        decoded: FLOP of products while sampling token by token, or in the steps of an LSTM.
        drawn: logits that are drawn from.
        cached: keys and values that are read while sampling.
        updated: parameters that an optimiser passes over.
        calls: layers that are gone through, forward or backward.
        decoded_calls: the same, of one position of a batch.
    """

    products: float = 0.0
    activations: float = 0.0
    dropped: float = 0.0
    logits: float = 0.0
    relaxed: float = 0.0
    decoded: float = 0.0
    drawn: float = 0.0
    cached: float = 0.0
    updated: float = 0.0
    calls: float = 0.0
    decoded_calls: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: float) -> "Work":
        return Work(*(times * a for a in astuple(self)))


KINDS = tuple(field.name for field in fields(Work))


class Net(NamedTuple):
    """What the cost of a network depends on.

    Attributes:
        weights: numbers that each position is multiplied with, the table of tokens not counted.
        parameters: that are trained.
        layers, width: of the residual stream, or of an LSTM's state.
        heads: of attention; 0 where there is none.
        vocab: rows of the table of tokens.
        table_width: of that which tokens are read from, or written with.
        dropout: its share.
        sequential: whether its positions wait for each other (LSTM).
        frozen: numbers in parameters that are not trained.
        fixed: those of them among the weights: products on the way back to them are left out.
        table_fixed: whether the table of tokens is frozen.
        recomputed: whether blocks are computed again on the way back (gradient checkpointing).
    """

    weights: int
    parameters: int
    layers: int
    width: int
    heads: int
    vocab: int
    table_width: int
    dropout: float
    sequential: bool
    frozen: int = 0
    fixed: int = 0
    table_fixed: bool = False
    recomputed: bool = False


class Texts(NamedTuple):
    """Texts of a batch: their number, positions with padding, real positions, and columns."""

    number: float
    positions: float
    tokens: float
    columns: float


def net_of(module: nn.Module, shape: GeneratorShape | DiscriminatorShape | EncoderShape, vocab: int) -> Net:
    """The network ``module`` of the config's ``shape``; it may be on the meta device."""
    pretrained = next((m for m in module.modules() if isinstance(m, PretrainedEncoder)), None)
    if pretrained is not None:
        body = pretrained.body.config
        shape = shape.model_copy(
            update={
                "kind": "transformer",
                "n_layer": body.num_hidden_layers,
                "n_head": body.num_attention_heads,
                "n_embd": body.hidden_size,
            }
        )
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    if isinstance(module, LSTMGenerator | CausalLM) and module.head is not None:
        tables.add(id(module.head.weight))  # reads tokens from one table and writes them with another
    parameters = list(module.parameters())
    weights = sum(p.numel() for p in parameters if p.dim() >= 2 and id(p) not in tables)
    if shape.kind == "cnn":  # its filters read each representation
        weights = shape.n_representations * sum(p.numel() for p in parameters if p.dim() == 3)
    is_lstm = shape.kind == "lstm"
    return Net(
        weights=weights,
        parameters=sum(p.numel() for p in parameters if p.requires_grad),
        layers=1 if shape.kind == "cnn" else shape.n_layer,
        width=shape.n_hidden if is_lstm else shape.n_embd,
        heads=0 if shape.kind in ("cnn", "lstm") else shape.n_head,
        vocab=vocab,
        table_width=shape.n_hidden if is_lstm else shape.n_embd,
        dropout=shape.dropout,
        sequential=is_lstm,
        frozen=sum(p.numel() for p in parameters if not p.requires_grad),
        fixed=sum(p.numel() for p in parameters if p.dim() >= 2 and id(p) not in tables and not p.requires_grad),
        table_fixed=any(id(p) in tables and len(p) == vocab and not p.requires_grad for p in parameters),
        recomputed=getattr(shape, "gradient_checkpointing", False),
    )


def passes(net: Net, texts: Texts, times: float, *, dropout: bool = False) -> Work:
    """Going through ``net``: ``times`` is 1 for a pass forward, 3 with one backward, 2 more for each further one."""
    fixed = (times - 1) // 2 * net.fixed
    if net.recomputed and times > 1:
        times += 1
    products = 2 * (times * net.weights - fixed) * texts.positions
    stream = texts.positions * net.layers * net.width
    if net.heads:
        products += 4 * times * stream * texts.columns
    calls = times * net.layers * (texts.columns if net.sequential else 1)
    kinds = {"decoded" if net.sequential else "products": products, "activations": times / 3 * stream}
    kinds["decoded_calls" if net.sequential else "calls"] = calls
    if dropout and net.dropout:
        kinds["dropped"] = times / 3 * stream
    return Work(**kinds)


def output(net: Net, texts: Texts, times: float) -> Work:
    """The output layer over the vocabulary and its softmax; ``times`` as in :func:`passes`."""
    logits = texts.tokens * net.vocab
    times_back = (times - 1) // 2 * net.table_fixed
    return Work(products=2 * (times - times_back) * net.table_width * logits, logits=times / 3 * logits)


def decode(net: Net, texts: Texts) -> Work:
    """Sampling texts token by token."""
    computed = min(STANDING * texts.tokens, texts.number * texts.columns)
    return Work(
        decoded=2 * (net.weights + net.table_width * net.vocab) * computed,
        drawn=net.vocab * computed,
        cached=net.layers * net.width * computed * texts.columns if net.heads else 0.0,  # half of them, on average
        decoded_calls=net.layers * texts.columns,
    )


def mle_step(net: Net, texts: Texts, parts: int = 1) -> Work:
    """An update by maximum likelihood, in so many ``parts`` of which ``texts`` is one."""
    once = passes(net, texts, 3, dropout=True) + output(net, texts, 3)
    return once * parts + Work(updated=net.parameters)


def critic_step(config: Config, critic: Net, real: Texts, fake: Texts, parts: int = 1) -> Work:
    """An update of the critic, the texts at hand; ``parts`` as in :func:`mle_step`."""
    settings = config.adversarial
    once = passes(critic, real, 3, dropout=True) + passes(critic, fake, 3, dropout=True)
    penalties = bool(settings.r1) + bool(settings.r2) + bool(settings.gradient_penalty)
    if penalties:  # forward, its gradient, and back through both
        once += passes(critic, real, 6, dropout=True) * (penalties / settings.penalty_every)
    return once * parts + Work(updated=critic.parameters)


def iteration(config: Config, generator: Net, critic: Net, real: Texts, fake: Texts, parts: int = 1) -> Work:
    """An iteration of the adversarial phase: fakes sampled, the critic's updates, and the generator's."""
    settings = config.adversarial
    feeds_soft = FEEDBACK[settings.estimator] == "soft"
    steps = settings.d_steps
    work = critic_step(config, critic, real, fake, parts) * steps
    drawn = 1.0
    if not settings.share_fakes:
        fresh = 1 - settings.replay_share if settings.replay_batches else 1.0
        drawn = steps * fresh + (not feeds_soft)
    work += decode(generator, fake) * (drawn * parts)

    once = relaxed_pass(generator, fake, settings.estimator, settings.hops)
    once += passes(critic, fake, 2, dropout=True)  # forward, and back to what it read alone
    hard = settings.estimator in HARD  # where one-hots are exact the critic looks rows up, and reads only the gradient
    once += Work(products=(2 if hard else 4) * fake.tokens * critic.table_width * generator.vocab)
    if GAN_LOSSES[settings.loss].relativistic:
        once += passes(critic, real, 1, dropout=True)
    if settings.mle_weight:
        once += passes(generator, real, 3, dropout=True) + output(generator, real, 3)
    if settings.kl_weight:
        once += passes(generator, real, 4, dropout=True) + output(generator, real, 4)
    return work + once * parts + Work(updated=2 * generator.parameters)  # its gradients are mixed, too


def relaxed_pass(net: Net, texts: Texts, estimator: str, hops: int) -> Work:
    """Through ``net`` to relaxed tokens and back, ``hops`` more times with soft feedback."""
    logits = texts.tokens * net.vocab
    product = 2 * net.table_width * logits
    if FEEDBACK[estimator] == "soft":  # texts are sampled with noise of their own; vectors of V numbers are read
        once = passes(net, texts, 3) + Work(products=6 * product, relaxed=logits)
        return once * (hops + 1) + decode(net, texts)
    # Logits are not held for the way back, but computed again.
    products = (3 if estimator in HARD else 4) - net.table_fixed
    return passes(net, texts, 3) + Work(products=products * product, relaxed=logits)


def vae_step(encoder: Net, decoder: Net, texts: Texts, parts: int = 1) -> Work:
    """An update of a VAE."""
    once = passes(encoder, texts, 3, dropout=True) + passes(decoder, texts, 3, dropout=True) + output(decoder, texts, 3)
    return once * parts + Work(updated=encoder.parameters + decoder.parameters)


def classifier_step(net: Net, texts: Texts, parts: int = 1) -> Work:
    """An update of a classifier; ``parts`` as in :func:`mle_step`."""
    return passes(net, texts, 3, dropout=True) * parts + Work(updated=net.parameters)


def evaluation(generator: Net, samples: Texts, dev: Texts, batch_size: int, draws: int = 1) -> Work:
    """Samples drawn in batches, and held-out texts (all of them in ``dev``) scored, ``draws`` times each."""
    batches = max(1.0, samples.number / batch_size)
    batch = Texts(samples.number / batches, samples.positions / batches, samples.tokens / batches, samples.columns)
    return decode(generator, batch) * batches + (passes(generator, dev, 1) + output(generator, dev, 1)) * draws


def on_meta(build: Callable[..., nn.Module], *args: object) -> nn.Module:
    """What ``build(*args)`` makes, without weights: for its shapes alone."""
    with torch.device("meta"):
        return build(*args)

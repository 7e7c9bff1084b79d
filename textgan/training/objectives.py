"""What the training loops minimise: losses of whole batches, built of the pure functions in ``ops``."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textgan.configphases import Adversarial
from textgan.data.dataset import Batch, span_mask
from textgan.models.discriminator import Critique
from textgan.models.generator import Generator
from textgan.models.transformer import differentiable_twice
from textgan.models.vae import Inference, TextVAE
from textgan.ops.gan_losses import GAN_LOSSES, gradient_penalty, r1_penalty
from textgan.ops.linear_cross_entropy import linear_entropy, smoothed_cross_entropy
from textgan.ops.parts import like_lengths
from textgan.training.ranks import Ranks
from textgan.training.seeding import stream


def mle_loss(generator: Generator, batch: Batch, tokens: float, label_smoothing: float = 0.0) -> Tensor:
    """Summed cross-entropy of the batch's real targets over the constant ``tokens`` (nats a token on average)."""
    return mle_loss_and_nll(generator, batch, tokens, label_smoothing)[0]


def mle_loss_and_nll(
    generator: Generator, batch: Batch, tokens: float, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """:func:`mle_loss`, and the same without label smoothing, which carries no gradient."""
    if not label_smoothing:
        loss = generator.nll(batch.inputs, batch.targets, at=batch.mask, reduction="sum") / tokens
        return loss, loss.detach()
    states, targets = generator.states(batch.inputs, at=batch.mask), batch.targets[batch.mask]
    loss, nll = smoothed_cross_entropy(states, *generator.output_layer, targets, label_smoothing)
    return loss / tokens, nll / tokens


def reconstruct(vae: TextVAE, batch: Batch, noise: Tensor, inputs: Tensor) -> tuple[Inference, Tensor]:
    """The posteriors of a batch with a draw of each, and the summed -log p(x|z) of the draws, nats.

    Batches whose codes belong together hold texts of all lengths: they are read and written in parts.

    Args:
        vae: the model.
        batch: B texts.
        noise: (B, Z) standard normal, of the draws.
        inputs: (B, T) what the decoder reads, ``batch.inputs`` or that with words dropped.
    """
    lengths, parts = batch.lengths, like_lengths(batch.lengths)
    read = [vae.encode(batch.targets[rows, :T], lengths[rows]) for rows, T in parts]
    order = torch.cat([rows for rows, _ in parts])
    inference = vae.infer(torch.cat(read)[order.argsort()], noise)
    written = [
        vae.reconstruction(batch.ids[rows, : T + 1], lengths[rows], inference.z[rows], inputs[rows, :T])
        for rows, T in parts
    ]
    return inference, torch.stack(written).sum()


def gan_loss(
    side: str,
    settings: Adversarial,
    real: Any,
    fake: Any,
    real_lengths: Tensor,
    fake_lengths: Tensor,
    starts: Tensor | None = None,
) -> Tensor:
    """The GAN loss of one side on sequence scores, plus ``token_weight`` times that on token scores.

    ``real`` and ``fake`` are critiques (scores of texts and tokens) of as many texts; ``real`` may be None where the
    generator's loss does not look at it. ``starts``: how many tokens of each pair of texts were given, and so are not
    scored one by one; None: none.
    """
    loss = getattr(GAN_LOSSES[settings.loss], side)
    total = loss(real and real.sequence.float(), fake.sequence.float())
    if settings.token_weight:
        limits = (real_lengths, fake_lengths)
        if settings.loss == "rsgan":  # pairs scores position by position, so both texts must reach there
            limits = (torch.minimum(*limits),) * 2
        tokens = [
            scores and scores.tokens[span_mask(starts, limit, scores.tokens.shape[1])].float()
            for scores, limit in zip((real, fake), limits, strict=True)
        ]
        total = total + settings.token_weight * loss(*tokens)
    return total


@differentiable_twice()
def critic_penalty(
    settings: Adversarial,
    discriminator: nn.Module,
    real: tuple[Tensor, Tensor],
    fake: tuple[Tensor, Tensor],
    name: tuple[object, ...],
) -> Tensor:
    """Weighted sum of the gradient penalties on embeddings, float32."""
    total = torch.zeros((), device=real[0].device)
    for weight, (ids, lengths) in ((settings.r1, real), (settings.r2, fake)):
        if weight:
            embedded = discriminator.embed(ids).detach().requires_grad_()
            total = total + weight / 2 * r1_penalty(discriminator.score(embedded, lengths).sequence, embedded)
    if settings.gradient_penalty:
        width = max(real[0].shape[1], fake[0].shape[1])
        embedded = []
        for ids, ends in (real, fake):  # zero behind each end: the mixture sees no padding token
            own = discriminator.embed(ids).detach() * _real_columns(ends, ids.shape[1])[..., None]
            embedded.append(F.pad(own, (0, 0, 0, width - ids.shape[1])))
        lengths = torch.maximum(real[1], fake[1])
        total = total + settings.gradient_penalty * gradient_penalty(
            lambda mixed: discriminator.score(mixed, lengths).sequence,
            *embedded,
            generator=stream(total.device, "gradient-penalty", *name),
        )
    return total


def kl_to_parent(generator: Generator, parent: Generator, batch: Batch) -> Tensor:
    """Summed KL(parent || generator) of the next token over the real positions of ``batch``, nats."""
    mask = batch.mask
    with torch.no_grad():
        truth = F.log_softmax(parent(batch.inputs, at=mask).float(), dim=-1)
    own = F.log_softmax(generator(batch.inputs, at=mask).float(), dim=-1)
    return F.kl_div(own, truth, reduction="sum", log_target=True)


@torch.no_grad()
def text_entropy(generator: Generator, inputs: Tensor, lengths: Tensor, starts: Tensor | None = None) -> Tensor:
    """Entropies of what the generator says next along the texts (B, ...) that it read, summed: (B,), nats a text.

    ``starts``: (B,) tokens of each that were given, and so do not count; None: none.
    """
    mask = span_mask(starts, lengths, inputs.shape[1])
    entropies = linear_entropy(generator.states(inputs, at=mask), *generator.output_layer)
    return entropies.new_zeros(mask.shape).masked_scatter(mask, entropies).sum(1)


def gather_scores(critique: Critique, n: int, ranks: Ranks) -> Critique:
    """The scores of all ``n`` texts, of which each rank has judged its own."""
    if ranks.size == 1:
        return critique
    tokens = critique.tokens
    if tokens is not None:
        width = max(ranks.collect(tokens.size(1)))
        tokens = ranks.gather(F.pad(tokens, (0, width - tokens.size(1))), n)
    return Critique(ranks.gather(critique.sequence, n), tokens)


def split(batch: Batch, size: int) -> list[Batch]:
    """``batch`` as micro-batches of at most ``size`` texts."""
    return [batch.map(lambda x, k=k: x[k : k + size]) for k in range(0, len(batch.ids), size)]


def share(batch: Batch, ranks: Ranks) -> Batch:
    """This rank's rows of a batch that is the same on all."""
    return batch.map(ranks.own)


def _real_columns(lengths: Tensor, width: int) -> Tensor:
    """(B, width) bool, True before each text's end."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]

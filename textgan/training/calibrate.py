"""Calibration of a trained generator: two scalars fitted on held-out text and folded into the weights.

A generator trained by maximum likelihood is over-confident, and words that it has never seen stand as ``<unk>``
in held-out text far more often than in training text. A softmax temperature (Guo et al. 2017,
https://arxiv.org/abs/1706.04599) and a bias on the ``<unk>`` logit mend both. Both are folded in exactly, into what
makes the logits. So sampling, likelihood and later training all see the calibrated model, and no other code has to
know. The decoder of a VAE is calibrated in the same way, with z drawn from the posterior of each text: that lowers the
reconstruction term of the bound and leaves the KL as it is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from textgan.data.dataset import Batch, TokenDataset, eval_batches
from textgan.ops.linear_cross_entropy import output_blocks
from textgan.sampling.latent import LatentGenerator
from textgan.training.evaluation import AnyGenerator
from textgan.training.seeding import stream

MAX_LOGITS = 2**26  # numbers held at once while fitting (256 MiB); dev tokens beyond that are left out


@torch.no_grad()
def calibrate(
    generator: AnyGenerator,
    dev: TokenDataset,
    *,
    unk_id: int | None,
    device: torch.device,
) -> dict[str, float]:
    """Fit temperature and <unk> bias on ``dev`` and fold them into ``generator``, in place.

    Returns:
        ``temperature`` (divides the logits), ``unk_bias`` (added to the logit of ``unk_id``; 0 where dev has
        none, as its best would be minus infinity), and dev NLL on the fitted tokens ``nll_before``, ``nll_after``
        (nats a token; of a VAE the reconstruction, -log p(x|z)).
    """
    logits, targets = _held_out_logits(generator, dev, device)
    if unk_id is not None and not (targets == unk_id).any():
        unk_id = None
    parameters = torch.zeros(2, device=device)
    before, _ = _nll(logits, targets, parameters, unk_id)
    optimizer = torch.optim.LBFGS([parameters], max_iter=30, line_search_fn="strong_wolfe")

    def closure() -> float:
        value, parameters.grad = _nll(logits, targets, parameters, unk_id)
        return value

    optimizer.step(closure)
    temperature, unk_bias = parameters[0].exp().item(), parameters[1].item()
    after, _ = _nll(logits, targets, parameters, unk_id)
    if not after < before:  # already at the optimum: leave the weights as they are, to the bit
        return {"temperature": 1.0, "unk_bias": 0.0, "nll_before": before, "nll_after": before}
    bias = None
    if unk_id is not None:
        bias = unk_bias * F.one_hot(torch.tensor(unk_id, device=device), logits.shape[1])
    decoder = generator.vae.decoder if isinstance(generator, LatentGenerator) else generator
    decoder.scale_logits_(temperature, bias)
    return {"temperature": temperature, "unk_bias": unk_bias, "nll_before": before, "nll_after": after}


def _nll(logits: Tensor, targets: Tensor, parameters: Tensor, unk_id: int | None) -> tuple[float, Tensor]:
    """Mean NLL of ``targets`` (M,) under ``logits`` (M, V) / exp(parameters[0]), plus parameters[1] for ``unk_id``;
    and its gradient (2,). By blocks of rows, as autograd would hold several times the logits."""
    shrink = (-parameters[0]).exp()
    value, gradient = torch.zeros((), device=logits.device).double(), torch.zeros_like(parameters).double()
    for rows in output_blocks(logits, logits[0]):
        block, target = logits[rows], targets[rows, None]
        log_probs = block * shrink
        if unk_id is not None:
            log_probs[:, unk_id] += parameters[1]
        log_probs = log_probs.log_softmax(1)
        value -= log_probs.gather(1, target).sum()
        probs = log_probs.exp_()
        gradient[0] += ((block.gather(1, target) - (probs * block).sum(1, keepdim=True)) * shrink).sum()
        if unk_id is not None:
            gradient[1] += (probs[:, unk_id] - (target[:, 0] == unk_id).float()).sum()
    return (value / len(targets)).item(), (gradient / len(targets)).to(parameters.dtype)


def _held_out_logits(generator: AnyGenerator, dev: TokenDataset, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits (M, V) and targets (M,) of as many dev tokens as ``MAX_LOGITS`` allows, texts in seeded order."""
    budget = max(1, MAX_LOGITS // generator.vocab_size)
    order = torch.randperm(len(dev), generator=torch.Generator().manual_seed(0))
    kept = order[dev.counted[order].cumsum(0) <= budget]
    kept = kept if len(kept) else order[:1]
    lengths = dev.lengths[kept]
    counted = dev.counted[kept]
    logits = torch.empty(int(counted.sum()), generator.vocab_size, device=device)
    targets = torch.empty(len(logits), dtype=torch.long, device=device)
    generator.eval()
    rng, done = stream(device, "calibrate") if isinstance(generator, LatentGenerator) else None, 0
    for rows in eval_batches(lengths, 64):
        batch = dev.batch(kept[rows]).to(device)
        end = done + int(counted[rows].sum())
        logits[done:end] = _logits(generator, batch, rng).float()
        targets[done:end] = batch.targets[batch.mask]
        done = end
    return logits, targets


def _logits(generator: AnyGenerator, batch: Batch, rng: torch.Generator | None) -> Tensor:
    """Logits (M, V) of the batch's real targets; of a VAE given one draw of each text's posterior."""
    if not isinstance(generator, LatentGenerator):
        return generator(batch.inputs, at=batch.mask)
    vae = generator.vae
    noise = torch.randn(len(batch.ids), vae.z_size, generator=rng, device=batch.ids.device)
    z = vae.infer(vae.encode(batch.targets, batch.lengths), noise).z
    return vae.decoder(batch.inputs, condition=vae.condition(z), at=batch.mask)

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

    def nll(parameters: Tensor) -> Tensor:
        scaled = logits / parameters[0].exp()
        if unk_id is not None:
            scaled = scaled + parameters[1] * F.one_hot(torch.tensor(unk_id, device=device), logits.shape[1])
        return F.cross_entropy(scaled, targets)

    parameters = torch.zeros(2, device=device)
    before = nll(parameters).item()
    with torch.enable_grad():
        parameters.requires_grad_()
        optimizer = torch.optim.LBFGS([parameters], max_iter=30, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = nll(parameters)
            loss.backward()
            return loss

        optimizer.step(closure)
    temperature, unk_bias = parameters[0].exp().item(), parameters[1].item()
    after = nll(parameters).item()
    if not after < before:  # already at the optimum: leave the weights as they are, to the bit
        return {"temperature": 1.0, "unk_bias": 0.0, "nll_before": before, "nll_after": before}
    bias = None
    if unk_id is not None:
        bias = unk_bias * F.one_hot(torch.tensor(unk_id, device=device), logits.shape[1])
    decoder = generator.vae.decoder if isinstance(generator, LatentGenerator) else generator
    decoder.scale_logits_(temperature, bias)
    return {"temperature": temperature, "unk_bias": unk_bias, "nll_before": before, "nll_after": after}


def _held_out_logits(generator: AnyGenerator, dev: TokenDataset, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits (M, V) and targets (M,) of as many dev tokens as ``MAX_LOGITS`` allows, texts in seeded order."""
    budget = max(1, MAX_LOGITS // generator.vocab_size)
    order = torch.randperm(len(dev), generator=torch.Generator().manual_seed(0))
    kept = order[dev.lengths[order].cumsum(0) <= budget]
    kept = kept if len(kept) else order[:1]
    logits, targets = [], []
    generator.eval()
    rng = stream(device, "calibrate") if isinstance(generator, LatentGenerator) else None
    for rows in eval_batches(dev.lengths[kept], 64):
        batch = dev.batch(kept[rows]).to(device)
        logits.append(_logits(generator, batch, rng).float())
        targets.append(batch.targets[batch.mask])
    return torch.cat(logits), torch.cat(targets)


def _logits(generator: AnyGenerator, batch: Batch, rng: torch.Generator | None) -> Tensor:
    """Logits (M, V) of the batch's real targets; of a VAE given one draw of each text's posterior."""
    if not isinstance(generator, LatentGenerator):
        return generator(batch.inputs, at=batch.mask)
    vae = generator.vae
    noise = torch.randn(len(batch.ids), vae.z_size, generator=rng, device=batch.ids.device)
    z = vae.infer(vae.encode(batch.targets, batch.lengths), noise).z
    return vae.decoder(batch.inputs, condition=vae.condition(z), at=batch.mask)

"""What a VAE makes of real texts: a bound of their likelihood, and how its latent is used."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from textgan.metrics.latent import MutualInformation, active_units, information_of_pairs, mutual_information
from textgan.models.vae import TextVAE
from textgan.ops.elbo import importance_bound
from textgan.sampling.latent import LatentGenerator
from textgan.sampling.streams import POSTERIOR_STREAMS, row_normals

PAIRS_OF = 1000  # texts of which all pairs are looked at where each costs a pass through the layers' networks


class Rows(Protocol):
    """Texts as padded batches: a :class:`textgan.data.dataset.TokenDataset`."""

    lengths: Tensor

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor): ...


class Diagnosis(NamedTuple):
    """How a VAE uses the latents of N texts; one draw of each posterior, in the order of the texts, on the CPU.

    Attributes:
        recon: (N,) float64, -log p(x|z), nats, end counted.
        shuffled_recon: (N,) float64, the same with the latent of another text: no more than ``recon`` on average
            where the decoder does not look at z.
        kl: (N,) float64, KL(q(z|x) || p(z)), nats; of layerwise latents given the drawn groups.
        kl_dims: (Z,) float64, its mean over texts, entry by entry.
        log_ratio: (N,) float64, log q(z|x) - log p(z) of the drawn z, so that ``recon + log_ratio`` is one draw of
            the negative ELBO.
        mu, logvar, z: (N, Z) of the posteriors, and the draw; of layerwise latents given the drawn groups.
        offset: (N, Z) how far ``mu`` is from the prior's mean, in deviations of the prior; ``mu`` of flat latents.
        mean: (N, Z) the latent of zero noise: ``mu`` of flat latents; of layerwise ones every group at its mean
            given the means before it, which ``mu`` is not.
    """

    recon: Tensor
    shuffled_recon: Tensor
    kl: Tensor
    kl_dims: Tensor
    log_ratio: Tensor
    mu: Tensor
    logvar: Tensor
    z: Tensor
    offset: Tensor
    mean: Tensor


@torch.no_grad()
def importance_nll(
    model: TextVAE | LatentGenerator,
    dataset: Rows,
    *,
    k: int,
    seed: int,
    batch_size: int,
    device: torch.device | str,
    share: tuple[int, int] = (0, 1),
) -> Tensor:
    """Upper bound (N,) of each row's negative log-likelihood, nats, end counted, float64, in the rows' order.

    The importance-weighted bound of Burda et al. 2016 with ``k`` draws of the posterior: the negative ELBO in
    expectation at 1, and ever closer to the truth. Draw j of row i follows from (seed, i, j) alone: values do not
    depend on batches, and those of a larger ``k`` go on with the draws of a smaller one.

    Args:
        model: a VAE, with its own prior, or a generator whose source has a density.
        dataset: the rows.
        k: draws a row.
        seed: of the draws.
        batch_size: texts that the encoder, and texts times draws that the decoder reads at once.
        device: of the model.
        share: (i, s): of the encoder's batches every s-th from the i-th on; rows of the others get 0.

    Raises:
        ValueError: no draws, or a source of latents without density.
    """
    generator = model if isinstance(model, LatentGenerator) else LatentGenerator(model)
    return importance_nlls([generator], dataset, k=k, seed=seed, batch_size=batch_size, device=device, share=share)[0]


@torch.no_grad()
def importance_nlls(
    generators: Sequence[LatentGenerator],
    dataset: Rows,
    *,
    k: int,
    seed: int,
    batch_size: int,
    device: torch.device | str,
    between: Callable[[], None] = lambda: None,
    share: tuple[int, int] = (0, 1),
) -> Tensor:
    """:func:`importance_nll` (S, N) of S generators that differ in their source of latents alone, at the cost of one.

    ``between`` is called before each batch that the decoder reads, and what it raises ends the work.
    """
    if k < 1:
        raise ValueError(f"`k={k}` must be at least 1")
    vae = generators[0].vae
    if any(generator.vae is not vae for generator in generators):
        raise ValueError("the generators must be of one VAE")
    if not all(generator.has_density for generator in generators):
        raise ValueError("latents of a GAN have no density, so there is no bound of the likelihood")
    nll = torch.zeros(len(generators), len(dataset), dtype=torch.float64)
    with _eval_mode(vae):
        for rows, batch, features in _encoded(vae, dataset, batch_size, device, share):
            noise = _noise(vae, seed, rows, k)  # (B, k, Z)
            log_weights = []
            for part in noise.split(max(1, batch_size // len(rows)), dim=1):
                between()
                draws = part.size(1)
                ids, lengths, x = (t.repeat_interleave(draws, dim=0) for t in (batch.ids, batch.lengths, features))
                drawn = vae.infer(x, part.flatten(0, 1))
                log_p = vae.log_likelihood(ids, lengths, drawn.z).double() - drawn.log_q.double()
                every = torch.stack([log_p + generator.log_density(drawn).double() for generator in generators])
                log_weights.append(every.view(len(generators), len(rows), draws))
            nll[:, rows] = -importance_bound(torch.cat(log_weights, dim=2)).cpu()
    return nll


@torch.no_grad()
def diagnose(vae: TextVAE, dataset: Rows, *, seed: int, batch_size: int, device: torch.device | str) -> Diagnosis:
    """The :class:`Diagnosis` of these texts; ``z`` is the first of the draws that :func:`importance_nll` takes.

    ``shuffled_recon`` reads each text with the latent of the one before it in a random order that goes round, which
    follows from ``seed``: no text keeps its own.

    Args:
        vae: the model; whatever generator its latents may also come from, its own prior counts.
        dataset: N rows, at least 2.
        seed: of the draws and of the order.
        batch_size: texts read at once.
        device: of the model.

    Raises:
        ValueError: fewer than 2 texts.
    """
    N = len(dataset)
    if N < 2:
        raise ValueError(f"latents of {N} text cannot be shuffled; at least 2 are needed")
    like = torch.zeros(N, vae.z_size, dtype=vae.aggregate_mean.dtype)
    posterior = {name: torch.zeros_like(like) for name in ("mu", "logvar", "z", "offset")}
    mean = torch.zeros_like(like)
    per_text = {name: torch.zeros(N, dtype=torch.float64) for name in ("kl", "log_ratio", "recon", "shuffled_recon")}
    kl_dims = torch.zeros(vae.z_size, dtype=torch.float64)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    with _eval_mode(vae):
        for rows, _, features in _encoded(vae, dataset, batch_size, device):
            drawn = vae.infer(features, _noise(vae, seed, rows, 1)[:, 0])
            for name, values in posterior.items():
                values[rows] = getattr(drawn, name).cpu()
            mean[rows] = vae.infer(features, torch.zeros_like(drawn.z)).z.cpu()
            kl = drawn.kl.double()
            per_text["kl"][rows] = kl.sum(1).cpu()
            per_text["log_ratio"][rows] = (drawn.log_q - drawn.log_p).double().cpu()
            kl_dims += kl.sum(0).cpu() / N
        for rows in _batches(dataset, batch_size):
            batch = dataset.batch(rows).to(device)
            for name, source in (("recon", rows), ("shuffled_recon", other[rows])):
                z = posterior["z"][source].to(device)
                per_text[name][rows] = -vae.log_likelihood(batch.ids, batch.lengths, z).double().cpu()
    return Diagnosis(**per_text, **posterior, mean=mean, kl_dims=kl_dims)


@torch.no_grad()
def latent_information(
    vae: TextVAE,
    dataset: Rows,
    found: Diagnosis,
    *,
    seed: int,
    batch_size: int,
    device: torch.device | str,
) -> MutualInformation:
    """What z tells about which text was read, from the :class:`Diagnosis` of these rows.

    Of flat latents over all rows. Layerwise posteriors of all pairs need the layers' networks, so there it is over
    :data:`PAIRS_OF` rows at most, drawn by ``seed``; the value's ceiling says how many.
    """
    if vae.latents == "flat":
        return mutual_information(found.mu, found.logvar, found.z)
    rows = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:PAIRS_OF].sort().values
    z = found.z[rows].to(device)
    with _eval_mode(vae):
        batches = (dataset.batch(part).to(device) for part in rows.split(batch_size))
        features = torch.cat([vae.encode(batch.ids[:, 1:], batch.lengths) for batch in batches])
        columns = [
            vae.infer_at(x.expand(len(z), *x.shape), z).log_q.double().cpu() for x in features
        ]  # of text j: log q(z_i|x_j) of all i
    return information_of_pairs(torch.stack(columns, dim=1))


def latent_values(
    vae: TextVAE, dataset: Rows, *, seed: int, batch_size: int, device: torch.device | str
) -> tuple[dict[str, float], Diagnosis]:
    """Values by name, and the :class:`Diagnosis` that they are of.

    ``recon``, ``shuffled_recon``, ``kl`` and ``elbo`` (``recon + kl``, the negative ELBO) are means in nats a text;
    ``mi`` is the mutual information in nats, ``mi_ceiling`` the most it could be, ``active_units`` a count,
    ``active_directions`` the same without copies, and ``z_size`` what they are of: what
    :func:`textgan.metrics.latent.posterior_collapse` looks at.
    """
    found = diagnose(vae, dataset, seed=seed, batch_size=batch_size, device=device)
    information = latent_information(vae, dataset, found, seed=seed, batch_size=batch_size, device=device)
    units = active_units(found.offset)
    recon, kl = found.recon.mean().item(), found.kl.mean().item()
    values = {
        "recon": recon,
        "shuffled_recon": found.shuffled_recon.mean().item(),
        "kl": kl,
        "elbo": recon + kl,
        "mi": information.value,
        "mi_ceiling": information.ceiling,
        "active_units": float(units.count),
        "active_directions": float(units.directions),
        "z_size": float(vae.z_size),
    }
    return values, found


@contextmanager
def _eval_mode(vae: TextVAE) -> Iterator[None]:
    """Eval mode inside, what it was before behind it."""
    was_training = vae.training
    vae.eval()
    try:
        yield
    finally:
        vae.train(was_training)


def _batches(dataset: Rows, batch_size: int) -> list[Tensor]:
    """All rows once, those of like length together."""
    return list(torch.argsort(dataset.lengths.cpu(), stable=True).split(batch_size)) if len(dataset) else []


def _encoded(
    vae: TextVAE, dataset: Rows, batch_size: int, device: torch.device | str, share: tuple[int, int] = (0, 1)
) -> Iterator:
    """Indices (B,), the batch and the features of all rows once, or of a share of the batches."""
    first, step = share
    for rows in _batches(dataset, batch_size)[first::step]:
        batch = dataset.batch(rows).to(device)
        yield rows, batch, vae.encode(batch.targets, batch.lengths)


def _noise(vae: TextVAE, seed: int, rows: Tensor, k: int) -> Tensor:
    """Noise (B, k, Z) of posteriors; that of a row follows from (seed, row), its first draws whatever k is."""
    noise = [row_normals(seed, POSTERIOR_STREAMS + row, 1, k * vae.z_size) for row in rows.tolist()]
    return torch.cat(noise).view(len(rows), k, vae.z_size).to(vae.device, vae.aggregate_mean.dtype)

"""The codes that a text autoencoder gives to real texts, and how near generated ones come to them."""

import torch
from torch import Tensor

from textgan.data.dataset import TokenDataset, eval_batches
from textgan.errors import UserError
from textgan.metrics.frechet import frechet
from textgan.metrics.latent import fit_gaussian
from textgan.models.latent_gan import Whitening
from textgan.models.vae import TextVAE
from textgan.ops.elbo import mmd_to_prior
from textgan.training.experiment import Experiment
from textgan.training.seeding import stream

MOST = 2000  # codes of a kind that are compared; the kernel of MMD grows with the square


@torch.no_grad()
def encode_rows(run: Experiment, vae: TextVAE, dataset: TokenDataset, rows: Tensor | None = None) -> Tensor:
    """Features of these rows of a dataset (all, in order, for None), on the CPU, in eval mode; rows come first."""
    rows = torch.arange(len(dataset)) if rows is None else rows
    vae.eval()
    features = None
    for part in eval_batches(dataset.lengths[rows], run.config.evaluation.batch_size):
        with run.autocast():
            batch = dataset.batch(rows[part]).to(run.device)
            own = vae.encode(batch.targets, batch.lengths).cpu()
        if features is None:
            features = torch.zeros(len(rows), *own.shape[1:], dtype=own.dtype)
        features[part] = own
    return features


def posterior_noise(run: Experiment, size: int, *name: object) -> Tensor:
    """Noise (B, Z) that codes are drawn with: zeros where ``latent_gan.posterior`` is ``mean``."""
    shape = (size, run.config.vae.z_size)
    if run.config.latent_gan.posterior == "mean":
        return torch.zeros(shape, device=run.device)
    return torch.randn(shape, generator=stream(run.device, run.config.seed, "codes", *name), device=run.device)


@torch.no_grad()
def codes_of(run: Experiment, vae: TextVAE, features: Tensor, *name: object) -> Tensor:
    """Codes (N, Z) of features, on the run's device, in eval mode: draws of the posteriors, or their means.

    What they are is said by ``latent_gan.posterior``; the draws follow from the run's seed and ``name``.
    """
    vae.eval()
    noise, size = posterior_noise(run, len(features), *name), run.config.evaluation.batch_size
    parts = zip(features.split(size), noise.split(size), strict=True)
    return torch.cat([vae.infer(part.to(run.device), drawn).z for part, drawn in parts])


def whitening_of(codes: Tensor) -> Whitening:
    """The :class:`Whitening` fitted to codes (N, Z).

    Raises:
        UserError: there are fewer than 2 codes, or all are the same.
    """
    if len(codes) < 2 or not float(codes.double().var(0).sum()) > 1e-12:
        raise UserError(
            f"the codes of all {len(codes)} texts are the same: there is nothing for latent_gan to learn; train a VAE "
            "that uses its latent (see its collapse alarm), on more than one text"
        )
    white = Whitening(codes.size(1)).to(codes.device)
    white.fit(*fit_gaussian(codes))
    return white


@torch.no_grad()
def compare_codes(run: Experiment, vae: TextVAE) -> dict[str, float]:
    """How far generated codes are from those of dev texts: ``latent/mmd`` and ``latent/frechet``, at fixed noise.

    Beside them the same of codes of training texts (``_real``: what is left where nothing is wrong), of draws of the
    prior (``_prior``) and of the Gaussian fitted to codes of training texts (``_gaussian``: where the generator
    starts). All codes are whitened by that Gaussian, so values of other latent spaces are in the same units. The MMD
    is squared and unbiased, with WAE's kernel of several widths: a single one of the median distance does not tell a
    ring from the Gaussian of its moments. The Fréchet distance sees only these moments, and is biased upwards, alike
    for all four.
    """

    def some(dataset: TokenDataset, name: str) -> Tensor:
        rng = stream("cpu", run.config.seed, "compare", name)
        rows = torch.randperm(len(dataset), generator=rng)[:MOST]
        return codes_of(run, vae, encode_rows(run, vae, dataset, rows), "compare", name)

    dev, train = some(run.dev, "dev"), some(run.train, "train")
    white = whitening_of(train)

    def noise(name: str, width: int) -> Tensor:
        rng = stream(run.device, run.config.seed, "compare", name)
        return torch.randn(len(train), width, generator=rng, device=run.device)

    generator = vae.latent_generator
    kinds = {
        "": white.whiten(generator(noise("generated", generator.noise_size))),
        "_real": white.whiten(train),
        "_prior": white.whiten(vae.prior(noise("prior", vae.z_size))),
        "_gaussian": noise("gaussian", vae.z_size),
    }
    dev = white.whiten(dev)
    values = {f"latent/mmd{end}": mmd_to_prior(codes, dev).item() for end, codes in kinds.items()}
    return values | {f"latent/frechet{end}": frechet(codes, dev) for end, codes in kinds.items()}

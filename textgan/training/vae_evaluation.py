"""What is looked at of a VAE while it trains, beside what is looked at of every generator."""

import torch
from torch import Tensor, nn

from textgan.metrics.latent import fit_gaussian, posterior_collapse
from textgan.models.vae import TextVAE
from textgan.sampling.decode import generate
from textgan.sampling.latent import LatentGenerator
from textgan.training.codes import encode_rows
from textgan.training.experiment import Experiment, say
from textgan.training.projector import project_dev
from textgan.training.seeding import stream

SHOWN = 5  # texts that are written anew at each evaluation
STEPS = 6  # parts of the way between two texts
MOST_CODES = 20_000  # texts whose posteriors the aggregate is fitted to
MOST_MEANS = 4_000  # texts that the statistics of a batch norm are taken over


def latent_model(vae: TextVAE) -> LatentGenerator:
    """The VAE as evaluations sample from it: by its own prior."""
    return LatentGenerator(vae)


def evaluate_vae(run: Experiment, vae: TextVAE, step: int) -> dict[str, float]:
    """Evaluate and log as every generator, then its latent: histogram, texts written anew, a way between two; alarm."""
    values = run.evaluate(latent_model(vae), step)
    found = run.evaluator.diagnosis
    run.logger.histogram(step, "vae/kl_dims", found.kl_dims)
    project_dev(run, found.mean, name="posterior_means", numbers={"kl": found.kl})
    run.logger.text(step, "samples/reconstructed", reconstructed(run, vae, found.mean[:SHOWN]))
    if len(run.dev) > 1:
        run.logger.text(step, "samples/interpolated", interpolated(run, vae, found.mean[:2]))
    told = {name.removeprefix("vae/"): value for name, value in values.items()} | {"z_size": vae.z_size}
    if alarm := posterior_collapse(told):
        say(f"warning: step {step}: {alarm.splitlines()[0]}")
        run.logger.text(step, "samples/posterior_collapse", alarm)
    return values


def reconstructed(run: Experiment, vae: TextVAE, means: Tensor) -> str:
    """The first dev texts and what the decoder writes, greedily, from their posterior means."""
    pairs = zip(_texts(run, len(means)), decoded(run, vae, means), strict=True)
    return "\n\n".join(f"{i}. {text}\n   -> {written}" for i, (text, written) in enumerate(pairs, 1))


def interpolated(run: Experiment, vae: TextVAE, means: Tensor) -> str:
    """What the decoder writes, greedily, on the straight way between the posterior means of two texts."""
    shares = torch.linspace(0, 1, STEPS + 1, dtype=means.dtype)[:, None]
    written = decoded(run, vae, torch.lerp(means[:1], means[1:], shares))
    first, last = _texts(run, 2)
    return "\n\n".join([f"from: {first}", *(f"{i}. {text}" for i, text in enumerate(written)), f"to: {last}"])


def decoded(run: Experiment, vae: TextVAE, z: Tensor) -> list[str]:
    """The likeliest continuation, word by word, of each latent (N, Z)."""
    samples = generate(
        latent_model(vae),
        [[]] * len(z),
        eos_id=run.tokenizer.eos_id,
        max_new_tokens=run.evaluator.max_new_tokens,
        temperature=0,
        banned_ids=run.evaluator.banned_ids,
        latents=z.to(run.device),
    )
    return [run.tokenizer.decode(sample.ids) for sample in samples]


@torch.no_grad()
def fit_aggregate(run: Experiment, vae: TextVAE) -> None:
    """Fit the Gaussian of the VAE's buffers to draws of the posteriors of the training texts, in place."""
    features = encode_rows(run, vae, run.train, _some(run, MOST_CODES))
    noise = torch.randn(len(features), vae.z_size, generator=stream("cpu", run.config.seed, "aggregate"))
    size = run.config.evaluation.batch_size
    parts = zip(features.split(size), noise.split(size), strict=True)
    z = torch.cat([vae.infer(own.to(run.device), drawn.to(run.device)).z for own, drawn in parts])
    mean, factor = fit_gaussian(z)
    vae.aggregate_mean.copy_(mean)
    vae.aggregate_factor.copy_(factor)


@torch.no_grad()
def fit_batch_norm(run: Experiment, vae: TextVAE) -> None:
    """Set the running statistics of a VAE's batch norm to those of its own means of training texts, in place.

    What training leaves there is of other weights, with dropout, and lags: a VAE that is evaluated by it would be
    another one, whose KL may lie below the bound that the batch norm is there for.
    """
    if not vae.bn:
        return

    def take(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        layer.fit(inputs[0])

    features = encode_rows(run, vae, run.train, _some(run, MOST_MEANS)).to(run.device)
    noise = torch.randn(len(features), vae.z_size, generator=stream("cpu", run.config.seed, "batch-norm"))
    hooks = [layer.register_forward_pre_hook(take) for layer in vae.bn]
    vae.infer(features, noise.to(run.device))
    for hook in hooks:
        hook.remove()


def _some(run: Experiment, most: int) -> Tensor:
    """Indices of at most so many rows of the training split, in a seeded order."""
    rng = stream("cpu", run.config.seed, "some texts", most)
    return torch.randperm(len(run.train), generator=rng)[:most]


def _texts(run: Experiment, n: int) -> list[str]:
    """The first ``n`` rows of dev as the model knows them."""
    ends = zip(run.dev.offsets[:n].tolist(), run.dev.offsets[1 : n + 1].tolist(), strict=True)
    return [run.tokenizer.decode(run.dev.tokens[start + 1 : end].tolist()) for start, end in ends]

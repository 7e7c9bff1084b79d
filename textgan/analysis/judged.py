"""The generators that are judged: the arms of a run, and reference rows made from its data without any training."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from textgan.analysis.measures import ratio_by_group
from textgan.analysis.ngram_arms import ORDER, kneser_ney_arm, mixture_arm
from textgan.analysis.points import IW_SAMPLES
from textgan.data.dataset import TokenDataset
from textgan.data.pairs import with_other_openings
from textgan.data.tokenizer import Tokenizer
from textgan.errors import UserError
from textgan.metrics.jackknife import GROUPS
from textgan.metrics.suite import Scores
from textgan.models.generator import Generator
from textgan.models.lstm import LSTMGenerator
from textgan.models.vae import TextVAE
from textgan.sampling.latent import LatentGenerator
from textgan.sampling.latent_likelihood import importance_nlls, latent_values
from textgan.sampling.mixture import Mixture, NgramGenerator
from textgan.sampling.samplers import Drawer
from textgan.training.evaluation import LIKELIHOOD_SEED, text_nll
from textgan.training.experiment import say
from textgan.training.loading import load_for_sampling
from textgan.training.ranks import Ranks

BATCH_SIZE = 256  # part of how texts are drawn: rounding may tip a draw where it changes
LIKELIHOOD_BATCH = 64
REFERENCES = ("kneser_ney", "mle+kneser_ney")
DERIVED = ("vae+aggregate",)  # rows made of an arm without any training
BOUNDED = ("vae", "vae+aggregate")  # arms whose likelihood is known by an upper bound of its negative alone
# What `HeldOut` may find: of the likelihood, and of a latent.
OF_LIKELIHOOD = ("nll", "nll_text", "ppl", "nll_known", "nll_gen", "kl_to_model", "condition_gain")
OF_LATENTS = ("recon", "shuffled_recon", "kl", "elbo", "mi", "active_units", "active_directions")
HELD_OUT = (*OF_LIKELIHOOD, *OF_LATENTS)
MOST_BOUNDED = 1000  # training texts whose likelihood is bounded: each costs as many passes as there are draws


@dataclass(frozen=True)
class Judged:
    """One arm.

    Attributes:
        name: of the arm.
        generator: that is drawn from; of a VAE with the source of its latents.
        tokenizer: of its ids.
        weights: tells one set of weights from another.
        step, training_seed: of its checkpoint; None where it was not trained.
    """

    name: str
    generator: Generator | LSTMGenerator | LatentGenerator | Mixture | NgramGenerator
    tokenizer: Tokenizer
    weights: str
    step: int | None = None
    training_seed: int | None = None

    def draws(self, n: int, seed: int, openings: Sequence[Sequence[int]] | None = None) -> Drawer:
        """What draws its texts, sampler by sampler; ``openings``: of pairs what stands before each text."""
        unk_id = self.tokenizer.unk_id
        return Drawer(
            self.generator,
            n,
            eos_id=self.tokenizer.eos_id,
            max_new_tokens=self.generator.block_size,
            banned_ids=() if unk_id is None else (unk_id,),
            seed=seed,
            batch_size=BATCH_SIZE,
            openings=openings,
        )

    def nll(self, dataset: TokenDataset, device: torch.device, ranks: Ranks | None = None) -> torch.Tensor:
        """Exact negative log-likelihood (N,) of each row, nats, end counted; not of a VAE, which has a bound."""
        return text_nll(self.generator, dataset, batch_size=LIKELIHOOD_BATCH, device=device, ranks=ranks)


def load_arm(name: str, folder: Path, device: torch.device) -> Judged:
    """The generator of a checkpoint."""
    model = load_for_sampling(folder, device)
    weights = _digest((folder / "model.safetensors").read_bytes())
    return Judged(name, model.generator, model.tokenizer, weights, model.step, model.config.seed)


def reference_arms(
    names: tuple[str, ...],
    mle: Judged,
    splits: dict[str, TokenDataset],
    device: torch.device,
) -> list[Judged]:
    """Of :data:`REFERENCES` those named: a Kneser-Ney model of the training text, and its mixture with arm ``mle``.

    Args:
        mle: the arm whose vocabulary and length they share.
        splits: ``train``, and ``dev``, on which the weight of the mixture is fitted.
    """
    if not set(names) & set(REFERENCES):
        return []
    train, dev = splits["train"], splits["dev"]
    arm = kneser_ney_arm(train, vocab_size=mle.tokenizer.vocab_size, block_size=mle.generator.block_size)
    arm.ngrams = arm.ngrams.to(device)
    own = _digest(train.tokens.numpy().tobytes() + f"{ORDER}".encode())
    found = []
    if "kneser_ney" in names:
        found.append(Judged("kneser_ney", arm, mle.tokenizer, own))
    if "mle+kneser_ney" in names:
        fitted = mixture_arm(mle.generator, arm.ngrams, dev)
        weight = fitted.mixture.weight
        say(
            f"mle+kneser_ney: weight {weight:.3f} of the n-grams; dev NLL {fitted.nll_mixture:.4f} nats a token "
            f"(mle {fitted.nll_generator:.4f}, kneser_ney {fitted.nll_ngrams:.4f})"
        )
        weights = _digest(f"{mle.weights} {own} {weight!r}".encode())
        found.append(Judged("mle+kneser_ney", fitted.mixture, mle.tokenizer, weights, mle.step, mle.training_seed))
    return found


def aggregate_arm(vae: Judged) -> Judged | None:
    """A VAE whose latents come from the Gaussian that was fitted to its posteriors; None where none was fitted."""
    generator = vae.generator.at(source="aggregate")
    mean, factor = generator.vae.aggregate_mean, generator.vae.aggregate_factor
    if not mean.any() and torch.equal(factor, torch.eye(len(mean)).to(factor)):
        return None
    weights = _digest(f"{vae.weights} aggregate".encode())
    return Judged("vae+aggregate", generator, vae.tokenizer, weights, vae.step, vae.training_seed)


class HeldOut:
    """Likelihood of real text: ``nll`` and ``nll_text`` of the held-out split, ``nll_gen`` of training text.

    All are exact, at temperature 1, with the end of text counted, in nats a token; ``nll_text`` is in nats a text,
    ``nll_known`` over the texts without <unk>, and ``ppl`` is exp(nll). With a true distribution, ``kl_to_model`` is
    KL(truth || model), nats a text; it needs every held-out text whole, and is left out where some were cut or dropped
    as too long. Leave-group-out values leave out the real texts of group ``i % G``, the same ones for every arm.

    Of a VAE all these are upper bounds, importance-weighted over ``iw_samples`` draws of the posterior, ``nll_gen``
    over :data:`MOST_BOUNDED` of the training texts at most. With it come ``recon``, ``shuffled_recon``, ``kl``,
    ``elbo`` (nats a text), ``mi``, ``active_units`` and ``active_directions`` of the held-out texts. Where the latents
    come from the fitted aggregate posterior, the bound is that of this model, and the latent has no values of its own;
    where they come from a GAN, which has no density, there is no bound, and the values of the latent have no ``kl``
    and ``elbo``.

    Of pairs these are likelihoods of the texts given their conditions. ``condition_gain`` is what that is worth: how
    much less likely held-out texts are given the condition of another, nats a text.
    """

    def __init__(
        self,
        held_out: TokenDataset,
        train: TokenDataset,
        *,
        tokenizer: Tokenizer,
        most_train: int,
        entropy: float | None = None,
        texts: int | None = None,
        iw_samples: int = IW_SAMPLES,
    ):
        """``most_train``: of the training texts so many, drawn with a fixed seed; ``entropy`` of the truth, nats.

        ``texts``: number of held-out texts, where some may not be one row.
        """
        whole = texts is None or texts == len(held_out)  # too long ones are all cut or all dropped
        self.held_out, self.unk_id, self.entropy = held_out, tokenizer.unk_id, entropy if whole else None
        pieces = "\n".join(tokenizer.tokens(range(tokenizer.vocab_size)))
        self._vocabulary = f"{tokenizer.vocab_size} ids, SHA-256 {_digest(pieces.encode())}"
        rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:most_train]
        self.train = train.select(rows.sort().values)
        self.bounded_train = train.select(rows[:MOST_BOUNDED].sort().values)
        self.iw_samples = iw_samples
        self._bounds: dict[tuple[TextVAE, TokenDataset], dict[str, np.ndarray]] = {}

    def signature(self) -> dict[str, Any]:
        """What moves the values; a token of another vocabulary is another unit, of ``nll_div`` too."""
        parts = {"texts": len(self.held_out), "train_texts": len(self.train), "temperature": 1}
        parts["iw_samples"] = self.iw_samples
        return {"held_out": {**parts, "vocabulary": self._vocabulary}}

    def __call__(
        self,
        arm: Judged,
        device: torch.device,
        between: Callable[[], None] = lambda: None,
        ranks: Ranks | None = None,
    ) -> Scores:
        """The values of an arm; ``between`` is called now and then, and what it raises ends the work.

        ``ranks`` share out the texts; all of them have to call this.
        """
        ranks = ranks or Ranks()
        found, counts = {}, {}
        if not isinstance(arm.generator, LatentGenerator):
            nll, train = (arm.nll(texts, device, ranks).numpy() for texts in (self.held_out, self.train))
            found = self._likelihood(nll, train, self.train)
            if self.held_out.starts is not None:
                found |= self._gain(arm, nll, device, ranks)
        else:
            if arm.generator.has_density:
                texts = (self.held_out, self.bounded_train)
                nll, train = (self._bound(arm.generator, part, device, between, ranks) for part in texts)
                found = self._likelihood(nll, train, self.bounded_train)
            if arm.generator.source != "aggregate" and len(self.held_out) > 1:
                of_latent, counts = self._latent(arm.generator, device)
                found |= of_latent
        values = {name: value for name, (value, _) in found.items()} | counts
        return Scores(values, self.signature(), {name: groups for name, (_, groups) in found.items()})

    def _likelihood(
        self, nll: np.ndarray, nll_train: np.ndarray, train: TokenDataset
    ) -> dict[str, tuple[float, np.ndarray]]:
        """Values with leave-group-out values, from negative log-likelihoods of held-out and of training texts."""
        lengths, ones = self.held_out.counted.numpy(), np.ones(len(self.held_out))
        found = {"nll": ratio_by_group(nll, lengths), "nll_text": ratio_by_group(nll, ones)}
        rate, rates = found["nll"]
        found["ppl"] = (math.exp(min(rate, 700)), np.exp(np.minimum(rates, 700)))
        if self.unk_id is not None:
            known = ~self.held_out.rows_with(self.unk_id).numpy()
            if 0 < known.sum() < len(known) and len(set(np.flatnonzero(known) % GROUPS)) > 1:
                found["nll_known"] = ratio_by_group(nll * known, lengths * known)
        found["nll_gen"] = ratio_by_group(nll_train, train.counted.numpy())
        if self.entropy is not None:
            value, groups = found["nll_text"]
            found["kl_to_model"] = (value - self.entropy, groups - self.entropy)
        return found

    def _gain(
        self, arm: Judged, nll: np.ndarray, device: torch.device, ranks: Ranks
    ) -> dict[str, tuple[float, np.ndarray]]:
        """``condition_gain``, from the negative log-likelihoods of held-out texts given their own conditions."""
        others, rows = with_other_openings(self.held_out, arm.generator.block_size)
        if len(set(rows.numpy() % GROUPS)) < 2:
            return {}
        gain, asked = np.zeros(len(nll)), np.zeros(len(nll))
        gain[rows.numpy()] = arm.nll(others, device, ranks).numpy() - nll[rows.numpy()]
        asked[rows.numpy()] = 1
        return {"condition_gain": ratio_by_group(gain, asked)}

    def _bound(
        self,
        generator: LatentGenerator,
        dataset: TokenDataset,
        device: torch.device,
        between: Callable[[], None],
        ranks: Ranks,
    ) -> np.ndarray:
        """Upper bounds (N,) of negative log-likelihoods; of all sources of one VAE found at once."""
        key = (generator.vae, dataset)
        if key not in self._bounds:
            sources = ("prior", "aggregate")
            found = importance_nlls(
                [generator.at(source=source, z_temperature=1.0) for source in sources],
                dataset,
                k=self.iw_samples,
                seed=LIKELIHOOD_SEED,
                batch_size=LIKELIHOOD_BATCH,
                device=device,
                between=between,
                share=ranks.share,
            )
            self._bounds[key] = dict(zip(sources, ranks.add(found).numpy(), strict=True))
        return self._bounds[key][generator.source]

    def _latent(
        self, generator: LatentGenerator, device: torch.device
    ) -> tuple[dict[str, tuple[float, np.ndarray]], dict[str, float]]:
        """What the latent of a VAE does on held-out texts: means with leave-group-out values, and values without."""
        values, texts = latent_values(
            generator.vae, self.held_out, seed=LIKELIHOOD_SEED, batch_size=LIKELIHOOD_BATCH, device=device
        )
        per_text = {"recon": texts.recon, "shuffled_recon": texts.shuffled_recon}
        if generator.source == "prior":
            per_text |= {"kl": texts.kl, "elbo": texts.recon + texts.kl}
        ones = np.ones(len(self.held_out))
        means = {name: ratio_by_group(nats.numpy(), ones) for name, nats in per_text.items()}
        return means, {name: values[name] for name in ("mi", "active_units", "active_directions")}


def check_is_run(run: Path) -> None:
    """UserError unless this is the folder of a run."""
    if (run / "meta.json").is_file():
        raise UserError(f"{run} is one checkpoint; give the folder of its run, and --arms or --arm for one of its arms")
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run} is not the folder of a run; give one that `textgan train` made, such as runs/NAME")


def say_what_stands_in(arms: dict[str, Path]) -> None:
    """Tell of arms whose phase has not ended: they lack the calibration that the others have."""
    for name, folder in arms.items():
        if folder.name != name:
            say(f"note: {folder} stands in for {name}, whose phase has not ended: it is not calibrated as others are")


def check_same_data(arms: dict[str, Path], metas: dict[str, dict[str, Any]], fingerprint: str) -> None:
    """UserError where an arm was trained on other texts than the run's config gives now."""
    for name, meta in metas.items():
        if meta["data"] != fingerprint:
            raise UserError(
                f"{arms[name]} was trained on other data than its config gives now (fingerprint {meta['data'][:12]} "
                f"then, {fingerprint[:12]} now); bring the old files back, or train again"
            )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]

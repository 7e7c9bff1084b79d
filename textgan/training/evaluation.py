"""What is measured of a generator while it trains: likelihood of held-out text, and metrics of its samples.

Everything here reads dev, never test; ``test_likelihood`` is reported at the end of a phase and selects nothing.
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from textgan.config import Config
from textgan.data.corpus import Corpus
from textgan.data.dataset import TokenDataset, eval_batches
from textgan.data.pairs import encode_condition, with_other_openings
from textgan.data.prompts import encode_prompt
from textgan.data.story_features import story_condition
from textgan.data.tokenizer import Tokenizer
from textgan.metrics.suite import Scorer
from textgan.models.generator import Generator
from textgan.models.lstm import LSTMGenerator
from textgan.models.vae import TextVAE
from textgan.sampling.decode import generate
from textgan.sampling.latent import LatentGenerator
from textgan.sampling.latent_likelihood import Diagnosis, importance_nll, latent_values
from textgan.training.ranks import Ranks
from textgan.training.tags import group_of

# Metrics whose value depends on how many texts are looked at: compared at equal numbers only.
MOVE_WITH_N = ("self_bleu", "distinct", "entropy", "unique")


AnyGenerator = Generator | LSTMGenerator | LatentGenerator
LIKELIHOOD_SEED = 0  # of the latents that a VAE's likelihood is computed with: the same at each evaluation
DEFAULT_DRAWS = 100  # of z for the bound of a VAE's NLL, where nobody says how many


@torch.no_grad()
def text_nll(
    generator: AnyGenerator,
    dataset: TokenDataset,
    *,
    batch_size: int,
    device: torch.device,
    draws: int = DEFAULT_DRAWS,
    ranks: Ranks | None = None,
) -> torch.Tensor:
    """Negative log-likelihood of each row (nats, end token counted), float64 (N,), in the rows' order; of a pair that
    of its text given what opens it.

    Exact; of a VAE the importance-weighted upper bound of ``draws`` latents a text, which others do not need.
    ``ranks`` share out the batches; all of them have to call this, and get the numbers of one.
    """
    generator.eval()
    ranks = ranks or Ranks()
    if isinstance(generator, LatentGenerator):
        settings = {"k": draws, "seed": LIKELIHOOD_SEED, "batch_size": batch_size, "device": device}
        return ranks.add(importance_nll(generator, dataset, **settings, share=ranks.share))
    nll = torch.zeros(len(dataset), dtype=torch.float64)
    first, step = ranks.share
    for rows in eval_batches(dataset.lengths, batch_size)[first::step]:
        batch = dataset.batch(rows).to(device)
        mask = batch.mask
        losses = F.cross_entropy(generator(batch.inputs, at=mask).float(), batch.targets[mask], reduction="none")
        nll[rows] = torch.zeros(mask.shape, device=device).double().masked_scatter(mask, losses.double()).sum(1).cpu()
    return ranks.add(nll)


class Evaluator:
    """Scores generators on one corpus; keeps the reference tables and the real-text values between calls."""

    def __init__(
        self,
        config: Config,
        corpus: Corpus,
        tokenizer: Tokenizer,
        dev: TokenDataset,
        test: TokenDataset | None,
        device: torch.device,
        ranks: Ranks | None = None,
    ):
        """``ranks``: among which the work is shared out; all of them have to call each method at the same time."""
        self.ranks = ranks or Ranks()
        self.settings = config.evaluation
        self.max_new_tokens = config.generator.block_size
        self.banned_ids = () if tokenizer.unk_id is None else (tokenizer.unk_id,)
        self.corpus, self.tokenizer, self.device = corpus, tokenizer, device
        self.dev, self.test = dev, test
        self.condition = config.data.condition
        self.oracle_length = config.data.oracle_length if config.data.source == "lstm-oracle" else None
        self.real: dict[int, dict[str, float]] = {}
        self.diagnosis: Diagnosis | None = None  # of the VAE and the texts that were looked at last
        encode = functools.partial(encode_prompt, tokenizer)
        if config.data.condition is not None:
            encode = functools.partial(encode_condition, tokenizer, config.data.template)
        self.prompts = [
            encode(prompt, block_size=config.generator.block_size, name=f"evaluation.prompts[{i}]")
            for i, prompt in enumerate(self.settings.prompts)
        ]

    @functools.cached_property
    def scorer(self) -> Scorer:
        """Of the metrics of samples; on the first rank alone."""
        settings = self.settings
        references = self.corpus.dev[: settings.max_references]
        return Scorer(references, self.corpus.train, tokenize=settings.tokenize, device=self.device)

    def signature(self, n: int) -> dict[str, object]:
        """What moves the metrics of ``n`` samples: that of the scorer, and how the samples are drawn."""
        drawn = {"temperature": 1.0, "unk": "never drawn", "max_new_tokens": self.max_new_tokens}
        if self.dev.starts is not None:
            drawn["conditions"] = "dev, in turn"
        return {**self.scorer.signature(n), "sampling": {**drawn, "seed": self.settings.seed}}

    def asked(self, n: int) -> list[str]:
        """What the first ``n`` samples are written for, of a model of pairs: the conditions of dev in turn."""
        places = self.dev.origins.tolist()
        return [self.corpus.conditions["dev"][places[i % len(places)]] for i in range(n)]

    def sample_texts(self, generator: AnyGenerator, n: int, between: Callable[[], None] | None = None) -> list[str]:
        """``n`` free samples at temperature 1, at the evaluation's fixed seed (``between``: see ``__call__``).

        Of a model of pairs they are the texts that it writes for the conditions of dev in turn.

        As in ``textgan sample``, ``<unk>`` is never chosen: it is no word that a reader could be given, matches no
        reference, and a calibrated model would write it as often as held-out text needs it. NLL does count it.
        """
        size, ids = self.settings.batch_size, []
        for turn in range(0, n, size * self.ranks.size):  # a batch of each rank
            if between is not None:
                between()
            first = min(n, turn + self.ranks.rank * size)
            samples = generate(
                generator,
                [self.dev.opening(i % len(self.dev)) for i in range(first, min(first + size, n))],
                eos_id=self.tokenizer.eos_id,
                max_new_tokens=self.max_new_tokens,
                banned_ids=self.banned_ids,
                seed=self.settings.seed,
                batch_size=size,
                first_index=first,
            )
            ids += [row for part in self.ranks.collect([sample.ids for sample in samples]) for row in part]
        return [self.tokenizer.decode(row) for row in ids]

    def continue_prompts(self, generator: AnyGenerator) -> list[str]:
        """The config's prompts with one continuation each, at the evaluation's fixed seed."""
        samples = generate(
            generator,
            self.prompts,
            eos_id=self.tokenizer.eos_id,
            max_new_tokens=self.max_new_tokens,
            banned_ids=self.banned_ids,
            seed=self.settings.seed,
        )
        return [self.tokenizer.decode([*sample.prompt_ids, *sample.ids]) for sample in samples]

    def __call__(
        self,
        generator: AnyGenerator,
        n: int,
        between: Callable[[], None] | None = None,
        draws: int | None = None,
    ) -> tuple[dict[str, float], list[str]]:
        """Tags with values, real-text values beside (``..._real``), and the ``n`` texts that were scored.

        ``between`` is called before each batch of samples; what it raises ends the evaluation. ``draws``: see
        :meth:`likelihood`.
        """
        generator.eval()
        texts = self.sample_texts(generator, n, between)
        values = self.ranks.first_does(lambda: self._scores(texts))
        values |= self.likelihood(generator, self.dev, draws)
        if self.corpus.oracle is not None:
            values |= self._against_truth(texts, values.get("quality/nll_text"))
        return values, texts

    def _scores(self, texts: list[str]) -> dict[str, float]:
        """Metrics of the texts, and of as many real ones."""
        values = {tag(name): value for name, value in self.scorer.score(texts).values.items()}
        return values | {f"{tag(name)}_real": value for name, value in self._real(len(texts)).items()}

    def likelihood(self, generator: AnyGenerator, dataset: TokenDataset, draws: int | None = None) -> dict[str, float]:
        """Held-out likelihood: nats a token (all; texts without <unk>), per text, and perplexity.

        Of a VAE the bound of ``draws`` latents a text (none: ``evaluation.iw_samples``), and what its latent does;
        where latents come from a GAN there is no density, so the latter alone, without what compares with the prior.
        """
        settings = self.settings
        if isinstance(generator, LatentGenerator) and not generator.has_density:
            values = self._latent(generator.vae, dataset)
            return {name: value for name, value in values.items() if name not in ("vae/elbo_nll", "vae/kl")}
        nll = text_nll(
            generator,
            dataset,
            batch_size=settings.batch_size,
            device=self.device,
            draws=draws or settings.iw_samples,
            ranks=self.ranks,
        )
        mean = (nll.sum() / dataset.counted.sum()).item()
        values = {"quality/nll": mean, "quality/ppl": math.exp(min(mean, 700))}
        values["quality/nll_text"] = nll.mean().item()
        known = torch.ones(len(dataset), dtype=torch.bool)
        if self.tokenizer.unk_id is not None:
            known = ~dataset.rows_with(self.tokenizer.unk_id)
        if known.any() and not known.all():
            values["quality/nll_known"] = (nll[known].sum() / dataset.counted[known].sum()).item()
        if isinstance(generator, LatentGenerator):
            values |= self._latent(generator.vae, dataset)
        if dataset.starts is not None:
            values |= self._condition_gain(generator, dataset, nll)
        return values

    def _condition_gain(self, generator: AnyGenerator, dataset: TokenDataset, nll: torch.Tensor) -> dict[str, float]:
        """How much less likely the texts of pairs are given the condition of another; nothing where there is one."""
        others, rows = with_other_openings(dataset, self.max_new_tokens)
        if not len(rows):
            return {}
        options = {"batch_size": self.settings.batch_size, "device": self.device, "ranks": self.ranks}
        gain = text_nll(generator, others, **options) - nll[rows]
        return {"quality/condition_gain": gain.mean().item()}

    def _latent(self, vae: TextVAE, dataset: TokenDataset) -> dict[str, float]:
        """What the latent of a VAE does on held-out texts; leaves more of it in ``diagnosis``. Of 1 text nothing."""
        if len(dataset) < 2:
            return {}
        found, self.diagnosis = latent_values(
            vae, dataset, seed=LIKELIHOOD_SEED, batch_size=self.settings.batch_size, device=self.device
        )
        elbo = found["elbo"] * len(dataset) / dataset.lengths.sum().item()
        names = ("recon", "shuffled_recon", "kl", "mi", "active_units", "active_directions")
        return {"vae/elbo_nll": elbo} | {f"vae/{name}": found[name] for name in names}

    def test_likelihood(self, generator: AnyGenerator, draws: int | None = None) -> dict[str, float]:
        """:meth:`likelihood` of the test split under ``test_...`` names; empty where there is none."""
        if self.test is None:
            return {}
        values = self.likelihood(generator, self.test, draws)
        return {"test_" + name.partition("/")[2]: value for name, value in values.items()}

    def _real(self, n: int) -> dict[str, float]:
        """Metrics of ``n`` real texts; where there are fewer, those that move with the number are left out."""
        if n not in self.real:
            real = self.scorer.real(n)
            enough = real.signature["texts"] == n
            self.real[n] = {k: v for k, v in real.values.items() if enough or not k.startswith(MOVE_WITH_N)}
        return self.real[n]

    def _against_truth(self, texts: list[str], nll_text: float | None) -> dict[str, float]:
        """Share of valid samples, their NLL under the truth, and KL(truth || model), all in nats a text.

        The divergence needs every text of dev whole: it is left out where some were cut or dropped as too long, and of
        pairs, whose likelihoods are given conditions. Of these there is the share that tells what was asked for.
        """
        log_probs = [self.corpus.oracle.log_prob(text) for text in texts]
        finite = [value for value in log_probs if value > -math.inf]
        entropy, _ = self.corpus.oracle.entropy()
        values = {"quality/valid": len(finite) / len(texts), "quality/nll_true_real": entropy}
        if self.condition is not None:
            told = (story_condition(self.corpus.oracle, text, self.condition) for text in texts)
            asked = self.asked(len(texts))
            values["quality/obeyed"] = sum(a == b for a, b in zip(told, asked, strict=True)) / len(texts)
        elif len(self.dev) == len(self.corpus.dev) and nll_text is not None:
            values["quality/kl_to_model"] = nll_text - entropy
        if finite:
            values["quality/nll_true"] = -sum(finite) / len(finite)
        if self.oracle_length is not None:
            for end in ("", "_real"):
                if f"quality/nll_true{end}" in values:
                    values[f"quality/nll_oracle{end}"] = values[f"quality/nll_true{end}"] / self.oracle_length
        return values


def tag(name: str) -> str:
    """TensorBoard tag of a metric of texts: ``quality/...`` or ``diversity/...``."""
    return f"{group_of(name)}/{name}"


def mode_collapse(values: dict[str, float]) -> str | None:
    """One sentence when samples have collapsed beside real text, else None.

    Rings when fewer than 80 % of the unique share of real text is left, or when self-BLEU-4 is above that of as many
    real texts by more than .15 and by more than half of what was left to 1.
    """
    if "diversity/unique_real" not in values:  # too few real texts to compare with
        return None
    unique, real_unique = values["diversity/unique"], values["diversity/unique_real"]
    bleu, real_bleu = values["diversity/self_bleu_4"], values["diversity/self_bleu_4_real"]
    signs = []
    if unique < 0.8 * real_unique:
        signs.append(f"only {unique:.0%} of the samples are unique (real text: {real_unique:.0%})")
    if bleu > real_bleu + max(0.15, 0.5 * (1 - real_bleu)):
        signs.append(f"self-BLEU-4 is {bleu:.3f} (real text: {real_bleu:.3f})")
    if not signs:
        return None
    return "mode collapse: " + " and ".join(signs)

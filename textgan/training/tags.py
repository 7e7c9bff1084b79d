"""The names of everything that a run logs, what each one means, and how TensorBoard lays them out.

TensorBoard sorts tags by name. So the headline metrics are in ``at_end/``: the HParams page shows the first five
metrics only; and the pages that explain a run are in ``setup/``, behind the samples.
"""

import re

from textgan.metrics.latent import ACTIVE_THRESHOLD
from textgan.metrics.suite import METRICS, meaning

# Tags of the metrics of texts (BLEU, distinct-n ...) are explained by the metrics themselves.
TAGS = {
    "train/loss": "MLE: the loss whose gradient is taken; negative log-likelihood summed over the batch's tokens, "
    "over the constant batch_size x mean length (nats); with finetune.label_smoothing, that of smoothed targets",
    "train/nll": "MLE: negative log-likelihood of the training batch, nats a token, with dropout on, and never with "
    "label smoothing",
    "train/grad_norm": "gradient norm of the generator before clipping (adversarial: of the combined gradient)",
    "train/mle_loss": "adversarial phase: the MLE loss kept beside, as train/loss; only where mle_weight is above 0",
    "train/kl_parent": "KL(parent || generator) on real text, nats a token; only where kl_weight is above 0",
    "train/g_loss": "the generator's GAN loss (see adversarial.loss in the config); not comparable between losses",
    "train/d_loss": "the discriminator's GAN loss, penalties left out; not comparable between losses",
    "train/d_acc": "share of pairs in which the discriminator scores the real text above the fake one: 0.5 means "
    "that it sees no difference, 1 that it always does",
    "train/d_gap": "mean score of real texts minus that of fakes, in the discriminator's own units",
    "train/grad_norm_d": "gradient norm of the discriminator before clipping",
    "train/grad_norm_adv": "norm of the adversarial gradient at the generator before scaling",
    "train/grad_norm_mle": "norm of the gradient of the MLE (and KL) loss at the generator",
    "train/grad_cosine": "cosine between those two gradients: below 0 they pull against each other",
    "train/adv_scale": "factor on the adversarial gradient (adv_ratio holds its norm at a share of MLE's)",
    "train/entropy": "mean entropy of the generator's next-token distribution on its own samples, nats; falling "
    "fast means collapse",
    "train/fake_length": "mean length of the fakes in tokens, end token counted",
    "train/recon": "VAE: reconstruction of the training batch, -log p(x|z) in nats a text, with dropout (and word "
    "dropout) on",
    "train/kl": "VAE: KL(q(z|x) || p(z)) of the training batch, nats a text, as it is: without weight or free bits",
    "train/encoder_updates": "VAE: updates of the encoder alone so far (vae.aggressive)",
    "train/aggregate": "VAE: the pull of the codes to the prior (vae.aggregate), before its weight",
    "train/aggregate_d_loss": "VAE: loss of the critic that tells draws of the prior from codes",
    "train/aggregate_acc": "VAE: share of pairs in which that critic scores the prior above a code; 0.5: no difference",
    "train/e_loss": "latent GAN: the critic's loss in the encoder (latent_gan.encoder_weight), before its weight",
    "train/grad_norm_vae": "latent GAN: gradient norm of encoder and decoder before clipping",
    "train/class_loss": "classifier: cross-entropy of the training batch, nats a text, with dropout on",
    "classifier/accuracy": "classifier: share of dev texts whose likeliest class is the true one",
    "classifier/macro_f1": "classifier: mean over the classes of F1 on dev: rare classes count as frequent ones",
    "classifier/cross_entropy": "classifier: -log of the true class's probability, nats a dev text",
    "classifier/ece": "classifier: expected calibration error on dev, the mean gap between how sure it is and how "
    "often it is right, in 15 bins of confidence (0 is perfect)",
    "classifier/majority": "classifier: accuracy of always naming the most frequent class of dev: the mark to beat",
    "samples/confusion": "classifier: numbers of dev texts by true class (row) and named class (column)",
    "schedule/lr": "learning rate of the generator (with finetune.layer_lr_decay, of what stands above its blocks), or "
    "of a classifier",
    "schedule/lr_vae": "latent GAN: learning rate of encoder and decoder",
    "schedule/kl_weight": "VAE: weight of the KL (beta)",
    "schedule/lr_d": "learning rate of the discriminator",
    "schedule/tau": "temperature of the relaxation (divides the logits; towards 0: hard samples)",
    "perf/tokens_per_s": "tokens trained on a second, evaluations left out",
    "perf/steps_per_s": "generator updates a second, evaluations left out",
    "perf/eval_s": "seconds that an evaluation took",
    "perf/eval_share": "the same over the time since the one before (under 0.05: it hardly slows training)",
    "quality/nll": "negative log-likelihood of dev text under the model, nats a token, end token counted (lower is "
    "better); of a VAE an upper bound of it, importance-weighted over evaluation.iw_samples (at the end of a phase "
    "final_iw_samples) draws of z",
    "vae/elbo_nll": "VAE: the negative evidence lower bound of dev text, nats a token: a looser bound than quality/nll",
    "vae/recon": "VAE: reconstruction of dev text, -log p(x|z) with z drawn from the posterior, nats a text",
    "vae/shuffled_recon": "VAE: the same with the latent of another text; the decoder uses z as far as it is higher",
    "vae/kl": "VAE: KL(q(z|x) || p(z)) of dev text, nats a text: near 0 the posterior has collapsed",
    "vae/mi": "VAE: mutual information of z and text under q, nats, over all texts: at most the log of their number",
    "vae/active_units": f"VAE: latent dimensions whose posterior mean has a variance above {ACTIVE_THRESHOLD} over dev",
    "vae/active_directions": "VAE: the same after a rotation that makes the means uncorrelated: copies do not count",
    "vae/kl_dims": "VAE: mean KL of each latent dimension on dev, nats",
    "samples/reconstructed": "VAE: the first dev texts and what the decoder writes greedily from their posterior means",
    "samples/interpolated": "VAE: what it writes on the straight way between the posterior means of two dev texts",
    **{
        f"latent/{name}{end}": f"latent GAN: {what} from {whose} to codes of dev texts, whitened by the Gaussian of "
        "training codes (0 is perfect)"
        for name, what in (("mmd", "squared MMD"), ("frechet", "Fréchet distance"))
        for end, whose in (
            ("", "generated codes"),
            ("_real", "codes of training texts, the mark,"),
            ("_prior", "draws of the prior"),
            ("_gaussian", "draws of that Gaussian, where the generator starts,"),
        )
    },
    "quality/nll_known": "quality/nll over the dev texts without <unk> only",
    "quality/nll_text": "the same, nats a text",
    "quality/ppl": "perplexity: exp(quality/nll)",
    "quality/valid": "share of samples that the source of the corpus can write (higher is better): stories of its "
    "grammar; for lstm-oracle every text of exactly data.oracle_length of its numbers, so only the length is judged",
    "quality/nll_true": "mean negative log-probability of the valid samples under the true distribution, nats a text; "
    "below the corpus entropy the samples are too safe",
    "quality/nll_true_real": "entropy of the true distribution, nats a text: the mark for quality/nll_true",
    "quality/nll_oracle": "the papers' NLL_oracle: quality/nll_true of lstm-oracle in nats a token (its valid samples "
    "only, the end token not counted)",
    "quality/nll_oracle_real": "entropy of lstm-oracle, nats a token: the mark for quality/nll_oracle",
    "quality/kl_to_model": "KL(truth || model): quality/nll_text minus the corpus entropy, nats a text (0 is perfect)",
    "quality/condition_gain": "pairs: how much less likely a dev text is given the condition of another, nats a text: "
    "0 where the generator does not look at conditions (higher is better)",
    "quality/obeyed": "pairs of embedded stories: share of samples that tell exactly what their condition asks for",
    "samples/free": "the first samples of each evaluation, temperature 1, <unk> never chosen, same noise each time; of "
    "pairs texts for the first conditions of dev",
    "samples/prompted": "evaluation.prompts continued at temperature 1, <unk> never chosen, same noise each time",
    "samples/alarm": "the collapse alarm: raised where diversity falls far below that of real text",
    "samples/posterior_collapse": "raised where a VAE does not use its latent, with what to do",
    "setup/config": "the config of the run, with every default",
    "setup/tags": "what every tag means",
}
HEADLINES = ("bleu_4", "distinct_2", "nll", "self_bleu_4", "valid")
STAGES = {
    "pretrained": "of the pretrained model that the run started from, before it learned anything here",
    "parent": "at the end of the MLE phase, from which the adversarial phase starts and beside which a VAE stands",
    "vae": "at the end of the VAE's phase, where a latent GAN follows",
    "end": "at the end of the run",
    "best": "of the last phase's weights with the best dev NLL (of a latent GAN: the nearest codes)",
}
REAL = ", of as many real texts: the mark to compare with"

_GAN_HEALTH = ("g_loss", "d_loss", "d_acc", "d_gap", "grad_norm", "grad_norm_d", "grad_cosine", "entropy")


def explain_tag(tag: str) -> str:
    """Return one line on what the values under a tag mean; ValueError for a tag that nobody has explained.

    ``..._real`` is the value of real text, ``summary/STAGE_METRIC`` a metric at one of the ``STAGES``.
    """
    if tag in TAGS:
        return TAGS[tag]
    group, _, name = tag.partition("/")
    if group == "at_end" and name.removesuffix("_real") in HEADLINES:
        return f"{explain_metric(name)}; at the end of each phase, evaluation.final_samples texts"
    stage, _, metric = name.partition("_")
    if group == "summary" and stage in STAGES:
        return f"{explain_metric(metric)}; {STAGES[stage]}, evaluation.final_samples texts"
    if group in ("quality", "diversity") and name.removesuffix("_real") in METRICS:
        return explain_metric(name)
    raise ValueError(f"{tag} has no explanation; add it to TAGS in textgan/training/tags.py")


def explain_metric(name: str) -> str:
    """Return what a metric means by its bare name: ``nll``, ``test_nll``, ``self_bleu_4``, ``self_bleu_4_real``."""
    if name.startswith("test_"):
        return f"{explain_metric(name.removeprefix('test_'))} (here of the test split)"
    for group in ("quality", "vae", "classifier"):
        if f"{group}/{name}" in TAGS:
            return TAGS[f"{group}/{name}"]
    plain = name.removesuffix("_real")
    if plain not in METRICS:
        raise ValueError(f"{name} is no metric that is known; see TAGS in textgan/training/tags.py")
    return meaning(plain) + (REAL if plain != name else "")


def glossary() -> str:
    """Return the page that explains every tag, as Markdown."""
    lines = [
        "# What every tag means",
        "",
        "All methods write the same tags, so runs can be laid over each other. A run is more diverse than another "
        "where self-BLEU is lower and distinct is higher; it pays in quality where NLL is higher, or BLEU or "
        "the share of valid texts lower. No number sees everything: read the samples too.",
        "",
        "The run `.../real_text` holds the same metrics of as many real texts: the mark to compare with.",
        "",
        "| tag | meaning |",
        "| --- | --- |",
    ]
    from_metrics = {f"{group_of(name)}/{name}": meaning(name) for name in METRICS}
    for tag, text in sorted((TAGS | from_metrics).items()):
        lines.append(f"| {escape(tag)} | {escape(text)} |")
    lines += [
        "| at\\_end/... | the headline metrics at the end of each phase, of evaluation.final\\_samples texts |",
        *(f"| summary/{stage}\\_... | every metric {text} |" for stage, text in STAGES.items()),
    ]
    return "\n".join(lines)


def group_of(name: str) -> str:
    """Return the group that a metric of texts is logged under."""
    return "quality" if name.startswith("bleu") else "diversity"


def escape(text: str) -> str:
    """Return text that TensorBoard's Markdown shows as it is, line breaks kept, indentation not."""
    safe = re.sub(r"([\\`*_{}\[\]()#+\-.!|])", r"\\\1", text)
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("~", "&#126;"), ("=", "&#61;")):
        safe = safe.replace(character, entity)
    return "  \n".join(line.strip() for line in safe.split("\n"))


def layout() -> dict[str, dict[str, list]]:
    """Return TensorBoard's custom-scalars layout: one metric a chart, lines coloured by run."""

    def chart(tag: str) -> list:
        return ["Multiline", [f"^{re.escape(tag)}$"]]

    return {
        "Diversity": {
            **{f"self-BLEU-{n} (lower: more diverse)": chart(f"diversity/self_bleu_{n}") for n in (2, 3, 4, 5)},
            **{f"distinct-{n} (higher: more diverse)": chart(f"diversity/distinct_{n}") for n in (1, 2, 3, 4)},
            "unique texts (1: no two alike)": chart("diversity/unique"),
        },
        "Quality": {
            "NLL of dev text (lower is better)": chart("quality/nll"),
            "BLEU-4 (real text is the mark)": chart("quality/bleu_4"),
            "valid stories (higher is better)": chart("quality/valid"),
            "what a condition tells of its text, nats": chart("quality/condition_gain"),
            "stories that tell what was asked for": chart("quality/obeyed"),
        },
        "VAE": {
            "KL, nats a text (0: collapse)": chart("vae/kl"),
            "reconstruction, nats a text": chart("vae/recon"),
            "mutual information": chart("vae/mi"),
            "active units": chart("vae/active_units"),
            "active directions (copies of a unit count once)": chart("vae/active_directions"),
        },
        "Classifier": {name: chart(f"classifier/{name}") for name in ("accuracy", "macro_f1", "cross_entropy", "ece")},
        "GAN health": {name: chart(f"train/{name}") for name in _GAN_HEALTH} | {"tau": chart("schedule/tau")},
    }

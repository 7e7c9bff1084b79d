"""What each metric says, which way is better, and how those of :mod:`textgan.metrics.suite` are defined."""

import re

# Names end in an n-gram order (bleu_4) or in what the number was computed with (frechet_minilm, rlm_kn).
MEANINGS = {
    "bleu": "share of a text's 1- to {n}-grams that the references hold (quality; higher is better)",
    "self_bleu": "share of a text's 1- to {n}-grams that the other texts hold (lower is more diverse)",
    "distinct": "different {n}-grams over all {n}-grams of the set (higher is more diverse)",
    "entropy": "entropy of the set's {n}-grams in nats (higher is more diverse)",
    "repetition": "share of a text's {n}-grams that repeat one earlier in it (lower is less repetitive)",
    "novelty": "share of {n}-grams that the training texts lack",
    "unique": "different texts over all texts (1 = none twice; near 0 = collapse)",
    "copies": "share of texts that are a training text word for word",
    "length_mean": "tokens a text, mean",
    "length_sd": "tokens a text, standard deviation",
    "bleu_b": "share of a reference's 1- to {n}-grams that the texts hold (coverage; higher is better)",
    "ms_jaccard": "1- to {n}-grams shared with the references, as often as they come, over all (higher is better)",
    "distinct_budget": "different {n}-grams over all {n}-grams of the same number of tokens (higher is more diverse)",
    "opening_self_bleu": "share of a first sentence's 1- to {n}-grams that other first sentences hold (lower is more"
    " diverse)",
    "nearest_train": "trigrams shared with the most similar training text, over all of both (1 = a copy)",
    "zipf": "how fast word frequency falls with rank (higher: fewer words make up the text)",
    "length_w1": "distance of the lengths from those of the references, in tokens (lower is better)",
    "truncated": "share of texts cut short by the length limit (lower is better)",
    "frechet": "Fréchet distance of the texts' embeddings ({x}) from the references' (lower is better)",
    "frechet_inf": "the same for infinitely many texts ({x}), extrapolated (lower is better)",
    "mmd": "squared maximum mean discrepancy of embeddings ({x}), unbiased: about 0 for real text (lower is better)",
    "mmd_p": "p-value of that under the hypothesis that texts and references are alike ({x})",
    "mauve": "area under the divergence frontier of quantised embeddings ({x}): quality and diversity (1 = as real)",
    "vendi": "effective number of different texts by their embeddings ({x}) (higher is more diverse)",
    "c2st_acc": "share that a classifier tells right, texts from real ones ({x}) (0.5 = cannot; lower is better)",
    "c2st_auc": "how often it ranks a real text above a generated one ({x}) (0.5 = cannot; lower is better)",
    "nll": "negative log-likelihood of held-out text at temperature 1, nats a token (lower is better)",
    "nll_known": "the same over held-out texts without <unk>, nats a token (lower is better)",
    "nll_text": "the same, nats a text (lower is better)",
    "nll_gen": "negative log-likelihood of training text at temperature 1, nats a token",
    "ppl": "perplexity of held-out text, exp of nll (lower is better)",
    "elbo": "negative evidence lower bound of held-out text, recon + kl, nats a text (lower is better; nll_text is the"
    " tighter bound)",
    "recon": "held-out text under the decoder of a VAE, given a latent of its posterior, nats a text",
    "shuffled_recon": "the same given the latent of another text (as low as recon: the decoder does not look at it)",
    "kl": "KL of a text's posterior from the prior of the latents, nats a text (near 0: posterior collapse)",
    "mi": "what the latent tells about which held-out text was read, nats (at most log of their number)",
    "active_units": "latent dimensions whose posterior mean has a variance over held-out texts above 0.01",
    "active_directions": "the same after the rotation that makes these means uncorrelated: copies of a unit count once",
    "nll_div": "negative log-likelihood of the samples under the model itself, nats a token (higher is more diverse)",
    "nll_oracle": "negative log-likelihood of the samples under the true distribution, nats a token (lower is better)",
    "nll_true": "negative log-likelihood of valid samples under the truth, nats a text (compare with its entropy)",
    "lm": "LM score: the samples under a language model of real text ({x}), nats a token (lower is better)",
    "rlm": "reverse LM score: held-out text under an LM of the samples ({x}), nats a token (lower is better)",
    "rlm_neural_sd": "standard deviation of rlm_neural over the seeds of that language model",
    "valid": "share of samples that the source of the corpus can write (higher is better)",
    "kl_to_model": "KL(truth || model), nats a text (lower is better; 0 is perfect)",
    "kl_from_model": "KL(model || truth) over valid samples, nats a text (lower is better; 0 is perfect)",
    "relevance": "cosine of a text's embedding ({x}) and that of what it was written for (real pairs are the mark)",
    "relevance_other": "the same with all other conditions: what texts get that do not look at theirs",
    "relevance_auc": "how often a text is more like its own condition than like another ({x}) (0.5 = not told by it)",
    "condition_spread": "1 - cosine of two texts of one condition ({x}) (higher is more diverse)",
    "condition_self_bleu": "self-BLEU-{n} of the texts of one condition, mean over conditions (lower is more diverse)",
    "condition_distinct": "distinct-{n} of the texts of one condition, mean over conditions (higher is more diverse)",
    "condition_gain": "how much less likely held-out texts are given another's condition, nats a text (higher is"
    " better; 0: conditions are not used)",
    "obeyed": "share of stories that tell exactly what their condition asks for (higher is better)",
}

# What a number was computed with, in words; without a word in its name it is the classifier of word n-grams.
_BY = {
    "": "wide n-gram classifier",
    "ngrams": "word n-grams",
    "minilm": "MiniLM",
    "lm": "language model",
    "hf": "Hugging Face encoder",
    "kn": "Kneser-Ney",
    "neural": "neural",
}

# +1: higher is better, -1: lower is better; 0: neither, real text is the mark.
BETTER = {
    "bleu": 1,
    "self_bleu": -1,
    "distinct": 1,
    "entropy": 1,
    "repetition": -1,
    "novelty": 0,
    "unique": 1,
    "copies": -1,
    "length_mean": 0,
    "length_sd": 0,
    "bleu_b": 1,
    "ms_jaccard": 1,
    "distinct_budget": 1,
    "opening_self_bleu": -1,
    "nearest_train": 0,
    "zipf": 0,
    "length_w1": -1,
    "truncated": -1,
    "frechet": -1,
    "frechet_inf": -1,
    "mmd": -1,
    "mmd_p": 1,
    "mauve": 1,
    "vendi": 1,
    "c2st_acc": -1,
    "c2st_auc": -1,
    "nll": -1,
    "nll_known": -1,
    "nll_text": -1,
    "nll_gen": 0,
    "ppl": -1,
    "elbo": -1,
    "recon": 0,
    "shuffled_recon": 0,
    "kl": 0,
    "mi": 0,
    "active_units": 0,
    "active_directions": 0,
    "nll_div": 1,
    "nll_oracle": -1,
    "nll_true": 0,
    "lm": -1,
    "rlm": -1,
    "rlm_neural_sd": 0,
    "valid": 1,
    "kl_to_model": -1,
    "kl_from_model": -1,
    "relevance": 0,
    "relevance_other": 0,
    "relevance_auc": 0,
    "condition_spread": 1,
    "condition_self_bleu": -1,
    "condition_distinct": 1,
    "condition_gain": 1,
    "obeyed": 1,
}

DEFINITIONS = {
    "bleu": "mean of NLTK sentence_bleu: uniform weights to n, smoothing method1 (epsilon 0.1), closest"
    " reference length, empty texts score 0",
    "self_bleu": "as bleu, against all other texts of the set (leave-one-out by index)",
    "distinct": "unique/all n-grams of the set",
    "entropy": "plug-in over the n-grams of the set, nats",
    "repetition": "1 - unique/all n-grams of a text, mean over texts that have any",
    "novelty": "share of n-gram occurrences that are in no training text",
    "unique": "distinct token sequences / texts",
    "copies": "share of texts whose tokens are those of a training text",
    "length_sd": "population",
}

FULL_DEFINITIONS = {
    "bleu_b": "mean over references of BLEU against all texts as its references, else as bleu",
    "ms_jaccard": "geometric mean over orders 1 to n of sum of min over sum of max of n-gram counts a text",
    "distinct_budget": "distinct of the first token_budget tokens, texts in order, the last one cut",
    "opening_self_bleu": "self_bleu of first sentences",
    "nearest_train": "mean over texts of the largest Jaccard index of the trigram sets of text and training text;"
    " copies have 1",
    "zipf": "minus the least-squares slope of log frequency on log rank, words of the first zipf_ranks ranks",
    "length_w1": "Wasserstein-1 of lengths in tokens",
    "truncated": "texts that reached the sampler's limit / texts",
}


def meaning(name: str) -> str:
    """One line for readers on what a metric such as ``self_bleu_4`` says.

    Raises:
        KeyError: no metric of that name is known.
    """
    key, suffix = _known(name, MEANINGS)
    return MEANINGS[key].format(n=suffix, x=_BY.get(suffix, suffix))


def better(name: str) -> int:
    """+1 where a higher value of the metric is better, -1 where a lower one is, 0 where real text is the mark.

    0 too for names that are not known here.
    """
    try:
        return BETTER[_known(name, BETTER)[0]]
    except KeyError:
        return 0


def _known(name: str, table: dict) -> tuple[str, str]:
    """The entry that a name belongs to, and what its name has behind it."""
    if name in table:
        return name, ""
    stem = re.sub(rf"_(\d+|{'|'.join(filter(None, _BY))})$", "", name)
    if stem == name or stem not in table:
        raise KeyError(f"{name} is no metric that is known")
    return stem, name[len(stem) + 1 :]

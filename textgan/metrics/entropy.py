"""Entropy of the n-grams of a set."""

from textgan.ops.ngrams import NgramCounts


def ngram_entropy(counts: NgramCounts) -> float:
    """Entropy in nats of the n-gram frequencies of the whole set, taken as they are (plug-in); 0 without any.

    At most the logarithm of the number of n-grams; it grows with the set, so compare at the same number of
    texts. Source: Ent-n of Zhang et al. 2018, "Generating Informative and Diverse Conversational Responses
    via Adversarial Information Maximization".
    """
    occurrences = counts.occurrences().double()
    if not len(occurrences):
        return 0.0
    share = occurrences / occurrences.sum()
    return float(-(share * share.log()).sum()) + 0.0  # + 0.0: one n-gram alone has entropy 0, not -0

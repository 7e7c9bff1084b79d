"""All n-gram metrics of a set of texts in one pass, with a signature of everything that moves them."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from textgan import __version__
from textgan.errors import UserError
from textgan.metrics.bleu import (
    closest_lengths,
    closest_other_lengths,
    reference_matches,
    reference_table,
    scores_from_matches,
    self_matches,
)
from textgan.metrics.distinct import distinct, repetition, unique_share
from textgan.metrics.entropy import ngram_entropy
from textgan.metrics.novelty import copies, novelty
from textgan.metrics.tokenize import TOKENIZE
from textgan.ops.ngrams import NgramLookup, Ragged, count_ngrams, ngram_table, ragged

BLEU_ORDERS = range(2, 6)
DISTINCT_ORDERS = range(1, 5)
REPETITION_ORDERS = (2, 4)
NOVELTY_ORDERS = range(2, 5)

METRICS = (
    *(f"bleu_{n}" for n in BLEU_ORDERS),
    *(f"self_bleu_{n}" for n in BLEU_ORDERS),
    *(f"distinct_{n}" for n in DISTINCT_ORDERS),
    *(f"entropy_{n}" for n in DISTINCT_ORDERS),
    "unique",
    *(f"repetition_{n}" for n in REPETITION_ORDERS),
    *(f"novelty_{n}" for n in NOVELTY_ORDERS),
    "copies",
    "length_mean",
    "length_sd",
)

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


def meaning(name: str) -> str:
    """One line for readers on what a metric of :class:`Scores` says, such as ``self_bleu_4``."""
    stem, _, order = name.rpartition("_")
    return MEANINGS[stem].format(n=order) if order.isdigit() else MEANINGS[name]


@dataclass(frozen=True)
class Scores:
    """Metric values by name, and the signature: two values compare only where their signatures agree."""

    values: dict[str, float]
    signature: dict[str, object]

    def signature_line(self) -> str:
        """The signature in one line, without the definitions (they go with the version of textgan)."""
        shown = {key: value for key, value in self.signature.items() if key != "definitions"}
        return " ".join(f"{key}={_shown(value)}" for key, value in shown.items())


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


class Scorer:
    """Scores sets of texts against fixed references and training texts, whose n-gram tables it keeps.

    Args:
        references: held-out real texts for BLEU; None leaves the ``bleu_*`` values out.
        train: training texts for novelty and copies; None leaves those out.
        tokenize: ``words``, ``whitespace`` or ``chars`` (:mod:`textgan.metrics.tokenize`).
        lowercase: lower-case every text first, references and training texts too.
        device: where the counting is done.

    Raises:
        UserError: an unknown ``tokenize``, or references or training texts given but empty.
    """

    def __init__(
        self,
        references: Sequence[str] | None = None,
        train: Sequence[str] | None = None,
        *,
        tokenize: str = "words",
        lowercase: bool = False,
        device: torch.device | str = "cpu",
    ):
        if tokenize not in TOKENIZE:
            raise UserError(f"unknown tokenize {tokenize!r}: choose one of {', '.join(TOKENIZE)}")
        self.tokenize, self.lowercase, self.device = tokenize, lowercase, torch.device(device)
        self._vocabulary: dict[str, int] = {}
        self._references = self._fixed(references, "references")
        self._train = self._fixed(train, "train")
        self._bleu = None if self._references is None else reference_table(self._references, BLEU_ORDERS[-1])
        self._train_table = None if self._train is None else ngram_table(self._train, NOVELTY_ORDERS[-1])
        self._train_keys = frozenset() if self._train is None else frozenset(self._train.keys())
        self._signature = {
            "references": None if references is None else len(references),
            "references_sha256": None if references is None else _fingerprint(references),
            "train": None if train is None else len(train),
            "train_sha256": None if train is None else _fingerprint(train),
            "tokenize": tokenize,
            "lowercase": lowercase,
            "smoothing": "method1",
            "self_bleu": "leave-one-out",
            "textgan": __version__,
        }
        if tokenize == "words":
            from nltk import __version__ as nltk_version

            self._signature["nltk"] = nltk_version
        self._signature["definitions"] = DEFINITIONS

    def score(self, texts: Sequence[str]) -> Scores:
        """Every metric of these texts that has what it needs.

        ``bleu_2..5`` need references, ``novelty_2..4`` and ``copies`` training texts, ``self_bleu_2..5`` at
        least two texts; a metric without is left out. The others are always there: ``distinct_1..4``,
        ``entropy_1..4``, ``unique``, ``repetition_2``, ``repetition_4``, ``length_mean``, ``length_sd``. The
        same texts give the same values whatever was scored before.

        Raises:
            UserError: no texts.
        """
        if not len(texts):
            raise UserError("no texts to score")
        # Words that are new here get ids of their own for this call only: the kept vocabulary must not grow.
        known, new = self._vocabulary, {}
        rows = [
            [known[word] if word in known else new.setdefault(word, len(known) + len(new)) for word in row]
            for row in self._split(texts)
        ]
        values = self._measure(ragged(rows, self.device), use_references=True, use_train=True)
        return Scores(values, self.signature(len(texts)))

    def signature(self, n: int) -> dict[str, object]:
        """What moves the values of ``n`` texts scored here: number, references, units, definitions."""
        return {"texts": n, **self._signature}

    def real(self, n: int, seed: int = 0) -> Scores:
        """The same metrics for ``n`` real texts: the lines to draw beside a model's values.

        ``bleu_*`` is of training texts against the references; ``novelty_*`` and ``copies`` are of references
        against the training texts; the rest is of references where there are ``n`` of them, else of whichever
        there are more (``real_text`` in the signature). Texts are drawn without replacement by ``seed``. Where
        there are fewer than ``n``, all are taken; ``texts`` in the signature is the number behind self-BLEU,
        distinct-n and the like.

        Raises:
            UserError: there are neither references nor training texts.
        """
        pools = {"references": self._references, "train": self._train}
        sizes = {name: len(pool.lengths) for name, pool in pools.items() if pool is not None}
        if not sizes:
            raise UserError("real-text values need references or training texts")
        name = "references" if sizes.get("references", 0) >= n else max(sizes, key=sizes.__getitem__)
        values = self._measure(_draw(pools[name], n, seed), use_references=False, use_train=False)
        if len(sizes) == 2:
            train, references = _draw(self._train, n, seed), _draw(self._references, n, seed)
            bleu = self._measure(train, use_references=True, use_train=False)
            new = self._measure(references, use_references=False, use_train=True)
            values = {**new, **bleu, **values}
            values = {key: values[key] for key in METRICS if key in values}
        signature = {**self.signature(min(n, sizes[name])), "real_text": name, "seed": seed}
        return Scores(values, signature)

    def _measure(self, texts: Ragged, *, use_references: bool, use_train: bool) -> dict[str, float]:
        references = self._bleu if use_references else None
        train = self._train_table if use_train else None
        in_references = None if references is None else NgramLookup(references.table)
        in_train = None if train is None else NgramLookup(train)
        bleu_matches, self_bleu_matches, values = [], [], {}
        for counts in count_ngrams(texts, BLEU_ORDERS[-1]):
            n = counts.n
            self_bleu_matches.append(self_matches(counts))
            if in_references is not None:
                bleu_matches.append(reference_matches(counts, in_references(counts), references.table))
            if n in DISTINCT_ORDERS:
                values[f"distinct_{n}"] = distinct(counts)
                values[f"entropy_{n}"] = ngram_entropy(counts)
            if n in REPETITION_ORDERS:
                values[f"repetition_{n}"] = repetition(counts)
            if in_train is not None and n <= NOVELTY_ORDERS[-1]:
                ids = in_train(counts)
                if n in NOVELTY_ORDERS:
                    values[f"novelty_{n}"] = novelty(counts, ids)
        if references is not None:
            closest = closest_lengths(texts.lengths, references.lengths)
            values |= _means("bleu", scores_from_matches(torch.stack(bleu_matches), texts.lengths, closest))
        if len(texts.lengths) > 1:
            closest = closest_other_lengths(texts.lengths)
            scores = scores_from_matches(torch.stack(self_bleu_matches), texts.lengths, closest)
            values |= _means("self_bleu", scores)
        values["unique"] = unique_share(texts)
        if in_train is not None:
            values["copies"] = copies(texts, self._train_keys)
        lengths = texts.lengths.double()
        values["length_mean"] = float(lengths.mean())
        values["length_sd"] = float(lengths.std(correction=0))
        return {name: values[name] for name in METRICS if name in values}

    def _fixed(self, texts: Sequence[str] | None, what: str) -> Ragged | None:
        if texts is None:
            return None
        if not len(texts):
            raise UserError(f"{what} has no texts: give some, or leave it out")
        ids = self._vocabulary
        return ragged([[ids.setdefault(word, len(ids)) for word in row] for row in self._split(texts)], self.device)

    def _split(self, texts: Iterable[str]) -> Iterable[list[str]]:
        split = TOKENIZE[self.tokenize]
        return (split(text.lower() if self.lowercase else text) for text in texts)


def _means(name: str, scores: torch.Tensor) -> dict[str, float]:
    means = scores.mean(1)
    return {f"{name}_{n}": float(means[n - 1]) for n in BLEU_ORDERS}


def _draw(texts: Ragged, n: int, seed: int) -> Ragged:
    """``n`` of the texts without replacement, in their order; the same ones on every device."""
    rows = torch.randperm(len(texts.lengths), generator=torch.Generator().manual_seed(seed))[:n]
    return texts.select(rows.sort().values.to(texts.lengths.device))


def _fingerprint(texts: Iterable[str]) -> str:
    """Start of what ``sha256sum`` says of a file with these texts, one a line."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:16]

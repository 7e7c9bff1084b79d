"""All n-gram metrics of a set of texts in one pass, with a signature of everything that moves them."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from textgan import __version__
from textgan.errors import UserError
from textgan.metrics.bleu import reference_table
from textgan.metrics.bootstrap import Interval, bootstrap_mean
from textgan.metrics.jackknife import group_of_text, jackknife_interval
from textgan.metrics.meanings import DEFINITIONS, better, meaning
from textgan.metrics.measure import (
    BLEU_ORDERS,
    DISTINCT_ORDERS,
    NOVELTY_ORDERS,
    REPETITION_ORDERS,
    BasicMetrics,
    Grouping,
    Measured,
    measure,
)
from textgan.metrics.tokenize import TOKENIZE
from textgan.ops.ngrams import Ragged, ngram_table, ragged

__all__ = ["METRICS", "Scorer", "Scores", "better", "meaning"]

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

# Metrics that are means of independent values of the texts: the name of these in ``Scores.per_text``.
MEANS = {**{f"bleu_{n}": f"bleu_{n}" for n in BLEU_ORDERS}, "copies": "copied", "length_mean": "length"}


@dataclass(frozen=True)
class Scores:
    """Metric values by name, and the signature: two values compare only where their signatures agree.

    Attributes:
        values: metric by name.
        signature: everything that moves the values.
        groups: the metric without the texts of group g, (G,) by metric; empty unless asked for. Text i is in group
            ``i % G``. References and training texts stay whole: the spread is that of the scored texts alone.
        per_text: values text by text, (N,) by name; empty unless asked for. NaN where a text has none (too short).
    """

    values: dict[str, float]
    signature: dict[str, object]
    groups: dict[str, np.ndarray] = field(default_factory=dict)
    per_text: dict[str, np.ndarray] = field(default_factory=dict)

    def intervals(self, level: float = 0.95, seed: int = 0) -> dict[str, Interval]:
        """Interval of each metric: a bootstrap over texts where it is a mean of independent values, else jackknife.

        Metrics for which neither ``per_text`` nor ``groups`` was asked for are left out.
        """
        means = [name for name in MEANS if MEANS[name] in self.per_text and name in self.values]
        found = {}
        if means:
            columns = np.stack([self.per_text[MEANS[name]] for name in means], axis=1)
            _, lower, upper = bootstrap_mean(columns, level=level, seed=seed)
            for name, low, high in zip(means, lower, upper, strict=True):
                found[name] = Interval(self.values[name], float(low), float(high))
        for name, values in self.groups.items():
            if name not in found:
                found[name] = jackknife_interval(self.values[name], values, level)
        return {name: found[name] for name in self.values if name in found}

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

    def score(self, texts: Sequence[str], *, groups: int = 0, per_text: bool = False) -> Scores:
        """Every metric of these texts that has what it needs.

        ``bleu_2..5`` need references, ``novelty_2..4`` and ``copies`` training texts, ``self_bleu_2..5`` at
        least two texts; a metric without is left out. The others are always there: ``distinct_1..4``,
        ``entropy_1..4``, ``unique``, ``repetition_2``, ``repetition_4``, ``length_mean``, ``length_sd``. The
        same texts give the same values whatever was scored before.

        Args:
            texts: the set; its order says which group a text is in.
            groups: number of jackknife groups for ``Scores.groups``; 0 for none.
            per_text: whether ``Scores.per_text`` is filled: ``bleu_n``, ``self_bleu_n``, ``length``, ``copied``,
                ``novelty_4`` and ``repetition_4`` (shares within the text).

        Raises:
            UserError: no texts, or too few for so many groups.
        """
        if not len(texts):
            raise UserError("no texts to score")
        grouping = None if not groups else Grouping(group_of_text(len(texts), groups).to(self.device), groups)
        # Words that are new here get ids of their own for this call only: the kept vocabulary must not grow.
        known, new = self._vocabulary, {}
        rows = [
            [known[word] if word in known else new.setdefault(word, len(known) + len(new)) for word in row]
            for row in self._split(texts)
        ]
        found = self._measure(ragged(rows, self.device), grouping=grouping, per_text=per_text)
        return Scores(
            _in_order(found.values),
            self.signature(len(texts)),
            {name: values.cpu().numpy() for name, values in _in_order(found.without).items()},
            {name: values.cpu().numpy() for name, values in found.per_text.items()},
        )

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
        values = self._measure(_draw(pools[name], n, seed), use_references=False, use_train=False).values
        if len(sizes) == 2:
            train, references = _draw(self._train, n, seed), _draw(self._references, n, seed)
            bleu = self._measure(train, use_train=False).values
            new = self._measure(references, use_references=False).values
            values = {**new, **bleu, **values}
        signature = {**self.signature(min(n, sizes[name])), "real_text": name, "seed": seed}
        return Scores(_in_order(values), signature)

    def _measure(
        self,
        texts: Ragged,
        *,
        use_references: bool = True,
        use_train: bool = True,
        grouping: Grouping | None = None,
        per_text: bool = False,
    ) -> Measured:
        references = self._bleu if use_references else None
        train = self._train_table if use_train else None
        families = [BasicMetrics(texts, references, train, self._train_keys, grouping, per_text)]
        return measure(texts, families, grouping)

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


def _in_order(by_name: dict) -> dict:
    return {name: by_name[name] for name in METRICS if name in by_name}


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

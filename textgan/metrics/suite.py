"""All n-gram metrics of a set of texts in one pass, with a signature of everything that moves them."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch

from textgan import __version__
from textgan.errors import UserError
from textgan.metrics.bleu import reference_table
from textgan.metrics.extended import ExtendedMetrics, reference_counts
from textgan.metrics.jackknife import group_of_text
from textgan.metrics.meanings import DEFINITIONS, FULL_DEFINITIONS, better, meaning
from textgan.metrics.measure import (
    BLEU_ORDERS,
    NOVELTY_ORDERS,
    BasicMetrics,
    Grouping,
    Measured,
    measure,
)
from textgan.metrics.nearest import ORDER, TrainingTexts
from textgan.metrics.openings import first_sentence
from textgan.metrics.scores import FULL_METRICS, MEANS, METRICS, Scores
from textgan.metrics.tokenize import TOKENIZE
from textgan.metrics.zipf import RANKS
from textgan.ops.ngrams import Ragged, ngram_table, ragged

__all__ = ["FULL_METRICS", "MEANS", "METRICS", "Scorer", "Scores", "better", "meaning"]


class Scorer:
    """Scores sets of texts against fixed references and training texts, whose n-gram tables it keeps.

    Args:
        references: held-out real texts for BLEU; None leaves the ``bleu_*`` values out.
        train: training texts for novelty and copies; None leaves those out.
        tokenize: ``words``, ``whitespace`` or ``chars`` (:mod:`textgan.metrics.tokenize`).
        lowercase: lower-case every text first, references and training texts too.
        device: where the counting is done.
        full: whether the metrics of ``FULL_METRICS`` beyond ``METRICS`` are found too.
        token_budget: tokens that ``distinct_budget_n`` looks at; None takes half of what as many real texts have
            (references, else training texts), so that short samples reach it too.

    Raises:
        UserError: an unknown ``tokenize``, or references or training texts given but empty, or a token budget below 1
            or without ``full``.
    """

    def __init__(
        self,
        references: Sequence[str] | None = None,
        train: Sequence[str] | None = None,
        *,
        tokenize: str = "words",
        lowercase: bool = False,
        device: torch.device | str = "cpu",
        full: bool = False,
        token_budget: int | None = None,
    ):
        if tokenize not in TOKENIZE:
            raise UserError(f"unknown tokenize {tokenize!r}: choose one of {', '.join(TOKENIZE)}")
        if token_budget is not None and (token_budget < 1 or not full):
            raise UserError(f"token_budget={token_budget} must be at least 1, and needs full=True")
        self.tokenize, self.lowercase, self.device = tokenize, lowercase, torch.device(device)
        self.full, self.token_budget = full, token_budget
        self._vocabulary: dict[str, int] = {}
        self._references = self._fixed(references, "references")
        self._train = self._fixed(train, "train")
        self._bleu = None if self._references is None else reference_table(self._references.texts, BLEU_ORDERS[-1])
        self._train_table = None if self._train is None else ngram_table(self._train.texts, NOVELTY_ORDERS[-1])
        self._train_keys = frozenset() if self._train is None else frozenset(self._train.texts.keys())
        self._reference_counts, self._train_texts = None, None
        if full and self._references is not None:
            self._reference_counts = reference_counts(self._references.texts)
        if full and self._train is not None:
            self._train_texts = TrainingTexts(self._train.texts)
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
        self._signature["definitions"] = DEFINITIONS | FULL_DEFINITIONS if full else DEFINITIONS

    def score(
        self,
        texts: Sequence[str],
        *,
        groups: int = 0,
        per_text: bool = False,
        truncated: Sequence[bool] | None = None,
    ) -> Scores:
        """Every metric of these texts that has what it needs.

        ``bleu_2..5`` need references, ``novelty_2..4`` and ``copies`` training texts, ``self_bleu_2..5`` at
        least two texts; a metric without is left out. The others are always there: ``distinct_1..4``,
        ``entropy_1..4``, ``unique``, ``repetition_2``, ``repetition_4``, ``length_mean``, ``length_sd``. With
        ``full``, ``bleu_b_2..5``, ``ms_jaccard_2..5`` and ``length_w1`` need references, ``nearest_train`` training
        texts, ``opening_self_bleu_2..5`` two texts, ``distinct_budget_1..4`` enough tokens, ``truncated`` its flags;
        ``zipf`` is always there. The same texts give the same values whatever was scored before.

        Args:
            texts: the set; its order says which group a text is in.
            groups: number of jackknife groups for ``Scores.groups``; 0 for none.
            per_text: whether ``Scores.per_text`` is filled: ``bleu_n``, ``self_bleu_n``, ``length``, ``copied``,
                ``novelty_4`` and ``repetition_4`` (shares within the text), ``nearest_train``, ``truncated``.
            truncated: whether each text was cut short by the sampler's limit; needs ``full``.

        Raises:
            UserError: no texts, or too few for so many groups, or flags that are not one a text.
        """
        if not len(texts):
            raise UserError("no texts to score")
        if truncated is not None and (len(truncated) != len(texts) or not self.full):
            raise UserError(
                f"{len(truncated)} truncated flags for {len(texts)} texts: needed is one a text, and full=True"
            )
        grouping = None if not groups else Grouping(group_of_text(len(texts), groups).to(self.device), groups)
        # Words that are new here get ids of their own for this call only: the kept vocabulary must not grow.
        known, new = self._vocabulary, {}
        encoded = self._encode(
            texts, lambda word: known[word] if word in known else new.setdefault(word, len(known) + len(new))
        )
        found = self._measure(encoded, len(texts), grouping=grouping, per_text=per_text, truncated=truncated)
        return Scores(
            _in_order(found.values),
            self.signature(len(texts)),
            {name: values.cpu().numpy() for name, values in _in_order(found.without).items()},
            {name: values.cpu().numpy() for name, values in found.per_text.items()},
        )

    def signature(self, n: int) -> dict[str, object]:
        """What moves the values of ``n`` texts scored here: number, references, units, definitions."""
        if not self.full:
            return {"texts": n, **self._signature}
        settings = {"token_budget": self._budget(n), "zipf_ranks": RANKS, "nearest_order": ORDER}
        return {"texts": n, **self._signature, **settings}

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
        sizes = {name: len(pool.texts.lengths) for name, pool in pools.items() if pool is not None}
        if not sizes:
            raise UserError("real-text values need references or training texts")
        name = "references" if sizes.get("references", 0) >= n else max(sizes, key=sizes.__getitem__)
        values = self._measure(_draw(pools[name], n, seed), n, use_references=False, use_train=False).values
        if len(sizes) == 2:
            train, references = _draw(self._train, n, seed), _draw(self._references, n, seed)
            against_references = self._measure(train, n, use_train=False).values
            against_train = self._measure(references, n, use_references=False).values
            values = {**against_train, **against_references, **values}
        signature = {**self.signature(n), "texts": min(n, sizes[name]), "real_text": name, "seed": seed}
        return Scores(_in_order(values), signature)

    def _measure(
        self,
        encoded: "_Encoded",
        n: int,
        *,
        use_references: bool = True,
        use_train: bool = True,
        grouping: Grouping | None = None,
        per_text: bool = False,
        truncated: Sequence[bool] | None = None,
    ) -> Measured:
        """The metrics of texts that stand for ``n`` texts."""
        texts, found = encoded.texts, Measured(grouping, per_text)
        references = self._bleu if use_references else None
        table = self._train_table if use_train else None
        families = [BasicMetrics(texts, references, table, self._train_keys, found)]
        if self.full:
            more = ExtendedMetrics(
                texts,
                encoded.openings,
                self._reference_counts if use_references else None,
                self._train_texts if use_train else None,
                table,
                self._train_keys,
                self._budget(n),
                truncated,
                found,
            )
            families.append(more)
        measure(texts, families, grouping)
        return found

    def _budget(self, n: int) -> int | None:
        """Tokens that distinct-n at a budget looks at in ``n`` texts; None where nothing says how many."""
        if self.token_budget is not None:
            return self.token_budget
        real = self._references or self._train
        if real is None:
            return None
        return int(real.texts.lengths.sum()) * n // (2 * len(real.texts.lengths)) or None

    def _fixed(self, texts: Sequence[str] | None, what: str) -> "_Encoded | None":
        if texts is None:
            return None
        if not len(texts):
            raise UserError(f"{what} has no texts: give some, or leave it out")
        ids = self._vocabulary
        return self._encode(texts, lambda word: ids.setdefault(word, len(ids)))

    def _encode(self, texts: Sequence[str], id_of: Callable[[str], int]) -> "_Encoded":
        rows = [[id_of(word) for word in row] for row in self._split(texts)]
        if not self.full:
            return _Encoded(ragged(rows, self.device), None)
        openings = []
        for text, row in zip(texts, rows, strict=True):
            opening = first_sentence(text)
            same = len(opening) == len(text.strip())
            openings.append(row if same else [id_of(word) for word in next(iter(self._split([opening])))])
        return _Encoded(ragged(rows, self.device), ragged(openings, self.device))

    def _split(self, texts: Iterable[str]) -> Iterable[list[str]]:
        split = TOKENIZE[self.tokenize]
        return (split(text.lower() if self.lowercase else text) for text in texts)


class _Encoded(NamedTuple):
    texts: Ragged
    openings: Ragged | None  # first sentences, where they are wanted


def _in_order(by_name: dict) -> dict:
    return {name: by_name[name] for name in FULL_METRICS if name in by_name}


def _draw(pool: _Encoded, n: int, seed: int) -> _Encoded:
    """``n`` of the texts without replacement, in their order; the same ones on every device."""
    rows = torch.randperm(len(pool.texts.lengths), generator=torch.Generator().manual_seed(seed))[:n]
    rows = rows.sort().values.to(pool.texts.lengths.device)
    return _Encoded(pool.texts.select(rows), None if pool.openings is None else pool.openings.select(rows))


def _fingerprint(texts: Iterable[str]) -> str:
    """Start of what ``sha256sum`` says of a file with these texts, one a line."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:16]

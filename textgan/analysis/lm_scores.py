"""Forward and reverse language-model scores: what texts cost a model of real text, and real text a model of them.

``lm`` (quality): nats a token of the texts under a language model of the real training text. Lower is better, and far
below real text's own value is too plain. ``rlm`` (quality and diversity): nats a token of held-out real text under a
fresh language model that was trained on nothing but the texts; what they never say costs here (Zhao et al. 2018,
https://arxiv.org/abs/1706.04223; Caccia et al. 2020, https://arxiv.org/abs/1811.02549). Both with n-gram models here
(:class:`KneserNeyScorer`, exact and repeatable) and with neural ones in :mod:`textgan.analysis.neural_lm`.

Units are words (or another ``tokenize``) and the end of a text, whatever tokens the generators have, so their values
compare. The vocabulary is that of the real training text; all other words are one word, ``<unk>``. In ``lm`` that costs
what ``<unk>`` costs, so that odd words are not free. In ``rlm`` the held-out text's unknown words are left out, and
``<unk>`` is taken out of the distribution: whether a generator can write ``<unk>``, or is kept from it, must not count.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from textgan import __version__
from textgan.errors import UserError
from textgan.metrics.jackknife import group_of_text
from textgan.metrics.suite import Scores
from textgan.metrics.tokenize import TOKENIZE
from textgan.models.kneser_ney import KneserNey, fit_kneser_ney, fit_without_groups
from textgan.ops.ngrams import Ragged, ragged

DEFINITIONS = {
    "lm": "nats a token of the texts under a model of train; unknown words count as one word; ends count",
    "rlm": "nats a token of the held-out text under a model of the texts; its unknown words are left out and <unk> is"
    " taken out of the distribution; ends count",
}


class Units:
    """Texts as rows of ids: the words of a real text that occur ``min_count`` times, and ``<unk>`` for all others.

    Attributes:
        eos_id, unk_id: 0 and 1; words have the ids from 2 on, the most frequent first.
        vocab_size: all of them.
    """

    eos_id, unk_id = 0, 1

    def __init__(self, texts: Sequence[str], *, tokenize: str = "words", lowercase: bool = False, min_count: int = 2):
        """Raises UserError for an unknown ``tokenize``, or where no word is left."""
        if tokenize not in TOKENIZE:
            raise UserError(f"unknown tokenize {tokenize!r}: choose one of {', '.join(TOKENIZE)}")
        self.tokenize, self.lowercase, self.min_count = tokenize, lowercase, min_count
        counts = Counter(chain.from_iterable(map(self.split, texts)))
        words = sorted((word for word, n in counts.items() if n >= min_count), key=lambda word: (-counts[word], word))
        if not words:
            raise UserError(
                f"no word occurs {min_count} times in {len(texts)} training texts: a language model needs more text"
            )
        self._ids = {word: i for i, word in enumerate(words, 2)}
        self.vocab_size = len(words) + 2

    def split(self, text: str) -> list[str]:
        """The words of a text."""
        return TOKENIZE[self.tokenize](text.lower() if self.lowercase else text)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without end."""
        return [self._ids.get(word, self.unk_id) for word in self.split(text)]

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts."""
        return [self.encode(text) for text in texts]


class RealText:
    """Training and held-out text in units, and what of it moves the values. The scorers share one.

    Attributes:
        units: the vocabulary, from ``train``.
        train, held_out: rows of ids.
    """

    def __init__(
        self,
        train: Sequence[str],
        held_out: Sequence[str],
        *,
        tokenize: str = "words",
        lowercase: bool = False,
        min_count: int = 2,
    ):
        """Raises UserError where a split is empty, for an unknown ``tokenize``, or where no word is left."""
        for name, texts in (("training", train), ("held-out", held_out)):
            if not len(texts):
                raise UserError(f"language-model scores need {name} texts; there are none")
        self.units = Units(train, tokenize=tokenize, lowercase=lowercase, min_count=min_count)
        self.train, self.held_out = self.units.rows(train), self.units.rows(held_out)
        self.signature = {
            "train": len(train),
            "train_sha256": _fingerprint(train),
            "held_out": len(held_out),
            "held_out_sha256": _fingerprint(held_out),
            "tokenize": tokenize,
            "lowercase": lowercase,
            "min_count": min_count,
            "vocabulary": self.units.vocab_size,
            "textgan": __version__,
        }

    def draw(self, n: int, seed: int) -> tuple[list[list[int]], list[list[int]]]:
        """``n`` rows of train and of held-out text, without replacement; all where there are fewer."""
        rng = np.random.default_rng(seed)
        picks = [rng.permutation(len(rows))[:n] for rows in (self.train, self.held_out)]
        return [self.train[i] for i in picks[0]], [self.held_out[i] for i in picks[1]]


class KneserNeyScorer:
    """``lm_kn`` and ``rlm_kn`` of sets of texts: n-gram models, exact and repeatable.

    Args:
        real: training and held-out text.
        order: of the n-gram models.
        device: where the counting is done.
    """

    def __init__(self, real: RealText, *, order: int = 4, device: torch.device | str = "cpu"):
        self.real_text, self.order, self.device = real, order, torch.device(device)
        self._model = self._fit(ragged(real.train, self.device))
        self._held_out = ragged(real.held_out, self.device)
        self._known = _with_ends(self._held_out, real.units.eos_id) != real.units.unk_id

    def signature(self, n: int) -> dict[str, object]:
        """What moves the values of ``n`` texts, under one key."""
        model = f"interpolated Kneser-Ney, order {self.order}, three discounts an order"
        return {"lm_kn": {"texts": n, "model": model, **self.real_text.signature, "definitions": DEFINITIONS}}

    def score(self, texts: Sequence[str], *, groups: int = 0, per_text: bool = False) -> Scores:
        """``lm_kn`` and ``rlm_kn``, nats a token, of at least one text.

        Args:
            texts: the set; its order says which group a text is in (``i % groups``).
            groups: number of jackknife groups for ``Scores.groups``; the model of ``rlm_kn`` is fitted anew without
                each group. 0 for none.
            per_text: whether ``Scores.per_text`` has ``lm_kn_nats`` and ``lm_kn_tokens`` (end counted), whose sums over
                texts have ``lm_kn`` as their quotient.

        Raises:
            UserError: no texts, or too few for so many groups.
        """
        if not len(texts):
            raise UserError("there are no texts to score")
        if groups:
            group_of_text(len(texts), groups)  # refuses what cannot be grouped
        found = self._measure(self.real_text.units.rows(texts), groups)
        return found if per_text else Scores(found.values, found.signature, found.groups)

    def real(self, n: int, seed: int = 0) -> Scores:
        """The values of ``n`` real texts: ``lm_kn`` of held-out texts, ``rlm_kn`` of a model of training texts.

        Drawn without replacement by ``seed``. Where there are fewer than ``n`` held-out texts, all are taken; where
        there are fewer training texts, ``rlm_kn`` is left out, for it moves with the number.
        """
        train, held_out = self.real_text.draw(n, seed)
        values = {"lm_kn": self._measure(held_out, 0).values["lm_kn"]}
        if len(train) == n:
            values["rlm_kn"] = self._measure(train, 0).values["rlm_kn"]
        signature = {**self.signature(n)["lm_kn"], "held_out_texts": len(held_out), "seed": seed}
        return Scores(values, {"lm_kn": signature})

    def _measure(self, rows: list[list[int]], groups: int) -> Scores:
        texts = ragged(rows, self.device)
        nats, tokens = -self._model.log_prob(texts), texts.lengths + 1
        values = {"lm_kn": (nats.sum() / tokens.sum()).item(), "rlm_kn": self._reverse(self._fit(texts))}
        without = {}
        if groups:
            without["lm_kn"] = quotients_without(nats, tokens, groups)
            models = fit_without_groups(texts, groups, **self._shape())
            without["rlm_kn"] = np.array([self._reverse(model) for model in models])
        each = {"lm_kn_nats": nats.cpu().numpy(), "lm_kn_tokens": tokens.cpu().numpy()}
        return Scores(values, self.signature(len(rows)), without, each)

    def _shape(self) -> dict[str, int]:
        units = self.real_text.units
        return {"order": self.order, "vocab_size": units.vocab_size, "eos_id": units.eos_id}

    def _fit(self, texts: Ragged) -> KneserNey:
        return fit_kneser_ney(texts, **self._shape())

    def _reverse(self, model: KneserNey) -> float:
        """Nats a known token of the held-out text, among known words."""
        known = model.token_log_probs(self._held_out)
        unknown = model.token_log_probs(self._held_out, of=self.real_text.units.unk_id)
        return (torch.log1p(-unknown.exp()) - known)[self._known].mean().item()


def quotients_without(nats: Tensor, tokens: Tensor, groups: int) -> np.ndarray:
    """Sum of ``nats`` over that of ``tokens``, both (N,), without the texts of each group, (groups,)."""
    group = torch.arange(len(nats), device=nats.device) % groups
    above = nats.new_zeros(groups).index_add_(0, group, nats)
    below = nats.new_zeros(groups).index_add_(0, group, tokens.to(nats.dtype))
    return ((nats.sum() - above) / (tokens.sum() - below)).cpu().numpy()


def _with_ends(texts: Ragged, eos_id: int) -> Tensor:
    """All tokens with ``eos_id`` behind each text, (M + N,)."""
    out = torch.full((len(texts.tokens) + len(texts.lengths),), eos_id, device=texts.tokens.device)
    out[torch.arange(len(texts.tokens), device=out.device) + texts.owners] = texts.tokens
    return out


def _fingerprint(texts: Sequence[str]) -> str:
    """Start of what ``sha256sum`` says of a file with these texts, one a line."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:16]

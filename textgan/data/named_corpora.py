"""Texts by name: drawn from an oracle, from NLTK's corpora, from Hugging Face data sets."""

from __future__ import annotations

import difflib
import importlib
import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from textgan.data.readers import condition_of_record, label_of_record, text_of_record
from textgan.data.words import join_words
from textgan.errors import UserError


class Oracle(Protocol):
    """The true distribution of a corpus."""

    def log_prob(self, text: str) -> float:
        """Log-probability of `text` in nats; -inf if it cannot occur."""
        ...

    def entropy(self) -> tuple[float, float]:
        """Entropy of a text in nats, and its standard error (0 where it is exact)."""
        ...

    def explain(self, text: str) -> str | None:
        """None for a text that can occur (and where nothing is to be said); else where it goes wrong."""
        ...

    def sample_many(self, n: int, seed: int) -> list[str]:
        """`n` independent texts, the same for the same seed."""
        ...


def _lstm_oracle(length: int) -> Oracle:
    from textgan.data.lstm_oracle import load_lstm_oracle

    return load_lstm_oracle(length)


def _grammar(language: str) -> Oracle:
    from textgan.data.story_grammar import load_grammar

    return load_grammar(language)


# The argument is the length of the LSTM oracle's texts.
ORACLES: dict[str, Callable[[int], Oracle]] = {
    "stories": lambda length: _grammar("en"),
    "stories-zh": lambda length: _grammar("zh"),
    "lstm-oracle": _lstm_oracle,
}
GRAMMARS = ("stories", "stories-zh")


def draw_texts(oracle: Oracle, n: int, seed: int, split: str) -> list[str]:
    """`n` independent texts, the same for the same seed and split; other splits are independent of them."""
    return oracle.sample_many(n, random.Random(f"{seed} {split}").getrandbits(63)) if n else []


def nltk_texts(name: str) -> list[str]:
    """The sentences of an NLTK corpus, or its paragraphs for `NAME:paras`, with normal spacing.

    Raises:
        UserError: NLTK has no such corpus, it has no sentences, or its data is not on this machine.
    """
    # `import nltk.corpus` would give a stand-in that lists nothing before its first use.
    corpora = importlib.import_module("nltk.corpus")
    from nltk.corpus.reader import CorpusReader
    from nltk.corpus.util import LazyCorpusLoader

    name, _, unit = name.partition(":")
    if unit not in ("", "sents", "paras"):
        raise UserError(f"unknown unit {unit!r} in nltk:{name}:{unit}; known: sents, paras")
    known = [key for key, value in vars(corpora).items() if isinstance(value, LazyCorpusLoader | CorpusReader)]
    if name not in known:
        near = difflib.get_close_matches(name, known, 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"NLTK has no corpus {name!r}{hint}")
    try:
        reader = getattr(corpora, name)
        units = getattr(reader, unit or "sents", None)
        if units is None:
            raise UserError(f"the NLTK corpus {name!r} has no {'paragraphs' if unit == 'paras' else 'sentences'}")
        return [join_words(_flatten(words)) for words in units()]
    except LookupError as error:
        needed = re.search(r"nltk\.download\('([^']+)'\)", str(error))
        resource = needed[1] if needed else name
        raise UserError(
            f"NLTK's data {resource!r} is not on this machine; get it with: python -m nltk.downloader {resource}"
        ) from None


def _flatten(words: Iterable) -> list[str]:
    return [w for part in words for w in ([part] if isinstance(part, str) else _flatten(part))]


HFRow = tuple[str, str | None, str | None]


def hf_texts(name: str, field: str, label: str | None = None, condition: str | None = None) -> dict[str, list[HFRow]]:
    """(text, label, condition) by split ("train" and, where the data set has them, "dev" and "test").

    Args:
        name: `NAME[:CONFIG]`, a data set of the Hugging Face hub or a folder that `datasets.load_dataset` reads.
        field: a column of strings, or of lists of strings (joined by blank lines).
        label: a column of classes or sources; None: no text has a label.
        condition: a column of what texts are written for, strings or lists of them; None: no text has one.

    Raises:
        UserError: the library is missing, the data set cannot be loaded, or it has no such column or no train.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(f"hf:{name} needs the library datasets: pip install 'textgan[hf]'") from None
    path, config = name, None
    if ":" in name and not Path(name).expanduser().exists():
        path, config = name.rsplit(":", 1)
    local = Path(path).expanduser()
    try:
        splits = datasets.load_dataset(str(local) if local.exists() else path, config)
    except Exception as error:  # the library raises some twenty kinds for names, networks and formats
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"cannot load the data set hf:{name}: {reason}") from None
    if "train" not in splits:
        raise UserError(f"hf:{name} has no split 'train'; it has: {', '.join(splits)}")
    found = {"train": splits["train"]}
    found |= {ours: splits[theirs] for ours, theirs in _HF_SPLITS if theirs in splits and ours not in found}
    return {split: _hf_rows(rows, field, label, condition, f"hf:{name} {split}") for split, rows in found.items()}


_HF_SPLITS = (("dev", "validation"), ("dev", "valid"), ("dev", "dev"), ("test", "test"))


def _hf_rows(rows: Any, field: str, label: str | None, condition: str | None, place: str) -> list[HFRow]:
    wanted = [name for name in dict.fromkeys((field, label, condition)) if name is not None]
    for name in wanted:
        if name not in rows.column_names:
            raise UserError(f"{place}: no column {name!r}; there are: {', '.join(rows.column_names)}")
    named = getattr(rows.features.get(label), "int2str", None)  # classes are stored as numbers
    found = []
    for i, row in enumerate(rows.select_columns(wanted), 1):
        where = f"{place}, row {i}"
        if named and row[label] is not None:
            row[label] = named(row[label]) if row[label] >= 0 else None  # -1: unlabelled
        text = text_of_record(row, field, where)
        given = condition_of_record(row, condition, where) if text.strip() else None
        found.append((text, label_of_record(row, label, where), given))
    return found

"""A corpus: texts in three splits from files or by name, with a report of what was found and a fingerprint."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

from textgan.data.named_corpora import GRAMMARS, ORACLES, Oracle, draw_texts, hf_texts, nltk_texts
from textgan.data.readers import is_readable, read_texts
from textgan.data.story_features import MADE, check_feature, story_condition, story_label
from textgan.errors import UserError

SPLITS = ("train", "dev", "test")
_SHOWN_LABELS = 12


class Row(NamedTuple):
    """A text, its label, and what it is written for."""

    text: str
    label: str | None = None
    condition: str | None = None

    @property
    def pair(self) -> tuple[str, str | None]:
        """What makes two rows copies of each other."""
        return self.text, self.condition


@dataclass
class CorpusReport:
    """What was found on the way from the source to the splits.

    source: as it was named. texts: texts read from it, or drawn, before anything was dropped. formats: files by
    the format they were read as. blank: blank texts skipped. duplicates: copies of an earlier text in what was
    read, by part ("source", and "dev" and "test" where they are given). dropped: of these, left out of the
    source. kept_out: drawn dev and test texts left out since they occur in train. sizes: texts by split.
    overlaps: "dev in train" and so on, the number of texts of the first split that also occur in the second.
    labels: training texts by label.
    """

    source: str
    texts: int = 0
    formats: dict[str, int] = field(default_factory=dict)
    blank: int = 0
    duplicates: dict[str, int] = field(default_factory=dict)
    dropped: int = 0
    kept_out: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    overlaps: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict:
        """All fields as plain values, for JSON."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def lines(self) -> list[str]:
        """The report in a few lines for a person."""
        how = ", ".join(f"{_count(n, 'file')} as {name}" for name, n in self.formats.items())
        blank = f"; {self.blank:,} blank skipped" if self.blank else ""
        lines = [f"corpus {self.source}: {_count(self.texts, 'text')}" + (f" ({how})" if how else "") + blank]
        lines.append("splits: " + ", ".join(f"{name} {n:,}" for name, n in self.sizes.items()))
        for part, n in self.duplicates.items():
            if n:
                what = "dropped" if part == "source" and self.dropped else "kept"
                lines.append(f"duplicates in {part}: {n:,} ({what})")
        if self.kept_out:
            lines.append(f"dev and test texts left out because they occur in train: {self.kept_out:,}")
        found = [f"{n:,} {name}" for name, n in self.overlaps.items() if n]
        lines.append("overlap of the splits: " + (", ".join(found) or "none"))
        if self.labels:
            shown = [f"{label} {n:,}" for label, n in list(self.labels.items())[:_SHOWN_LABELS]]
            more = f" and {len(self.labels) - _SHOWN_LABELS:,} more" if len(self.labels) > _SHOWN_LABELS else ""
            lines.insert(2, "labels of train: " + ", ".join(shown) + more)
        return lines


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


@dataclass
class Corpus:
    """Texts in three splits.

    name: the source. fingerprint: SHA-256 (hex) of the texts of the splits, in order. oracle: the true
    distribution, for corpora drawn from one. labels: by split, of each text its class or source (None where it has
    none); only classifiers see them. conditions: by split, what each text is written for; empty for free texts.
    """

    name: str
    train: list[str]
    dev: list[str]
    test: list[str]
    fingerprint: str
    report: CorpusReport
    oracle: Oracle | None = None
    labels: dict[str, list[str | None]] = field(default_factory=dict)
    conditions: dict[str, list[str]] = field(default_factory=dict)


def load_corpus(
    source: str | Path,
    *,
    dev: str | Path | None = None,
    test: str | Path | None = None,
    dev_fraction: float = 0.05,
    test_fraction: float = 0.05,
    format: str = "auto",
    field: str = "text",
    label: str | None = None,
    condition: str | None = None,
    encoding: str = "utf-8",
    size: int = 20_000,
    seed: int = 0,
    dedupe: bool = True,
    lowercase: bool = False,
    max_chars: int = 100_000,
    oracle_length: int = 20,
) -> Corpus:
    """The corpus `source`, split into train, dev and test.

    Args:
        source: a file, folder or pattern (see `read_texts`), or a name: "stories" and "stories-zh" are `size` texts
            drawn from the embedded grammars with `seed`, "lstm-oracle" is SeqGAN's with texts of `oracle_length`
            tokens; "nltk:NAME" is an NLTK corpus by sentences ("nltk:NAME:paras" by paragraphs); "hf:NAME" or
            "hf:NAME:CONFIG" a Hugging Face data set with column `field`, whose own splits are used.
        dev, test: files of given splits, which are taken as they are. None: the split is made from the source.
        dev_fraction, test_fraction: share of the source for a split that is not given; 0 for none. The hash
            of a text alone decides where it goes: more texts never move the others, and no text is in two
            splits. Drawn texts are drawn anew instead; those that also occur in train are left out. Of pairs it is
            the hash of the condition, so all texts of one condition are in one split: held-out pairs then ask for
            what training has never been told, and no continuation of theirs can have been learned by heart.
        format, field, label, condition, encoding, max_chars: how files are read, see `read_texts`; `label` and
            `condition` are columns of Hugging Face data too, and of an embedded grammar what its stories remember,
            such as "luck"; `condition` may also be "title" or "keywords" there, see `story_features`.
        dedupe: drop later copies of a text (with its condition) from the source (the label of the first stays). Given
            splits keep theirs, and drawn texts too, for a sample without its duplicates is none of the distribution.
        lowercase: turn all texts to lower case first.

    Raises:
        UserError: whatever is wrong with the files, an unknown name, or a split without a text.
    """
    if min(dev_fraction, test_fraction) < 0 or dev_fraction + test_fraction >= 1:
        raise UserError(
            f"dev_fraction={dev_fraction} and test_fraction={test_fraction} must not be negative and "
            "must leave something to train on"
        )
    source = str(source)
    report = CorpusReport(source)
    oracle = None
    given: dict[str, list[Row]] = {}

    def read(path: str | Path) -> list[Row]:
        reading = read_texts(
            path,
            format=format,
            field=field,
            label=label,
            condition=condition,
            encoding=encoding,
            max_chars=max_chars,
        )
        report.blank += reading.blank
        for name, n in reading.formats.items():
            report.formats[name] = report.formats.get(name, 0) + n
        return list(map(Row, reading.texts, reading.labels, reading.conditions))

    def draw(n: int, split: str) -> list[Row]:
        return [
            Row(
                text,
                None if label is None else story_label(oracle, text, label),
                None if condition is None else story_condition(oracle, text, condition),
            )
            for text in draw_texts(oracle, n, seed, split)
        ]

    for what, name in (("label", label), ("condition", condition)):
        if name is None:
            continue
        if (source in ORACLES and source not in GRAMMARS) or source.startswith("nltk:"):
            raise UserError(f"the texts of {source} have no field {name!r} for a {what}; leave data.{what} away")
        if source in GRAMMARS:
            made = MADE if what == "condition" else ()
            check_feature(ORACLES[source](oracle_length), f"data.{what}", name, made)
    if source in ORACLES:
        if size < 1:
            raise UserError(f"size={size} must be at least 1")
        oracle = ORACLES[source](oracle_length)
        rows = draw(size, "train")
    elif source.startswith("nltk:"):
        rows = _clean(_unlabelled(nltk_texts(source.removeprefix("nltk:"))), report)
    elif source.startswith("hf:"):
        given = {
            split: _clean([Row(*row) for row in found], report)
            for split, found in hf_texts(source[3:], field, label, condition).items()
        }
        rows = given.pop("train")
    elif is_readable(source):
        rows = read(source)
    else:
        raise UserError(_unknown(source))
    given |= {split: read(path) for split, path in (("dev", dev), ("test", test)) if path is not None}
    if lowercase:
        rows = _lower(rows)
        given = {split: _lower(found) for split, found in given.items()}

    report.texts = len(rows)
    first = {row.pair: row for row in reversed(rows)}  # the first copy of each
    unique = [first[pair] for pair in dict.fromkeys(row.pair for row in rows)]
    report.duplicates = {"source": len(rows) - len(unique)}
    report.duplicates |= {split: len(found) - len({row.pair for row in found}) for split, found in given.items()}
    if dedupe and oracle is None:
        report.dropped = len(rows) - len(unique)
        rows = unique

    fractions = {"dev": dev_fraction, "test": test_fraction}
    fractions = {split: fraction for split, fraction in fractions.items() if split not in given}
    if oracle is None:
        splits = _split_by_hash(rows, fractions) | given
    else:
        splits = {"train": rows, **given}
        for split, fraction in fractions.items():
            drawn = draw(round(size * fraction), split)
            drawn = _lower(drawn) if lowercase else drawn
            splits[split] = [row for row in drawn if row.pair not in first]
            report.kept_out += len(drawn) - len(splits[split])
    for split in ("train", *(split for split, fraction in fractions.items() if fraction)):
        if not splits[split]:
            raise UserError(_empty(split, len(rows), fractions))
    texts = {split: [row.text for row in splits[split]] for split in SPLITS}
    labels = {split: [row.label for row in splits[split]] for split in SPLITS}
    conditions = {split: [row.condition for row in splits[split]] for split in SPLITS} if condition else {}
    report.sizes = {split: len(found) for split, found in texts.items()}
    report.overlaps = _overlaps({split: [row.pair for row in splits[split]] for split in SPLITS})
    report.labels = dict(Counter(label for label in labels["train"] if label is not None).most_common())
    return Corpus(
        source,
        **texts,
        fingerprint=_fingerprint(texts, conditions),
        report=report,
        oracle=oracle,
        labels=labels,
        conditions=conditions,
    )


def _unlabelled(texts: list[str]) -> list[Row]:
    return [Row(text) for text in texts]


def _lower(rows: list[Row]) -> list[Row]:
    return [row._replace(text=row.text.lower(), condition=row.condition and row.condition.lower()) for row in rows]


def _clean(rows: list[Row], report: CorpusReport) -> list[Row]:
    kept = [row._replace(text=stripped) for row in rows if (stripped := row.text.strip())]
    report.blank += len(rows) - len(kept)
    if not kept:
        raise UserError(f"{report.source} holds no text")
    return kept


def _split_by_hash(rows: Sequence[Row], fractions: dict[str, float]) -> dict[str, list[Row]]:
    """Each row by the place of the SHA-256 of its condition, or else its text, in 0..1.

    Test is taken from below, dev from above, train between.

    So changing one fraction moves no text between the other two splits.
    """
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for row in rows:
        place = int.from_bytes(hashlib.sha256((row.condition or row.text).encode()).digest()[:8], "big") / 2**64
        if place < fractions.get("test", 0):
            splits["test"].append(row)
        elif place >= 1 - fractions.get("dev", 0):
            splits["dev"].append(row)
        else:
            splits["train"].append(row)
    return splits


def _overlaps(splits: dict[str, list[tuple[str, str | None]]]) -> dict[str, int]:
    counts = {split: Counter(rows) for split, rows in splits.items()}
    pairs = (("dev", "train"), ("test", "train"), ("test", "dev"))
    return {f"{a} in {b}": sum(n for text, n in counts[a].items() if text in counts[b]) for a, b in pairs}


def _fingerprint(texts: dict[str, list[str]], conditions: dict[str, list[str]]) -> str:
    digest = hashlib.sha256()
    named = {f"conditions of {split}": rows for split, rows in conditions.items()}
    for split, rows in (texts | named).items():
        digest.update(f"{split} {len(rows)}\n".encode())
        for text in rows:
            data = text.encode()
            digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def _unknown(source: str) -> str:
    names = [*ORACLES, "nltk:NAME", "hf:NAME"]
    near = difflib.get_close_matches(source, names, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"there is no file or folder {source!r}, nor a corpus of that name; named: {', '.join(names)}{hint}"


def _empty(split: str, n: int, fractions: dict[str, float]) -> str:
    if split == "train":
        return f"no text is left to train on: all {n} went to dev and test; give more texts or smaller fractions"
    without = ", or set test_fraction to 0 to go without" if split == "test" else ""  # training needs a dev split
    return (
        f"{split} is empty: none of {_count(n, 'text')} fell into it ({split}_fraction={fractions[split]}); "
        f"raise data.{split}_fraction or give data.{split} a file{without}"
    )

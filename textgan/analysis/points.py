"""Operating points: what is known of one sampler of one generator, kept in the run's folder as a record.

RUN/evaluation/SPLIT-nN-sSEED/ARM/SAMPLER.json     values, intervals, leave-group-out values, signature
                                 /SAMPLER.npz      values text by text
                                 /SAMPLER.jsonl.gz the texts
"""

from __future__ import annotations

import gzip
import itertools
import json
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from textgan.errors import UserError

FORMAT = 1
IW_SAMPLES = 100  # latents a text in the bound of a likelihood, where nobody says how many


@dataclass(frozen=True)
class Point:
    """One operating point: an arm (a generator to be judged), a sampler, and what its texts were found to be.

    Attributes:
        arm: ``mle``, ``adversarial``, ``vae``, ``kneser_ney`` ...; for text files the name they begin with.
        sampler: canonical spec such as ``temperature=0.8``.
        split: ``dev`` or ``test``: where references and held-out text come from.
        n: number of texts.
        seed: of the drawn texts.
        signature: everything that moves the values; two points compare only where theirs agree.
        values: metric by name.
        intervals: ``[lower, upper]`` at 95 % by metric, where one is known.
        groups: value of the metric without the texts of group g, (G,) by metric (delete-a-group jackknife; text i is in
            group ``i % G``).
        per_text: values text by text, (n,) by name.
        texts: the texts, in the order in which they were drawn.
        step, training_seed, weights: of the checkpoint (weights: start of the SHA-256 of its file); None for files.
    """

    arm: str
    sampler: str
    split: str
    n: int
    seed: int
    signature: dict[str, Any]
    values: dict[str, float]
    intervals: dict[str, list[float]] = field(default_factory=dict)
    groups: dict[str, np.ndarray] = field(default_factory=dict)
    per_text: dict[str, np.ndarray] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    step: int | None = None
    training_seed: int | None = None
    weights: str | None = None

    @property
    def family(self) -> str:
        """What kind of sampler it is: ``temperature``, ``top_p`` ..."""
        return self.sampler.partition("=")[0]


def point_path(run: Path, arm: str, sampler: str, *, split: str, n: int, seed: int) -> Path:
    """Where the record of this point stands (its ``.json``)."""
    return run / "evaluation" / f"{split}-n{n}-s{seed}" / arm / f"{sampler}.json"


def write_point(path: Path, point: Point) -> None:
    """Write the record; an older one goes first and the ``.json`` comes last, so a record that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with gzip.GzipFile(path.with_suffix(".jsonl.gz"), "wb", mtime=0) as file:
        file.writelines(json.dumps(text, ensure_ascii=False).encode() + b"\n" for text in point.texts)
    np.savez_compressed(path.with_suffix(".npz"), **point.per_text)
    plain = {key: value for key, value in vars(point).items() if key not in ("per_text", "texts", "groups")}
    plain["groups"] = {name: [float(v) for v in values] for name, values in point.groups.items()}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"format": FORMAT, **plain}, indent=1, ensure_ascii=False), encoding="utf-8")
    partial.replace(path)


def read_point(path: Path, *, texts: bool = True) -> Point:
    """The record at ``path``; without its texts and per-text values where these are not needed.

    Raises:
        UserError: no record of this version there, or a broken one.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record.pop("format")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is no record of `textgan evaluate` ({error}); delete it and evaluate again") from None
    if version != FORMAT:
        raise UserError(f"{path} has format {version}, this textgan reads {FORMAT}; delete it and evaluate again")
    record["signature"] = filled_in(record["signature"])
    record["groups"] = {name: np.array(values) for name, values in record["groups"].items()}
    if texts:
        try:
            with np.load(path.with_suffix(".npz")) as arrays:
                record["per_text"] = dict(arrays)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"the texts of {path} cannot be read ({error}); delete it and evaluate again") from None
        record["texts"] = read_texts(path)
    return Point(**record)


def filled_in(signature: dict[str, Any]) -> dict[str, Any]:
    """A signature as it is written now: one from before there were models with latents had none to draw."""
    if "temperature" not in signature.get("held_out", {}):
        return signature
    return {**signature, "held_out": {"iw_samples": IW_SAMPLES, **signature["held_out"]}}


def read_texts(path: Path, count: int | None = None) -> list[str]:
    """The first ``count`` texts of the record at ``path``, or all; no more of them is read.

    Raises:
        UserError: they are broken or missing.
    """
    try:
        with gzip.open(path.with_suffix(".jsonl.gz"), "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in itertools.islice(file, count)]
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise UserError(f"the texts of {path} cannot be read ({error}); delete it and evaluate again") from None


def read_columns(path: Path, names: Collection[str]) -> dict[str, np.ndarray] | None:
    """Values text by text of the record at ``path``, (n,) by name, nothing else; None where some name is not there."""
    try:
        with np.load(path.with_suffix(".npz")) as arrays:
            return {name: arrays[name] for name in names} if set(names) <= set(arrays.files) else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"the texts of {path} cannot be read ({error}); delete it and evaluate again") from None


def points_of(run: Path, *, texts: bool = False) -> list[Point]:
    """All records in a run's folder, by path; empty where it was never evaluated."""
    return [read_point(path, texts=texts) for path in sorted((run / "evaluation").glob("*/*/*.json"))]

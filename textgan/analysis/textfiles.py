"""Folders of text files as runs: whatever wrote the texts, they are measured and kept as records like a run's.

A file is called ``NAME_POINT_SEED.txt``: the arm, the operating point (a temperature, or a sampler such as
``top_p=0.9``), and the seed of the training; or ``NAME.txt``, one point of one seed. It has one text a line, or one
JSON string a line.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from textgan.analysis.ledger import read_json
from textgan.analysis.measures import Measure, TextSet, measure_all, real_values, signature_of
from textgan.analysis.points import Point, point_path, read_point, write_point
from textgan.analysis.runs import FILES, Source
from textgan.errors import UserError
from textgan.metrics.jackknife import GROUPS
from textgan.sampling.samplers import FAMILIES, PLAIN, parse_samplers
from textgan.training.checkpoint import write_atomically
from textgan.training.experiment import say
from textgan.training.progress import Progress

NAME = re.compile(rf"(?P<arm>.+?)_(?P<point>(?:(?:{'|'.join(FAMILIES)})=)?\d+(?:\.\d+)?)_(?P<seed>\d+)")
FEWEST = 2 * GROUPS  # texts of a file: two in each group of the jackknife


class TextFile(NamedTuple):
    """One file of texts: of an arm, at a sampler, of a seed."""

    path: Path
    arm: str
    sampler: str
    seed: int


def text_files(folder: Path) -> list[TextFile]:
    """The ``.txt`` files of a folder, by arm, sampler and seed.

    Raises:
        UserError: there are none, a sampler out of range, or two files that are the same point and seed.
    """
    files = sorted(path for path in folder.glob("*.txt") if path.is_file())
    if not files:
        raise UserError(
            f"{folder} is neither a run nor a folder of texts; give runs/NAME, or a folder of files NAME_POINT_SEED.txt"
        )
    found: dict[TextFile, None] = {}
    for path in files:
        parts = NAME.fullmatch(path.stem)
        if parts is None:
            file = TextFile(path, path.stem, str(PLAIN), 0)
        else:
            point = parts["point"] if "=" in parts["point"] else f"{PLAIN.family}={parts['point']}"
            file = TextFile(path, parts["arm"], str(parse_samplers(point)[0]), int(parts["seed"]))
        same = [other.path.name for other in found if other[1:] == file[1:]]
        if same:
            raise UserError(f"{path.name} and {same[0]} in {folder} are the same point and seed; take one away")
        found[file] = None
    return sorted(found, key=lambda file: (file.arm, parse_samplers(file.sampler), file.seed))


def decode_lines(lines: Sequence[str]) -> list[str]:
    """The texts: of JSON strings where every line is one, else the lines themselves."""
    texts = []
    for line in lines:
        try:
            texts.append(json.loads(line) if line.startswith('"') else None)
        except ValueError:
            return list(lines)
        if not isinstance(texts[-1], str):
            return list(lines)
    return texts


def score_files(
    folder: Path,
    texts: dict[TextFile, list[str]],
    measures: Sequence[Measure],
    cache: Path,
    *,
    between: Callable[[], None] = lambda: None,
) -> list[Source]:
    """Measure the texts of a folder's files; a source for each seed.

    Args:
        folder: of the files.
        texts: of each.
        measures: what is found of them.
        cache: where the records go; one that is there of the same texts, measured alike, is kept.
        between: called before each file; what it raises ends the work, and all records stay whole.

    Raises:
        UserError: a file with too few texts.
    """
    for file, own in texts.items():
        if len(own) < FEWEST:
            raise UserError(f"{file.path} has {len(own)} texts; at least {FEWEST} are needed to compare")
    place = str(folder.resolve())
    setting = hashlib.sha256(place.encode()).hexdigest()[:8]
    title = folder.resolve().name
    own_cache = cache / f"{title}-{setting}"
    signatures = {n: json.loads(json.dumps(signature_of(measures, n))) for n in {len(own) for own in texts.values()}}
    todo = [(file, own) for file, own in texts.items() if not _is_known(own_cache, file, own, signatures[len(own)])]
    with Progress(f"scoring {title}", total=len(todo)) as progress:
        for done, (file, own) in enumerate(todo, 1):
            between()
            began = time.monotonic()
            write_point(_path(own_cache, file, len(own)), _point(file, own, measures, signatures[len(own)]))
            progress.advance()
            progress.show()
            say(f"{done}/{len(todo)} {file.path.name} ({time.monotonic() - began:.1f} s)")
    sources = [Source(str(folder), own_cache / f"seed-{seed}", setting, title, seed) for seed in _seeds(texts)]
    for n, signature in signatures.items():
        path = sources[0].folder / "evaluation" / f"{FILES}-n{n}-s0" / "real.json"
        if read_json(path).get("signature") != signature:
            path.parent.mkdir(parents=True, exist_ok=True)
            values = real_values(measures, n)
            write_atomically(path, json.dumps({"signature": signature, "values": values}, ensure_ascii=False))
    return sources


def _seeds(texts: dict[TextFile, list[str]]) -> list[int]:
    return sorted({file.seed for file in texts})


def _path(cache: Path, file: TextFile, n: int) -> Path:
    return point_path(cache / f"seed-{file.seed}", file.arm, file.sampler, split=FILES, n=n, seed=0)


def _is_known(cache: Path, file: TextFile, texts: list[str], signature: dict) -> bool:
    path = _path(cache, file, len(texts))
    if not path.is_file():
        return False
    try:
        point = read_point(path)
    except UserError:  # of another version
        return False
    return point.signature == signature and point.texts == texts


def _point(file: TextFile, texts: list[str], measures: Sequence[Measure], signature: dict) -> Point:
    found = measure_all(measures, TextSet(texts))
    return Point(
        arm=file.arm,
        sampler=file.sampler,
        split=FILES,
        n=len(texts),
        seed=0,
        signature=signature,
        values=found.values,
        intervals={name: [low, high] for name, (_, low, high) in found.intervals().items()},
        groups=found.groups,
        per_text=found.per_text,
        texts=texts,
        training_seed=file.seed,
    )

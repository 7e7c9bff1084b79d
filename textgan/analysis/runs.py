"""The material of a comparison: runs that differ only in their seed, and the records that stand in their folders.

A source is a run's folder, or one seed of a folder of text files (:mod:`textgan.analysis.textfiles`). Sources of one
setting, which differ in nothing but their seed, make one set of arms (:mod:`textgan.analysis.study`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from textgan.analysis.points import Point, read_point
from textgan.config import Config
from textgan.configfile import load_config
from textgan.errors import UserError
from textgan.training.logging import NOT_IN_TRIAL, flatten, trial_of

FILES = "files"  # the split of texts that came as files
_FOLDER = re.compile(r"(?P<split>\w+)-n(?P<n>\d+)-s(?P<seed>\d+)")


@dataclass(frozen=True)
class Source:
    """One seed of one setting.

    Attributes:
        shown: what it is called in messages: what the user gave.
        folder: holds ``evaluation/``.
        setting: the same for sources that differ only in their seed.
        title: a short name of the setting.
        seed: of the training.
        note: what a reader must know of how its arms were trained; None: nothing.
    """

    shown: str
    folder: Path
    setting: str
    title: str
    seed: int
    note: str | None = None


class Record(NamedTuple):
    """An operating point without its texts, where the whole of it stands, and whose it is."""

    point: Point
    path: Path
    source: Source

    def whole(self) -> Point:
        """The point with its texts and its values text by text."""
        return read_point(self.path)


def run_sources(paths: Sequence[Path]) -> list[Source]:
    """The sources of run folders; a run that is given twice counts once.

    Raises:
        UserError: what is given is no run, or two runs of one setting have the same seed.
    """
    configs: dict[Path, Config] = {}
    for path in paths:
        if not (path / "config.yaml").is_file():
            raise UserError(f"{path} is not the folder of a run; give one that `textgan train` made, such as runs/NAME")
        if path.resolve() not in {known.resolve() for known in configs}:
            configs[path] = load_config(path / "config.yaml")
    by_setting: dict[str, list[Path]] = {}
    for path, config in configs.items():
        by_setting.setdefault(setting_of(config), []).append(path)
    sources = []
    for setting, own in by_setting.items():
        title = _title([path.resolve().name for path in own])
        seeds = _seeds_of([configs[path] for path in own])
        for seed, count in Counter(seeds).items():
            if count > 1:
                twice = " and ".join(str(path) for path, other in zip(own, seeds, strict=True) if other == seed)
                raise UserError(f"{twice} are one setting with one seed ({seed}); give runs of different seeds")
        sources += [
            Source(str(path), path, setting, title, seed, _note(path, configs[path]))
            for path, seed in zip(own, seeds, strict=True)
        ]
    return sources


def _note(path: Path, config: Config) -> str | None:
    """That a VAE has had more updates than the generator that its decoder started from, where it is so."""
    if config.vae is None or config.vae.init_from is None:
        return None
    return (
        f"{path}: the decoder of its VAE started from a generator (vae.init_from={config.vae.init_from}) and learned "
        "on, so the two are not compared at equal updates: a lower held-out NLL may come from the further ones alone"
    )


def setting_of(config: Config) -> str:
    """A digest that runs have in common which differ only in seed, name, machine, and the seed of their parent."""
    values = flatten(config.model_dump(mode="json"))
    apart = (*NOT_IN_TRIAL, "adversarial.init_from", *(() if config.parent is None else config.parent[:1]))
    told = {key: value for key, value in values.items() if key not in apart}
    parent = _parent_config(config)
    whole = json.dumps([told, None if parent is None else trial_of(parent)], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:8]


def _parent_config(config: Config) -> Config | None:
    """The config of the checkpoint that a run starts from, where there is one and it is there."""
    if config.parent is None:
        return None
    folder = Path(config.parent[1])
    return load_config(folder / "config.yaml") if (folder / "config.yaml").is_file() else None


def _seeds_of(configs: Sequence[Config]) -> list[int]:
    """The seed of each run: its parent's where no two are the same (it is paired with its parent), else its own."""
    parents = [_parent_config(config) for config in configs]
    seeds = [None if parent is None else parent.seed for parent in parents]
    return seeds if None not in seeds and len(set(seeds)) == len(seeds) else [config.seed for config in configs]


def _title(names: Sequence[str]) -> str:
    """What the names of several runs have in common: ``gan`` of ``gan-s0`` and ``gan-s1``; else the first."""
    stems = {re.sub(r"[-_.]?(?:s|seed)?[-_=]?\d+$", "", name) for name in names}
    return (stems.pop() or names[0]) if len(names) > 1 and len(stems) == 1 else names[0]


def choose_folders(sources: Sequence[Source], split: str) -> tuple[set[str], list[str]]:
    """The names of the folders in ``evaluation/`` whose records are read, and notes on what was left.

    Of runs it is the one that all have: the one with the most texts, then with the smallest seed; of files all.

    Raises:
        UserError: a source without records of this split, or none in common.
    """
    files: set[str] = set()
    common: set[str] | None = None
    for source in sources:
        there = {path.parent.parent.name for path in (source.folder / "evaluation").glob("*/*/*.json")}
        own = {name for name in there if name.startswith(f"{split}-")}
        files |= (of_files := {name for name in there if name.startswith(f"{FILES}-")})
        if of_files:
            continue
        if not own:
            has = f" (it has {', '.join(sorted(there))})" if there else ""
            raise UserError(
                f"{source.shown} has no records of the {split} split{has}; make them with: "
                f"textgan evaluate {source.shown}{'' if split == 'dev' else f' --split {split}'}"
            )
        if common is not None and not common & own:
            raise UserError(
                f"{source.shown} was evaluated as {', '.join(sorted(own))}, the runs before it as "
                f"{', '.join(sorted(common))}; evaluate all with the same -n and --seed"
            )
        common = own if common is None else common & own
    if common is None:
        return files, []
    chosen = min(common, key=_least_first)
    left = sorted(common - {chosen})
    return files | {chosen}, [f"records of {chosen} are compared; there are also {', '.join(left)}"] if left else []


def _least_first(folder: str) -> tuple[int, int]:
    parts = _FOLDER.fullmatch(folder)
    return -int(parts["n"]), int(parts["seed"])


def records_of(source: Source, folders: set[str]) -> Iterable[Record]:
    """The records of a source in these folders of its ``evaluation/``."""
    for path in sorted((source.folder / "evaluation").glob("*/*/*.json")):
        if path.parent.parent.name in folders:
            yield Record(read_point(path, texts=False), path, source)

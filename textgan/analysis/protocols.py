"""Benchmarks as data: a protocol fixes everything that moves a number, so that two runs of one name compare.

The protocols stand in ``textgan/data/protocols/NAME.yaml``. What one says is never changed without a new version.
"""

from __future__ import annotations

import difflib
import hashlib
import shlex
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from textgan.config import Config
from textgan.errors import UserError


@dataclass(frozen=True)
class Protocol:
    """One benchmark.

    Attributes:
        name, version, about: what it is called, and what it is good for.
        data: the ``data`` section of the config of its runs, where it is not the default; file names are examples.
        files: SHA-256 of the files behind, by name.
        sizes: texts by split.
        fingerprint: of the corpus (``textgan.data.corpus.Corpus.fingerprint``): texts and splits alike.
        split: where references and held-out text come from.
        tokenize: what n-gram metrics count.
        block_size: the least ``generator.block_size`` with which a model can write texts as long as the corpus has.
        n, seed: texts drawn at each point, and their seed.
        samplers, embedders, lm: what is swept and measured.
        headline: metrics of the summary, most telling first.
    """

    name: str
    version: int
    about: str
    data: dict[str, Any]
    files: dict[str, str]
    sizes: dict[str, int]
    fingerprint: str
    split: str
    tokenize: str
    block_size: int
    n: int
    seed: int
    samplers: tuple[str, ...]
    embedders: tuple[str, ...]
    lm: tuple[str, ...]
    headline: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} v{self.version}"

    def overrides(self) -> str:
        """What to give ``textgan train`` so that a run learns from this data."""
        return shlex.join(f"data.{key}={str(value).lower()}" for key, value in self.data.items())


def protocols() -> list[Protocol]:
    """All protocols that come with textgan, by name."""
    folder = resources.files("textgan.data") / "protocols"
    files = sorted((path for path in folder.iterdir() if path.name.endswith(".yaml")), key=lambda path: path.name)
    return [_protocol(yaml.safe_load(path.read_text(encoding="utf-8"))) for path in files]


def find_protocol(name: str) -> Protocol:
    """The protocol of this name; UserError with the known ones."""
    known = {protocol.name: protocol for protocol in protocols()}
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
        raise UserError(f"unknown protocol {name!r}; {hint}")
    return known[name]


def check_run(protocol: Protocol, run: Path, config: Config, fingerprint: str) -> None:
    """UserError unless the run learned from the protocol's data, and can write texts of its length.

    Args:
        run: named in messages.
        config: of the run.
        fingerprint: of the corpus that the run was trained on.
    """
    if fingerprint != protocol.fingerprint:
        raise UserError(
            f"{run} was trained on other data than {protocol} fixes ({_why(protocol, config, fingerprint)}); "
            f"train a run with: {protocol.overrides()}"
        )
    if config.generator.block_size < protocol.block_size:
        raise UserError(
            f"{run} has generator.block_size={config.generator.block_size}, too short for the texts of {protocol}; "
            f"train a run with generator.block_size={protocol.block_size} or more"
        )


def _protocol(content: dict[str, Any]) -> Protocol:
    lists = ("samplers", "embedders", "lm", "headline")
    return Protocol(**{key: tuple(value) if key in lists else value for key, value in content.items()})


def _why(protocol: Protocol, config: Config, fingerprint: str) -> str:
    """What is different, as far as it can be seen: a setting, a file, or else the texts."""
    given = config.data.model_dump()
    if protocol.files and not Path(given["source"]).exists():
        return f"data.source={given['source']}, not its files"
    default = Config().data.model_dump()
    loose = () if not protocol.files else ("source", "dev", "test")  # paths may differ, what is in the files not
    for key, standard in default.items():
        wanted = protocol.data.get(key, standard)
        if key not in (*loose, "format", "too_long") and given[key] != wanted:
            return f"data.{key}={given[key]}, not {wanted}"
    for path in map(Path, filter(None, (given["source"], given["dev"], given["test"]))):
        for file in [path] if path.is_file() else sorted(path.glob("*")) if path.is_dir() else []:
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            if protocol.files and digest not in protocol.files.values():
                return f"{file} is none of its files: SHA-256 {digest[:12]}"
    return f"fingerprint {fingerprint[:12]}, not {protocol.fingerprint[:12]}"

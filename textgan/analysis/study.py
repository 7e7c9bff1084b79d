"""Generators side by side: arms of one or more seeds, joined where they are the same, with signatures that agree."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from textgan.analysis.judged import DERIVED, REFERENCES
from textgan.analysis.ledger import read_json, test_reads
from textgan.analysis.points import filled_in
from textgan.analysis.runs import Record, Source, choose_folders, records_of
from textgan.errors import UserError
from textgan.sampling.samplers import parse_samplers
from textgan.training.checkpoint import ARMS
from textgan.training.logging import flatten

Key = tuple[str, str]  # setting and kind of an arm
Table = dict[Key, dict[int, dict[str, Record]]]  # its records by seed and sampler


@dataclass(frozen=True)
class Arm:
    """One generator to be judged, of one or more seeds.

    Attributes:
        name: unlike that of any other arm of the study.
        kind: ``mle``, ``adversarial`` ..., or what files were called.
        setting, title: of its sources.
        seeds: ascending.
        records: by sampler (families in their order, values ascending) one record a seed.
        differs: keys of the signature that are not as in most records.
    """

    name: str
    kind: str
    setting: str
    title: str
    seeds: tuple[int, ...]
    records: dict[str, tuple[Record, ...]]
    differs: tuple[str, ...] = ()

    @property
    def runs(self) -> list[str]:
        """What its seeds come from."""
        return list(dict.fromkeys(record.source.shown for record in next(iter(self.records.values()))))

    @property
    def trained(self) -> bool:
        """Whether it is to be judged, and no row that is only shown beside."""
        return self.kind not in (*REFERENCES, *DERIVED)

    def having(self, *metrics: str, family: str | None = None) -> list[str]:
        """Samplers (of one family) at which all these metrics are known for every seed."""
        return [
            sampler
            for sampler, own in self.records.items()
            if family in (None, own[0].point.family)
            and all(name in record.point.values for record in own for name in metrics)
        ]


@dataclass(frozen=True)
class Study:
    """Everything that one comparison looks at.

    Attributes:
        arms: by name, in the order in which they are shown.
        name_of: of the arm that (setting, kind) is, or was joined into.
        split, n: of the records.
        signature: of most points; of all, where no arm ``differs``.
        real: values of as many real texts.
        test_reads: looks at the test split, by run.
        notes: what a reader must know of the material.
    """

    arms: dict[str, Arm]
    name_of: dict[Key, str]
    split: str
    n: int
    signature: dict[str, Any]
    real: dict[str, float]
    test_reads: dict[str, int]
    notes: list[str]

    def metrics(self) -> list[str]:
        """Every metric that some arm has at some sampler."""
        points = (own[0].point for arm in self.arms.values() for own in arm.records.values())
        return list(dict.fromkeys(name for point in points for name in point.values))


def build_study(sources: Sequence[Source], *, split: str = "dev", mark_differences: bool = False) -> Study:
    """The arms of these sources.

    Args:
        sources: of runs and of files.
        split: whose records are read, of runs.
        mark_differences: whether arms whose signature differs stay, marked, rather than be refused.

    Raises:
        UserError: a source without records, nothing in common, or signatures that differ.
    """
    folders, notes = choose_folders(sources, split)
    notes += [source.note for source in sources if source.note is not None]
    table: Table = {}
    for source in sources:
        for record in records_of(source, folders):
            own = table.setdefault((source.setting, record.point.arm), {}).setdefault(source.seed, {})
            own[record.point.sampler] = record
    stands = _join(table)
    titles = _titles(sources)
    names = _names(list(dict.fromkeys(stands.values())), titles)
    arms = sorted((_arm(names[key], key, titles[key[0]], table[key], notes) for key in names), key=_place)
    signature, arms = _check_signatures(arms, mark_differences, notes)
    for arm in arms:
        weights = [own.point.weights for own in next(iter(arm.records.values()))]
        if arm.trained and None not in weights and len(set(weights)) < len(weights):
            notes.append(f"{arm.name}: several of its seeds have the same weights; claims hold for these weights alone")
    point = next(iter(arms[0].records.values()))[0].point
    return Study(
        {arm.name: arm for arm in arms},
        {key: names[other] for key, other in stands.items()},
        point.split,
        point.n,
        signature,
        _real(sources, folders, signature),
        {source.shown: count for source in sources if (count := test_reads(source.folder))},
        notes,
    )


def _join(table: Table) -> dict[Key, Key]:
    """Put arms of the same weights together (a parent, in its own run and in its child's): key -> key it is now."""
    stands: dict[Key, Key] = {}
    for key, seeds in table.items():
        known = dict.fromkeys(stands.values())
        same = next((old for old in known if old[1] == key[1] and _same_weights(table[old], seeds)), key)
        stands[key] = same
        if same != key:
            for seed, records in seeds.items():
                table[same][seed] = {**records, **table[same].get(seed, {})}
    return stands


def _same_weights(*arms: dict[int, dict[str, Record]]) -> bool:
    first, second = ({seed: next(iter(own.values())).point.weights for seed, own in arm.items()} for arm in arms)
    shared = first.keys() & second.keys()
    return bool(shared) and all(first[seed] == second[seed] is not None for seed in shared)


def _titles(sources: Sequence[Source]) -> dict[str, str]:
    """A title for each setting, unlike that of any other."""
    titles: dict[str, str] = {}
    for source in sources:
        if source.setting not in titles:
            taken = source.title in titles.values()
            titles[source.setting] = f"{source.title}-{source.setting[:4]}" if taken else source.title
    return titles


def _names(keys: Sequence[Key], titles: dict[str, str]) -> dict[Key, str]:
    """A name for each arm: its kind, with the title of its setting where several are of that kind."""
    counts = Counter(kind for _, kind in keys)
    return {key: key[1] if counts[key[1]] == 1 else f"{titles[key[0]]}/{key[1]}" for key in keys}


def _arm(name: str, key: Key, title: str, seeds: dict[int, dict[str, Record]], notes: list[str]) -> Arm:
    order = sorted(seeds)
    shared = set.intersection(*({*own} for own in seeds.values()))
    missing = set().union(*seeds.values()) - shared
    if not shared:
        raise UserError(f"the seeds of {name} have no sampler in common; evaluate all with the same --samplers")
    if missing:
        notes.append(f"{name}: {', '.join(sorted(missing))} left out, not there for every seed")
    for own in seeds.values():
        if len({record.point.weights for record in own.values()}) > 1:
            where = next(iter(own.values())).path.parent
            raise UserError(f"{where} holds records of different weights; evaluate that run again")
    samplers = [str(sampler) for sampler in parse_samplers(sorted(shared))]
    return Arm(name, key[1], key[0], title, tuple(order), {s: tuple(seeds[n][s] for n in order) for s in samplers})


def _place(arm: Arm) -> int:
    """Arms of a run in their order, then those of files, then references."""
    kinds = (*ARMS, *DERIVED, None, *REFERENCES)
    return kinds.index(arm.kind if arm.kind in kinds else None)


def _check_signatures(arms: Sequence[Arm], mark: bool, notes: list[str]) -> tuple[dict[str, Any], list[Arm]]:
    """The signature that most records have, and the arms with what differs from it.

    Raises:
        UserError: some record differs and ``mark`` is false.
    """
    by_text: dict[str, list[Record]] = {}
    for record in _records(arms):
        by_text.setdefault(json.dumps(record.point.signature, sort_keys=True), []).append(record)
    common = max(by_text.values(), key=len)[0]
    marked = []
    for arm in arms:
        differs: set[str] = set()
        for record in _records([arm]):
            keys = signature_differences(common.point.signature, record.point.signature)
            if keys and not mark:
                raise UserError(
                    f"{record.path} was not measured like {common.path} ({', '.join(keys)} differ); evaluate both in "
                    "the same way, or give --mark-differences to compare them nevertheless"
                )
            differs.update(keys)
        if differs:
            notes.append(f"{arm.name} was measured otherwise ({', '.join(sorted(differs))}): values may not compare")
        marked.append(dataclasses.replace(arm, differs=tuple(sorted(differs))))
    return common.point.signature, marked


def _records(arms: Iterable[Arm]) -> Iterable[Record]:
    return (record for arm in arms for own in arm.records.values() for record in own)


def signature_differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Keys whose values differ or that one side lacks, nested ones as ``sampling.seed``, sorted."""
    first, second = flatten(a), flatten(b)
    absent = object()
    return sorted(key for key in first.keys() | second.keys() if first.get(key, absent) != second.get(key, absent))


def _real(sources: Sequence[Source], folders: set[str], signature: dict[str, Any]) -> dict[str, float]:
    """Values of real text that were found with this signature; empty where there are none."""
    for source in sources:
        for folder in sorted(folders):
            content = read_json(source.folder / "evaluation" / folder / "real.json")
            if content and filled_in(content["signature"]) == signature:
                return content["values"]
    return {}

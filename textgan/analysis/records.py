"""The records of one evaluation in a run's folder: which are there, which are usable, which are stale."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textgan.analysis import ledger
from textgan.analysis.judged import HELD_OUT, Judged
from textgan.analysis.measures import TextSet
from textgan.analysis.points import Point, filled_in, point_path, read_point
from textgan.analysis.sweep import Sweep
from textgan.errors import UserError
from textgan.metrics.suite import Scores
from textgan.sampling.samplers import Sampler
from textgan.training.checkpoint import write_atomically
from textgan.training.experiment import say


@dataclass(frozen=True)
class Records:
    """Those of a run at one setting; ``signature`` is as JSON gives it back."""

    run: Path
    sweep: Sweep
    signature: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.run / "evaluation" / self.sweep.setting

    def path(self, arm: Judged, sampler: Sampler) -> Path:
        sweep = self.sweep
        return point_path(self.run, arm.name, str(sampler), split=sweep.split, n=sweep.n, seed=sweep.seed)

    def has(self, arm: Judged, sampler: Sampler) -> bool:
        """Whether the record of this point need not be made again."""
        point = self._of_weights(arm, sampler, texts=False)
        return point is not None and point.signature == self.signature

    def texts(self, arm: Judged, sampler: Sampler) -> TextSet | None:
        """The texts of a record that was measured otherwise, but drawn alike: they need not be drawn again."""
        point = self._of_weights(arm, sampler, texts=True)
        how = ("sampling", "textgan")  # the version, as another one may draw otherwise
        if point is None or any(point.signature.get(key) != self.signature[key] for key in how):
            return None
        own = point.per_text
        return TextSet(point.texts, own.get("log_prob"), own.get("tokens"), own["truncated"], sampler.plain)

    def likelihood(self, arm: Judged) -> Scores | None:
        """What the arm makes of real text, as some record of it says."""
        how = ("data", "split", "held_out", "textgan")
        for path in sorted((self.folder / arm.name).glob("*.json")):
            point = _point_at(path)
            if point is not None and all(point.signature.get(key) == self.signature[key] for key in how):
                values, groups = (
                    {name: own[name] for name in HELD_OUT if name in own} for own in (point.values, point.groups)
                )
                return Scores(values, {}, groups)
        return None

    def points(self) -> list[Point]:
        """All of this setting and signature without their texts, those of earlier calls with other samplers too."""
        found = (_point_at(path) for path in sorted(self.folder.glob("*/*.json")))
        return [point for point in found if point is not None and point.signature == self.signature]

    def remove_stale(self, judged: Iterable[Judged]) -> None:
        """Remove records of weights that these arms no longer have: beside new ones they would make a false curve."""
        for arm in judged:
            paths = sorted((self.folder / arm.name).glob("*.json"))
            stale = [path for path in paths if (point := _point_at(path)) is not None and point.weights != arm.weights]
            for path in stale:
                for suffix in (".json", ".npz", ".jsonl.gz"):
                    path.with_suffix(suffix).unlink(missing_ok=True)
            if stale:
                say(f"{arm.name}: removed {len(stale)} records of other weights than it has now")

    def real(self, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Values of real text, measured once."""
        path = self.folder / "real.json"
        kept = ledger.read_json(path)
        if filled_in(kept.get("signature", {})) != self.signature:
            kept = {"signature": self.signature, "values": measure()}
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(kept, indent=1, ensure_ascii=False))
        return kept["values"]

    def _of_weights(self, arm: Judged, sampler: Sampler, *, texts: bool) -> Point | None:
        """The record that stands there, of whatever signature; None where there is none of these weights."""
        point = _point_at(self.path(arm, sampler), texts=texts)
        return point if point is not None and point.weights == arm.weights else None


def _point_at(path: Path, *, texts: bool = False) -> Point | None:
    """The record there; None where there is none, a broken one, or one that an older version wrote."""
    try:
        return read_point(path, texts=texts)
    except UserError:
        return None

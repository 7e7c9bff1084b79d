"""``textgan evaluate``: a run's arms at many operating points, each drawn, measured and kept as a record.

RUN/evaluation/SPLIT-nN-sSEED/ARM/SAMPLER.json ...   records, see points.py
                             /real.json              what as many real texts get
                             /ARM/FAMILY/            TensorBoard, see front_log.py
              /super_baseline.json, test_reads.json  see ledger.py
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from textgan.analysis import ledger
from textgan.analysis.all_measures import make_measures
from textgan.analysis.front_log import log_points
from textgan.analysis.judged import (
    DERIVED,
    HELD_OUT,
    REFERENCES,
    HeldOut,
    Judged,
    aggregate_arm,
    check_is_run,
    check_same_data,
    load_arm,
    reference_arms,
    say_what_stands_in,
)
from textgan.analysis.measures import Measure, TextSet, measure_all, real_values, signature_of
from textgan.analysis.points import Point, filled_in, point_path, read_point, write_point
from textgan.analysis.protocols import check_run
from textgan.analysis.sweep import Sweep, check_samplers
from textgan.configfile import load_config
from textgan.data.tokenizer import Tokenizer
from textgan.errors import UserError
from textgan.metrics.suite import Scores
from textgan.sampling.latent import LatentGenerator
from textgan.sampling.samplers import Sampler, sampling_signature
from textgan.training.checkpoint import arms, check_checkpoint, write_atomically
from textgan.training.experiment import say
from textgan.training.inputs import encode, read_corpus
from textgan.training.progress import Progress

# Said of each point as it is done.
SHOWN = ("bleu_4", "self_bleu_4", "frechet_ngrams", "lm_kn", "rlm_kn", "valid")


def evaluate(
    run: Path,
    sweep: Sweep,
    *,
    device: torch.device,
    command: str = "",
    between: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Evaluate the arms of a run; records that are there with the same signature and weights are kept.

    Args:
        run: the run's folder.
        command: entered where the test split is read.
        between: called before each batch of texts; what it raises ends the evaluation, and all records stay whole.

    Returns:
        ``run``, ``setting``, ``split``, ``n``, ``seed``, ``protocol``, ``signature``; ``real``: values of real text;
        ``points``: the :class:`Point` of each arm and sampler, without texts; ``super_baseline``; ``test_reads``.

    Raises:
        UserError: no run, no such arm, other data than it was trained on, or not what the protocol fixes.
    """
    check_is_run(run)
    folders = arms(run)
    wanted = _wanted(folders, sweep.arms, run)
    metas = {name: check_checkpoint(folder) for name, folder in folders.items()}
    config = load_config(run / "config.yaml")
    if sweep.protocol is not None:
        check_run(sweep.protocol, run, config, next(iter(metas.values()))["data"])
    corpus = read_corpus(config)
    check_same_data(folders, metas, corpus.fingerprint)
    say_what_stands_in({name: folder for name, folder in folders.items() if name in wanted})
    references = getattr(corpus, sweep.split)
    if not references:
        raise UserError(f"the corpus of {run} has no {sweep.split} texts; give another --split")
    sources = {*wanted, "mle", *(["vae"] if "vae+aggregate" in wanted else [])}
    loaded = {name: load_arm(name, folder, device) for name, folder in folders.items() if name in sources}
    tokenizer = next(iter(loaded.values())).tokenizer
    splits = encode(config, corpus, tokenizer)
    judged = [arm for name, arm in loaded.items() if name in wanted]
    if "vae+aggregate" in wanted:
        judged += _aggregate(loaded["vae"], run, named=sweep.arms is not None)
    if "mle" in loaded:
        judged += reference_arms(wanted, loaded["mle"], splits, device)
    check_samplers(sweep, judged)
    held_out = HeldOut(
        splits[sweep.split],
        splits["train"],
        tokenizer=tokenizer,
        most_train=sweep.n,
        entropy=None if corpus.oracle is None else corpus.oracle.entropy()[0],
        texts=len(references),
        iw_samples=sweep.iw_samples,
    )
    measures = make_measures(
        references,
        corpus.train,
        tokenize=sweep.tokenize or config.evaluation.tokenize,
        device=device,
        embedders=sweep.embedders,
        embedder_texts=corpus.dev,
        lm=sweep.lm,
        oracle=corpus.oracle,
        oracle_length=config.data.oracle_length if config.data.source == "lstm-oracle" else None,
    )
    signature = {
        "data": corpus.fingerprint,
        "split": sweep.split,
        "protocol": None if sweep.protocol is None else str(sweep.protocol),
        **signature_of(measures, sweep.n),
        **held_out.signature(),
        "sampling": sampling_signature(seed=sweep.seed, max_new_tokens=config.generator.block_size),
    }
    job = _Job(run, sweep, device, tokenizer, measures, held_out, json.loads(json.dumps(signature)))
    return job.do(judged, command, between)


def _wanted(folders: dict[str, Path], names: Sequence[str] | None, run: Path) -> tuple[str, ...]:
    """Names of the arms to be judged; UserError for one that the run has not."""
    known = (*folders, *(DERIVED if "vae" in folders else ()), *(REFERENCES if "mle" in folders else ()))
    if names is not None and not names:
        raise UserError(f"no arm is named; give some of {', '.join(known)}")
    for name in names or ():
        if name not in known:
            raise UserError(f"{run} has no arm {name!r}; it has: {', '.join(known)}")
    return known if names is None else tuple(dict.fromkeys(names))


def _aggregate(vae: Judged, run: Path, *, named: bool) -> list[Judged]:
    """The row of the fitted aggregate posterior; none where it was not fitted yet, an error where it was asked for."""
    arm = aggregate_arm(vae)
    if arm is None and named:
        raise UserError(f"{run}: vae+aggregate needs the end of the phase `vae`, where the Gaussian is fitted")
    return [] if arm is None else [arm]


@dataclass
class _Job:
    """An evaluation under way; ``signature`` is as JSON gives it back."""

    run: Path
    sweep: Sweep
    device: torch.device
    tokenizer: Tokenizer
    measures: list[Measure]
    held_out: HeldOut
    signature: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.run / "evaluation" / self.sweep.setting

    def do(self, judged: Sequence[Judged], command: str, between: Callable[[], None]) -> dict[str, Any]:
        asked = [(arm, sampler) for arm in judged for sampler in self.sweep.samplers_of(arm)]
        todo = {arm.name: [] for arm in judged}
        for arm, sampler in asked:
            if self._kept(arm, sampler) is None:
                todo[arm.name].append(sampler)
        missing, whole = sum(map(len, todo.values())), len(asked)
        self._remove_stale(judged)
        if missing < whole:
            say(f"{whole - missing} of {whole} operating points are there already")
        reading_test = missing and self.sweep.split == "test"
        if reading_test:
            count = ledger.begin_test_read(self.run, command, missing)
            say(f"note: look number {count} of this run at its test split (kept count of); choose on dev")
        real = self._real()
        try:
            self._measure_points([(arm, todo[arm.name]) for arm in judged], missing, real, between)
        finally:  # stopped or not, what is there is shown
            points = self._show(real)
        if reading_test:
            ledger.end_test_read(self.run)
        at = {(point.arm, point.sampler): point for point in points}
        return {
            "run": str(self.run),
            "setting": self.sweep.setting,
            "split": self.sweep.split,
            "n": self.sweep.n,
            "seed": self.sweep.seed,
            "protocol": self.signature["protocol"],
            "signature": self.signature,
            "real": real,
            "points": [at[arm.name, str(sampler)] for arm, sampler in asked],
            "super_baseline": ledger.super_baseline(points, real),
            "test_reads": ledger.test_reads(self.run),
        }

    def _show(self, real: dict[str, float], *, pictures: bool = True) -> list[Point]:
        """Bring TensorBoard and the super-baseline up to the records that are there, and return these."""
        points = self._points()
        log_points(self.folder, points, real, pictures=pictures)
        ledger.write_super_baseline(self.run, self.sweep.setting, points, real)
        return points

    def _measure_points(
        self,
        todo: Iterable[tuple[Judged, list[Sampler]]],
        points: int,
        real: dict[str, float],
        between: Callable[[], None],
    ) -> None:
        """Draw, measure and write what is to do, arm by arm."""
        todo = [(arm, arm.draws(self.sweep.n, self.sweep.seed), samplers) for arm, samplers in todo if samplers]
        # A unit of progress is a batch of texts, and the measuring of a point.
        total = points + sum(
            draws.batches(sampler, after=samplers[:i])
            for arm, draws, samplers in todo
            for i, sampler in enumerate(samplers)
            if self._texts(arm, sampler) is None
        )
        done = 0
        with Progress("evaluate", total=total) as progress:

            def next_batch() -> None:
                between()
                progress.advance()
                progress.show()

            while todo:
                arm, draws, samplers = todo.pop(0)  # so that the texts it holds for several samplers can go
                likelihood = self._likelihood(arm, between)
                for sampler in samplers:
                    began = time.monotonic()
                    texts = self._texts(arm, sampler)
                    if texts is None:
                        drawn = draws(sampler, next_batch)
                        decoded = [self.tokenizer.decode(ids) for ids in drawn.ids]
                        # Of latents log p(x|z) is known, and not the log-likelihood that measures ask for.
                        known = None if isinstance(arm.generator, LatentGenerator) else drawn.log_probs
                        texts = TextSet(decoded, known, drawn.lengths, drawn.truncated, sampler.plain)
                    between()
                    point = self._point(arm, sampler, texts, likelihood)
                    write_point(self._path(arm, sampler), point)
                    progress.advance()
                    done += 1
                    shown = " ".join(f"{name} {point.values[name]:.4g}" for name in SHOWN if name in point.values)
                    say(f"{done}/{points} {arm.name} {sampler}: {shown} ({time.monotonic() - began:.0f} s)")
                self._show(real, pictures=False)

    def _likelihood(self, arm: Judged, between: Callable[[], None]) -> Scores:
        """What the arm makes of real text; of a VAE as some record of it says, for to bound it takes minutes."""
        if not isinstance(arm.generator, LatentGenerator):
            return self.held_out(arm, self.device, between)
        how = ("data", "split", "held_out", "textgan")
        for path in sorted((self.folder / arm.name).glob("*.json")):
            point = _point_at(path)
            if point is not None and all(point.signature.get(key) == self.signature[key] for key in how):
                values, groups = (
                    {name: own[name] for name in HELD_OUT if name in own} for own in (point.values, point.groups)
                )
                return Scores(values, {}, groups)
        if arm.generator.has_density:
            say(f"{arm.name}: likelihood by {self.sweep.iw_samples} draws of the latent of each text ...")
        return self.held_out(arm, self.device, between)

    def _point(self, arm: Judged, sampler: Sampler, texts: TextSet, likelihood: Scores) -> Point:
        found = measure_all(self.measures, texts)
        whole = Scores(found.values | likelihood.values, {}, found.groups | likelihood.groups, found.per_text)
        return Point(
            arm=arm.name,
            sampler=str(sampler),
            split=self.sweep.split,
            n=self.sweep.n,
            seed=self.sweep.seed,
            signature=self.signature,
            values=whole.values,
            intervals={name: [low, high] for name, (_, low, high) in whole.intervals().items()},
            groups=whole.groups,
            per_text={**whole.per_text, "truncated": texts.truncated},
            texts=texts.texts,
            step=arm.step,
            training_seed=arm.training_seed,
            weights=arm.weights,
        )

    def _path(self, arm: Judged, sampler: Sampler) -> Path:
        sweep = self.sweep
        return point_path(self.run, arm.name, str(sampler), split=sweep.split, n=sweep.n, seed=sweep.seed)

    def _record(self, arm: Judged, sampler: Sampler, *, texts: bool) -> Point | None:
        """The record that stands there, of whatever signature; None where there is none of these weights."""
        point = _point_at(self._path(arm, sampler), texts=texts)
        return point if point is not None and point.weights == arm.weights else None

    def _kept(self, arm: Judged, sampler: Sampler) -> Point | None:
        """The record that need not be made again."""
        point = self._record(arm, sampler, texts=False)
        return point if point is not None and point.signature == self.signature else None

    def _texts(self, arm: Judged, sampler: Sampler) -> TextSet | None:
        """The texts of a record that was measured otherwise, but drawn alike: they need not be drawn again."""
        point = self._record(arm, sampler, texts=True)
        how = ("sampling", "textgan")  # the version, as another one may draw otherwise
        if point is None or any(point.signature.get(key) != self.signature[key] for key in how):
            return None
        own = point.per_text
        return TextSet(point.texts, own.get("log_prob"), own.get("tokens"), own["truncated"], sampler.plain)

    def _points(self) -> list[Point]:
        """All records of this setting and signature, those of earlier calls with other samplers too."""
        found = (_point_at(path) for path in sorted(self.folder.glob("*/*.json")))
        return [point for point in found if point is not None and point.signature == self.signature]

    def _remove_stale(self, judged: Iterable[Judged]) -> None:
        """Remove records of weights that these arms no longer have: beside new ones they would make a false curve."""
        for arm in judged:
            paths = sorted((self.folder / arm.name).glob("*.json"))
            stale = [path for path in paths if (point := _point_at(path)) is not None and point.weights != arm.weights]
            for path in stale:
                for suffix in (".json", ".npz", ".jsonl.gz"):
                    path.with_suffix(suffix).unlink(missing_ok=True)
            if stale:
                say(f"{arm.name}: removed {len(stale)} records of other weights than it has now")

    def _real(self) -> dict[str, float]:
        """Values of real text, computed once."""
        path = self.folder / "real.json"
        kept = ledger.read_json(path)
        if filled_in(kept.get("signature", {})) != self.signature:
            kept = {"signature": self.signature, "values": real_values(self.measures, self.sweep.n)}
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(kept, indent=1, ensure_ascii=False))
        return kept["values"]


def _point_at(path: Path, *, texts: bool = False) -> Point | None:
    """The record there; None where there is none, a broken one, or one that an older version wrote."""
    try:
        return read_point(path, texts=texts)
    except UserError:
        return None

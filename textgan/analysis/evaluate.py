"""``textgan evaluate``: a run's arms at many operating points, each drawn, measured and kept as a record.

RUN/evaluation/SPLIT-nN-sSEED/ARM/SAMPLER.json ...   records, see points.py
                             /real.json              what as many real texts get
                             /ARM/FAMILY/            TensorBoard, see front_log.py
              /super_baseline.json, test_reads.json  see ledger.py
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from textgan.analysis import ledger
from textgan.analysis.all_measures import make_measures
from textgan.analysis.asked import Asked, in_turn, repeated
from textgan.analysis.condition_measures import TIMES
from textgan.analysis.front_log import log_points
from textgan.analysis.judged import (
    DERIVED,
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
from textgan.analysis.points import Point, write_point
from textgan.analysis.protocols import check_run
from textgan.analysis.records import Records
from textgan.analysis.sweep import Sweep, check_samplers, shared_out
from textgan.configfile import load_config
from textgan.data.tokenizer import Tokenizer
from textgan.errors import UserError
from textgan.metrics.suite import Scores
from textgan.sampling.latent import LatentGenerator
from textgan.sampling.samplers import Drawer, Sampler, sampling_signature
from textgan.training.checkpoint import arms, check_checkpoint
from textgan.training.experiment import say
from textgan.training.inputs import encode, read_corpus
from textgan.training.progress import Progress
from textgan.training.ranks import Ranks

# Said of each point as it is done.
SHOWN = ("bleu_4", "self_bleu_4", "frechet_ngrams", "lm_kn", "rlm_kn", "valid")


def evaluate(
    run: Path,
    sweep: Sweep,
    *,
    device: torch.device,
    command: str = "",
    between: Callable[[], None] = lambda: None,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Evaluate the arms of a run; records that are there with the same signature and weights are kept.

    Args:
        run: the run's folder.
        command: entered where the test split is read.
        between: called before each batch of texts; what it raises ends the evaluation, and all records stay whole.
        ranks: the processes that share the points, each of which calls this; None: this one alone.

    Returns:
        ``run``, ``setting``, ``split``, ``n``, ``seed``, ``protocol``, ``signature``; ``real``: values of real text;
        ``points``: the :class:`Point` of each arm and sampler, without texts; ``super_baseline``; ``test_reads``.

    Raises:
        UserError: no run, no such arm, other data than it was trained on, not what the protocol fixes, or a process
            that is gone.
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
        entropy=None if corpus.oracle is None or corpus.conditions else corpus.oracle.entropy()[0],
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
        conditions=corpus.conditions.get(sweep.split),
        condition=config.data.condition,
    )
    signature = {
        "data": corpus.fingerprint,
        "split": sweep.split,
        "protocol": None if sweep.protocol is None else str(sweep.protocol),
        **signature_of(measures, sweep.n),
        **held_out.signature(),
        "sampling": sampling_signature(seed=sweep.seed, max_new_tokens=config.generator.block_size),
    }
    asked = again = None
    if corpus.conditions:
        conditions = corpus.conditions[sweep.split]
        asked, again = in_turn(splits[sweep.split], conditions, sweep.n), repeated(splits[sweep.split], conditions)
        signature["sampling"] |= {"conditions": f"{sweep.split}, in turn", "template": config.data.template}
    records = Records(run, sweep, json.loads(json.dumps(signature)))
    job = _Job(records, device, tokenizer, measures, held_out, ranks or Ranks(), between, asked, again)
    return job.do(judged, command)


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
    """An evaluation under way, on one of the ranks that share it."""

    records: Records
    device: torch.device
    tokenizer: Tokenizer
    measures: list[Measure]
    held_out: HeldOut
    ranks: Ranks
    between: Callable[[], None]
    asked: Asked | None  # of pairs: what each text is written for
    again: Asked | None  # of pairs: the same for further texts, several for each condition

    def do(self, judged: Sequence[Judged], command: str) -> dict[str, Any]:
        """What :func:`evaluate` returns."""
        records, ranks = self.records, self.ranks
        asked = [(arm, sampler) for arm in judged for sampler in records.sweep.samplers_of(arm)]
        # What is there is looked up once: soon there will be more of it.
        missing = ranks.first_does(lambda: self._begin(judged, asked, command))
        todo = [asked[i] for i in missing]
        likelihoods = {arm.name: self._likelihood(arm) for arm in judged if any(arm is other for other, _ in todo)}
        n = records.sweep.n
        real = records.real(lambda: real_values(self.measures, n)) if ranks.first else {}
        points: list[Point] = []
        try:
            points = self._measure_points(todo, likelihoods, real)
        finally:  # stopped or not, what is there is shown
            if ranks.first:
                points = self._show(real, points)
        return ranks.first_does(lambda: self._end(asked, points, real, read_test=bool(missing)))

    def _begin(self, judged: Sequence[Judged], asked: Sequence[tuple[Judged, Sampler]], command: str) -> list[int]:
        """Enter what begins; returns which of the points asked for are missing."""
        records = self.records
        missing = [i for i, (arm, sampler) in enumerate(asked) if not records.has(arm, sampler)]
        records.remove_stale(judged)
        if len(missing) < len(asked):
            say(f"{len(asked) - len(missing)} of {len(asked)} operating points are there already")
        if missing and records.sweep.split == "test":
            count = ledger.begin_test_read(records.run, command, len(missing))
            say(f"note: look number {count} of this run at its test split (kept count of); choose on dev")
        return missing

    def _end(
        self,
        asked: Sequence[tuple[Judged, Sampler]],
        points: Sequence[Point],
        real: dict[str, float],
        *,
        read_test: bool,
    ) -> dict[str, Any]:
        """Enter that all is done, and return what :func:`evaluate` does."""
        run, sweep, signature = self.records.run, self.records.sweep, self.records.signature
        if read_test and sweep.split == "test":
            ledger.end_test_read(run)
        at = {(point.arm, point.sampler): point for point in points}
        return {
            "run": str(run),
            "setting": sweep.setting,
            "split": sweep.split,
            "n": sweep.n,
            "seed": sweep.seed,
            "protocol": signature["protocol"],
            "signature": signature,
            "real": real,
            "points": [at[arm.name, str(sampler)] for arm, sampler in asked],
            "super_baseline": ledger.super_baseline(points, real),
            "test_reads": ledger.test_reads(run),
        }

    def _show(self, real: dict[str, float], made: Sequence[Point], *, pictures: bool = True) -> list[Point]:
        """Bring TensorBoard and the super-baseline up to the records that are there, and return these.

        Points that were ``made`` count even where another machine wrote them and its disk does not show them yet.
        """
        records = self.records
        at = {(point.arm, point.sampler): point for point in [*records.points(), *made]}
        points = list(at.values())
        log_points(records.folder, points, real, pictures=pictures)
        ledger.write_super_baseline(records.run, records.sweep.setting, points, real)
        return points

    def _measure_points(
        self, todo: Sequence[tuple[Judged, Sampler]], likelihoods: dict[str, Scores], real: dict[str, float]
    ) -> list[Point]:
        """Draw, measure and write the points to do, each of them on some rank; returns all, without texts."""
        ranks, records = self.ranks, self.records
        units = shared_out(todo, ranks.size)
        made: list[Point] = []
        arm = None
        with Progress("evaluate", total=self._steps(units) if ranks.first else 0) as progress:

            def catch_up() -> None:
                """The first rank tells what all have done."""
                if ranks.first:
                    while progress.steps < ranks.tally("steps", 0):
                        progress.advance()
                    for line in ranks.heard():
                        say(line)

            def next_batch() -> None:
                self.between()
                ranks.tally("steps")
                catch_up()
                progress.show()

            for number in ranks.take("units", len(units)):
                if ranks.first and arm is not None and arm is not units[number][0]:
                    self._show(real, made, pictures=False)
                arm, samplers = units[number]
                draws = arm.draws(records.sweep.n, records.sweep.seed, self.asked and self.asked.openings)
                for sampler in samplers:
                    began = time.monotonic()
                    texts = records.texts(arm, sampler) or self._drawn(arm, draws, sampler, next_batch)
                    self.between()
                    texts = self._with_conditions(arm, sampler, texts)
                    point = self._point(arm, sampler, texts, likelihoods[arm.name])
                    write_point(records.path(arm, sampler), point)
                    made.append(replace(point, texts=[], per_text={}))
                    ranks.tally("steps")
                    shown = " ".join(f"{name} {point.values[name]:.4g}" for name in SHOWN if name in point.values)
                    at, seconds = f"{ranks.tally('points')}/{len(todo)}", time.monotonic() - began
                    ranks.tell(f"{at} {arm.name} {sampler}: {shown} ({seconds:.0f} s)")
                    catch_up()
            parts = ranks.collect(made)
            catch_up()
        return [point for part in parts for point in part]

    def _steps(self, units: Sequence[tuple[Judged, Sequence[Sampler]]]) -> int:
        """Units of progress: a batch of texts, and the measuring of a point."""
        sweep = self.records.sweep
        batches = [
            arm.draws(sweep.n, sweep.seed).batches(sampler, after=samplers[:i])
            for arm, samplers in units
            for i, sampler in enumerate(samplers)
            if self.records.texts(arm, sampler) is None
        ]
        return sum(batches) + sum(len(samplers) for _, samplers in units)

    def _drawn(self, arm: Judged, draws: Drawer, sampler: Sampler, next_batch: Callable[[], None]) -> TextSet:
        drawn = draws(sampler, next_batch)
        decoded = [self.tokenizer.decode(ids) for ids in drawn.ids]
        # Of latents log p(x|z) is known, and not the log-likelihood that measures ask for.
        known = None if isinstance(arm.generator, LatentGenerator) else drawn.log_probs
        return TextSet(decoded, known, drawn.lengths, drawn.truncated, sampler.plain)

    def _with_conditions(self, arm: Judged, sampler: Sampler, texts: TextSet) -> TextSet:
        """The texts with what they were written for, and with further ones, several of one condition."""
        if self.asked is None:
            return texts
        openings = self.again.openings
        ids = arm.draws(len(openings), self.records.sweep.seed, openings)(sampler, self.between).ids
        written = [self.tokenizer.decode(row) for row in ids]
        groups = [written[i : i + TIMES] for i in range(0, len(written), TIMES)]
        return texts._replace(conditions=self.asked.conditions, by_condition=groups)

    def _likelihood(self, arm: Judged) -> Scores:
        """What the arm makes of real text; of a VAE as some record of it says, for to bound it takes minutes."""
        if isinstance(arm.generator, LatentGenerator):
            kept = self.ranks.first_does(lambda: self.records.likelihood(arm))
            if kept is not None:
                return kept
            if arm.generator.has_density:
                draws = self.records.sweep.iw_samples
                say(f"{arm.name}: likelihood by {draws} draws of the latent of each text ...")
        return self.held_out(arm, self.device, self.between, self.ranks)

    def _point(self, arm: Judged, sampler: Sampler, texts: TextSet, likelihood: Scores) -> Point:
        found = measure_all(self.measures, texts)
        whole = Scores(found.values | likelihood.values, {}, found.groups | likelihood.groups, found.per_text)
        sweep = self.records.sweep
        return Point(
            arm=arm.name,
            sampler=str(sampler),
            split=sweep.split,
            n=sweep.n,
            seed=sweep.seed,
            signature=self.records.signature,
            values=whole.values,
            intervals={name: [low, high] for name, (_, low, high) in whole.intervals().items()},
            groups=whole.groups,
            per_text={**whole.per_text, "truncated": texts.truncated},
            texts=texts.texts,
            step=arm.step,
            training_seed=arm.training_seed,
            weights=arm.weights,
        )

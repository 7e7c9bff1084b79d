"""``textgan compare``: who is to be compared with whom, on what, and what comes out, as one JSON object.

A challenger is held against its parent and against that parent's continuation at equal cost, three times: front of
temperatures against front of temperatures; its temperatures against the best of all the baseline's samplers (Caccia et
al. 2020, "Language GANs Falling Short": a better sampler is no better model); and again after both sets of texts were
weighted to the same lengths and the same novelty, so that a win by length or by copying goes away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgan import __version__
from textgan.analysis import sentences
from textgan.analysis.aggregate import arm_points, envelopes, fronts, summary_table
from textgan.analysis.judged import BOUNDED
from textgan.analysis.matched import matched
from textgan.analysis.published import published_for
from textgan.analysis.runs import FILES
from textgan.analysis.sentences import BEST, MATCHED, TEMPERATURE
from textgan.analysis.study import Arm, Study
from textgan.errors import UserError
from textgan.metrics.front import Front
from textgan.metrics.meanings import meaning
from textgan.metrics.suite import better
from textgan.metrics.verdict import FrontComparison, compare_fronts, compare_joint
from textgan.training.logging import flatten

FORMAT = 1
DEFAULT_PAIRS = (("bleu_4", "self_bleu_4"), ("lm_kn", "rlm_kn"))
# Metrics that see quality and diversity at once: their best over samplers is compared.
JOINT = ("nll", "frechet", "mmd", "mauve", "c2st_acc", "c2st_auc", "ms_jaccard_4", "kl_to_model", "kl_from_model")
MIXTURE = "mle+kneser_ney"
# Of the model itself, whatever the sampler; of arms of judged.BOUNDED an upper bound.
OF_LIKELIHOOD = ("nll", "kl_to_model")
# What arms are held against, as far as it is there.
BASELINES = {
    "mle": ("pretrained",),
    "adversarial": ("mle", "continued"),
    "continued": ("mle",),
    "vae": ("mle",),
    "latent_gan": ("mle", "vae"),
}


@dataclass(frozen=True)
class Match:
    """A challenger and what it is held against: arms, and the seed of either in each pair of seeds."""

    arm: Arm
    against: Arm
    seeds: tuple[tuple[int, int], ...]
    paired: bool  # whether text i of both comes from the same random numbers


def compare(
    study: Study,
    *,
    baseline: str | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    level: float = 0.95,
) -> dict[str, Any]:
    """Everything that is known of these arms beside each other; ready for JSON.

    Args:
        study: the arms.
        baseline: name of the arm that all others are held against; None: of each arm its own parent and
            continuation, else the arm ``mle``, else the first.
        pairs: of metrics (quality, diversity); None for those of :data:`DEFAULT_PAIRS` that are there.
        level: of intervals and bands.

    Raises:
        UserError: no such arm or metric.
    """
    pairs = _checked_pairs(study, pairs)
    first = default_baseline(study) if baseline is None else study.arms[_known_arm(study, baseline)]
    notes = list(study.notes)
    matches = _matches(study, first, every=baseline is not None, notes=notes)
    points = {name: arm_points(arm, level) for name, arm in study.arms.items()}
    comparison: dict[str, Any] = {
        "format": FORMAT,
        "textgan": __version__,
        "baseline": first.name,
        "level": level,
        "split": study.split,
        "n": study.n,
        "arms": [_arm(study, arm, points[name]) for name, arm in study.arms.items()],
        "real": study.real,
        "published": _marks(study, pairs),
        "pairs": [_pair(pair, matches, level, notes) for pair in pairs],
        "joint": list(_joint(study, matches, level)),
        "table": summary_table(study.metrics(), points, study.real),
        "signatures": {name: _line(arm) for name, arm in study.arms.items()},
        "test_reads": study.test_reads,
    }
    for row in comparison["table"]:
        row["meaning"] = _meaning(row["metric"])
    comparison["verdict"] = sentences.verdict(comparison)
    comparison["notes"] = notes + sentences.notes(comparison, study.signature)
    return comparison


def default_baseline(study: Study) -> Arm:
    """The first arm ``mle``, else the first of all."""
    arms = [arm for arm in study.arms.values() if arm.trained] or list(study.arms.values())
    return next((arm for arm in arms if arm.kind == "mle"), arms[0])


def baselines_of(study: Study, arm: Arm, first: Arm) -> list[Arm]:
    """What an arm is held against: those of :data:`BASELINES` (its parent and the parent's continuation, the model of
    its size that was trained by maximum likelihood), as far as they are there, else ``first``.

    Rows that are only shown beside are held against nothing.
    """
    own = BASELINES.get(arm.kind, ())
    found = [study.arms[study.name_of[arm.setting, kind]] for kind in own if (arm.setting, kind) in study.name_of]
    if not arm.trained:
        return []
    return found or ([first] if first is not arm else [])


def _known_arm(study: Study, name: str) -> str:
    if name not in study.arms:
        raise UserError(f"no arm is called {name!r}; there are: {', '.join(study.arms)}")
    return name


def _checked_pairs(study: Study, pairs: Sequence[tuple[str, str]] | None) -> list[tuple[str, str]]:
    known = study.metrics()
    if pairs is None:
        return [pair for pair in DEFAULT_PAIRS if set(pair) <= set(known)]
    for name in (name for pair in pairs for name in pair):
        if name not in known:
            raise UserError(f"no arm has the metric {name!r}; there are: {', '.join(known)}")
        if not better(name):
            raise UserError(f"more {name!r} is neither better nor worse, so it makes no front; give another metric")
    return list(pairs)


def _matches(study: Study, first: Arm, *, every: bool, notes: list[str]) -> list[Match]:
    found = []
    for arm in study.arms.values():
        if every:
            others = [first] if arm.trained and arm is not first else []
        else:
            others = baselines_of(study, arm, first)
        found += [_match(study, arm, other, notes) for other in others]
    return found


def _match(study: Study, arm: Arm, against: Arm, notes: list[str]) -> Match:
    shared = [seed for seed in arm.seeds if seed in against.seeds]
    seeds = [(seed, seed) for seed in shared] or list(zip(arm.seeds, against.seeds, strict=False))
    if not shared:
        notes.append(f"{arm.name} and {against.name} have no seed in common: their seeds are paired in order")
    elif len(shared) < max(len(arm.seeds), len(against.seeds)):
        told = ", ".join(map(str, shared))
        notes.append(f"{arm.name} against {against.name}: only seeds {told} are there of both, and only they compare")
    drawn_alike = not any(key.startswith("sampling") for key in (*arm.differs, *against.differs))
    return Match(arm, against, tuple(seeds), study.split != FILES and drawn_alike)


# ------------------------------------------------------------------------------------------------ fronts


def _pair(pair: tuple[str, str], matches: Sequence[Match], level: float, notes: list[str]) -> dict[str, Any]:
    quality, diversity = pair
    arms = {arm.name: arm for match in matches for arm in (match.arm, match.against)}
    everything = [front for arm in arms.values() for front in fronts(arm, arm.seeds, *pair) or ()]
    reference = tuple(min(float(front[axis].min()) for front in everything) for axis in (0, 1)) if everything else None
    return {
        "quality": quality,
        "diversity": diversity,
        "quality_better": better(quality),
        "diversity_better": better(diversity),
        "comparisons": [
            _front(match, curve, baseline, other, pair, level, reference)
            for match in matches
            for curve, baseline, other in _curves(match, pair, notes)
        ],
    }


def _curves(match: Match, pair: tuple[str, str], notes: list[str]) -> Iterable[tuple[str, list[Front], list[Front]]]:
    """Name, fronts of the baseline and of the challenger, one a pair of seeds, for each comparison that can be made."""
    own, theirs = ([pair_of_seeds[i] for pair_of_seeds in match.seeds] for i in (0, 1))
    other = fronts(match.arm, own, *pair, family=TEMPERATURE) or fronts(match.arm, own, *pair)
    baseline = fronts(match.against, theirs, *pair, family=TEMPERATURE)
    best = envelopes(match.against, theirs, *pair)
    if other is None or best is None:
        return
    if baseline is not None:
        yield TEMPERATURE, baseline, other
    if match.against.having(*pair) != match.against.having(*pair, family=TEMPERATURE):
        yield BEST, best, other
    alike = matched(match.against, match.arm, match.seeds, pair, family=TEMPERATURE)
    notes += sentences.matching_notes(match.arm.name, match.against.name, pair, alike)
    if alike is not None:
        yield MATCHED, alike.baseline, alike.other


def _front(
    match: Match,
    curve: str,
    baseline: Sequence[Front],
    other: Sequence[Front],
    pair: tuple[str, str],
    level: float,
    reference: tuple[float, float],
) -> dict[str, Any]:
    found = compare_fronts(baseline, other, paired=match.paired, level=level, reference=reference)
    told = {"arm": match.arm.name, "against": match.against.name, "curve": curve, **_plain_front(found, pair)}
    return {**told, "sentence": sentences.front_sentence(told, pair, level)}


def _plain_front(found: FrontComparison, pair: tuple[str, str]) -> dict[str, Any]:
    """The comparison for JSON: qualities in their own units, differences above 0 where the challenger is better."""
    quality, diversity = (better(name) for name in pair)
    volume = dict(found.hypervolume)
    q, d = volume["reference"]
    volume["reference"] = [q * quality, d * diversity]
    regret = found.largest_regret
    return {
        "grid": (found.grid * quality).tolist(),
        "delta": found.delta.tolist(),
        "lower": found.lower.tolist(),
        "upper": found.upper.tolist(),
        "share_dominated": found.share_dominated,
        "share_worse": found.share_worse,
        "largest_regret": {"value": regret.value, "at": regret.at * quality, "upper": regret.upper},
        "mean_delta": dict(zip(("mean", "lower", "upper"), map(float, found.mean_delta), strict=True)),
        "hypervolume": volume,
        "dominates": found.dominates,
        "detectable": found.detectable,
        "seeds": found.seeds,
        "covers": found.covers,
    }


# ------------------------------------------------------------------------------------------------ joint metrics


def _joint(study: Study, matches: Sequence[Match], level: float) -> Iterable[dict[str, Any]]:
    names = [name for name in study.metrics() if better(name) and _is_joint(name)]
    kinds = {name: arm.kind for name, arm in study.arms.items()}
    judged = sentences.main_challengers([match.arm.name for match in matches], kinds)
    for match in matches:
        if match.arm.name not in judged:
            continue
        for name in names:
            yield from _best_of(match, name, level)
        mixture = study.name_of.get((match.against.setting, MIXTURE))
        if mixture is not None and match.against.kind == "mle":
            yield from _best_of(_match(study, match.arm, study.arms[mixture], []), "nll", level)


def _is_joint(name: str) -> bool:
    return name.startswith(JOINT) and not name.startswith(("nll_", "mmd_p", "frechet_inf"))


def _best_of(match: Match, name: str, level: float) -> Iterable[dict[str, Any]]:
    """The best that both reach; of the challenger only at samplers that the baseline was tried with too."""
    sides = []
    for arm, seeds in (
        (match.against, [theirs for _, theirs in match.seeds]),
        (match.arm, [own for own, _ in match.seeds]),
    ):
        samplers = [s for s in arm.having(name) if s in match.against.records or name == "nll"]
        records = [[arm.records[s][arm.seeds.index(seed)].point for s in samplers] for seed in seeds]
        if not samplers or any(name not in point.groups for own in records for point in own):
            return
        replicates = [
            np.array([np.append(point.values[name], point.groups[name]) for point in own]).T * better(name)
            for own in records
        ]
        sides.append((arm, samplers, replicates))
    (against, theirs, baseline), (arm, own, other) = sides
    found = compare_joint(baseline, other, paired=match.paired, level=level)
    constant = name in OF_LIKELIHOOD
    best = {
        against.name: {
            "value": found.baseline * better(name),
            "sampler": None if constant else _most(theirs, found.baseline_at),
        },
        arm.name: {"value": found.other * better(name), "sampler": None if constant else _most(own, found.other_at)},
    }
    difference = dict(zip(("mean", "lower", "upper"), map(float, found.difference), strict=True))
    told = {
        "metric": name,
        "arm": arm.name,
        "against": against.name,
        "best": best,
        "difference": difference,
        "covers": found.covers,
        "bounded": [side.name for side in (arm, against) if constant and side.kind in BOUNDED],
    }
    yield {**told, "sentence": sentences.joint_sentence(told)}


def _most(samplers: Sequence[str], chosen: Sequence[int]) -> str:
    """The sampler that was best for most seeds; of several the first."""
    return samplers[max(dict.fromkeys(chosen), key=list(chosen).count)]


# ------------------------------------------------------------------------------------------------ the rest


def _arm(study: Study, arm: Arm, points: list[dict[str, Any]]) -> dict[str, Any]:
    several = len({other.setting for other in study.arms.values()}) > 1
    label = f"{arm.name} ({arm.title})" if several and arm.title not in arm.name else arm.name
    return {
        "name": arm.name,
        "label": f"{label} *" if arm.differs else label,
        "kind": arm.kind,
        "title": arm.title,
        "runs": arm.runs,
        "seeds": list(arm.seeds),
        "differs": list(arm.differs),
        "points": points,
    }


def _marks(study: Study, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Published values that have a place in some front."""
    rows = published_for(study.signature, study.n)
    return [row for row in rows if any(set(pair) <= row["values"].keys() for pair in pairs)]


def _line(arm: Arm) -> str:
    signature = next(iter(arm.records.values()))[0].point.signature
    shown = {key: value for key, value in flatten(signature).items() if not key.startswith("definitions")}
    return " ".join(f"{key}={'none' if value is None else value}" for key, value in shown.items())


def _meaning(name: str) -> str:
    try:
        return meaning(name)
    except KeyError:
        return ""

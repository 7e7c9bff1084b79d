"""What a comparison means, in plain words: what may be claimed, what may not, and why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from textgan.analysis.judged import BOUNDED
from textgan.analysis.matched import Matched

# Endings that only say what a number was computed with; the plain name serves where it is the only one.
_NAMES = {
    "self_bleu": "self-BLEU",
    "opening_self_bleu": "openings' self-BLEU",
    "bleu_b": "BLEU-B",
    "bleu": "BLEU",
    "ms_jaccard": "MS-Jaccard",
    "distinct_budget": "distinct at a budget",
    "distinct": "distinct",
    "lm": "LM",
    "rlm": "reverse LM",
    "nll": "held-out NLL",
    "frechet": "Fréchet distance",
    "mmd": "MMD",
    "mauve": "MAUVE",
    "c2st_acc": "classifier accuracy",
    "c2st_auc": "classifier AUC",
    "kl_to_model": "KL(truth || model)",
    "kl_from_model": "KL(model || truth)",
}
SHIFTED = 0.6  # accuracy from which a classifier that tells training text from references says that they differ
TEMPERATURE, BEST, MATCHED = "temperature", "best of all samplers", "matched by length and novelty"
WHAT_THE_CURVES_ARE = {TEMPERATURE: "", BEST: f"'s {BEST}", MATCHED: f", {MATCHED},"}


def readable(metric: str) -> str:
    """A metric's name for a sentence: ``self-BLEU-4`` for ``self_bleu_4``, ``LM (kn)`` for ``lm_kn``."""
    for stem, name in _NAMES.items():
        if metric == stem:
            return name
        ending = re.fullmatch(rf"{stem}_(\w+)", metric)
        if ending:
            return f"{name}-{ending[1]}" if ending[1].isdigit() else f"{name} ({ending[1]})"
    return metric


def pair_name(pair: Sequence[str]) -> str:
    """Both names of a pair: ``BLEU-4/self-BLEU-4``."""
    return "/".join(map(readable, pair))


def outcome(front: Mapping[str, Any]) -> str:
    """``dominates``, ``better`` (somewhere, nowhere worse), ``crosses``, ``worse``, ``nothing`` or ``apart``."""
    if not front["grid"]:
        return "apart"
    if front["dominates"]:
        return "dominates"
    if front["share_dominated"] and front["share_worse"]:
        return "crosses"
    if front["share_dominated"]:
        return "better"
    return "worse" if front["share_worse"] else "nothing"


def front_sentence(front: Mapping[str, Any], pair: Sequence[str], level: float) -> str:
    """One comparison of two fronts, with band, reach and what could have been seen."""
    quality, diversity = map(readable, pair)
    arm, against = front["arm"], front["against"] + WHAT_THE_CURVES_ARE[front["curve"]]
    on = f"on {pair_name(pair)}"
    found = outcome(front)
    if found == "apart":
        return f"{arm} and {against} reach no common {quality}: nothing can be said {on}."
    reach = f"{quality} {_number(front['grid'][0])} to {_number(front['grid'][-1])}"
    if len(front["grid"]) == 1:
        reach = f"{quality} {_number(front['grid'][0])}"
    band = f"{_percent(level)} band, {_covers(front)}"
    regret, mean = front["largest_regret"], front["mean_delta"]
    loss = f"largest loss {_number(regret['value'])} at {quality} {_number(regret['at'])}"
    loss = loss if regret["value"] >= 0.0005 else "no loss seen anywhere"
    average = f"mean gain in {diversity} {_with_interval(mean, 'mean')}"
    if front["curve"] != BEST:  # the staircase of more points encloses more, on the same curve too
        average += f", in hypervolume {_with_interval(front['hypervolume'], 'difference')}"
    if found == "dominates":
        return f"{arm} dominates {against} {on} over the whole overlap ({reach}; {band}); {average}."
    if found == "better":
        share = _percent(front["share_dominated"])
        return f"{arm} dominates {against} {on} over {share} of the overlap ({reach}; {band}); {average}; {loss}."
    if found == "crosses":
        shares = f"better over {_percent(front['share_dominated'])}, worse over {_percent(front['share_worse'])}"
        return f"{arm} and {against} cross {on}: {shares} of the overlap ({reach}; {band}); {average}; {loss}."
    if found == "worse":
        share = "the whole" if front["share_worse"] == 1 else f"{_percent(front['share_worse'])} of the"
        return f"{arm} is worse than {against} {on} over {share} overlap ({reach}; {band}); {average}; {loss}."
    seen = f"at any one quality a gain of about {_number(front['detectable'])} could have been seen"
    return f"{arm} is not shown to differ from {against} {on} ({reach}; {band}); {average}; {seen}."


def joint_sentence(joint: Mapping[str, Any]) -> str:
    """One metric that sees quality and diversity at once, best over samplers."""
    arm, against, best = joint["arm"], joint["against"], joint["best"]
    told = ", ".join(f"{name} {_number(best[name]['value'])}{_at(best[name]['sampler'])}" for name in (arm, against))
    low, high = joint["difference"]["lower"], joint["difference"]["upper"]
    sign = (low > 0) - (high < 0)
    words = {1: "is better", -1: "is worse", 0: "is not shown to differ"}[sign]
    if _worse_by_bound(joint):
        words = {1: "is better than the bound", -1: "is worse by its bound"}[sign]
    gain = f"gain {_with_interval(joint['difference'], 'mean')}"
    what = readable(joint["metric"])
    return f"{what}: {arm} {words} ({told}; {gain}).{_of_bounds(joint)}"


def _worse_by_bound(joint: Mapping[str, Any]) -> str | None:
    """The arm that is worse by a value that is an upper bound of its own alone, where there is one."""
    low, high = joint["difference"]["lower"], joint["difference"]["upper"]
    worse = joint["arm"] if high < 0 else joint["against"] if low > 0 else None
    return worse if worse in joint.get("bounded", []) else None


def _of_bounds(joint: Mapping[str, Any]) -> str:
    """What a value that is an upper bound of an arm's own leaves open."""
    bounded = joint.get("bounded", [])
    if not bounded:
        return ""
    are = "are upper bounds" if len(bounded) > 1 else "is an upper bound"
    told = f" The value of {' and '.join(bounded)} {are}, importance-weighted"
    worse = _worse_by_bound(joint)
    if worse is not None:
        return f"{told}: that {worse} itself is worse is not proven."
    return f"{told}: the truth may be lower, not higher."


def verdict(comparison: Mapping[str, Any]) -> list[str]:
    """For each challenger: where it wins and loses against each baseline, then what may and what may not be claimed."""
    told = [front["arm"] for pair in comparison["pairs"] for front in pair["comparisons"]]
    told += [joint["arm"] for joint in comparison["joint"]]
    lines = []
    for arm in main_challengers(dict.fromkeys(told), {arm["name"]: arm["kind"] for arm in comparison["arms"]}):
        lines += _verdict_on(arm, comparison)
    return lines or ["there is nothing to compare: one arm alone, or no metrics in common"]


def main_challengers(names: Iterable[str], kinds: Mapping[str, str]) -> list[str]:
    """Those that a verdict is about: a continuation only where there is nothing else, for it is a baseline itself."""
    names = list(names)
    return [name for name in names if kinds[name] != "continued"] or names


def _verdict_on(arm: str, comparison: Mapping[str, Any]) -> list[str]:
    fronts = [
        (pair_name((pair["quality"], pair["diversity"])), front)
        for pair in comparison["pairs"]
        for front in pair["comparisons"]
        if front["arm"] == arm
    ]
    lines = []
    against = dict.fromkeys([front["against"] for _, front in fronts])
    against.update(dict.fromkeys(joint["against"] for joint in comparison["joint"] if joint["arm"] == arm))
    for other in against:
        parts = [
            f"{_short(front)} on {name}"
            for name, front in fronts
            if front["against"] == other and front["curve"] == _first_curve(fronts, other)
        ]
        joints = _joint_words(arm, other, comparison["joint"])
        lines.append(f"{arm} against {other}: {'; '.join([*parts, *joints, *_copies(arm, other, comparison)])}.")
    return lines + _claims(arm, fronts, comparison)


def _first_curve(fronts: Iterable[tuple[str, Mapping[str, Any]]], against: str) -> str:
    return next(front["curve"] for _, front in fronts if front["against"] == against)


def _short(front: Mapping[str, Any]) -> str:
    better_share, worse_share = _percent(front["share_dominated"]), _percent(front["share_worse"])
    worse = "the whole" if front["share_worse"] == 1 else f"{worse_share} of the"
    return {
        "dominates": "dominates over the whole overlap",
        "better": f"dominates over {better_share} of the overlap",
        "crosses": f"better over {better_share}, worse over {worse_share} of the overlap",
        "worse": f"worse over {worse} overlap",
        "nothing": "no difference shown",
        "apart": "no overlap",
    }[outcome(front)]


def _joint_words(arm: str, against: str, joints: Iterable[Mapping[str, Any]]) -> list[str]:
    """Joint metrics in three groups, best over samplers."""
    groups: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for joint in joints:
        if (joint["arm"], joint["against"]) == (arm, against):
            low, high = joint["difference"]["lower"], joint["difference"]["upper"]
            bound = " (upper bound)" if joint.get("bounded") else ""
            groups[(low > 0) - (high < 0)].append(readable(joint["metric"]) + bound)
    words = {1: "better", -1: "worse", 0: "not shown to differ"}
    told = [f"{words[sign]} by {', '.join(names)}" for sign, names in groups.items() if names]
    return [f"at its best sampler {', '.join(told)}"] if told else []


def _copies(arm: str, against: str, comparison: Mapping[str, Any]) -> list[str]:
    """How much of the training text the arms repeat word for word."""
    shares = {}
    for other in comparison["arms"]:
        values = {p["sampler"]: p["values"]["copies"]["mean"] for p in other["points"] if "copies" in p["values"]}
        if values:
            shares[other["name"]] = (values.get("temperature=1"), max(values.values()))
    if arm not in shares or against not in shares:
        return []

    def told(name: str) -> str:
        plain, most = shares[name]
        if plain in (None, most):
            return _percent(most, 1)
        return f"{_percent(plain, 1)} at temperature 1, up to {_percent(most, 1)} elsewhere"

    return [f"copies of train: {told(arm)} ({against}: {told(against)})"]


def _claims(arm: str, fronts: Sequence[tuple[str, Mapping[str, Any]]], comparison: Mapping[str, Any]) -> list[str]:
    """What holds against every baseline and in every way of comparing, and what stands in the way of the rest."""
    if not fronts:
        return []
    may, not_shown, excused = [], [], []
    for name in dict.fromkeys(name for name, _ in fronts):
        own = [front for other, front in fronts if other == name]
        against = " and ".join(dict.fromkeys(front["against"] for front in own))
        wins = [front for front in own if outcome(front) in ("dominates", "better")]
        if not wins:
            not_shown.append(name)
        elif len(wins) == len(own):
            share = min(front["share_dominated"] for front in own)
            over = "the whole overlap" if share == 1 else f"at least {_percent(share)} of the overlap"
            may.append(f"{arm} has a better trade-off than {against} on {name} over {over}")
        else:
            missing = ", ".join(_where(front) for front in own if front not in wins)
            excused.append(f"the gain on {name} is not shown {missing}")
    lines = []
    single = fronts[0][1]["seeds"] == 1
    bound = " (of these checkpoints: one seed says nothing about the method)" if single else ""
    if may and shifted(comparison):
        lines.append(
            f"May be claimed for these references alone: {'; '.join(may)}{bound}. May not be claimed: that it is a "
            "better model, for real training text itself is told from these references."
        )
    elif may:
        lines.append(f"May be claimed: {'; '.join(may)}{bound}.")
    if excused:
        lines.append(f"May not be claimed: {arm} beats maximum likelihood: {'; '.join(excused)}.")
    if not_shown:
        lines.append(f"May not be claimed: any gain of {arm} on {', '.join(not_shown)}.")
    return lines


def _where(front: Mapping[str, Any]) -> str:
    return {
        "temperature": f"against {front['against']}",
        "best of all samplers": f"against {front['against']} with its best sampler",
        "matched by length and novelty": f"against {front['against']} at equal length and novelty",
    }[front["curve"]]


def matching_notes(arm: str, against: str, pair: Sequence[str], alike: Matched | None) -> list[str]:
    """How much of the texts is left where arms are weighted to the same lengths and novelty, or why they are not."""
    who = f"{arm} and {against} on {pair_name(pair)}"
    if alike is None:
        return [f"{who}: not matched by length and novelty (no means over texts, or nothing in common)"]
    share = _percent(alike.effective)
    told = f"{who}, matched by length and novelty: effective sample size {share} of each point's texts, or more"
    return [f"{told}; left out for some seed: {', '.join(alike.left_out)}" if alike.left_out else told]


def notes(comparison: Mapping[str, Any], signature: Mapping[str, Any]) -> list[str]:
    """What bounds all these claims: references that are not like the training text, seeds, looks at the test split."""
    lines = []
    if shifted(comparison):
        lines.append(
            "the references are of another distribution than the training text: a classifier tells real training text "
            f"from them in {_percent(comparison['real']['c2st_acc'])} of cases (50 %: cannot). A gain may be a move "
            "towards the references and no better model; compare with references of the training distribution"
        )
    if signature.get("references_sha256") and signature.get("references_sha256") == signature.get("train_sha256"):
        lines.append("the references are the training texts: copying them counts as quality")
    fronts = [front for pair in comparison["pairs"] for front in pair["comparisons"]]
    seeds = {front["seeds"] for front in fronts}
    if 1 in seeds:
        lines.append("one seed: the bands cover the sampling of texts alone, not how training runs differ")
    elif seeds and min(seeds) < 5:
        lines.append(f"{min(seeds)} seeds: Student's t makes the bands wide; five or more show smaller differences")
    if any(front["curve"] == "best of all samplers" for front in fronts):
        lines.append(
            "against the best of all samplers the challenger has its temperatures only: the best of many noisy points "
            "is optimistic, and here it counts against the challenger"
        )
    if len(comparison["pairs"]) > 1:
        lines.append("each band is simultaneous along its own front, not over several pairs of metrics")
    bounded = [arm["name"] for arm in comparison["arms"] if arm["kind"] in BOUNDED]
    if bounded:
        draws = signature.get("held_out", {}).get("iw_samples")
        lines.append(
            f"held-out NLL, perplexity and KL(truth || model) of {' and '.join(bounded)} are upper bounds, importance-"
            f"weighted over {draws} draws of each text's latent; those of the other arms are exact"
        )
    for run, count in comparison["test_reads"].items():
        lines.append(f"{run}: {count} look{'s' if count > 1 else ''} at the test split so far")
    return lines


def shifted(comparison: Mapping[str, Any]) -> bool:
    """Whether the references are not from where the training text is from: a classifier tells real from real."""
    return comparison["real"].get("c2st_acc", 0.5) > SHIFTED


def _covers(front: Mapping[str, Any]) -> str:
    return f"{front['seeds']} seeds" if front["seeds"] > 1 else "one seed, sampling only"


def _at(sampler: str | None) -> str:
    return "" if sampler is None else f" at {sampler}"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:+.1e}"


def _with_interval(value: Mapping[str, float], name: str) -> str:
    return f"{_signed(value[name])} [{_signed(value['lower'])}, {_signed(value['upper'])}]"


def _percent(share: float, digits: int = 0) -> str:
    """A share in per cent; what is neither none nor all is never rounded to it."""
    told = f"{100 * share:.{digits}f}"
    least = 10.0**-digits
    if 0 < share < 1 and float(told) in (0.0, 100.0):
        told = f"under {least:g}" if float(told) == 0 else f"over {100 - least:g}"
    return f"{told} %"

"""The same work by us and by others, in turns: medians, and how much faster we are than the best of the others."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

LEAST = 0.3  # seconds that a turn takes, or more


@dataclass
class Race:
    """One benchmark.

    Attributes:
        name: of it.
        what: one call does, for the table.
        ours: does it our way.
        peers: by name, do the same work.
        yardsticks: by name, other work that ours is told in multiples of.
        work: how much of ``unit`` a call does.
        unit: what rates are of; None: times are told.
        bar: the least ratio of the best peer's time and ours that is asked for.
        limits: by yardstick, the most multiples of it that are asked for.
        missing: peers that are not installed here.
    """

    name: str
    what: str
    ours: Callable[[], object]
    peers: dict[str, Callable[[], object]] = field(default_factory=dict)
    yardsticks: dict[str, Callable[[], object]] = field(default_factory=dict)
    work: float = 1.0
    unit: str | None = None
    bar: float | None = None
    limits: dict[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def run(race: Race, rounds: int, say: Callable[[str], None] = lambda line: None) -> dict:
    """Medians of ``rounds`` interleaved rounds behind a warm-up: seconds of ours, peers and yardsticks, and ratios."""
    contestants = {"ours": race.ours, **race.peers, **race.yardsticks}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    calls = {}  # of what is over in no time several in a row: alone it would pay for the caches that others left
    for name, work in contestants.items():
        took = _seconds(work)
        if took < LEAST:  # the first call pays for what the next ones find ready
            took = _seconds(work)
        calls[name] = max(1, round(LEAST / took))
    say(f"{race.name}: warm")
    for turn in range(rounds):
        for name, work in contestants.items():
            seconds[name].append(_seconds(work, calls[name]))
        say(f"{race.name}: round {turn + 1} of {rounds}")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    best = min((name for name in race.peers), key=medians.__getitem__, default=None)
    found = {
        "what": race.what,
        "ours": medians["ours"],
        "peers": {name: medians[name] for name in race.peers},
        "best_peer": best,
        "ratio": medians[best] / medians["ours"] if best else None,
        "bar": race.bar,
        "multiples": {name: medians["ours"] / medians[name] for name in race.yardsticks},
        "limits": race.limits,
        "yardsticks": {name: medians[name] for name in race.yardsticks},
        "spread": {name: max(times) / min(times) for name, times in seconds.items()},
        "missing": race.missing,
    }
    if race.unit:
        found |= {"unit": race.unit, "a_second": race.work / medians["ours"]}
    return found


def table(results: dict[str, dict]) -> str:
    """All results as lines for people."""
    lines = []
    for name, found in results.items():
        rate = f", {found['a_second']:,.0f} {found['unit']} a second" if found.get("unit") else ""
        lines.append(f"{name}: {found['what']}")
        lines.append(f"  {'ours':<42}{_time(found['ours'])}{rate}")
        for peer, seconds in found["peers"].items():
            bar = f", asked for {found['bar']:g}" if peer == found["best_peer"] and found["bar"] else ""
            lines.append(f"  {peer:<42}{_time(seconds)}  {seconds / found['ours']:.2f} times ours{bar}")
        for yardstick, seconds in found["yardsticks"].items():
            limit = found["limits"].get(yardstick)
            asked = f", asked for at most {limit:g}" if limit else ""
            multiple = found["multiples"][yardstick]
            lines.append(f"  {yardstick:<42}{_time(seconds)}  ours is {multiple:.2f} of it{asked}")
        lines += [f"  {peer:<42}is not installed" for peer in found["missing"]]
    return "\n".join(lines)


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:10.1f} ms" if seconds < 10 else f"{seconds:10.1f} s "


def _seconds(work: Callable[[], object], calls: int = 1) -> float:
    """How long one of so many calls takes."""
    _wait()
    began = time.perf_counter()
    for _ in range(calls):
        work()
    _wait()
    return (time.perf_counter() - began) / calls


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

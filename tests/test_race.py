"""The benchmarks' own arithmetic: who is timed, and which ratios come out."""

import itertools

import pytest

from tests.benchmarks import race
from tests.benchmarks.race import Race


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when work does: ``work(seconds)`` makes work of that length."""
    now = [0.0]
    monkeypatch.setattr(race.time, "perf_counter", lambda: now[0])

    def work(*seconds):
        turns = itertools.cycle(seconds)

        def run():
            now[0] += next(turns)

        return run

    return work


def test_medians_ratios_and_multiples(clock):
    contest = Race(
        name="some",
        what="work",
        ours=clock(100.0, 2.0, 2.0, 50.0),  # the first round warms up
        peers={"slow": clock(9.0), "quick": clock(5.0)},
        yardsticks={"a step": clock(4.0)},
        work=30,
        unit="tokens",
        bar=2.0,
        limits={"a step": 1.5},
        missing=["absent"],
    )
    found = race.run(contest, rounds=3)
    assert found["ours"] == 2.0
    assert found["peers"] == {"slow": 9.0, "quick": 5.0}
    assert (found["best_peer"], found["ratio"]) == ("quick", 2.5)
    assert found["multiples"] == {"a step": 0.5}
    assert found["a_second"] == 15
    assert found["spread"]["ours"] == 25
    shown = race.table({"some": found})
    assert "2.50 times ours, asked for 2" in shown
    assert "4.50 times ours\n" in shown
    assert "ours is 0.50 of it, asked for at most 1.5" in shown
    assert "absent                                    is not installed" in shown


def test_rounds_are_interleaved(clock):
    order, took = [], clock(1.0)

    def by(name):
        return lambda: (order.append(name), took())

    race.run(Race("some", "work", ours=by("ours"), peers={"peer": by("peer")}), rounds=2)
    assert order == ["ours", "peer"] * 3

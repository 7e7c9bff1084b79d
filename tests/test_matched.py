"""Wins by length and by copying go away where texts are matched; a genuine one stays."""

import numpy as np
import pytest

from tests.synthetic_runs import G, N, write_record, write_run
from textgan.analysis.compare import compare
from textgan.analysis.matched import matched
from textgan.analysis.runs import run_sources
from textgan.analysis.study import build_study

TEMPERATURES = (0.6, 0.8, 1.0, 1.2)
SEEDS = 3
PAIR = ("bleu_4", "self_bleu_4")


def points(rng, *, short=0.5, copied=0.1, gain=0.0):
    """Short texts and copies have the higher BLEU; by sampler the values text by text."""
    found = {}
    for t in TEMPERATURES:
        is_short, is_copy = (rng.permutation(np.arange(N) < share * N) for share in (short, copied))
        noise = rng.normal(0, 0.02, (2, N))
        quality = 0.7 - 0.3 * t + 0.1 * is_short + 0.3 * is_copy + noise[0]
        found[f"temperature={t:g}"] = {
            "bleu_4": quality,
            "self_bleu_4": 0.9 - 0.4 * t - gain + noise[1],
            "length": np.where(is_short, 5, 15) + rng.integers(0, 2, N),
            "novelty_4": np.where(is_copy, 0.0, rng.uniform(0.3, 0.9, N)),
            "copied": is_copy.astype(float),
        }
    return found


def write_arms(folder, arms, seed):
    write_run(folder, {}, seed=seed)
    for arm, samplers in arms.items():
        for sampler, columns in samplers.items():
            values = {}
            for name in (*PAIR, "copied"):
                column, group = columns[name], np.arange(N) % G
                without = np.array([column[group != g].mean() for g in range(G)])
                values["copies" if name == "copied" else name] = (column.mean(), without)
            write_record(folder, arm, sampler, values, seed=seed, per_text=columns)
    return folder


def study_of(folder, seeds=SEEDS, **arms):
    rng = np.random.default_rng(3)
    made = [{arm: points(rng, **how) for arm, how in arms.items()} for _ in range(seeds)]
    return build_study(run_sources([write_arms(folder / f"r{i}", own, i) for i, own in enumerate(made)]))


def by_curve(comparison):
    return {front["curve"]: front for front in comparison["pairs"][0]["comparisons"]}


@pytest.mark.parametrize("how", [{"short": 0.8}, {"copied": 0.4}])
def test_a_win_by_length_or_by_copying_goes_away(tmp_path, how):
    comparison = compare(study_of(tmp_path, mle={}, adversarial=how))
    fronts = by_curve(comparison)
    plain, alike = fronts["temperature"], fronts["matched by length and novelty"]
    assert plain["share_dominated"] > 0.9
    assert alike["share_dominated"] == 0
    assert abs(alike["mean_delta"]["mean"]) < plain["mean_delta"]["mean"] / 8
    told = "the gain on BLEU-4/self-BLEU-4 is not shown against mle at equal length and novelty."
    assert any(line.endswith(told) for line in comparison["verdict"])
    assert any("of each point's texts, or more" in note for note in comparison["notes"])


def test_a_genuine_win_stays(tmp_path):
    fronts = by_curve(compare(study_of(tmp_path, mle={}, adversarial={"gain": 0.05, "short": 0.6})))
    alike = fronts["matched by length and novelty"]
    assert alike["share_dominated"] > 0.9
    assert alike["mean_delta"]["mean"] == pytest.approx(0.05, abs=0.01)


def test_arms_that_are_alike_keep_their_values(tmp_path):
    study = study_of(tmp_path, seeds=1, mle={}, adversarial={"gain": 0.05})
    arms = study.arms
    found = matched(arms["mle"], arms["adversarial"], [(0, 0)], PAIR, family="temperature")
    plain = [arms["mle"].records[s][0].point.values["self_bleu_4"] for s in arms["mle"].records]
    assert -found.baseline[0].diversity == pytest.approx(plain, abs=0.01)
    assert found.baseline[0].names == tuple(arms["mle"].records)
    assert 0.5 < found.effective <= 1
    assert found.left_out == ()


def test_what_is_no_mean_over_texts_is_not_matched(tmp_path):
    study = study_of(tmp_path, seeds=1, mle={}, adversarial={"gain": 0.05})
    path = study.arms["mle"].records["temperature=1"][0].path
    for broken in ({"copied": None}, {"self_bleu_4": 0.3}):
        with np.load(path.with_suffix(".npz")) as arrays:
            columns = dict(arrays)
        for name, value in broken.items():
            kept = columns.pop(name)
            if value is not None:
                columns[name] = kept + value  # not the metric
        np.savez_compressed(path.with_suffix(".npz"), **columns)
        comparison = compare(study)
        assert "matched by length and novelty" not in by_curve(comparison)
        assert any("not matched by length and novelty" in note for note in comparison["notes"])

"""Comparisons of made-up fronts whose truth is known, and what is said about them."""

import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from tests.synthetic_runs import SIGNATURE, N, front, noisy, write_record, write_run
from textgan.analysis.compare import compare
from textgan.analysis.margin_log import log_margins, training_curves
from textgan.analysis.runs import run_sources
from textgan.analysis.study import build_study
from textgan.errors import UserError
from textgan.metrics.jackknife import jackknife_interval, t_quantile

SEEDS = 5
PAIR = [("bleu_4", "self_bleu_4")]


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def runs(folder, arms_of, seeds=SEEDS, **options):
    """``seeds`` runs of one setting whose arms ``arms_of(seed)`` makes."""
    return [write_run(folder / f"gan-s{seed}", arms_of(seed), seed=seed, **options) for seed in range(seeds)]


def judged(paths, *, mark_differences=False, **options):
    return compare(build_study(run_sources(paths), mark_differences=mark_differences), **options)


def three_arms(rng, shift, **options):
    options = {"seed_sd": 0.002, **options}
    return lambda seed: {
        "mle": front(rng, **options),
        "adversarial": front(rng, shift=shift, **options),
        "continued": front(rng, shift=shift / 2, **options),
    }


def only(comparison, arm="adversarial", against="mle", curve="temperature", pair=0):
    (found,) = [
        c
        for c in comparison["pairs"][pair]["comparisons"]
        if (c["arm"], c["against"], c["curve"]) == (arm, against, curve)
    ]
    return found


def test_a_better_arm_is_found_with_its_parent_and_its_continuation(rng, tmp_path):
    found = judged(runs(tmp_path, three_arms(rng, 0.04)))
    assert [(c["arm"], c["against"], c["curve"]) for c in found["pairs"][0]["comparisons"]] == [
        ("adversarial", "mle", "temperature"),
        ("adversarial", "continued", "temperature"),
        ("continued", "mle", "temperature"),
    ]
    first = only(found)
    assert first["delta"] == pytest.approx(np.full(len(first["grid"]), 0.04), abs=0.006)
    assert first["mean_delta"]["lower"] < 0.04 < first["mean_delta"]["upper"]
    assert (first["dominates"], first["share_dominated"], first["share_worse"]) == (True, 1.0, 0.0)
    assert (first["seeds"], first["covers"]) == (SEEDS, "seeds and sampling")
    assert only(found, against="continued")["mean_delta"]["mean"] == pytest.approx(0.02, abs=0.004)
    assert first["grid"][0] == pytest.approx(0.32, abs=0.01)  # qualities at T = 1.2 and 0.6, in BLEU's own units
    assert first["grid"][-1] == pytest.approx(0.56, abs=0.01)
    assert first["hypervolume"]["difference"] > 0
    assert "adversarial dominates mle on BLEU-4/self-BLEU-4 over the whole overlap" in first["sentence"]
    assert found["verdict"][0].startswith("adversarial against mle: dominates over the whole overlap on BLEU-4/self-")
    assert not any("continued against mle" in line for line in found["verdict"])  # it is a baseline itself
    assert {row["arm"] for row in found["joint"]} == {"adversarial"}
    assert any(line.startswith("May be claimed: adversarial has a better trade-off than mle and continued on BLEU-4")
               for line in found["verdict"])  # fmt: skip
    json.dumps(found, allow_nan=False)


def test_equal_arms_are_not_told_apart(rng, tmp_path):
    found = judged(runs(tmp_path, three_arms(rng, 0.0)))
    first = only(found)
    assert not first["dominates"]
    assert (first["share_dominated"], first["share_worse"]) == (0, 0)
    assert "is not shown to differ from mle" in first["sentence"]
    assert f"about {first['detectable']:.3f} could have been seen" in first["sentence"]
    assert "May not be claimed: any gain of adversarial on BLEU-4/self-BLEU-4." in found["verdict"]
    assert not any("May be claimed" in line for line in found["verdict"])


def test_a_worse_arm_is_worse(rng, tmp_path):
    found = only(judged(runs(tmp_path, three_arms(rng, -0.04))))
    assert found["share_worse"] == 1
    assert found["largest_regret"]["value"] == pytest.approx(0.04, abs=0.008)
    assert "adversarial is worse than mle on BLEU-4/self-BLEU-4 over the whole overlap" in found["sentence"]


def test_a_gain_that_more_training_brings_too_is_none(rng, tmp_path):
    def arms(seed):
        gained = {"shift": 0.04, "seed_sd": 0.002}
        return {"mle": front(rng), "adversarial": front(rng, **gained), "continued": front(rng, **gained)}

    verdict = judged(runs(tmp_path, arms))["verdict"]
    told = (
        "May not be claimed: adversarial beats maximum likelihood: the gain on BLEU-4/self-BLEU-4 is not shown against"
    )
    assert any(line.startswith(f"{told} continued.") for line in verdict)


def test_a_gain_that_a_better_sampler_brings_too_is_none(rng, tmp_path):
    def arms(seed):
        better = front(rng, shift=0.05, temperatures=(0.3, 0.5, 0.7, 0.9), family="top_p")
        # Nucleus sampling at these values lies on the quality range of the temperatures.
        moved = {}
        for (sampler, values), t in zip(better.items(), (0.6, 0.8, 1.0, 1.2), strict=True):
            own = {"bleu_4": 0.8 - 0.4 * t, "self_bleu_4": 0.9 - 0.5 * t - 0.05}
            moved[sampler] = {**values, **{name: noisy(rng, value, 0.002) for name, value in own.items()}}
        return {"mle": {**front(rng), **moved}, "adversarial": front(rng, shift=0.03)}

    found = judged(runs(tmp_path, arms))
    assert only(found)["dominates"]
    best = only(found, curve="best of all samplers")
    assert best["mean_delta"]["mean"] == pytest.approx(-0.02, abs=0.005)
    assert best["share_dominated"] == 0
    assert "adversarial is worse than mle's best of all samplers" in best["sentence"]
    assert any("is not shown against mle with its best sampler." in line for line in found["verdict"])
    assert any("temperatures only" in note for note in found["notes"])


def test_both_axes_may_be_better_when_lower(rng, tmp_path):
    def arms(seed):
        def points(gain):
            return {
                f"temperature={t:g}": {"lm_kn": noisy(rng, 2 + t, 0.003), "rlm_kn": noisy(rng, 5 - t - gain, 0.003)}
                for t in (0.6, 0.8, 1.0, 1.2)
            }

        return {"mle": points(0), "adversarial": points(0.1)}

    found = judged(runs(tmp_path, arms))
    (pair,) = found["pairs"]
    assert (pair["quality"], pair["diversity"], pair["quality_better"], pair["diversity_better"]) == (
        "lm_kn", "rlm_kn", -1, -1,
    )  # fmt: skip
    first = only(found)
    assert first["mean_delta"]["mean"] == pytest.approx(0.1, abs=0.01)
    assert sorted(first["grid"], reverse=True) == first["grid"]  # from worst to best quality, in nats
    assert min(first["grid"]) == pytest.approx(2.6, abs=0.02)
    assert first["hypervolume"]["reference"] == pytest.approx([3.2, 4.4], abs=0.02)
    assert found["table"][0]["arms"]["mle"]["best"]["sampler"] == "temperature=0.6"


def test_one_seed_says_what_its_band_covers(rng, tmp_path):
    found = judged(runs(tmp_path, three_arms(rng, 0.04), seeds=1))
    assert only(found)["covers"] == "sampling only: one pair of checkpoints"
    assert "one seed, sampling only" in only(found)["sentence"]
    assert any("one seed says nothing about the method" in line for line in found["verdict"])
    assert any(note.startswith("one seed:") for note in found["notes"])


def test_values_over_seeds_have_students_interval(rng, tmp_path):
    # The spread of the seeds is far above the sampling error, so that it decides.
    paths = runs(tmp_path, three_arms(rng, 0.0, seed_sd=0.05, sd=1e-5), seeds=4)
    found = judged(paths, level=0.9)
    point = found["arms"][0]["points"][2]
    assert (point["sampler"], point["family"]) == ("temperature=1", "temperature")
    value = point["values"]["self_bleu_4"]
    assert value["mean"] == pytest.approx(np.mean(value["per_seed"]))
    half = t_quantile(0.9, 3) * np.std(value["per_seed"], ddof=1) / 2
    assert value["upper"] - value["mean"] == pytest.approx(half, rel=0.01)
    assert value["mean"] - value["lower"] == pytest.approx(half, rel=0.01)
    nll = point["values"]["nll"]  # has no leave-group-out values, and is the same for every seed
    assert (nll["lower"], nll["upper"]) == (2.0, 2.0)
    assert len(point["samples"]) == 20
    assert point["samples"][3] == "mle temperature=1 3"


def test_values_of_one_seed_have_the_jackknifes_interval(rng, tmp_path):
    value, groups = noisy(rng, 0.4, 0.01)
    values = {"temperature=1": {"bleu_4": (value, groups), "mmd_p": 0.3, "zipf": 1.0, "copies": (0.0, np.zeros(20))}}
    found = judged([write_run(tmp_path / "a", {"mle": values})])
    own = found["arms"][0]["points"][0]["values"]
    _, low, high = jackknife_interval(value, groups)
    assert (own["bleu_4"]["lower"], own["bleu_4"]["upper"]) == pytest.approx((low, high))
    assert (own["mmd_p"]["lower"], own["mmd_p"]["upper"]) == (0.0, 1.0)  # of the record: that is all there is
    assert (own["zipf"]["lower"], own["zipf"]["upper"]) == (None, None)
    assert (own["copies"]["lower"], own["copies"]["upper"]) == (0, 0)
    assert found["verdict"] == ["there is nothing to compare: one arm alone, or no metrics in common"]


def test_the_table_has_plain_and_best_values(rng, tmp_path):
    real = {"bleu_4": 0.5, "length_mean": 11.0}

    def arms(seed):
        lengths = {"temperature=0.6": 10.0, "temperature=0.8": 10.9, "temperature=1": 11.5, "temperature=1.2": 12.0}
        points = front(rng, sd=1e-4)
        return {"mle": {s: {**values, "length_mean": noisy(rng, lengths[s], 0.01)} for s, values in points.items()}}

    found = judged(runs(tmp_path, arms, seeds=2, real=real))
    rows = {row["metric"]: row for row in found["table"]}
    assert rows["bleu_4"]["arms"]["mle"]["best"]["sampler"] == "temperature=0.6"
    assert rows["bleu_4"]["arms"]["mle"]["at_1"]["mean"] == pytest.approx(0.4, abs=1e-3)
    assert rows["self_bleu_4"]["arms"]["mle"]["best"]["sampler"] == "temperature=1.2"
    assert rows["frechet_ngrams"]["arms"]["mle"]["best"]["sampler"] == "temperature=1"
    assert rows["length_mean"]["arms"]["mle"]["best"]["sampler"] == "temperature=0.8"  # nearest to real text
    assert rows["nll"]["arms"]["mle"]["best"]["sampler"] is None
    assert (rows["bleu_4"]["real"], rows["copies"]["real"]) == (0.5, None)
    assert (rows["bleu_4"]["better"], rows["self_bleu_4"]["better"], rows["length_mean"]["better"]) == (1, -1, 0)
    assert "quality" in rows["bleu_4"]["meaning"]


def test_joint_metrics_compare_best_with_best(rng, tmp_path):
    found = judged(runs(tmp_path, three_arms(rng, 0.03)))
    rows = {(row["metric"], row["arm"], row["against"]): row for row in found["joint"]}
    row = rows["frechet_ngrams", "adversarial", "mle"]
    assert row["best"]["mle"] == {"value": pytest.approx(0.1, abs=0.002), "sampler": "temperature=1"}
    assert row["best"]["adversarial"]["value"] == pytest.approx(0.07, abs=0.002)
    assert row["difference"]["mean"] == pytest.approx(0.03, abs=0.003)  # above 0: better, though lower is better
    assert row["difference"]["lower"] > 0
    assert row["sentence"].startswith("Fréchet distance (ngrams): adversarial is better (adversarial 0.0")
    assert any("at its best sampler better by Fréchet distance (ngrams)" in line for line in found["verdict"])


def test_the_challenger_has_no_sampler_that_the_baseline_was_not_tried_with(rng, tmp_path):
    def arms(seed):
        lucky = {"top_k=5": {"frechet_ngrams": noisy(rng, 0.01, 0.002)}}
        return {"mle": front(rng), "adversarial": {**front(rng), **lucky}}

    (row,) = [row for row in judged(runs(tmp_path, arms))["joint"] if row["metric"] == "frechet_ngrams"]
    assert row["best"]["adversarial"]["sampler"] == "temperature=1"


def test_reference_rows_are_shown_and_held_against_nothing(rng, tmp_path):
    def arms(seed):
        plain = {"nll": noisy(rng, 2.1, 0.001), "bleu_4": noisy(rng, 0.5, 0.01), "self_bleu_4": noisy(rng, 0.5, 0.01)}
        mixed = {**plain, "nll": noisy(rng, 1.9, 0.001)}
        own = {s: {**v, "nll": noisy(rng, 2.0, 0.001)} for s, v in front(rng).items()}
        return {
            "kneser_ney": {"temperature=1": plain},
            "mle+kneser_ney": {"temperature=1": mixed},
            "mle": own,
            "adversarial": own,
        }

    found = judged(runs(tmp_path, arms))
    assert [arm["name"] for arm in found["arms"]] == ["mle", "adversarial", "kneser_ney", "mle+kneser_ney"]
    assert {c["arm"] for pair in found["pairs"] for c in pair["comparisons"]} == {"adversarial"}
    rows = {(row["arm"], row["against"]): row for row in found["joint"] if row["metric"] == "nll"}
    assert rows["adversarial", "mle"]["difference"]["mean"] == 0
    # A mixture with n-grams is no adversarial training, and here it is better.
    assert rows["adversarial", "mle+kneser_ney"]["difference"]["upper"] < 0
    assert any(line.startswith("adversarial against mle+kneser_ney: ") for line in found["verdict"])


def test_any_arm_may_be_the_baseline(rng, tmp_path):
    paths = runs(tmp_path, three_arms(rng, 0.04))
    found = judged(paths, baseline="continued")
    compared = [(c["arm"], c["against"]) for c in found["pairs"][0]["comparisons"]]
    assert compared == [("mle", "continued"), ("adversarial", "continued")]
    assert found["baseline"] == "continued"
    with pytest.raises(UserError, match="no arm is called 'gan'; there are: mle, adversarial, continued"):
        judged(paths, baseline="gan")


@pytest.mark.parametrize(
    "pair, told",
    [(("bleu_9", "self_bleu_4"), "no arm has the metric 'bleu_9'"), (("length_mean", "copies"), "makes no front")],
)
def test_pairs_that_make_no_front_are_told(rng, tmp_path, pair, told):
    def arms(seed):
        return {"mle": {s: {**v, "length_mean": 11.0} for s, v in front(rng).items()}}

    with pytest.raises(UserError, match=told):
        judged(runs(tmp_path, arms, seeds=1), pairs=[pair])


def test_seeds_that_one_arm_lacks_are_left_out(rng, tmp_path):
    paths = runs(tmp_path, three_arms(rng, 0.04), seeds=3)
    paths.append(write_run(tmp_path / "gan-s9", {"mle": front(rng)}, seed=9))
    found = judged(paths)
    assert only(found)["seeds"] == 3
    assert any("only seeds 0, 1, 2 are there of both" in note for note in found["notes"])


def test_arms_measured_differently_are_marked(rng, tmp_path):
    paths = runs(tmp_path, three_arms(rng, 0.04), seeds=2)
    for path in paths:
        for sampler, values in front(rng).items():
            other = {**SIGNATURE, "references_sha256": "cc"}
            seed = int(path.name[-1])
            write_record(path, "continued", sampler, values, seed=seed, signature=other)
    found = judged(paths, mark_differences=True)
    labels = {arm["name"]: (arm["label"], arm["differs"]) for arm in found["arms"]}
    assert labels["continued"] == ("continued *", ["references_sha256"])
    assert labels["mle"] == ("mle", [])


def test_references_of_another_distribution_are_told(rng, tmp_path):
    shifted = judged(runs(tmp_path / "a", three_arms(rng, 0.04), real={"c2st_acc": 0.88}))
    assert any("in 88 % of cases" in note for note in shifted["notes"])
    assert any(line.startswith("May be claimed for these references alone:") for line in shifted["verdict"])
    alike = judged(runs(tmp_path / "b", three_arms(rng, 0.04), real={"c2st_acc": 0.52}))
    assert not any("another distribution" in note for note in alike["notes"])
    assert any(line.startswith("May be claimed: ") for line in alike["verdict"])
    copied = {**SIGNATURE, "references_sha256": "bb"}
    same = judged(runs(tmp_path / "c", three_arms(rng, 0.04), signature=copied))
    assert any("references are the training texts" in note for note in same["notes"])


def test_copies_of_train_and_looks_at_test_are_told(rng, tmp_path):
    paths = runs(tmp_path, three_arms(rng, 0.04), seeds=2)
    (paths[0] / "evaluation" / "test_reads.json").write_text('{"count": 2}')
    found = judged(paths)
    assert any("copies of train: 2.0 % at temperature 1, up to 2." in line for line in found["verdict"])
    assert found["test_reads"] == {str(paths[0]): 2}
    assert f"{paths[0]}: 2 looks at the test split so far" in found["notes"]


def test_published_values_are_marks_where_they_have_a_place_in_a_front(rng, tmp_path):
    for n, shown in ((10_000, True), (1000, False)):
        legacy = {**SIGNATURE, "texts": n, "protocol": "image-coco-legacy v1", "split": "test"}
        path = tmp_path / f"{n}"
        write_run(path, {"mle": front(rng)}, signature=legacy, setting="test", n=200)
        (path / "evaluation" / "test-n200-s0").rename(path / "evaluation" / f"test-n{n}-s0")
        for record in path.rglob("*=*.json"):
            record.write_text(record.read_text().replace('"n": 200', f'"n": {n}'))
        study = build_study(run_sources([path]), split="test")
        labels = [row["label"] for row in compare(study)["published"]]
        assert ("LeakGAN" in labels) is shown  # its self-BLEU is of 9,984 texts
        assert "RelGAN (100)" not in labels  # it has no self-BLEU


# ---------------------------------------------------------------------------------------------- TensorBoard


def test_margins_are_runs_of_their_own_with_a_chart_each(rng, tmp_path):
    paths = runs(tmp_path, three_arms(rng, 0.04), seeds=2)
    for seed, path in enumerate(paths):
        lines = [{"step": step, "quality/nll": 3.0 - step / 10 + seed, "train/loss": 1.0} for step in (1, 2)]
        lines.append({"step": 3 + seed, "quality/nll": 1.0, "quality/nll_real": 5.0, "diversity/unique": None})
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = judged(paths)
    (tmp_path / "tb" / "stale").mkdir(parents=True)
    log_margins(found, tmp_path / "tb")
    assert not (tmp_path / "tb" / "stale").exists()
    events = EventAccumulator(str(tmp_path / "tb" / "adversarial")).Reload()
    for part, key in (("value", "mean"), ("lower", "lower"), ("upper", "upper")):
        curve = [(event.step, event.value) for event in events.Scalars(f"temperature/self_bleu_4/{part}")]
        points = found["arms"][1]["points"]
        expected = [(s, p["values"]["self_bleu_4"][key]) for s, p in zip((60, 80, 100, 120), points, strict=True)]
        assert curve == [(step, pytest.approx(value)) for step, value in expected]
    training = EventAccumulator(str(tmp_path / "tb" / "training" / "gan")).Reload()
    assert [(e.step, e.value) for e in training.Scalars("quality/nll/value")] == [
        (1, pytest.approx(3.4)), (2, pytest.approx(3.3)),
    ]  # fmt: skip
    assert {tag.rpartition("/")[0] for tag in training.Tags()["scalars"]} == {"quality/nll"}
    whole = EventAccumulator(str(tmp_path / "tb")).Reload()
    layout = Layout.FromString(whole.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == [
        "training, mean over seeds",
        "temperature (step: 100 x)",
    ]  # shown from the last to the first, as are the charts of each
    titles = [chart.title for chart in layout.category[1].chart]
    assert titles == ["copies", "frechet_ngrams", "self_bleu_4", "bleu_4"]
    chart = layout.category[1].chart[2]
    (series,) = chart.margin.series
    assert (series.value, series.lower, series.upper) == tuple(
        f"temperature/self_bleu_4/{part}" for part in ("value", "lower", "upper")
    )


def test_training_curves_have_students_interval(tmp_path):
    values = (1.0, 2.0, 4.0)
    for seed, value in enumerate(values):
        (tmp_path / f"{seed}").mkdir()
        (tmp_path / f"{seed}" / "metrics.jsonl").write_text(json.dumps({"step": 5, "quality/nll": value}) + "\n")
    folders = [tmp_path / f"{seed}" for seed in range(3)]
    mean, low, high = training_curves(folders, 0.95)["quality/nll"][5]
    half = 4.302653 * np.std(values, ddof=1) / np.sqrt(3)
    assert (mean, low, high) == pytest.approx((7 / 3, 7 / 3 - half, 7 / 3 + half), rel=1e-5)
    assert training_curves(folders[:1], 0.95) == {}
    assert training_curves([*folders, tmp_path / "none"], 0.95) == {}


def test_it_is_the_same_each_time(rng, tmp_path):
    paths = runs(tmp_path, three_arms(rng, 0.02), seeds=3)
    assert json.dumps(judged(paths)) == json.dumps(judged(paths))
    assert judged(paths)["n"] == N

"""The words of a comparison say what its numbers say."""

import pytest

from textgan.analysis.sentences import (
    _percent,
    front_sentence,
    joint_sentence,
    main_challengers,
    notes,
    outcome,
    pair_name,
    readable,
    verdict,
)

PAIR = ("bleu_4", "self_bleu_4")


def front(better=0.0, worse=0.0, *, against="mle", curve="temperature", seeds=5, grid=(0.3, 0.4)):
    return {
        "arm": "gan",
        "against": against,
        "curve": curve,
        "grid": list(grid),
        "share_dominated": better,
        "share_worse": worse,
        "dominates": better == 1,
        "largest_regret": {"value": 0.0041, "at": 0.35, "upper": 0.01},
        "mean_delta": {"mean": 0.02, "lower": 0.01, "upper": 0.03},
        "hypervolume": {"difference": -0.004, "lower": -0.0061, "upper": 0.0007},
        "detectable": 0.015,
        "seeds": seeds,
    }


def comparison(*fronts, joint=(), real=None, copies=None, reads=None):
    points = [{"sampler": s, "values": {"copies": {"mean": v}}} for s, v in (copies or {}).items()]
    arms = [{"name": name, "kind": name, "points": points} for name in ("gan", "mle", "continued")]
    return {
        "pairs": [{"quality": PAIR[0], "diversity": PAIR[1], "comparisons": list(fronts)}],
        "joint": list(joint),
        "arms": arms,
        "real": real or {},
        "test_reads": reads or {},
    }


@pytest.mark.parametrize(
    "metric, name",
    [
        ("self_bleu_4", "self-BLEU-4"),
        ("bleu_4", "BLEU-4"),
        ("bleu_b_3", "BLEU-B-3"),
        ("rlm_neural", "reverse LM (neural)"),
        ("frechet_minilm", "Fréchet distance (minilm)"),
        ("c2st_acc", "classifier accuracy"),
        ("c2st_acc_ngrams", "classifier accuracy (ngrams)"),
        ("distinct_budget_2", "distinct at a budget-2"),
        ("nll", "held-out NLL"),
        ("zipf", "zipf"),
    ],
)
def test_names_for_readers(metric, name):
    assert readable(metric) == name
    assert pair_name((metric, "nll")) == f"{name}/held-out NLL"


@pytest.mark.parametrize(
    "better, worse, expected, words",
    [
        (
            1.0,
            0.0,
            "dominates",
            "gan dominates mle on BLEU-4/self-BLEU-4 over the whole overlap (BLEU-4 0.300 to 0.400;",
        ),
        (0.83, 0.0, "better", "gan dominates mle on BLEU-4/self-BLEU-4 over 83 % of the overlap"),
        (0.3, 0.2, "crosses", "gan and mle cross on BLEU-4/self-BLEU-4: better over 30 %, worse over 20 % of the"),
        (0.0, 0.4, "worse", "gan is worse than mle on BLEU-4/self-BLEU-4 over 40 % of the overlap"),
        (0.0, 1.0, "worse", "gan is worse than mle on BLEU-4/self-BLEU-4 over the whole overlap"),
        (0.0, 0.0, "nothing", "gan is not shown to differ from mle on BLEU-4/self-BLEU-4"),
    ],
)
def test_every_outcome_has_its_words(better, worse, expected, words):
    found = front(better, worse)
    assert outcome(found) == expected
    sentence = front_sentence(found, PAIR, 0.95)
    assert sentence.startswith(words)
    assert "95 % band, 5 seeds" in sentence
    assert "mean gain in self-BLEU-4 +0.020 [+0.010, +0.030], in hypervolume -0.004 [-0.006, +7.0e-04]" in sentence
    assert ("largest loss 0.004 at BLEU-4 0.350" in sentence) is (expected not in ("dominates", "nothing"))
    assert ("a gain of about 0.015 could have been seen" in sentence) is (expected == "nothing")


def test_hypervolume_is_not_told_against_more_points_than_the_challenger_has():
    assert "hypervolume" in front_sentence(front(curve="matched by length and novelty"), PAIR, 0.95)
    assert "hypervolume" not in front_sentence(front(curve="best of all samplers"), PAIR, 0.95)


def test_no_overlap_and_one_place_and_one_seed():
    assert outcome(front(grid=())) == "apart"
    assert "reach no common BLEU-4" in front_sentence(front(grid=()), PAIR, 0.95)
    assert "(BLEU-4 0.300; 90 % band, one seed, sampling only)" in front_sentence(
        front(1.0, grid=(0.3,), seeds=1), PAIR, 0.9
    )


def test_joint_words_follow_the_interval():
    def told(lower, upper):
        best = {"gan": {"value": 0.1, "sampler": "top_p=0.9"}, "mle": {"value": 0.2, "sampler": None}}
        difference = {"mean": (lower + upper) / 2, "lower": lower, "upper": upper}
        return joint_sentence(
            {"metric": "mmd_lm", "arm": "gan", "against": "mle", "best": best, "difference": difference}
        )

    assert told(0.05, 0.15) == (
        "MMD (lm): gan is better (gan 0.100 at top_p=0.9, mle 0.200; gain +0.100 [+0.050, +0.150])."
    )
    assert "gan is worse (" in told(-0.2, -0.1)
    assert "gan is not shown to differ (" in told(-0.1, 0.1)


def claims(*fronts, **options):
    return [line for line in verdict(comparison(*fronts, **options)) if " be claimed" in line]


def test_a_gain_in_every_way_may_be_claimed_as_far_as_its_smallest():
    fronts = [front(1.0), front(0.6, curve="best of all samplers"), front(0.9, against="continued")]
    assert claims(*fronts) == [
        "May be claimed: gan has a better trade-off than mle and continued on BLEU-4/self-BLEU-4 over at least 60 % of "
        "the overlap."
    ]


@pytest.mark.parametrize(
    "other, where",
    [
        (front(0.5, 0.1, against="continued"), "against continued"),
        (front(curve="best of all samplers"), "against mle with its best sampler"),
        (front(0.0, 0.5, curve="matched by length and novelty"), "against mle at equal length and novelty"),
        (front(grid=(), against="continued"), "against continued"),
    ],
)
def test_one_way_in_which_a_gain_is_not_shown_takes_the_claim_away(other, where):
    (line,) = claims(front(1.0), other)
    assert line == (
        "May not be claimed: gan beats maximum likelihood: the gain on BLEU-4/self-BLEU-4 is not shown " + where + "."
    )


def test_no_gain_may_not_be_claimed():
    assert claims(front(0.0, 0.3)) == ["May not be claimed: any gain of gan on BLEU-4/self-BLEU-4."]
    assert "one seed says nothing about the method" in claims(front(1.0, seeds=1))[0]


def test_copies_are_those_of_plain_samples_and_the_most_of_all():
    copies = {"temperature=1": 0.021, "temperature=0.5": 0.126}
    (line, _) = verdict(comparison(front(1.0), copies=copies))
    assert "copies of train: 2.1 % at temperature 1, up to 12.6 % elsewhere (mle: 2.1 %" in line
    (line, _) = verdict(comparison(front(1.0), copies={"temperature=1": 0.021}))
    assert "copies of train: 2.1 % (mle: 2.1 %)." in line


def test_a_continuation_is_judged_only_where_nothing_else_is():
    kinds = {"adversarial": "adversarial", "continued": "continued"}
    assert main_challengers(["continued", "adversarial"], kinds) == ["adversarial"]
    assert main_challengers(["continued"], kinds) == ["continued"]


@pytest.mark.parametrize(
    "share, digits, told",
    [(0, 0, "0 %"), (1, 0, "100 %"), (0.999, 0, "over 99 %"), (0.001, 0, "under 1 %"), (0.0004, 1, "under 0.1 %"),
     (0.834, 0, "83 %"), (0.0213, 1, "2.1 %")],
)  # fmt: skip
def test_nearly_none_and_nearly_all_are_not_rounded_to_it(share, digits, told):
    assert _percent(share, digits) == told


def test_notes_tell_what_bounds_a_claim():
    told = notes(comparison(front(1.0, seeds=3), real={"c2st_acc": 0.61}, reads={"runs/a": 1}), {})
    assert any("61 % of cases" in line for line in told)
    assert any(line.startswith("3 seeds:") for line in told)
    assert "runs/a: 1 look at the test split so far" in told
    assert notes(comparison(front(1.0), real={"c2st_acc": 0.59}), {"references_sha256": "a", "train_sha256": "b"}) == []

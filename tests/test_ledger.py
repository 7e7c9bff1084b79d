"""Looks at the test split are counted; the super-baseline is the best of all samplers."""

import json

import pytest

from textgan.analysis.ledger import (
    begin_test_read,
    end_test_read,
    super_baseline,
    test_reads,
    write_super_baseline,
)
from textgan.analysis.points import Point
from textgan.errors import UserError

looks = test_reads  # pytest would take the function for a test
del test_reads


def point(arm, sampler, **values):
    intervals = {name: [value - 1, value + 1] for name, value in values.items()}
    return Point(arm, sampler, "dev", 100, 0, {}, values, intervals)


def test_each_look_at_the_test_split_is_counted(tmp_path):
    assert looks(tmp_path) == 0
    assert begin_test_read(tmp_path, "textgan evaluate a", 3) == 1
    end_test_read(tmp_path)
    assert begin_test_read(tmp_path, "textgan evaluate a", 2) == 2  # finished before: a second look
    end_test_read(tmp_path)
    assert looks(tmp_path) == 2
    content = json.loads((tmp_path / "evaluation" / "test_reads.json").read_text())
    assert [(read["command"], read["points"], read["finished"]) for read in content["reads"]] == [
        ("textgan evaluate a", 3, True),
        ("textgan evaluate a", 2, True),
    ]
    assert all(read["date"][:2] == "20" for read in content["reads"])


def test_a_look_that_was_stopped_goes_on_and_another_command_is_another_look(tmp_path):
    assert begin_test_read(tmp_path, "textgan evaluate a", 3) == 1
    assert begin_test_read(tmp_path, "textgan evaluate a", 1) == 1
    assert begin_test_read(tmp_path, "textgan evaluate b", 1) == 2


def test_a_broken_ledger_is_told(tmp_path):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "test_reads.json").write_text('{"count"')
    with pytest.raises(UserError, match=r"test_reads\.json is broken .*; mend it or move it away"):
        looks(tmp_path)


POINTS = [
    point("mle", "temperature=0.5", bleu_4=0.5, self_bleu_4=0.6, length_mean=9.0, nll=2.0),
    point("mle", "temperature=1", bleu_4=0.3, self_bleu_4=0.3, length_mean=11.5, nll=2.0),
    point("mle", "top_p=0.9", bleu_4=0.4, self_bleu_4=0.4, length_mean=10.2, nll=2.0),
    point("adversarial", "temperature=1", bleu_4=0.9, self_bleu_4=0.1),
    point("continued", "temperature=1", bleu_4=0.2),
]


def test_the_super_baseline_takes_the_best_sampler_for_each_metric():
    best = super_baseline(POINTS, {"length_mean": 10.5})
    assert set(best) == {"mle", "continued"}
    mle = best["mle"]
    assert (mle["bleu_4"]["value"], mle["bleu_4"]["sampler"]) == (0.5, "temperature=0.5")
    assert (mle["self_bleu_4"]["value"], mle["self_bleu_4"]["sampler"]) == (0.3, "temperature=1")
    assert (mle["length_mean"]["value"], mle["length_mean"]["sampler"]) == (10.2, "top_p=0.9")
    assert (mle["nll"]["value"], mle["nll"]["sampler"]) == (2.0, None)
    assert mle["bleu_4"]["interval"] == [-0.5, 1.5]
    assert [mle[name]["better"] for name in ("bleu_4", "self_bleu_4", "length_mean")] == [1, -1, 0]


def test_without_real_text_no_length_is_best():
    assert "length_mean" not in super_baseline(POINTS, {})["mle"]


def test_settings_stand_side_by_side(tmp_path):
    write_super_baseline(tmp_path, "dev-n10-s0", POINTS, {})
    write_super_baseline(tmp_path, "dev-n20-s0", POINTS[1:2], {})
    content = json.loads((tmp_path / "evaluation" / "super_baseline.json").read_text())
    assert content["dev-n10-s0"]["mle"]["bleu_4"]["value"] == 0.5
    assert content["dev-n20-s0"]["mle"]["bleu_4"]["value"] == 0.3

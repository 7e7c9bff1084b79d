"""The scorer: what it gives for which input, beside the metrics one by one; real-text values; signatures."""

import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

import textgan
from textgan.errors import UserError
from textgan.metrics.bootstrap import bootstrap_mean
from textgan.metrics.jackknife import jackknife_interval
from textgan.metrics.suite import MEANS, METRICS, Scorer, better, meaning

TRAIN = [
    "the fox sat in the sun .",
    "the fox ran .",
    "a bear sat in the rain .",
    "a bird sang a song in the sun .",
    "the bear ran and ran .",
    "the fox sat in the sun .",
]
REFERENCES = ["the bird sat in the sun .", "a fox ran and sang .", "the bear sat ."]
TEXTS = ["the fox sat in the rain .", "the fox ran .", "", "A wolf , a wolf , a wolf .", "the fox ran ."]
WEIGHTS = [(1 / n,) * n for n in range(2, 6)]
METHOD1 = SmoothingFunction().method1
LINES = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "狐", "."]), max_size=7).map(" ".join), min_size=2, max_size=6
)


def nltk_mean(hypotheses, references_of):
    rows = [sentence_bleu(references_of(i), text, WEIGHTS, METHOD1) for i, text in enumerate(hypotheses)]
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


@settings(deadline=None)
@given(LINES, LINES, LINES)
def test_every_value_beside_plain_python(texts, references, train):
    values = Scorer(references, train, tokenize="whitespace").score(texts).values
    split = [text.split() for text in texts]
    known = [text.split() for text in references]
    bleu = nltk_mean(split, lambda i: known)
    self_bleu = nltk_mean(split, lambda i: split[:i] + split[i + 1 :])
    assert [values[f"bleu_{n}"] for n in range(2, 6)] == pytest.approx(bleu, abs=1e-9)
    assert [values[f"self_bleu_{n}"] for n in range(2, 6)] == pytest.approx(self_bleu, abs=1e-9)

    def grams(rows, n):
        return [tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1)]

    seen = [text.split() for text in train]
    for n in (2, 3, 4):
        fresh = [gram not in set(grams(seen, n)) for gram in grams(split, n)]
        assert values[f"novelty_{n}"] == pytest.approx(sum(fresh) / len(fresh) if fresh else 0)
        assert values[f"distinct_{n}"] == pytest.approx(len(set(grams(split, n))) / (len(fresh) or 1))
    assert values["copies"] == pytest.approx(sum(row in seen for row in split) / len(split))
    lengths = [len(row) for row in split]
    mean = sum(lengths) / len(lengths)
    assert values["length_mean"] == pytest.approx(mean)
    assert values["length_sd"] ** 2 == pytest.approx(sum((x - mean) ** 2 for x in lengths) / len(lengths))


def test_names_and_what_each_needs():
    whole = Scorer(REFERENCES, TRAIN).score(TEXTS).values
    assert tuple(whole) == METRICS
    assert len(METRICS) == 25
    without = Scorer().score(TEXTS).values
    assert [name for name in METRICS if not name.startswith(("bleu", "novelty", "copies"))] == list(without)
    assert without == {name: whole[name] for name in without}
    assert not any(name.startswith("self_bleu") for name in Scorer().score(["only one text"]).values)
    assert all(len(meaning(name)) > 10 and "{" not in meaning(name) for name in METRICS)
    json.dumps(Scorer(["x"], ["x"]).score(["", ""]).values, allow_nan=False)


def test_values_by_text():
    scorer = Scorer(REFERENCES, TRAIN)
    assert scorer.score(TEXTS).per_text == {} == scorer.score(TEXTS).groups
    scores = scorer.score(TEXTS, per_text=True)
    columns = scores.per_text
    assert scores.values == scorer.score(TEXTS).values
    assert all(column.shape == (5,) for column in columns.values())
    for name in (f"{kind}_{n}" for kind in ("bleu", "self_bleu") for n in range(2, 6)):
        assert columns[name].mean() == pytest.approx(scores.values[name])
    alone = [scorer.score([text]).values["bleu_3"] for text in TEXTS]
    assert columns["bleu_3"] == pytest.approx(alone)
    assert columns["length"].tolist() == [7, 4, 0, 9, 4]
    assert columns["copied"].tolist() == [0, 1, 0, 0, 1]
    assert columns["novelty_4"] == pytest.approx([0, 0, np.nan, 1, 0], nan_ok=True)
    in_a_tree = scorer.score(["the fox sat in a tree ."], per_text=True)
    assert in_a_tree.per_text["novelty_4"].tolist() == [3 / 4]  # all but "the fox sat in"
    assert columns["repetition_4"] == pytest.approx([0, 0, np.nan, 1 / 6, 0], nan_ok=True)


def test_intervals_are_of_texts_or_of_groups():
    scorer = Scorer(REFERENCES, TRAIN)
    texts = TEXTS * 8
    both = scorer.score(texts, groups=4, per_text=True)
    found = both.intervals(level=0.9, seed=3)
    assert list(found) == list(METRICS)
    assert {name: interval.mean for name, interval in found.items()} == both.values
    assert found["bleu_4"] == pytest.approx(bootstrap_mean(both.per_text["bleu_4"], level=0.9, seed=3))
    for name in ("self_bleu_4", "distinct_2", "unique", "novelty_3"):
        assert found[name] == jackknife_interval(both.values[name], both.groups[name], 0.9)
    assert set(scorer.score(texts, per_text=True).intervals()) == set(MEANS) & set(METRICS)
    assert scorer.score(texts, groups=4).intervals()["bleu_4"] == jackknife_interval(
        both.values["bleu_4"], both.groups["bleu_4"]
    )
    assert scorer.score(texts).intervals() == {}


def test_which_way_is_better():
    assert [better(name) for name in ("bleu_4", "distinct_1", "valid", "mauve_minilm", "mmd_p_ngrams")] == [1] * 5
    assert [better(name) for name in ("self_bleu_4", "nll", "frechet_lm", "rlm_kn", "lm_neural", "copies")] == [-1] * 6
    assert [better(name) for name in ("length_mean", "novelty_4", "nll_true", "rlm_neural_sd", "no_such_4")] == [0] * 5


def test_copies_and_unique_are_of_tokens():
    values = Scorer(None, TRAIN).score(["the  fox ran.", "the fox ran .", "the fox walked ."]).values
    assert values["copies"] == pytest.approx(2 / 3)
    assert values["unique"] == pytest.approx(2 / 3)


def test_lowercase_touches_every_side():
    def values(lowercase):
        return Scorer(["The Fox ran ."], ["the fox ran ."], lowercase=lowercase).score(["the fox RAN ."]).values

    assert values(True)["bleu_4"] == values(True)["copies"] == 1
    assert values(False)["bleu_4"] < 0.5
    assert values(False)["copies"] == 0


def test_characters_are_counted_without_spaces():
    values = Scorer(tokenize="chars").score(["ab a", "b"]).values
    assert values["length_mean"] == 2
    assert values["distinct_1"] == 2 / 4


def test_scores_do_not_depend_on_what_was_scored_before():
    fresh, used = Scorer(REFERENCES, TRAIN), Scorer(REFERENCES, TRAIN)
    used.score(["a wolf , again a wolf", "words never seen before"])
    used.real(2)
    assert used.score(TEXTS) == fresh.score(TEXTS) == used.score(TEXTS)


def test_signature_holds_what_moves_a_value():
    def signature(texts=TEXTS, references=REFERENCES, train=TRAIN, **options):
        return Scorer(references, train, **options).score(texts).signature

    base = signature()
    assert base["texts"] == 5
    assert base["references"] == 3
    assert base["train"] == 6
    assert base["textgan"] == textgan.__version__
    assert base["definitions"]["self_bleu"].endswith("(leave-one-out by index)")
    of_file = hashlib.sha256("".join(line + "\n" for line in REFERENCES).encode()).hexdigest()
    assert of_file.startswith(base["references_sha256"])
    assert signature() == base
    for other in (
        signature(TEXTS[:4]),
        signature(references=None),
        signature(references=REFERENCES[::-1]),
        signature(train=TRAIN[:5]),
        signature(tokenize="chars"),
        signature(lowercase=True),
    ):
        assert other != base
    line = Scorer(REFERENCES).score(TEXTS).signature_line()
    assert line.startswith("texts=5 references=3 ")
    assert "train=none" in line
    assert "\n" not in line


def test_real_values_with_references_and_train():
    scorer = Scorer(REFERENCES, TRAIN)
    everything = scorer.real(100)
    assert set(everything.values) == set(METRICS)
    # All six training texts: there are fewer references than asked for.
    assert everything.signature["real_text"] == "train"
    assert everything.signature["texts"] == 6
    train, references = scorer.score(TRAIN).values, scorer.score(REFERENCES).values
    for name, value in everything.values.items():
        assert value == (references if name.startswith(("novelty", "copies")) else train)[name], name
    three = scorer.real(3)
    assert three.signature["real_text"] == "references"
    assert three.signature["texts"] == 3
    assert three.values["self_bleu_2"] == references["self_bleu_2"]
    assert three.values["distinct_2"] == references["distinct_2"]


def test_real_values_are_of_n_texts_drawn_by_seed():
    lines = [f"text {i} of many {i} {i % 7}" for i in range(60)]
    scorer = Scorer(lines)
    draws = [scorer.real(20, seed=seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1]
    assert draws[0].values != draws[2].values
    assert draws[0].signature["texts"] == 20
    assert draws[0].values["unique"] == 1  # without replacement
    assert not any(name.startswith(("bleu", "novelty")) for name in draws[0].values)
    assert Scorer(None, lines).real(20).values == draws[0].values


def test_refusals():
    with pytest.raises(UserError, match="unknown tokenize 'word': choose one of words, whitespace, chars"):
        Scorer(tokenize="word")
    with pytest.raises(UserError, match="references has no texts"):
        Scorer([])
    with pytest.raises(UserError, match="no texts to score"):
        Scorer().score([])
    with pytest.raises(UserError, match="references or training texts"):
        Scorer().real(10)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_values_are_the_same_on_a_gpu():
    here, there = Scorer(REFERENCES, TRAIN), Scorer(REFERENCES, TRAIN, device="cuda")
    assert there.score(TEXTS).values == pytest.approx(here.score(TEXTS).values, abs=1e-12)
    assert there.real(3).values == pytest.approx(here.real(3).values, abs=1e-12)

"""Texts beside what they were written for: cosines, ranks, and how texts of one condition differ."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from textgan.analysis.asked import in_turn, repeated
from textgan.analysis.condition_measures import TIMES, ConditionMeasure, RelevanceMeasure
from textgan.analysis.embedders import ngram_embedder
from textgan.analysis.measures import TextSet
from textgan.data.dataset import TokenDataset
from textgan.data.story_features import story_condition
from textgan.data.story_grammar import load_grammar
from textgan.metrics.relevance import relevance, spread


def test_relevance_is_that_of_the_plainest_loop():
    rng = torch.Generator().manual_seed(0)
    texts, conditions = (torch.randn(n, 5, generator=rng) for n in (40, 7))
    of = torch.randint(7, (40,), generator=rng)
    conditions[3] = 0
    found = relevance(texts, conditions, of)
    for i in range(40):
        cosines = [F.cosine_similarity(texts[i], c, dim=0, eps=1e-12).item() for c in conditions]
        own, others = cosines[of[i]], [c for j, c in enumerate(cosines) if j != of[i]]
        assert found.own[i] == pytest.approx(own, abs=1e-6)
        assert found.others[i] == pytest.approx(sum(others) / 6, abs=1e-6)
        assert found.wins[i] == pytest.approx(sum(own > c for c in others) / 6, abs=1e-6)


def test_ties_count_half_and_an_empty_text_is_like_nothing():
    conditions = torch.eye(4)
    found = relevance(torch.tensor([[0.0, 0, 0, 0], [2.0, 2, 0, 0]]), conditions, torch.tensor([0, 1]))
    assert found.own.tolist() == pytest.approx([0, math.sqrt(0.5)])
    assert found.wins.tolist() == pytest.approx([0.5, (0.5 + 2) / 3])


def test_what_does_not_look_at_its_condition_wins_half_of_the_time():
    rng = torch.Generator().manual_seed(1)
    found = relevance(torch.randn(4000, 8, generator=rng), torch.randn(50, 8, generator=rng), torch.arange(4000) % 50)
    assert found.wins.mean() == pytest.approx(0.5, abs=0.02)
    assert found.own.mean() == pytest.approx(found.others.mean(), abs=0.02)


def test_spread_is_the_mean_over_pairs():
    x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(2))
    expected = [
        1 - np.mean([F.cosine_similarity(a, b, dim=0).item() for a, b in itertools.combinations(group, 2)])
        for group in x
    ]
    assert spread(x).tolist() == pytest.approx(expected, abs=1e-6)
    assert spread(x[:, :1].expand(3, 4, 6)).tolist() == pytest.approx([0] * 3, abs=1e-9)
    with pytest.raises(ValueError, match="1 texts of a condition"):
        spread(x[:, :1])


@pytest.mark.parametrize("conditions", [torch.ones(1, 3), torch.ones(2)])
def test_one_condition_says_nothing(conditions):
    with pytest.raises(ValueError):
        relevance(torch.ones(2, 3), conditions, torch.tensor([0, 0]))


def pairs(n=60):
    titles = [f"the {word} of {k}" for k, word in enumerate(["apple", "river", "stone", "moon", "king"] * (n // 5))]
    return titles, [f"once {title} was seen by all" for title in titles]


def test_shuffled_texts_lose_their_relevance():
    titles, texts = pairs()
    measure = RelevanceMeasure(ngram_embedder(), texts, titles)
    real = measure.real(60)
    shuffled = measure(TextSet(texts[1:] + texts[:1], conditions=titles)).values
    assert real["relevance_ngrams"] > shuffled["relevance_ngrams"] + 0.1
    assert real["relevance_auc_ngrams"] > 0.95
    assert shuffled["relevance_auc_ngrams"] < 0.55
    assert "condition_spread_ngrams" not in real  # no condition has several texts
    assert measure(TextSet(texts)).values == {}


def test_leave_out_values_are_those_of_the_texts_left():
    titles, texts = pairs()
    measure = RelevanceMeasure(ngram_embedder(), texts, titles)
    groups = measure(TextSet(texts, conditions=titles)).groups["relevance_ngrams"]
    kept = [i for i in range(60) if i % 20 != 3]
    left = measure(TextSet([texts[i] for i in kept], conditions=[titles[i] for i in kept]))
    assert groups[3] == pytest.approx(left.values["relevance_ngrams"])


def test_texts_of_one_condition_are_compared_with_each_other_alone():
    measure = ConditionMeasure(["a b"], ["x"])
    same, other = ["a b c d"] * TIMES, ["a b c d", "e f g h", "i j k l", "m n o p"]
    found = measure(TextSet(["a"], by_condition=[same, other])).values
    assert found["condition_self_bleu_2"] == pytest.approx((1 + measure(TextSet(["a"], by_condition=[other])).values[
        "condition_self_bleu_2"]) / 2)  # fmt: skip
    assert found["condition_distinct_2"] == pytest.approx((3 / 12 + 1) / 2)
    spread_of = RelevanceMeasure(ngram_embedder(), ["a"], ["x"])
    values = spread_of(TextSet(["a"], conditions=["x"], by_condition=[same, same])).values
    assert values["condition_spread_ngrams"] == pytest.approx(0, abs=1e-6)


def test_stories_obey_where_they_tell_what_was_asked_for():
    grammar = load_grammar("en")
    texts = grammar.sample_many(40, 0)
    asked = [story_condition(grammar, text, "title") for text in texts]
    measure = ConditionMeasure(texts, asked, grammar=grammar, condition="title")
    assert measure.real(40)["obeyed"] == 1
    moved = measure(TextSet(["no story", *texts[1:]], conditions=[*asked[:2], "Nobody and the hat", *asked[3:]]))
    assert moved.values["obeyed"] == pytest.approx(38 / 40)
    assert "obeyed" not in ConditionMeasure(texts, asked).real(40)


def test_conditions_are_asked_for_in_turn_and_again():
    tokens = torch.tensor([0, 5, 1, 0, 0, 5, 2, 0, 0, 6, 7, 3, 0])
    origins = torch.tensor([0, 2, 3])  # the second text was too long
    data = TokenDataset(tokens, torch.tensor([0, 4, 8, 13]), 0, origins=origins, starts=torch.tensor([1, 1, 2]))
    conditions = ["five", "lost", "five", "six seven"]
    asked = in_turn(data, conditions, 5)
    assert asked.conditions == ["five", "five", "six seven", "five", "five"]
    assert asked.openings == [[5], [5], [6, 7], [5], [5]]
    again = repeated(data, conditions)
    assert again.conditions == ["five"] * TIMES + ["six seven"] * TIMES
    assert again.openings == [[5]] * TIMES + [[6, 7]] * TIMES

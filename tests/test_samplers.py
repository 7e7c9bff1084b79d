"""Samplers: their names, and their texts against `generate` called by hand and exact distributions."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from textgan.errors import UserError
from textgan.models.generator import Generator
from textgan.sampling.decode import generate
from textgan.sampling.samplers import (
    CANDIDATES,
    DEFAULT_SAMPLERS,
    PLAIN,
    Drawer,
    Sampler,
    choose_by_likelihood,
    parse_samplers,
)

EOS, UNK, V, LIMIT = 0, 1, 7, 6


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    model = Generator(V, 8, 1, 2, 16, dropout=0.0).double()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.logit_bias.copy_(torch.tensor([0.3, 0.5, 0.0, -0.5, 0.4, -1.0, 0.2]))
    return model


def drawer(generator, n=60, **settings):
    return Drawer(generator, n, eos_id=EOS, max_new_tokens=LIMIT, banned_ids=(UNK,), **{"batch_size": 16, **settings})


def by_hand(generator, n, seed=0, first_index=0, **settings):
    return generate(
        generator,
        [[]] * n,
        eos_id=EOS,
        max_new_tokens=LIMIT,
        banned_ids=(UNK,),
        seed=seed,
        first_index=first_index,
        **settings,
    )


# ------------------------------------------------------------------------------------------ names


def specs(*lists):
    return [str(sampler) for sampler in parse_samplers(lists)]


def test_lists_and_ranges_become_canonical_names_in_a_fixed_order():
    assert specs("top_k=40,10,temperature=0.5:0.7:0.1,.95") == [
        "temperature=0.5",
        "temperature=0.6",
        "temperature=0.7",
        "temperature=0.95",
        "top_k=10",
        "top_k=40",
    ]
    assert specs("top_p=0.90", "temperature=1.0, 1", "top_p=.9") == ["temperature=1", "top_p=0.9"]
    assert parse_samplers("temperature=1") == [PLAIN]
    latents = specs("z_temperature=0.5:1.5:0.5,temperature=1")
    assert latents == ["temperature=1", "z_temperature=0.5", "z_temperature=1.5"]


def test_the_default_grid():
    names = specs(*DEFAULT_SAMPLERS)
    temperatures = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3]
    assert names[: len(temperatures)] == [f"temperature={t:g}" for t in temperatures]
    assert names[-6:-3] == ["rejection=0.5", "rejection=1", "rejection=2"]
    assert names[-3:] == ["z_temperature=0.5", "z_temperature=0.75", "z_temperature=1.25"]
    assert len(names) == 27


@given(
    st.sampled_from(["temperature", "top_p", "typical_p", "rejection", "z_temperature"]),
    st.floats(0.001, 0.999),
)
def test_a_printed_name_means_the_same_sampler(family, value):
    (sampler,) = parse_samplers(f"{family}={value!r}")
    assert parse_samplers(str(sampler)) == [sampler]
    assert sampler.value == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
    "spec, told",
    [
        ("beam=3", "named 'beam'"),
        ("0.5", "'0.5' without"),
        ("temperature=", "neither a number"),
        ("temperature=0", "above 0"),
        ("temperature=-1", "above 0"),
        ("temperature=nan", "above 0"),
        ("temperature=inf", "above 0"),
        ("z_temperature=0", "give a number above 0"),
        ("top_p=1", "plain sampling is temperature=1"),
        ("top_p=1.2", "below 1"),
        ("typical_p=0", "above 0 and below 1"),
        ("top_k=2.5", "whole number"),
        ("top_k=0", "above 0"),
        ("rejection=0", "plain sampling is temperature=1"),
        ("temperature=1:0.5:0.1", "range"),
        ("temperature=0.5:1:0", "range"),
        ("temperature=0.5:1", "neither"),
        ("temperature=0.5:1:1e-9", "at most"),
    ],
)
def test_what_is_no_sampler_is_refused_in_one_line(spec, told):
    with pytest.raises(UserError) as error:
        parse_samplers(spec)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------ texts


@pytest.mark.parametrize(
    "spec, settings",
    [
        ("temperature=1", {}),
        ("temperature=0.7", {"temperature": 0.7}),
        ("top_p=0.6", {"top_p": 0.6}),
        ("top_k=2", {"top_k": 2}),
        ("typical_p=0.5", {"typical_p": 0.5}),
    ],
)
def test_each_family_is_the_setting_of_generate(generator, spec, settings):
    (sampler,) = parse_samplers(spec)
    drawn = drawer(generator, seed=3)(sampler)
    expected = by_hand(generator, 60, seed=3, **settings)
    assert drawn.ids == [sample.ids for sample in expected]
    assert drawn.log_probs == pytest.approx([sample.log_prob for sample in expected])
    assert drawn.truncated.tolist() == [sample.ids[-1] != EOS for sample in expected]
    assert 0 < drawn.truncated.mean() < 1
    assert drawn.lengths.tolist() == [len(sample.ids) for sample in expected]


def test_choices_have_the_probabilities_of_the_weights():
    rates = np.random.default_rng(0).normal(-2, 1, (5, 4))
    z = (rates - rates.mean()) / rates.std()
    uniforms = (np.arange(2000) + 0.5) / 2000  # a grid: shares are exact to its width
    for b in (0.0, 0.7, 3.0):
        chosen = np.stack([choose_by_likelihood(rates, np.full(5, u), b) for u in uniforms])  # (U, 5)
        shares = np.stack([(chosen == j).mean(0) for j in range(4)], 1)
        weights = np.exp(b * z)
        np.testing.assert_allclose(shares, weights / weights.sum(1, keepdims=True), atol=1e-3)


def test_a_higher_b_never_takes_a_less_likely_candidate():
    rng = np.random.default_rng(1)
    rates, uniforms = rng.normal(size=(500, 6)), rng.random(500)
    rows = np.arange(500)
    found = [rates[rows, choose_by_likelihood(rates, uniforms, b)] for b in (0.0, 0.5, 1.0, 2.0, 5.0, 1e4)]
    for low, high in itertools.pairwise(found):
        assert (high >= low).all()
        assert (high > low).any()
    assert (found[-1] == rates.max(1)).all()


def test_rejection_chooses_among_plain_texts_of_its_own_slot(generator):
    draws = drawer(generator, n=40, seed=5)
    sharp = draws(Sampler("rejection", 1000.0))
    pools = [by_hand(generator, 40, seed=5, first_index=j * 2**40) for j in range(CANDIDATES)]
    assert [s.ids for s in pools[0]] == draws(PLAIN).ids
    for i in range(40):
        best = max((pool[i] for pool in pools), key=lambda sample: sample.log_prob / len(sample.ids))
        assert sharp.log_probs[i] / len(sharp.ids[i]) == pytest.approx(best.log_prob / len(best.ids))
        assert sharp.ids[i] in [pool[i].ids for pool in pools]
        assert sharp.truncated[i] == (sharp.ids[i][-1] != EOS)
    mild = draws(Sampler("rejection", 0.5))
    means = [(d.log_probs / d.lengths).mean() for d in (draws(PLAIN), mild, sharp)]
    assert means[0] < means[1] < means[2]


def test_texts_depend_on_the_seed_and_not_on_what_was_drawn_before(generator):
    rejection, cold = Sampler("rejection", 1.0), Sampler("temperature", 0.7)
    alone = drawer(generator)(rejection)
    draws = drawer(generator)
    draws(cold), draws(PLAIN)
    assert draws(rejection).ids == alone.ids
    assert drawer(generator, batch_size=7)(rejection).ids == alone.ids
    assert drawer(generator, seed=1)(rejection).ids != alone.ids
    assert drawer(generator, n=25)(cold).ids == draws(cold).ids[:25]


def test_unknown_words_are_never_drawn(generator):
    model = Generator(V, 8, 1, 2, 16, dropout=0.0)
    model.logit_bias[UNK] = 5.0
    for sampler in parse_samplers("temperature=1.3,top_k=3,rejection=1"):
        assert all(UNK not in ids for ids in drawer(model)(sampler).ids)


def test_batches_are_counted_as_they_come(generator):
    asked = parse_samplers("temperature=0.7,1,rejection=0.5,1")
    draws, done, foretold = drawer(generator, n=33), 0, []

    def count():
        nonlocal done
        done += 1

    foretold = [draws.batches(sampler, after=asked[:i]) for i, sampler in enumerate(asked)]
    for sampler, batches in zip(asked, foretold, strict=True):
        assert draws.batches(sampler) == batches
        before = done
        draws(sampler, count)
        assert done - before == batches
    assert foretold == [3, 3, 3 * (CANDIDATES - 1), 0]


def test_what_between_raises_ends_the_drawing(generator):
    def stop():
        raise KeyboardInterrupt

    draws = drawer(generator)
    with pytest.raises(KeyboardInterrupt):
        draws(Sampler("rejection", 1.0), stop)
    assert draws(PLAIN).ids == drawer(generator)(PLAIN).ids


def test_the_signature_names_what_moves_the_texts(generator):
    assert drawer(generator, seed=4).signature() == {
        "seed": 4,
        "max_new_tokens": LIMIT,
        "unk": "never drawn",
        "rejection_candidates": CANDIDATES,
    }

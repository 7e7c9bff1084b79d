"""The best beams of a prompt, and beams in groups: against Hugging Face's search, all texts, and naive loops."""

import itertools

import pytest
import torch

from tests.test_decode import BLOCK, EOS, PROMPTS, V, exact_log_prob, models  # noqa: F401
from textgan.errors import UserError
from textgan.sampling.decode import generate


@pytest.mark.parametrize("penalty", [{}, {"repetition_penalty": 1.4}])
@pytest.mark.parametrize("limit", [3, BLOCK])
def test_the_best_beams_equal_hugging_face(models, limit, penalty):  # noqa: F811
    theirs, ours = models
    samples = generate(
        ours, PROMPTS[:5], eos_id=EOS, num_beams=4, num_return_sequences=3, max_new_tokens=limit, **penalty
    )
    expected = []
    for prompt in PROMPTS[:5]:
        ids = torch.tensor([[EOS, *prompt]])
        rows = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            eos_token_id=EOS,
            pad_token_id=EOS,
            max_length=min(BLOCK, len(prompt) + limit) + 1,
            num_beams=4,
            num_return_sequences=3,
            **penalty,
        )[:, ids.size(1) :].tolist()
        expected += [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]
    assert [sample.ids for sample in samples] == expected
    assert [sample.prompt_ids for sample in samples] == [prompt for prompt in PROMPTS[:5] for _ in range(3)]
    for sample in samples:
        assert sample.log_prob == pytest.approx(exact_log_prob(theirs, sample.prompt_ids, sample.ids), abs=1e-9)


def test_with_all_beams_the_best_texts_of_all(models):  # noqa: F811
    theirs, ours = models
    samples = generate(ours, [[4]], eos_id=EOS, num_beams=V * V, num_return_sequences=30, max_new_tokens=2)
    texts = [(EOS,), *itertools.product(range(1, V), range(V))]
    best = sorted(texts, key=lambda ids: -exact_log_prob(theirs, [4], ids) / len(ids))
    assert [tuple(sample.ids) for sample in samples] == best[:30]


def test_the_first_beam_is_the_same_however_many_are_returned(models):  # noqa: F811
    one = generate(models[1], PROMPTS, eos_id=EOS, num_beams=4)
    all_four = generate(models[1], PROMPTS, eos_id=EOS, num_beams=4, num_return_sequences=4, batch_size=8)
    assert [sample.ids for sample in all_four[::4]] == [sample.ids for sample in one]


def test_fewer_texts_than_are_asked_for(models):  # noqa: F811
    """Three tokens may be written, so there are three texts of one token, however many beams."""
    banned = range(3, V)
    options = {"eos_id": EOS, "num_beams": 4, "max_new_tokens": 1, "banned_ids": banned}
    texts = generate(models[1], [[]], num_return_sequences=3, **options)
    assert sorted(sample.ids for sample in texts) == [[0], [1], [2]]
    with pytest.raises(UserError, match=r"4 texts of a prompt are to be returned, .* makes 3 only"):
        generate(models[1], [[]], num_return_sequences=4, **options)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_more_texts_than_beams_are_refused(models, num_beams):  # noqa: F811
    with pytest.raises(ValueError, match="`num_return_sequences=4` must be at most `num_beams="):
        generate(models[1], [[]], eos_id=EOS, num_beams=num_beams, num_return_sequences=4)

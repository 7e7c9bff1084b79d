"""The least length of a text: against Hugging Face's, and for every way of decoding."""

import pytest

from tests.test_decode import BLOCK, EOS, PROMPTS, exact_log_prob, hugging_face, models  # noqa: F401
from textgan.sampling.decode import generate

WAYS = [{}, {"temperature": 0}, {"num_beams": 3}]


@pytest.mark.parametrize("least", [3, 8])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_min_new_tokens_equals_hugging_face(models, num_beams, least):  # noqa: F811
    theirs, ours = models
    prompts = PROMPTS[:3]
    way = {"num_beams": num_beams} if num_beams > 1 else {"temperature": 0}
    samples = generate(ours, prompts, eos_id=EOS, min_new_tokens=least, **way)
    for prompt, sample in zip(prompts, samples, strict=True):
        ids = hugging_face(theirs, prompt, num_beams=num_beams, min_new_tokens=least)
        assert sample.ids == ids
        assert sample.log_prob == pytest.approx(exact_log_prob(theirs, prompt, sample.ids), abs=1e-9)


@pytest.mark.parametrize("way", WAYS)
def test_no_text_closes_too_early(models, way):  # noqa: F811
    free = generate(models[1], PROMPTS * 8, eos_id=EOS, seed=2, **way)
    long = generate(models[1], PROMPTS * 8, eos_id=EOS, seed=2, min_new_tokens=5, **way)
    assert any(len(sample.ids) <= 5 < BLOCK - len(sample.prompt_ids) for sample in free)
    for sample in long:
        assert EOS not in sample.ids[:5]
        assert len(sample.ids) > 5 or len(sample.ids) == BLOCK - len(sample.prompt_ids)


def test_off_by_default(models):  # noqa: F811
    plain = generate(models[1], PROMPTS, eos_id=EOS, seed=2)
    assert generate(models[1], PROMPTS, eos_id=EOS, seed=2, min_new_tokens=0) == plain


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"min_new_tokens": -1}, "`min_new_tokens=-1` must not be negative"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, "`min_new_tokens=5` is above `max_new_tokens=4`"),
    ],
)
def test_refused(models, wrong, message):  # noqa: F811
    with pytest.raises(ValueError, match=message):
        generate(models[1], [[]], eos_id=EOS, **wrong)

"""Stop strings against a naive search character by character, and every way of decoding with them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_decode import EOS, PROMPTS, V, exact_log_prob, models  # noqa: F401
from textgan.data.tokenizer import train_tokenizer
from textgan.sampling.decode import generate
from textgan.sampling.stops import StopStrings

PIECES = ["", "a", "b", "ab", "ba", "c", "abc", " ", "猫", "b a", "aa"]


def decode(ids):
    return "".join(PIECES[i] for i in ids)


def naive_cut(prompt, written, strings):
    """What is left of the prompt and the text, and whether a string ended it: read one character at a time."""
    for end in range(1, len(written) + 1):
        for string in sorted(strings, key=len, reverse=True):
            if written[:end].endswith(string):
                return prompt + written[: end - len(string)], True
    return prompt + written, False


stop_strings = st.lists(st.text("abc 猫", min_size=1, max_size=4), min_size=1, max_size=4)


@given(stop_strings, st.lists(st.integers(1, V - 1), max_size=5), st.lists(st.integers(1, V - 1), max_size=9))
def test_a_text_ends_before_the_first_string(strings, prompt, ids):
    stops = StopStrings(strings, decode)
    expected = naive_cut(decode(prompt), decode(ids), strings)
    assert (stops.text(prompt, ids), stops(prompt, ids)) == expected
    # Token by token the text ends at the same place as with all of them.
    until = next((t for t in range(1, len(ids) + 1) if stops(prompt, ids[:t])), len(ids))
    assert stops.text(prompt, ids[:until]) == expected[0]


WAYS = [{"seed": 4}, {"temperature": 0}, {"temperature": 0.7, "seed": 1, "no_repeat_ngram_size": 3}]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("strings", [["ab"], ["ba", "c"], ["b aa", "猫a"]])
def test_rows_end_where_their_full_texts_have_it(models, strings, way):  # noqa: F811
    """And those without it are not touched, whatever the batch."""
    prompts = PROMPTS * 5
    free = generate(models[1], prompts, eos_id=EOS, **way)
    stops = StopStrings(strings, decode)
    stopped = generate(models[1], prompts, eos_id=EOS, stop=stops, batch_size=7, **way)
    reasons = set()
    for prompt, full, sample in zip(prompts, free, stopped, strict=True):
        text, ended = naive_cut(decode(prompt), decode(full.ids), strings)
        assert stops.text(prompt, sample.ids) == text
        assert sample.ids == full.ids[: len(sample.ids)]
        assert sample.finish_reason == ("stop" if ended else full.finish_reason)
        assert len(sample.ids) == len(full.ids) or ended
        reasons.add(sample.finish_reason)
    assert len(reasons) > 1
    assert "stop" in reasons or way["temperature"] == 0  # greedy decoding has six texts only


@pytest.mark.parametrize("strings", [["a"], ["ab", "猫"], ["c", "b", "a", " "]])
def test_beams_end_at_stops_too(models, strings):  # noqa: F811
    """With all beams the best of all texts, where those with a string in them do not go on."""
    theirs, ours = models
    stops = StopStrings(strings, decode)
    texts, open_texts = [], [()]
    for t in range(3):
        longer = [(*ids, token) for ids in open_texts for token in range(V)]
        done = [ids[-1] == EOS or t == 2 or naive_cut("", decode(ids), strings)[1] for ids in longer]
        texts += [ids for ids, is_done in zip(longer, done, strict=True) if is_done]
        open_texts = [ids for ids, is_done in zip(longer, done, strict=True) if not is_done]
    best = sorted(texts, key=lambda ids: -exact_log_prob(theirs, [3], ids) / len(ids))
    options = {"eos_id": EOS, "num_beams": V * V, "max_new_tokens": 3, "stop": stops}
    found = generate(ours, [[3]], num_return_sequences=10, **options)
    assert [tuple(sample.ids) for sample in found] == best[:10]
    assert {sample.finish_reason for sample in found} & {"stop"}
    # In a batch with few beams no text goes on behind a string, and each is that of its prompt alone.
    options |= {"num_beams": 3, "max_new_tokens": 8}
    together = generate(ours, PROMPTS, **options)
    assert [s.ids for s in together] == [generate(ours, [prompt], **options)[0].ids for prompt in PROMPTS]
    for sample in together:
        assert not stops(sample.prompt_ids, sample.ids[:-1])


def test_spacing_of_words_that_changes_with_what_follows():
    tokenizer = train_tokenizer("word", ["Tom said `` hi there '' . the dogs ' ball"], min_count=1)
    stops = StopStrings(["hi"], tokenizer.decode)
    prompt = tokenizer.encode('Tom said "')
    assert stops.text(prompt, tokenizer.encode("there . hi Tom")) == 'Tom said "there. '
    assert not stops(tokenizer.encode('Tom said "hi'), tokenizer.encode("there"))


@pytest.mark.parametrize("kind", ["word", "char", "bpe"])
def test_strings_across_the_tokens_of_every_kind(kind):
    text = "小猫在花园里玩. the dog runs. the end"
    tokenizer = train_tokenizer(kind, [text], vocab_size=280 if kind == "bpe" else None, min_count=1)
    ids = tokenizer.encode("小") + tokenizer.encode(text[1:])
    for stop in ("园里", "runs.", "n", "猫在花园"):
        prompt = tokenizer.encode("小")
        expected = text[: text.index(stop)]
        until = next(t for t in range(len(ids)) if StopStrings([stop], tokenizer.decode)(prompt, ids[len(prompt) : t]))
        assert StopStrings([stop], tokenizer.decode).text(prompt, ids[len(prompt) : until]) == expected

"""Texts on the terminal as they are written: what has been put never changes, and the whole is what is printed."""

import io
import random
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import textgan.sampling.decode
from tests.test_cli_sample import checkpoint, invoke, write_checkpoint  # noqa: F401
from textgan.cli.streaming import Shown
from textgan.data.tokenizer import train_tokenizer
from textgan.data.words import join_words, settled_words
from textgan.errors import UserError
from textgan.sampling.stops import StopStrings

WORDS = ["``", "''", "'", "’", "–", "--", ".", "(", "tis", "t", "s", "dogs", "a", "can", "not", "猫", "“", "5", "%"]
words = st.lists(st.sampled_from(WORDS), max_size=9)


@given(words, words)
@example(["``", "a", "``"], ["``", "a"])
@example(["dogs", "'"], ["a", "'"])
@example(["5", "–"], ["5"])
def test_settled_words_stay(before, after):
    settled = join_words(before[: settled_words(before)])
    assert join_words(before + after).startswith(settled)


def test_what_does_not_hang_on_later_words_is_settled():
    for text in (
        ["Tom", "has", "a", "dog", "."],
        ["he", "said", "``", "hi", "''", "."],
        ["it", "'s", "’", "a"],
        "小猫",
    ):
        assert settled_words(text) == len(text)
    assert settled_words(["the", "dogs", "'", "a"]) == 2


TEXTS = ['Tom said "hi" – the dogs\' ball. "No," it \'s.', "小猫在花园里玩。\n\n小狗 é 5–6 naïve 🙂", "a\r\nb\n"]


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("kind", ["word", "char", "bpe"])
def test_any_ids_are_put_as_they_are_decoded(monkeypatch, kind, lines):
    tokenizer = train_tokenizer(kind, TEXTS, vocab_size=275 if kind == "bpe" else None, min_count=1)
    rng = random.Random(0)
    for stop_strings in ((), ("hi", "the dog"), ("小狗", "\n\n")):
        out = io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        shown, texts, early = Shown(tokenizer, stop_strings, lines=lines), [], 0
        for i in range(60):
            ids = rng.choices(range(2, tokenizer.vocab_size), k=rng.randrange(12))
            ids += tokenizer.encode(rng.choice(TEXTS))
            prompt = tokenizer.encode(("Tom", "小猫")[i % 2])
            stop = StopStrings(stop_strings, tokenizer.decode)
            written = next((t for t in range(1, len(ids)) if stop(prompt, ids[:t])), len(ids))
            for t in range(1, written + (not stop(prompt, ids[:written]))):
                before = out.tell()
                shown.grow(prompt, ids[:t])
                early += out.tell() > before
            texts.append(stop.text(prompt, ids[:written]))
            out.write(shown.rest([{"text": texts[-1]}]))
        blocks = [" ".join(text.splitlines()) if lines else text for text in texts]
        assert out.getvalue() == ("\n" if lines else "\n\n").join(blocks) + "\n"
        assert early > 60 * 3


@pytest.mark.parametrize("kind", ["word", "char", "bpe"])
@pytest.mark.parametrize("options", [[], ["--lines"], ["--prompt", "Tom has", "-n", 4], ["--stop", "e", "-n", 9]])
def test_the_same_texts_as_without(tmp_path, kind, options):
    path = write_checkpoint(tmp_path / "step-00000040", kind)
    plain, streamed = invoke(path, *options), invoke(path, *options, "--stream")
    assert streamed.stdout_bytes == plain.stdout_bytes
    assert streamed.stderr == plain.stderr


def test_tokens_appear_one_by_one(checkpoint, monkeypatch):  # noqa: F811
    puts = []
    monkeypatch.setattr(
        "textgan.cli.streaming.click.echo", lambda text="", nl=True, err=False: err or puts.append(text)
    )
    invoke(checkpoint, "--stream", "-n", 1, "--seed", 3, "--min-new-tokens", 8)
    assert len(puts) >= 6
    assert all(len(put.split()) <= 1 for put in puts)


def test_ctrl_c_ends_the_line(checkpoint, monkeypatch):  # noqa: F811
    whole = invoke(checkpoint, "--min-new-tokens", 8).stdout
    write, calls = textgan.sampling.decode._write, []

    def interrupted(context, limits, *, stops, **options):
        def interrupting(row, ids):
            ended = stops(row, ids)
            calls.append(1)
            if len(calls) == 15:
                raise KeyboardInterrupt
            return ended

        return write(context, limits, stops=interrupting, **options)

    monkeypatch.setattr(textgan.sampling.decode, "_write", interrupted)
    result = invoke(checkpoint, "--min-new-tokens", 8, "--stream", code=130)
    assert result.stdout.endswith("\n")
    assert whole.startswith(result.stdout[:-1])
    assert "stopped: 1 of 5 texts are written" in result.stderr


@pytest.mark.parametrize(
    "options, message",
    [
        (["--json"], "--stream shows texts one by one .*: --json does not go with it"),
        (["--output", "x.txt"], "--output does not go with it"),
        (["--batch-size", 4], "--batch-size does not go with it"),
        (["--num-beams", 3], "the 3 beams are open to the end: give --num-beams 1"),
        (["--text", "Tom"], "--stream is for texts of prompts and free ones: --text does not"),
    ],
)
def test_refused(checkpoint, options, message):  # noqa: F811
    with pytest.raises(UserError, match=message):
        invoke(checkpoint, "--stream", *options)

"""``textgan sample --chat``: each line of standard input continued, what cannot be is told."""

import pytest

import textgan.sampling.decode
from tests.test_cli_sample import BLOCK, checkpoint, invoke, records, write_checkpoint  # noqa: F401
from textgan.errors import UserError


def test_each_line_is_continued(checkpoint, tmp_path):  # noqa: F811
    result = invoke(checkpoint, "--chat", "--seed", 4, stdin="Tom\nthe dog\r\nLily sees\n")
    (tmp_path / "prompts").write_text("Tom\nthe dog\nLily sees\n")
    expected = [row["text"] for row in records(checkpoint, "--prompts", tmp_path / "prompts", "--seed", 4)]
    assert result.stdout == "".join(text + "\n" for text in expected)
    assert "seed 4" in result.stderr


def test_lines_that_cannot_be_continued_are_told(checkpoint):  # noqa: F811
    lines = [b"Tom", b"Zebulon", b"dog " * BLOCK, b"", b"\xff", b"Tom"]
    result = invoke(checkpoint, "--chat", "--temperature", 0, stdin=b"\n".join(lines))
    answer = records(checkpoint, "--prompt", "Tom", "--temperature", 0)[0]["text"]
    assert result.stdout == f"{answer}\n{answer}\n"
    told = result.stderr.splitlines()[1:]
    assert len(told) == 4
    assert "this line: the model does not know the word `Zebulon`" in told[0]
    assert "this line: 12 tokens" in told[1]
    assert "this line is empty" in told[2]
    assert "this line: not UTF-8" in told[3]


def test_settings_hold(tmp_path):
    path = write_checkpoint(tmp_path / "step-00000040", "char")
    result = invoke(path, "--chat", "--stop", "e", "--seed", 1, stdin="Tom has\n" * 20)
    assert "e" not in result.stdout
    assert len(set(result.stdout.splitlines())) > 5  # a line again gets another text


def test_ctrl_c_ends_it_cleanly(checkpoint, monkeypatch):  # noqa: F811
    write = textgan.sampling.decode._write

    def interrupted(context, limits, *, stops, **options):
        def interrupting(row, ids):
            if len(ids) == 3:
                raise KeyboardInterrupt
            return stops(row, ids)

        return write(context, limits, stops=interrupting, **options)

    monkeypatch.setattr(textgan.sampling.decode, "_write", interrupted)
    result = invoke(checkpoint, "--chat", "--min-new-tokens", 6, stdin="Tom\nLily\n")
    assert result.stdout.startswith("Tom")
    assert result.stdout.count("\n") == 1
    assert result.stdout.endswith("\n")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--stream"], "--chat continues each line of standard input once, .*: --stream does not go with it"),
        (["-n", 2], "-n does not go with it"),
        (["--prompt", "Tom"], "--prompt does not go"),
        (["--prompts", "-"], "--prompts does not go"),
        (["--json"], "--chat shows texts one by one .*: --json does not"),
        (["--num-beams", 2], "--chat, but the 2 beams are open"),
    ],
)
def test_refused(checkpoint, options, message):  # noqa: F811
    with pytest.raises(UserError, match=message):
        invoke(checkpoint, "--chat", *options, stdin="Tom\n")

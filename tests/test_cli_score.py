"""``textgan score``: output, options, and what it says of files that cannot be scored."""

import json

import pytest
from click.testing import CliRunner

from textgan.cli.score import score
from textgan.errors import UserError
from textgan.metrics.suite import FULL_METRICS, Scorer

LINES = ["the fox sat in the sun .", "the fox ran .", "a bear sat in the rain ."]
OTHERS = ["the bear ran in the rain .", "a fox sat ."]


def run(*arguments, stdin=None):
    result = CliRunner().invoke(score, [str(a) for a in arguments], input=stdin)
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        data = content if isinstance(content, bytes) else "".join(f"{line}\n" for line in content).encode()
        path.write_bytes(data)
        return path

    return write


def test_json_is_the_scorers_values(write):
    texts, references, train = write("t.txt", LINES), write("r.txt", OTHERS), write("train.txt", LINES[:1])
    result = run(texts, "--references", references, "--train", train, "--json")
    expected = Scorer(OTHERS, LINES[:1], full=True).score(LINES)
    found = json.loads(result.stdout)
    assert found == {"metrics": expected.values, "intervals": {}, "signature": expected.signature}
    assert result.stderr == ""


def test_options_reach_the_scorer(write):
    texts, references = write("t.txt", [*LINES, "more"]), write("r.txt", [line.upper() for line in OTHERS])
    result = run(
        texts,
        "--references",
        references,
        "--tokenize",
        "chars",
        "--lowercase",
        "--limit",
        3,
        "--device",
        "cpu",
        "--token-budget",
        30,
        "--json",
    )
    references = [line.upper() for line in OTHERS]
    expected = Scorer(references, tokenize="chars", lowercase=True, full=True, token_budget=30).score(LINES)
    assert json.loads(result.stdout)["metrics"] == expected.values


def test_without_references_bleu_is_absent(write):
    metrics = json.loads(run(write("t.txt", LINES), "--json").stdout)["metrics"]
    assert "self_bleu_2" in metrics
    assert not any(name.startswith(("bleu", "novelty", "copies")) for name in metrics)


def test_table(write):
    texts, references = write("t.txt", LINES), write("r.txt", OTHERS)
    lines = run(texts, "--references", references).stdout.splitlines()
    values = Scorer(OTHERS, full=True).score(LINES).values
    assert lines[0].split() == ["metric", "value", "meaning"]
    for line, (name, value) in zip(lines[1:], values.items(), strict=False):
        assert line.split()[:2] == [name, f"{value:.4f}"]
        assert len(line.split()) > 5  # says what it means
    assert lines[len(values) + 1] == ""
    assert lines[-1].startswith("signature: texts=3 references=2 ")


def test_intervals(write):
    lines = [
        f"the {animal} sat in the {place} ." for animal in ("fox", "bear") for place in ["sun", "rain", "wood"]
    ] * 5
    texts, references, train = write("t.txt", lines), write("r.txt", LINES), write("train.txt", OTHERS)
    arguments = (texts, "--references", references, "--train", train)
    scores = Scorer(LINES, OTHERS, full=True).score(lines, groups=20, per_text=True)
    expected = {name: [low, high] for name, (_, low, high) in scores.intervals().items()}
    found = json.loads(run(*arguments, "--json").stdout)
    assert found["metrics"] == scores.values
    assert found["intervals"] == expected
    assert set(expected) == set(scores.values)
    table = {line.split()[0]: line.split() for line in run(*arguments).stdout.splitlines() if line}
    assert table["metric"][1:5] == ["value", "95", "%", "interval"]
    low, high = expected["self_bleu_3"]
    assert table["self_bleu_3"][1:5] == [f"{scores.values['self_bleu_3']:.4f}", f"{low:.4f}", "to", f"{high:.4f}"]
    assert json.loads(run(*arguments, "--json", "--no-intervals").stdout)["intervals"] == {}
    assert "interval" not in run(*arguments, "--no-intervals").stdout.splitlines()[0]
    other = write("other.txt", lines[::-1])
    table = {line.split()[0]: line.split() for line in run(texts, other).stdout.splitlines() if line}
    assert table["self_bleu_3"][2] == f"±{(high - low) / 2:.4f}"
    assert len(table["distinct_4"][1:5]) == 4


def test_several_files_side_by_side(write):
    first, second = write("a.txt", LINES), write("b.txt", ["one text alone"])
    result = run(first, second)
    lines = result.stdout.splitlines()
    assert lines[0].split()[:3] == ["metric", "a.txt", "b.txt"]
    rows = {line.split()[0]: line.split()[1:3] for line in lines[1:] if line}
    assert rows["self_bleu_2"] == [f"{Scorer().score(LINES).values['self_bleu_2']:.4f}", "-"]
    assert rows["length_mean"] == ["6.0000", "3.0000"]
    assert "numbers of texts differ" in result.stderr
    assert "--limit 1" in result.stderr
    files = json.loads(run(first, second, "--json").stdout)["files"]
    assert set(files) == {str(first), str(second)}
    assert set(files[str(first)]["metrics"]) <= set(FULL_METRICS)
    assert files[str(second)]["signature"]["texts"] == 1


def test_standard_input(write):
    stdin = "\n".join(LINES)
    expected = Scorer(full=True).score(LINES).values
    assert json.loads(run("-", "--json", stdin=stdin).stdout)["metrics"] == expected
    with pytest.raises(UserError, match="given more than once"):
        run("-", "--references", "-", stdin=stdin)


@pytest.mark.parametrize(
    "content, texts",
    [
        (b"a b\nc", ["a b", "c"]),
        (b"a b\nc\n", ["a b", "c"]),
        (b"a b\r\nc\r\n", ["a b", "c"]),
        (b"\xef\xbb\xbfa b\n", ["a b"]),
        ("a\u2028b\x0bc\x85d\n".encode(), ["a\u2028b\x0bc\x85d"]),
        (b"\n", [""]),
        (b"a\n\n \nb\n\n", ["a", "", " ", "b", ""]),
    ],
)
def test_what_a_line_is(write, content, texts):
    result = run(write("t.txt", content), "--json")
    assert json.loads(result.stdout)["metrics"] == Scorer(full=True).score(texts).values
    blank = sum(not text.strip() for text in texts)
    assert (f"{blank} of {len(texts)} lines are blank" in result.stderr) == (blank > 0)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", r"t\.txt is empty: needed is one text a line"),
        (b"ok\nstill ok\n\xff\xfe\n", r"t\.txt, line 3: byte 0xff is not UTF-8"),
        (b"ok\n\x89PNG\0\0", r"t\.txt, line 2: a NUL byte"),
        ("text".encode("utf-16"), r"t\.txt, line 1: a NUL byte.*UTF-16"),
    ],
)
def test_files_that_are_not_text(write, content, message):
    path = write("t.txt", content)
    with pytest.raises(UserError, match=message) as caught:
        run(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=message):
        run(write("fine.txt", LINES), "--references", path)


def test_files_that_are_not_there(tmp_path, write):
    with pytest.raises(UserError, match="no such file"):
        run(tmp_path / "absent.txt")
    with pytest.raises(UserError, match="is a folder"):
        run(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        run(write("t.txt", LINES), "--train", tmp_path / "absent.txt")


def test_lines_of_json_are_scored_as_they_stand_but_said(write):
    result = run(write("t.jsonl", b'{"text": "a b"}\n{"text": "c"}\n'))
    assert "line 1 looks like JSON" in result.stderr
    assert "looks like JSON" not in run(write("t.txt", b"{a} b\nc\n")).stderr

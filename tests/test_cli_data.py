"""`textgan data stats`: numbers counted by hand, tables, JSON, and errors."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from textgan.cli.data import data
from textgan.errors import UserError

TRAIN = ["A cat sat.", "A dog ran, and ran.", "A cat sat."]
TEST = ["A bird sat.", "A dog ran, and ran.", "A bird sat."]


@pytest.fixture
def files(tmp_path):
    for name, texts in (("train", TRAIN), ("test", TEST)):
        (tmp_path / f"{name}.txt").write_text("\n".join(texts))
    return str(tmp_path / "train.txt"), str(tmp_path / "test.txt")


def run(*args):
    result = CliRunner().invoke(data, ["stats", *args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_has_the_counts(files):
    train, test = files
    found = json.loads(run(train, "--test", test, "--json"))
    assert list(found["splits"]) == ["train", "test"]
    split = found["splits"]["train"]
    assert [split[k] for k in ("texts", "characters", "tokens", "vocabulary", "once")] == [3, 39, 15, 8, 3]
    assert split["unknown"] is None
    assert found["splits"]["test"]["unknown"] == pytest.approx(2 / 15)  # bird
    lengths = split["lengths"]
    assert (lengths["min"], lengths["median"], lengths["max"], lengths["mean"]) == (4, 4, 7, 5)
    assert lengths["sd"] == pytest.approx(2**0.5)
    assert lengths["histogram"] == [[4, 4, 2], [5, 5, 0], [6, 6, 0], [7, 7, 1]]
    assert split["measured"] == 3
    assert split["metrics"]["distinct_1"] == pytest.approx(8 / 15)
    assert split["metrics"]["distinct_2"] == pytest.approx(9 / 12)
    rows = [["A", "cat", "sat", "."], ["A", "dog", "ran", ",", "and", "ran", "."], ["A", "cat", "sat", "."]]
    scores = [
        sentence_bleu(rows[:i] + rows[i + 1 :], row, (0.5, 0.5), SmoothingFunction().method1)
        for i, row in enumerate(rows)
    ]
    assert split["metrics"]["self_bleu_2"] == pytest.approx(sum(scores) / 3, abs=1e-9)
    assert split["signature"]["texts"] == 3
    assert found["report"]["duplicates"] == {"source": 1, "test": 1}
    assert found["report"]["overlaps"] == {"dev in train": 0, "test in train": 1, "test in dev": 0}
    assert len(found["fingerprint"]) == 64


def test_the_table_says_the_same(files):
    train, test = files
    output = run(train, "--test", test)
    rows = {line.strip().rsplit("  ")[0].strip(): line.split() for line in output.splitlines() if line.strip()}
    assert "overlap of the splits: 1 test in train" in rows
    assert rows["texts"][-2:] == ["3", "3"]
    assert rows["copies of an earlier text"][-2:] == ["1", "1"]
    assert rows["vocabulary (different words)"][-2:] == ["8", "8"]
    assert rows["tokens unknown to train"][-1:] == ["13.33%"]
    assert rows["self-BLEU-2"][0] == "self-BLEU-2"
    assert "tokens a text, train" in rows
    assert "tokens a text, test" in rows
    assert "\x1b" not in output  # plain where it is no terminal


def test_one_file_is_one_column_and_whole(files):
    output = run(files[0])
    assert "(1 file as lines)" in output
    assert "overlap" not in output
    assert output.count("tokens a text, ") == 1


def test_words_white_space_characters_and_lower_case(files):
    def vocabulary(*options):
        return json.loads(run(files[0], "--json", *options))["splits"]["train"]["vocabulary"]

    assert vocabulary("--tokenize", "whitespace") == 7  # A cat sat. dog ran, and ran.
    assert vocabulary("--tokenize", "chars") == len(set("".join(TRAIN)) - {" "})
    assert vocabulary("--tokenize", "chars", "--lowercase") == len(set("".join(TRAIN).lower()) - {" "})


def test_diversity_is_of_a_sample(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n".join(f"line {i}" for i in range(50)))
    found = json.loads(run(str(path), "--sample", "20", "--json"))["splits"]["train"]
    assert (found["texts"], found["measured"], found["vocabulary"]) == (50, 20, 51)
    assert found["metrics"]["distinct_1"] == pytest.approx(21 / 40)


def test_long_tails_are_one_bar(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n".join(["x " * n for n in range(1, 200)] + ["x " * 5000]))
    lengths = json.loads(run(str(path), "--json"))["splits"]["train"]["lengths"]
    assert [bar[:2] for bar in lengths["histogram"]][:2] == [[0, 19], [20, 39]]
    assert lengths["histogram"][-1][1] == 5000
    assert sum(bar[2] for bar in lengths["histogram"]) == 200
    assert (lengths["p95"], lengths["p99"]) == (191, 199)


def test_one_text_is_enough(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("[bold] words [/bold]")
    output = run(str(path))
    assert "self-BLEU" not in output
    assert "1 text (1 file as lines)" in output


def test_named_corpora(files):
    assert "corpus stories: 30 texts" in run("stories", "--size", "30")
    assert "corpus stories-zh: 30 texts" in run("stories-zh", "--size", "30")


def test_fields_formats_and_errors(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"story": "A cat sat."}\n{"story": "A dog ran."}')
    assert json.loads(run(str(path), "--field", "story", "--json"))["report"]["texts"] == 2
    assert "(1 file as lines)" in run(str(path), "--format", "lines")
    with pytest.raises(UserError, match=r"a\.jsonl:1: no field 'text'"):
        run(str(path))


def test_help_needs_no_torch():
    code = "import sys; from textgan.cli.data import data; data(['stats', '--help'], standalone_mode=False)"
    check = code + "; assert not {'torch', 'nltk', 'rich'} & set(sys.modules)"
    assert "SOURCE" in subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout

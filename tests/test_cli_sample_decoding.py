"""``textgan sample``: decoding for stories, on small untrained checkpoints."""

import pytest

from tests.test_cli_sample import checkpoint, invoke, records, write_checkpoint  # noqa: F401
from textgan.errors import UserError


@pytest.mark.parametrize("name", ["-n", "--num-samples", "--num-return-sequences"])
def test_names_of_the_number_of_texts(checkpoint, name):  # noqa: F811
    assert len(records(checkpoint, name, 3)) == 3


def test_best_beams_of_each_prompt(checkpoint, tmp_path):  # noqa: F811
    (tmp_path / "prompts").write_text("Tom\nLily sees\nthe dog\n")
    options = [checkpoint, "--num-beams", 4, "--prompts", tmp_path / "prompts"]
    rows = records(*options, "-n", 3)
    assert [row["prompt"] for row in rows] == ["Tom"] * 3 + ["Lily sees"] * 3 + ["the dog"] * 3
    for start in (0, 3, 6):
        assert len({row["text"] for row in rows[start : start + 3]}) == 3
        rates = [row["log_prob"] / len(row["tokens"]) for row in rows[start : start + 3]]
        assert rates == sorted(rates, reverse=True)
    assert [row["text"] for row in rows[::3]] == [row["text"] for row in records(*options)]
    for batch_size in (1, 4, 7):
        again = records(*options, "-n", 3, "--batch-size", batch_size)
        assert [row["text"] for row in again] == [row["text"] for row in rows]
    assert "note: nothing is drawn" not in invoke(*options, "-n", 3).stderr


def test_more_texts_than_beams(checkpoint):  # noqa: F811
    with pytest.raises(
        UserError, match=r"-n 4, but --num-beams 3 finds 3 texts of a prompt: lower -n or raise .* to 4"
    ):
        invoke(checkpoint, "--num-beams", 3, "-n", 4)


def test_min_new_tokens(checkpoint, tmp_path):  # noqa: F811
    shortest = min(len(row["tokens"]) for row in records(checkpoint, "-n", 40))
    rows = records(checkpoint, "-n", 40, "--min-new-tokens", 6)
    assert shortest < 6 < min(len(row["tokens"]) for row in rows)
    assert rows[0]["settings"]["min_new_tokens"] == 6
    with pytest.raises(UserError, match="--min-new-tokens 6 is above --max-new-tokens 5"):
        invoke(checkpoint, "--min-new-tokens", 6, "--max-new-tokens", 5)
    path = write_checkpoint(tmp_path / "step-00000040")
    (path / "generation.yaml").write_text("min_new_tokens: 6")
    assert [row["text"] for row in records(path, "-n", 40)] == [row["text"] for row in rows]


@pytest.mark.parametrize("kind", ["word", "char", "bpe"])
@pytest.mark.parametrize("way", [["-n", 60], ["--num-beams", 3, "-n", 3], ["--temperature", 0]])
def test_stop_strings(tmp_path, kind, way):
    path = write_checkpoint(tmp_path / "step-00000040", kind)
    stop = {"word": "o", "char": "a", "bpe": "a"}[kind]
    free = records(path, "--prompt", "Tom has", "--max-new-tokens", 8, *way)
    rows = records(path, "--prompt", "Tom has", "--max-new-tokens", 8, "--stop", stop, "--stop", "xyz", *way)
    assert all(stop not in row["text"].removeprefix("Tom has") for row in rows)
    if "--num-beams" not in way:
        for full, row in zip(free, rows, strict=True):
            written = full["text"].removeprefix("Tom has")
            assert row["text"] == "Tom has" + written.split(stop)[0]
            assert (row["finish_reason"] == "stop") == (stop in written)
        assert any(stop in full["text"].removeprefix("Tom has") for full in free) or len(free) == 1
    assert rows[0]["settings"]["stop_strings"] == [stop, "xyz"]


@pytest.mark.parametrize("stored", ["stop_strings: dog", "stop_strings: [dog, xyz]"])
def test_stop_strings_of_the_checkpoint(tmp_path, stored):
    path = write_checkpoint(tmp_path / "step-00000040")
    texts = [row["text"] for row in records(path, "-n", 40, "--stop", "dog")]
    assert texts != [row["text"] for row in records(path, "-n", 40)]
    (path / "generation.yaml").write_text(stored)
    assert [row["text"] for row in records(path, "-n", 40)] == texts
    assert "--stop" in invoke(path, "--stop", "", code=2).stderr

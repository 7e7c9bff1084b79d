"""`textgan compare` on the command line: runs, folders of texts, what is written, and what is refused."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from tests.synthetic_runs import SIGNATURE, front, write_record, write_run
from textgan.cli.compare import compare
from textgan.errors import UserError


def invoke(*args, code=0):
    result = CliRunner().invoke(compare, [str(arg) for arg in args])
    if isinstance(result.exception, UserError):
        return result.exception
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)

    def arms():
        return {"mle": front(rng), "adversarial": front(rng, shift=0.04)}

    return [write_run(tmp_path / f"gan-s{seed}", arms(), seed=seed, real={"bleu_4": 0.4}) for seed in (0, 1, 2)]


@pytest.fixture
def folder(tmp_path):
    """Texts of two arms; the real ones are like those of ``mle``."""
    rng = np.random.default_rng(0)
    words = np.array([*"abcdefghijklmn", ".", ","])

    def write(path, size, temperature):
        weights = np.arange(1, len(words) + 1) ** (-1 / temperature)
        rows = rng.choice(words, (size, 8), p=weights / weights.sum())
        path.write_text("".join(" ".join(row) + "\n" for row in rows))

    folder = tmp_path / "peers"
    folder.mkdir()
    for seed in (1, 2):
        for temperature in (0.6, 0.8, 1.0):
            write(folder / f"mle_{temperature}_{seed}.txt", 60, temperature)
            write(folder / f"gan_{temperature}_{seed}.txt", 60, temperature)
    write(tmp_path / "real.txt", 100, 1.0)
    return folder


def test_the_terminal_has_verdict_table_fronts_and_notes(paths, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    shown = invoke(*paths).stdout
    lines = shown.splitlines()
    assert lines[0] == "mle (3 seeds), adversarial (3 seeds); split dev, 200 texts a point, baseline mle"
    heads = [line for line in lines if line in ("Verdict", "Fronts", "Best over samplers", "Notes")]
    assert heads == ["Verdict", "Fronts", "Best over samplers", "Notes"]
    assert "- adversarial against mle: dominates over" in shown
    (row,) = [line for line in lines if line.startswith("bleu_4 ")]
    assert row.split()[:3] == ["bleu_4", "high", "0.4000"]
    assert "temperature=0.6" in lines[lines.index(row) + 1]


def test_a_narrow_terminal_gets_a_table_for_each_arm_and_whole_numbers(paths, monkeypatch):
    for columns, tables in ((60, 2), (120, 1)):
        monkeypatch.setenv("COLUMNS", str(columns))
        shown = invoke(*paths).stdout
        assert sum(line.startswith("self_bleu_4 ") for line in shown.splitlines()) == tables
        assert "…" not in shown


def test_json_is_what_is_written(paths, tmp_path):
    out = tmp_path / "out"
    printed = json.loads(invoke(*paths, "--json", "--out", out, "--html", out / "report.html").stdout)
    assert json.loads((out / "comparison.json").read_text()) == printed
    assert printed["pairs"][0]["comparisons"][0]["arm"] == "adversarial"
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert (out / "front-bleu_4-self_bleu_4.png").stat().st_size > 1000
    assert list((out / "tensorboard" / "mle").glob("events.*"))


def test_nothing_is_written_where_nothing_was_asked_for(paths, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    invoke(*paths)
    assert sorted(tmp_path.rglob("*")) == before


def test_without_matplotlib_there_are_no_pictures(paths, tmp_path, monkeypatch):
    monkeypatch.setattr("textgan.analysis.plots.has_matplotlib", lambda: False)
    result = invoke(*paths, "--out", tmp_path / "out")
    assert "pip install 'textgan[plots]'" in result.stderr
    assert (tmp_path / "out" / "comparison.json").is_file()
    assert not list((tmp_path / "out").glob("*.png"))


def test_pairs_and_level(paths):
    options = ("--pair", "bleu_4,self_bleu_4", "--pair", "frechet_ngrams, self_bleu_4", "--level", "0.8", "--json")
    found = json.loads(invoke(*paths, *options).stdout)
    assert [(pair["quality"], pair["diversity"]) for pair in found["pairs"]] == [
        ("bleu_4", "self_bleu_4"),
        ("frechet_ngrams", "self_bleu_4"),
    ]
    assert found["level"] == 0.8
    assert "80 % band" in found["pairs"][0]["comparisons"][0]["sentence"]


def test_a_run_may_be_the_baseline(paths, tmp_path):
    rng = np.random.default_rng(5)
    other = write_run(tmp_path / "large", {"mle": front(rng, shift=0.02)}, overrides=["generator.n_embd=32"])
    for sampler, values in front(rng, shift=0.02).items():
        write_record(other, "mle", sampler, values, weights="large")
    for given in (paths, [*paths, other]):
        found = json.loads(invoke(*given, "--baseline", other, "--json").stdout)
        assert found["baseline"] == "large/mle"
        against = {c["against"] for pair in found["pairs"] for c in pair["comparisons"]}
        assert against == {"large/mle"}
    assert "gan/mle (3 seeds)" in invoke(*paths, other).stdout
    assert "no arm is called 'x'" in str(invoke(*paths, "--baseline", "x"))


@pytest.mark.parametrize(
    "args, told",
    [
        (("--pair", "bleu_4"), "--pair 'bleu_4' must be two metrics"),
        (("--split", "test"), "has no records of the test split"),
        (("--references", "x.txt"), "--references is for folders of texts, and only runs were given"),
        (("--embedder", "none"), "--embedder is for folders of texts"),
    ],
)
def test_what_cannot_be_done_is_told(paths, args, told):
    assert told in str(invoke(*paths, *args))


def test_signatures_that_differ_are_refused(paths):
    values = front(np.random.default_rng(0))["temperature=1"]
    write_record(paths[2], "mle", "temperature=1", values, seed=2, signature={**SIGNATURE, "texts": 5})
    assert "(texts differ)" in str(invoke(*paths))
    assert "mle * (3 seeds)" in invoke(*paths, "--mark-differences").stdout


def test_wrong_usage(tmp_path):
    assert "Missing argument" in invoke(code=2).stderr
    assert "is no folder" in str(invoke(tmp_path / "none"))
    assert "neither a run nor a folder of texts" in str(invoke(tmp_path, "--references", __file__, "--train", __file__))


def test_folders_of_texts_are_runs(folder, tmp_path):
    real = tmp_path / "real.txt"
    options = ("--references", real, "--train", real, "--embedder", "none", "--lm", "none")
    found = json.loads(invoke(folder, *options, "--json").stdout)
    assert [(arm["name"], arm["seeds"], len(arm["points"])) for arm in found["arms"]] == [
        ("mle", [1, 2], 3),
        ("gan", [1, 2], 3),
    ]
    assert (found["baseline"], found["split"], found["n"]) == ("mle", "files", 60)
    front_found, alike = found["pairs"][0]["comparisons"]
    assert alike["curve"] == "matched by length and novelty"
    assert (front_found["arm"], front_found["against"], front_found["seeds"]) == ("gan", "mle", 2)
    assert "lm_kn" not in {row["metric"] for row in found["table"]}
    fewer = json.loads(invoke(folder, *options, "--limit", 50, "--json").stdout)
    assert fewer["n"] == 50


def test_scores_are_kept_under_out(folder, tmp_path):
    real, out = tmp_path / "real.txt", tmp_path / "out"
    options = ("--references", real, "--train", real, "--embedder", "none", "--lm", "none", "--out", out)
    first = invoke(folder, *options)
    assert "12/12 mle_1.0_2.txt" in first.stderr
    again = invoke(folder, *options)
    assert "/12 " not in again.stderr
    assert again.stdout == first.stdout


def test_folders_of_texts_need_what_they_are_scored_with(folder, tmp_path):
    assert "give --references FILE" in str(invoke(folder))
    assert "give --train FILE" in str(invoke(folder, "--references", tmp_path / "real.txt"))


# Published by TextGAIL: three seeds of a language model and of its adversarial continuation, swept over temperature.
TEXTGAIL = ("0.6", "0.8", "1.0")


@pytest.mark.corpora
@pytest.mark.slow
@pytest.mark.parametrize("reference", ["test", "train"])
def test_textgail_wins_on_shifted_references_alone(corpora, tmp_path, reference):
    """Its authors' texts against Texygen's test captions, which have other topics than the training captions."""
    folder = tmp_path / "textgail"
    folder.mkdir()
    for path in (corpora / "peer_samples" / "textgail_coco").glob("*.txt"):
        if path.stem.split("_")[1] in TEXTGAIL:
            (folder / path.name).symlink_to(path)
    texts = corpora / "image_coco"
    options = ("--references", texts / f"{reference}.txt", "--train", texts / "train.txt", "--lowercase", "--json")
    found = json.loads(invoke(folder, *options, "--embedder", "none", "--lm", "none").stdout)
    values = {
        (arm["name"], point["sampler"], metric): point["values"][metric]["mean"]
        for arm in found["arms"]
        for point in arm["points"]
        for metric in ("bleu_4", "self_bleu_4", "copies")
    }
    # Self-BLEU-4 as another implementation found it, and BLEU-4 of either choice of references.
    for arm, expected in {
        "mle": (0.892, 0.712, 0.432),
        "textgail": (0.857, 0.651, 0.380),
    }.items():
        for temperature, value in zip(TEXTGAIL, expected, strict=True):
            sampler = f"temperature={float(temperature):g}"
            assert values[arm, sampler, "self_bleu_4"] == pytest.approx(value, abs=0.004)
    assert values["mle", "temperature=0.6", "copies"] == pytest.approx(0.126, abs=0.003)
    assert values["textgail", "temperature=0.6", "copies"] == pytest.approx(0.035, abs=0.003)
    compared, alike = found["pairs"][0]["comparisons"]
    if reference == "test":
        assert values["textgail", "temperature=0.8", "bleu_4"] == pytest.approx(0.498, abs=0.004)
        assert compared["share_dominated"] > 0.4  # much is guessed between three points
        assert alike["mean_delta"]["lower"] > 0  # neither length nor copying explains it
        assert compared["share_worse"] == 0
        assert found["real"]["c2st_acc"] > 0.8
        assert any("May be claimed for these references alone" in line for line in found["verdict"])
    else:
        assert values["textgail", "temperature=0.8", "bleu_4"] == pytest.approx(0.769, abs=0.012)
        assert compared["share_dominated"] == 0
        assert compared["mean_delta"]["upper"] < 0
        assert any("May not be claimed: any gain of textgail" in line for line in found["verdict"])
        (jaccard,) = [row for row in found["joint"] if row["metric"] == "ms_jaccard_4"]
        assert jaccard["difference"]["mean"] < 0

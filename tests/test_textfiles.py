"""Folders of text files as runs: names, formats, and what is kept."""

import json

import pytest

from textgan.analysis.measures import NgramMeasure
from textgan.analysis.study import build_study
from textgan.analysis.textfiles import decode_lines, score_files, text_files
from textgan.errors import UserError
from textgan.metrics.suite import Scorer

REAL = [f"a {animal} sits on the {place} ." for animal in ("cat", "dog", "bird") for place in ("mat", "sofa", "roof")]


def texts(number, shift=0):
    words = ("cat", "dog", "fox", "owl", "hen")
    return [f"a {words[(i + shift) % 5]} sits on the {('mat', 'sofa', 'bed')[i % 3]} {i % 7} ." for i in range(number)]


@pytest.fixture
def measures():
    return [NgramMeasure(Scorer(REAL, REAL, full=True))]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "peers"
    folder.mkdir()
    for seed in (1, 2):
        for temperature in ("0.5", "1.0"):
            for shift, arm in enumerate(("mle", "my_gan")):
                own = texts(60, shift + seed)
                lines = [json.dumps(text) for text in own] if arm == "mle" else own
                (folder / f"{arm}_{temperature}_{seed}.txt").write_text("\n".join(lines) + "\n")
    return folder


def read(folder):
    return {file: decode_lines(file.path.read_text().splitlines()) for file in text_files(folder)}


def test_names_say_arm_sampler_and_seed(tmp_path):
    names = ["mle_0.5_1.txt", "mle_1.0_1.txt", "my_gan_top_p=0.9_12.txt", "b_2_typical_p=0.50_0.txt", "leakgan.txt"]
    names += ["vae_z_temperature=0.5_0.txt", "vae_3_temperature=0.5_0.txt"]
    for name in names:
        (tmp_path / name).write_text("x\n")
    (tmp_path / "notes.md").write_text("x")
    assert [file[1:] for file in text_files(tmp_path)] == [
        ("b_2", "typical_p=0.5", 0),
        ("leakgan", "temperature=1", 0),
        ("mle", "temperature=0.5", 1),
        ("mle", "temperature=1", 1),
        ("my_gan", "top_p=0.9", 12),
        ("vae", "z_temperature=0.5", 0),
        ("vae_3", "temperature=0.5", 0),
    ]


@pytest.mark.parametrize(
    "names, told",
    [
        ([], "neither a run nor a folder of texts"),
        (["a_1.0_1.txt", "a_1_1.txt"], "a_1_1.txt and a_1.0_1.txt .* are the same point and seed"),
        (["a_top_p=1.5_1.txt"], "top_p"),
    ],
)
def test_names_that_cannot_be_used_are_told(tmp_path, names, told):
    for name in names:
        (tmp_path / name).write_text("x\n")
    with pytest.raises(UserError, match=told):
        text_files(tmp_path)


def test_json_strings_are_decoded_where_every_line_is_one():
    assert decode_lines(['"a \\"b\\""', '"c"']) == ['a "b"', "c"]
    for plain in (['"a"', "b"], ['"a" and "b"'], ["1", "2"], ['"a'], []):
        assert decode_lines(plain) == plain


def test_files_become_arms_with_the_scorers_values(folder, measures, tmp_path):
    sources = score_files(folder, read(folder), measures, tmp_path / "cache")
    assert [(source.title, source.seed) for source in sources] == [("peers", 1), ("peers", 2)]
    study = build_study(sources)
    assert list(study.arms) == ["mle", "my_gan"]
    assert (study.split, study.n) == ("files", 60)
    arm = study.arms["my_gan"]
    assert (arm.seeds, list(arm.records)) == ((1, 2), ["temperature=0.5", "temperature=1"])
    assert arm.runs == [str(folder)]
    expected = measures[0].scorer.score(texts(60, 3), groups=20)
    point = arm.records["temperature=1"][1].point
    assert point.values == pytest.approx(expected.values)
    assert point.groups["self_bleu_4"] == pytest.approx(expected.groups["self_bleu_4"])
    assert study.real == pytest.approx(measures[0].real(60))
    assert arm.records["temperature=1"][1].whole().texts == texts(60, 3)


def test_known_scores_are_kept_until_texts_or_measures_change(folder, measures, tmp_path):
    def scored():
        score_files(folder, read(folder), measures, tmp_path / "cache")
        files = (tmp_path / "cache").rglob("*=*.json")
        return {(path.parents[3].name, path.parent.name, path.name): path.stat().st_mtime_ns for path in files}

    first = scored()
    assert len(first) == 8
    assert scored() == first
    (folder / "my_gan_0.5_2.txt").write_text("\n".join(texts(60, 9)))
    second = scored()
    assert [key for key in first if first[key] != second[key]] == [("seed-2", "my_gan", "temperature=0.5.json")]
    measures[0] = NgramMeasure(Scorer(REAL[:5], REAL, full=True))
    assert all(second[key] != time for key, time in scored().items())


def test_files_of_other_sizes_do_not_compare(folder, measures, tmp_path):
    (folder / "my_gan_0.5_2.txt").write_text("\n".join(texts(50, 9)))
    sources = score_files(folder, read(folder), measures, tmp_path / "cache")
    with pytest.raises(UserError, match=r"texts.* differ"):
        build_study(sources)


def test_too_few_texts_are_told(folder, measures, tmp_path):
    (folder / "my_gan_0.5_2.txt").write_text("a b\n" * 39)
    with pytest.raises(UserError, match=r"my_gan_0\.5_2\.txt has 39 texts; at least 40"):
        score_files(folder, read(folder), measures, tmp_path / "cache")


def test_a_stop_leaves_whole_records(folder, measures, tmp_path):
    calls = []

    def stop():
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_files(folder, read(folder), measures, tmp_path / "cache", between=stop)
    assert len(list((tmp_path / "cache").rglob("*=*.json"))) == 3

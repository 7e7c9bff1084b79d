"""Corpora: splits by content, duplicates, overlaps, fingerprints, and corpora by name."""

import builtins
import hashlib
import importlib
import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgan.data.corpus import Row, _split_by_hash, load_corpus
from textgan.data.named_corpora import _hf_rows
from textgan.errors import UserError

TEXTS = [f"text number {i}" for i in range(400)]


def write(path, texts):
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "a.txt", TEXTS)


def test_the_hash_of_a_text_decides_its_split(file):
    corpus = load_corpus(file, dev_fraction=0.2, test_fraction=0.1)
    for text in TEXTS:  # by its hexadecimal digest: below a tenth is test, the highest fifth is dev
        place = int(hashlib.sha256(text.encode()).hexdigest(), 16) / 16**64
        split = "test" if place < 0.1 else "dev" if place >= 0.8 else "train"
        assert text in getattr(corpus, split)
    assert len(corpus.train) + len(corpus.dev) + len(corpus.test) == 400
    assert corpus.train == [text for text in TEXTS if text in set(corpus.train)]  # in the order of the file
    assert 50 <= len(corpus.dev) <= 110
    assert 20 <= len(corpus.test) <= 60
    assert corpus.report.sizes == {"train": len(corpus.train), "dev": len(corpus.dev), "test": len(corpus.test)}
    assert corpus.report.overlaps == {"dev in train": 0, "test in train": 0, "test in dev": 0}
    assert corpus.oracle is None


FRACTIONS = st.fixed_dictionaries({"dev": st.sampled_from([0.0, 0.1, 0.3]), "test": st.sampled_from([0.0, 0.2])})


@given(st.lists(st.text(max_size=8), max_size=60), st.lists(st.text(max_size=8), max_size=60), FRACTIONS)
def test_more_texts_never_move_the_others(texts, more, fractions):
    texts, more = ([Row(text) for text in part] for part in (texts, more))
    before, after = _split_by_hash(texts, fractions), _split_by_hash(texts + more, fractions)
    for split in before:
        assert after[split][: len(before[split])] == before[split]
    sets = [set(rows) for rows in after.values()]
    assert sum(map(len, sets)) == len(set.union(*sets))  # no text in two splits, duplicates or not


def test_one_fraction_leaves_the_other_split_alone(file):
    a = load_corpus(file, dev_fraction=0.1, test_fraction=0.1)
    b = load_corpus(file, dev_fraction=0.1, test_fraction=0.3)
    c = load_corpus(file, dev_fraction=0.3, test_fraction=0.1)
    assert a.dev == b.dev
    assert a.test == c.test
    assert set(a.test) < set(b.test)
    assert set(a.dev) < set(c.dev)


def test_duplicates_are_counted_and_dropped_or_kept(tmp_path):
    path = write(tmp_path / "a.txt", [*TEXTS, *TEXTS[:7], TEXTS[0]])
    dropped, kept = load_corpus(path), load_corpus(path, dedupe=False)
    assert dropped.report.duplicates == kept.report.duplicates == {"source": 8}
    assert (dropped.report.dropped, kept.report.dropped) == (8, 0)
    assert sum(dropped.report.sizes.values()) == 400
    assert sum(kept.report.sizes.values()) == 408
    assert set(kept.report.overlaps.values()) == {0}
    assert "duplicates in source: 8 (dropped)" in dropped.report.lines()
    assert "duplicates in source: 8 (kept)" in kept.report.lines()


def test_given_splits_are_taken_as_they_are_and_overlap_is_told(tmp_path):
    source = write(tmp_path / "a.txt", ["a", "b", "c", "a"])
    dev = write(tmp_path / "dev.txt", ["a", "x", "a", "y"])
    test = write(tmp_path / "test.txt", ["x", "b", "x", "z"])
    corpus = load_corpus(source, dev=dev, test=test)
    assert (corpus.train, corpus.dev, corpus.test) == (["a", "b", "c"], ["a", "x", "a", "y"], ["x", "b", "x", "z"])
    assert corpus.report.overlaps == {"dev in train": 2, "test in train": 1, "test in dev": 2}
    assert corpus.report.duplicates == {"source": 1, "dev": 1, "test": 1}
    assert corpus.report.formats == {"lines": 3}
    assert corpus.report.lines()[-1] == "overlap of the splits: 2 dev in train, 1 test in train, 2 test in dev"


def test_a_missing_split_is_made_beside_a_given_one(file, tmp_path):
    test = write(tmp_path / "test.txt", ["x", "y"])
    corpus = load_corpus(file, test=test, dev_fraction=0.2, test_fraction=0.3)
    assert corpus.test == ["x", "y"]
    assert corpus.dev == load_corpus(file, dev_fraction=0.2, test_fraction=0.3).dev
    assert len(corpus.train) + len(corpus.dev) == 400


def test_no_held_out_texts_where_none_are_wanted(file):
    corpus = load_corpus(file, dev_fraction=0, test_fraction=0)
    assert (corpus.train, corpus.dev, corpus.test) == (TEXTS, [], [])


def test_lower_case_comes_before_duplicates(tmp_path):
    path = write(tmp_path / "a.txt", ["One", "one", "TWO"])
    corpus = load_corpus(path, lowercase=True, dev_fraction=0, test_fraction=0)
    assert corpus.train == ["one", "two"]


def test_the_fingerprint_tells_the_texts_of_the_splits(file, tmp_path):
    first = load_corpus(file).fingerprint
    assert len(first) == 64
    assert load_corpus(write(tmp_path / "copy.txt", TEXTS)).fingerprint == first
    others = [
        load_corpus(file, dev_fraction=0.1).fingerprint,
        load_corpus(write(tmp_path / "b.txt", [*TEXTS[:-1], "other"])).fingerprint,
        load_corpus(write(tmp_path / "c.txt", TEXTS[::-1])).fingerprint,
    ]
    assert len({first, *others}) == 4
    whole = {"dev_fraction": 0, "test_fraction": 0}
    pair = (write(tmp_path / "d.txt", ["ab", "c"]), write(tmp_path / "e.txt", ["a", "bc"]))
    assert len({load_corpus(path, **whole).fingerprint for path in pair}) == 2


def test_the_report_is_plain(tmp_path):
    path = write(tmp_path / "a.txt", ["a", "", "b", "a"])
    report = load_corpus(path, format="lines", dev_fraction=0, test_fraction=0).report
    assert json.loads(json.dumps(report.to_dict())) == {
        "source": str(path),
        "texts": 3,
        "formats": {"lines": 1},
        "blank": 1,
        "duplicates": {"source": 1},
        "dropped": 1,
        "kept_out": 0,
        "sizes": {"train": 2, "dev": 0, "test": 0},
        "overlaps": {"dev in train": 0, "test in train": 0, "test in dev": 0},
        "labels": {},
    }
    assert report.lines() == [
        f"corpus {path}: 3 texts (1 file as lines); 1 blank skipped",
        "splits: train 2, dev 0, test 0",
        "duplicates in source: 1 (dropped)",
        "overlap of the splits: none",
    ]


@pytest.mark.parametrize(
    "source, options, message",
    [
        ("storeis", {}, "no file or folder 'storeis', nor a corpus of that name; .*did you mean 'stories'"),
        ("/nowhere/a.txt", {}, "no file or folder '/nowhere/a.txt'"),
        ("stories", {"size": 0}, "size=0 must be at least 1"),
        ("stories", {"dev_fraction": 0.5, "test_fraction": 0.5}, "must leave something to train on"),
        ("stories", {"dev_fraction": -0.1}, "must not be negative"),
        ("nltk:broown", {}, "NLTK has no corpus 'broown'; did you mean brown"),
        ("nltk:brown:words", {}, "unknown unit 'words'"),
    ],
)
def test_impossible_wishes_are_refused(source, options, message):
    with pytest.raises(UserError, match=message):
        load_corpus(source, **options)


def test_an_empty_split_is_refused(tmp_path):
    path = write(tmp_path / "a.txt", ["just one"])
    with pytest.raises(UserError, match=r"dev is empty: none of 1 text fell.*or give data\.dev a file$"):
        load_corpus(path)
    with pytest.raises(UserError, match=r"test is empty.*set test_fraction to 0 to go without$"):
        load_corpus(path, dev_fraction=0.0, test_fraction=1e-9)
    with pytest.raises(UserError, match="no text is left to train on"):
        load_corpus(path, dev_fraction=0.0, test_fraction=0.9999)


# --- labels


def test_labels_follow_their_texts_into_the_splits(tmp_path):
    rows = [{"text": f"{text} ", "stars": i % 5} for i, text in enumerate(TEXTS)]
    rows += [{"text": TEXTS[0], "stars": 9}, {"text": " ", "stars": 9}]  # a copy, and a blank text
    path = write(tmp_path / "a.jsonl", map(json.dumps, rows))
    expected = {row["text"].strip(): str(row["stars"]) for row in reversed(rows)}
    corpus = load_corpus(path, label="stars", dev_fraction=0.2, test_fraction=0.2)
    for split in ("train", "dev", "test"):
        texts = getattr(corpus, split)
        assert corpus.labels[split] == [expected[text] for text in texts]
        assert len(set(corpus.labels[split])) == 5
    counts = {label: corpus.labels["train"].count(label) for label in "01234"}
    assert corpus.report.labels == counts
    assert list(corpus.report.labels.values()) == sorted(counts.values(), reverse=True)
    without = load_corpus(path, dev_fraction=0.2, test_fraction=0.2)
    assert without.fingerprint == corpus.fingerprint
    assert set(without.labels["train"]) == {None}
    kept = load_corpus(path, label="stars", dedupe=False, dev_fraction=0, test_fraction=0)
    assert kept.labels["train"][-1] == "9"
    assert kept.labels["dev"] == []


def test_texts_of_several_files_are_labelled_by_their_file(tmp_path):
    for name, texts in (("bad", ["awful", "Fine"]), ("good", ["great", "fine", "nice"])):
        write(tmp_path / f"{name}.txt", texts)
    corpus = load_corpus(tmp_path, dev=tmp_path / "bad.txt", lowercase=True, test_fraction=0)
    assert dict(zip(corpus.train, corpus.labels["train"], strict=True)) == {
        "awful": "bad",
        "fine": "bad",  # that of the first copy
        "great": "good",
        "nice": "good",
    }
    assert corpus.labels["dev"] == [None, None]  # one file
    assert corpus.report.lines()[2] == "labels of train: bad 2, good 2"


def test_many_labels_are_not_all_shown(tmp_path):
    path = write(tmp_path / "a.jsonl", [json.dumps({"text": f"t{i}", "id": i}) for i in range(30)])
    report = load_corpus(path, label="id", dev_fraction=0, test_fraction=0).report
    assert report.lines()[2].endswith("11 1 and 18 more")


def test_a_pattern_is_a_source_and_a_split(tmp_path):
    for name in ("train.0", "train.1", "dev.0", "dev.1"):
        write(tmp_path / name, [f"{name} {i}" for i in range(3)])
    corpus = load_corpus(tmp_path / "train.*", dev=tmp_path / "dev.*", format="lines", test_fraction=0)
    assert corpus.train == [f"train.{k} {i}" for k in range(2) for i in range(3)]
    assert corpus.labels["dev"] == ["dev.0"] * 3 + ["dev.1"] * 3
    with pytest.raises(UserError, match=r"no file or folder '.*nothing\.\*'"):
        load_corpus(tmp_path / "nothing.*")


@pytest.mark.parametrize("source", ["lstm-oracle", "nltk:brown"])
def test_labels_of_texts_without_fields_are_refused(source):
    with pytest.raises(UserError, match=f"texts of {source} have no field 'genre' for a label"):
        load_corpus(source, label="genre")


def test_drawn_texts_have_no_labels():
    assert load_corpus("stories", size=40).labels["train"] == [None] * 40


# --- drawn from an oracle


@pytest.mark.parametrize("name", ["stories", "stories-zh"])
def test_stories_are_drawn_with_their_oracle(name):
    corpus = load_corpus(name, size=60, dev_fraction=0.1, test_fraction=0.2)
    assert [len(corpus.train), len(corpus.dev), len(corpus.test)] == [60, 6, 12]
    for text in corpus.train + corpus.dev + corpus.test:
        assert math.isfinite(corpus.oracle.log_prob(text))
        assert corpus.oracle.explain(text) is None
    assert corpus.oracle.log_prob("no such story") == -math.inf
    again = load_corpus(name, size=60, dev_fraction=0.1, test_fraction=0.2)
    assert again.fingerprint == corpus.fingerprint
    other = load_corpus(name, size=60, dev_fraction=0.1, test_fraction=0.2, seed=1)
    assert not set(other.train) & set(corpus.train)
    assert load_corpus(name, size=80).train[:60] == corpus.train


def test_stories_come_back_from_words():
    from textgan.data.words import join_words, split_words

    for text in load_corpus("stories", size=300).train:
        assert join_words(split_words(text)) == text


class Dice:
    """A tiny source, where chance repeats itself."""

    def sample_many(self, n, seed):
        rng = random.Random(seed)
        return [f"Throw {rng.randint(1, 12)}" for _ in range(n)]


def test_drawn_texts_are_a_true_sample_and_held_out_ones_are_new(monkeypatch):
    monkeypatch.setattr("textgan.data.corpus.ORACLES", {"dice": lambda length: Dice()})
    corpus = load_corpus("dice", size=12, dev_fraction=0.45, test_fraction=0.45)
    assert len(corpus.train) == 12
    assert len(set(corpus.train)) < 12  # duplicates belong to a sample
    assert corpus.report.duplicates == {"source": 12 - len(set(corpus.train))}
    assert corpus.report.dropped == 0
    assert not set(corpus.train) & set(corpus.dev + corpus.test)
    assert corpus.report.kept_out == 10 - len(corpus.dev) - len(corpus.test) > 0
    with pytest.raises(UserError, match="dev is empty"):
        load_corpus("dice", size=100)


def test_the_lstm_oracle_is_a_corpus():
    pytest.importorskip("textgan.data.lstm_oracle")
    corpus = load_corpus("lstm-oracle", size=5, dev_fraction=0.2, test_fraction=0.2, oracle_length=20)
    assert len(corpus.train) == 5
    assert all(len(text.split()) == 20 for text in corpus.train)
    assert math.isfinite(corpus.oracle.log_prob(corpus.train[0]))


# --- NLTK


@pytest.fixture
def nltk_data(tmp_path, monkeypatch):
    corpora = importlib.import_module("nltk.corpus")
    reader = corpora.CategorizedTaggedCorpusReader
    # A fresh loader of the test's own, since NLTK's keeps the folder that it found first.
    brown = corpora.LazyCorpusLoader("brown", reader, r"c[a-z]\d\d", cat_file="cats.txt", tagset="brown")
    monkeypatch.setattr(corpora, "brown", brown)
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    folder = tmp_path / "corpora" / "brown"
    folder.mkdir(parents=True)
    return folder


def test_nltk_corpora_by_sentence_and_paragraph(nltk_data):
    (nltk_data / "cats.txt").write_text("ca01 news\n")
    tagged = "The/at dog/nn ran/vbd ./.\n``/`` Is/bez it/pps ?/. ''/''\n\n\nTwo/cd cats/nns slept/vbd ./.\n"
    (nltk_data / "ca01").write_text(tagged)
    corpus = load_corpus("nltk:brown", dev_fraction=0, test_fraction=0)
    assert corpus.train == ["The dog ran.", '"Is it?"', "Two cats slept."]
    corpus = load_corpus("nltk:brown:paras", dev_fraction=0, test_fraction=0)
    assert corpus.train == ['The dog ran. "Is it?"', "Two cats slept."]


def test_missing_nltk_data_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    with pytest.raises(UserError, match=r"data 'treebank' is not .*: python -m nltk.downloader treebank$"):
        load_corpus("nltk:treebank")


# --- Hugging Face


@pytest.fixture
def hf_folder(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "tales"
    folder.mkdir()

    def add(split, rows):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return f"hf:{folder}"

    return add


def test_hugging_face_data_with_its_own_splits(hf_folder):
    hf_folder("train", [{"story": "a"}, {"story": " "}, {"story": "b"}, {"story": "a"}])
    name = hf_folder("test", [{"story": "b"}, {"story": "c"}])
    corpus = load_corpus(name, field="story", dev_fraction=0)
    assert (corpus.train, corpus.dev, corpus.test) == (["a", "b"], [], ["b", "c"])
    assert corpus.report.overlaps["test in train"] == 1
    assert corpus.report.blank == 1


def test_hugging_face_labels(hf_folder):
    hf_folder("train", [{"story": "a", "k": 1}, {"story": " ", "k": 2}, {"story": "b", "k": None}])
    name = hf_folder("test", [{"story": "c", "k": 3}])
    corpus = load_corpus(name, field="story", label="k", dev_fraction=0)
    assert (corpus.labels["train"], corpus.labels["test"]) == (["1", None], ["3"])
    with pytest.raises(UserError, match="train: no column 'stars'; there are: story, k"):
        load_corpus(name, field="story", label="stars", dev_fraction=0)


def test_hugging_face_classes_are_named(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    labelled = _hf_rows(rows, "text", "label", None, "place")
    assert labelled == [("a", "yes", None), ("b", "no", None), ("c", None, None)]
    assert [row[2] for row in _hf_rows(rows, "text", None, "text", "place")] == ["a", "b", "c"]


def test_hugging_face_data_of_lists_is_joined_and_split(hf_folder):
    name = hf_folder("train", [{"pages": [f"page {i}", "end"]} for i in range(60)])
    corpus = load_corpus(name, field="pages", dev_fraction=0.2, test_fraction=0.2)
    assert sorted(corpus.train + corpus.dev + corpus.test) == sorted(f"page {i}\n\nend" for i in range(60))


def test_faults_of_hugging_face_data_are_one_line(hf_folder, tmp_path, monkeypatch):
    name = hf_folder("test", [{"story": "b"}])
    with pytest.raises(UserError, match="has no split 'train'; it has: test"):
        load_corpus(name)
    hf_folder("train", [{"story": "b"}])
    with pytest.raises(UserError, match="train: no column 'text'; there are: story"):
        load_corpus(name)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="cannot load the data set hf:") as error:
        load_corpus(f"hf:{empty}")
    assert "\n" not in str(error.value)

    real_import = builtins.__import__

    def without_datasets(name, *args, **kwargs):
        if name == "datasets":
            raise ImportError
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_datasets)
    with pytest.raises(UserError, match=r"needs the library datasets: pip install 'textgan\[hf\]'"):
        load_corpus(name)


@pytest.mark.corpora
def test_the_captions(corpora):
    folder = corpora / "image_coco"
    legacy = load_corpus(folder / "train.txt", test=folder / "test.txt", dedupe=False)
    assert len(legacy.train) + len(legacy.dev) == 10_000
    assert len(legacy.test) == 10_000
    assert len(set(legacy.train + legacy.dev) & set(legacy.test)) == 7  # as ../shared/data/README.md counts
    pooled = load_corpus(folder)
    assert set(pooled.report.overlaps.values()) == {0}

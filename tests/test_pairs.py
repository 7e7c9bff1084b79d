"""Pairs of a condition and a text: read, split, laid out as rows, and what of them is learned."""

import json

import pytest
import torch
import torch.nn.functional as F

from textgan.config import Config
from textgan.data.corpus import load_corpus
from textgan.data.dataset import Batch, TokenDataset, build_dataset
from textgan.data.pairs import ends_visibly, openings_of, with_other_openings
from textgan.data.readers import read_texts
from textgan.data.story_features import story_condition
from textgan.data.tokenizer import train_tokenizer
from textgan.errors import UserError
from textgan.models.generator import Generator
from textgan.training.calibrate import calibrate
from textgan.training.evaluation import text_nll
from textgan.training.objectives import mle_loss

TEMPLATE = "{condition} |\n"


def jsonl(path, *records):
    path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records), encoding="utf-8")
    return path


def pairs(path, n, texts=1):
    return jsonl(path, *({"title": f"title {i}", "text": f"text {i} {k}"} for i in range(n) for k in range(texts)))


def test_conditions_are_read_from_jsonl_and_csv_and_lists_are_joined(tmp_path):
    file = jsonl(
        tmp_path / "a.jsonl",
        {"keys": ["dog", " lost "], "text": "A dog ran."},
        {"keys": " 猫 ", "text": "猫跑了。"},
        {"keys": "", "text": " "},
    )
    reading = read_texts(file, condition="keys")
    assert (reading.conditions, reading.texts, reading.blank) == (["dog, lost", "猫"], ["A dog ran.", "猫跑了。"], 1)
    (tmp_path / "a.csv").write_text('title,text\n"A, b",One.\n')
    assert read_texts(tmp_path / "a.csv", condition="title").conditions == ["A, b"]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"text": "b"}, r"a.jsonl:2: no field 'title' for a condition; there are: text"),
        ({"title": " ", "text": "b"}, r"a.jsonl:2: field 'title' is empty"),
        ({"title": [], "text": "b"}, r"a.jsonl:2: field 'title' is empty"),
        ({"title": None, "text": "b"}, r"a.jsonl:2: field 'title' is empty"),
        ({"title": 3, "text": "b"}, r"a.jsonl:2: field 'title' holds a int"),
        ("b", r"a.jsonl:2: a JSON string, which has no field 'title' for a condition"),
    ],
)
def test_a_text_without_condition_is_refused_with_its_line(tmp_path, second, message):
    file = jsonl(tmp_path / "a.jsonl", {"title": "x", "text": "a"}, second)
    with pytest.raises(UserError, match=message):
        read_texts(file, condition="title")


def test_files_without_fields_and_embedded_corpora_have_no_conditions(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match="read as lines, which has no field 'title' for a condition"):
        load_corpus(tmp_path / "a.txt", condition="title")
    with pytest.raises(UserError, match="lstm-oracle have no field 'title' for a condition"):
        load_corpus("lstm-oracle", condition="title")
    (tmp_path / "a.csv").write_text("title,text\n,One.\n")
    with pytest.raises(UserError, match=r"a.csv:2: field 'title' is empty"):
        read_texts(tmp_path / "a.csv", condition="title")


def test_all_texts_of_a_condition_are_in_one_split_and_copies_are_those_of_pairs(tmp_path):
    file = pairs(tmp_path / "a.jsonl", 60, texts=3)
    corpus = load_corpus(file, condition="title", dev_fraction=0.3, test_fraction=0.3)
    sets = [set(corpus.conditions[split]) for split in ("train", "dev", "test")]
    assert all(sets)
    assert sum(map(len, sets)) == 60
    for split in ("train", "dev", "test"):
        for condition, text in zip(corpus.conditions[split], getattr(corpus, split), strict=True):
            assert condition.split()[1] == text.split()[1]
    assert not any(corpus.report.overlaps.values())
    refrain = jsonl(tmp_path / "r.jsonl", *({"title": f"t {i}", "text": "same"} for i in range(60)))
    assert not any(load_corpus(refrain, condition="title", dev_fraction=0.5, test_fraction=0).report.overlaps.values())
    same = [{"title": t, "text": "same"} for t in ("x", "y", "x")]
    given = jsonl(tmp_path / "b.jsonl", *same)
    other = load_corpus(given, condition="title", dev_fraction=0, test_fraction=0)
    assert other.conditions["train"] == ["x", "y"]
    assert other.report.dropped == 1
    assert len(load_corpus(given, dev_fraction=0, test_fraction=0).train) == 1
    renamed = jsonl(tmp_path / "c.jsonl", *({**r, "title": r["title"] + "!"} for r in same))
    assert load_corpus(renamed, condition="title", dev_fraction=0, test_fraction=0).fingerprint != other.fingerprint
    lower = load_corpus(jsonl(tmp_path / "d.jsonl", {"title": "A Dog", "text": "B"}), condition="title",
                        dev_fraction=0, test_fraction=0, lowercase=True)  # fmt: skip
    assert (lower.conditions["train"], lower.train) == (["a dog"], ["b"])


@pytest.mark.parametrize("kind", ["word", "char", "bpe"])
@pytest.mark.parametrize(
    ("conditions", "texts"), [(["A dog", "Two cats"], ["It ran.", "They sat."]), (["猫"], ["跑了"])]
)
def test_a_row_is_eos_opening_text_eos(kind, conditions, texts):
    openings = openings_of(TEMPLATE, conditions)
    size = 300 if kind == "bpe" else None
    tokenizer = train_tokenizer(kind, [*openings, *texts], vocab_size=size, min_count=1)
    data, _ = build_dataset(texts, tokenizer, block_size=40, too_long="drop", openings=openings)
    eos = tokenizer.eos_id
    assert ends_visibly(tokenizer, TEMPLATE, conditions[0])
    for i, (opening, text) in enumerate(zip(openings, texts, strict=True)):
        before, own = tokenizer.encode(opening), tokenizer.encode(text)
        batch = data.batch([i])
        assert batch.ids[0].tolist() == [eos, *before, *own, eos]
        assert batch.targets[batch.mask].tolist() == [*own, eos]
        assert data.opening(i) == before
        assert batch.openings[0].tolist() == before
        assert data.select(torch.tensor([i])).opening(0) == before
    assert data.counted.tolist() == [len(tokenizer.encode(text)) + 1 for text in texts]


def test_white_space_alone_does_not_show_where_a_condition_ends():
    word, char = (train_tokenizer(kind, ["a b\n\n"], vocab_size=None, min_count=1) for kind in ("word", "char"))
    assert not ends_visibly(word, "{condition}\n\n", "a b")
    assert ends_visibly(char, "{condition}\n\n", "a b")


def test_the_opening_counts_for_what_is_too_long():
    tokenizer = train_tokenizer("word", ["a b c |"], vocab_size=None, min_count=1)
    openings = openings_of(TEMPLATE, ["a", "a b c"])
    data, long = build_dataset(["b c", "b c"], tokenizer, block_size=5, too_long="drop", openings=openings)
    assert (long, data.lengths.tolist(), data.origins.tolist()) == (1, [5], [0])


def example():
    """Rows [eos] opening text [eos] of openings 2, 0 and 3 long."""
    rows = [[0, 1, 2, 3, 0], [0, 4, 5, 6, 1, 0], [0, 1, 1, 2, 6, 5, 0]]
    offsets = torch.tensor([0, 5, 11, 18])
    return rows, TokenDataset(
        torch.tensor([token for row in rows for token in row]), offsets, 0, starts=torch.tensor([2, 0, 3])
    )


def test_openings_are_left_out_of_chosen_rows():
    rows, data = example()
    batch = data.batch([0, 1, 2]).without_openings(torch.tensor([True, True, False]))
    assert batch.starts.tolist() == [0, 0, 3]
    assert batch.lengths.tolist() == [2, 5, 6]
    assert batch.ids[0].tolist() == [0, 3, 0, 0, 0, 0, 0]
    assert batch.ids[2].tolist() == rows[2]
    assert batch.ids[1].tolist() == [*rows[1], 0]
    all_out = data.batch([0, 2]).without_openings(torch.tensor([True, True]))
    assert all_out.ids.tolist() == [[0, 3, 0, 0], [0, 6, 5, 0]]
    assert all_out.counted.tolist() == [2, 3]


@torch.no_grad()
def by_hand(generator, rows, starts):
    """Summed NLL of each row's text, one token at a time."""
    found = []
    for row, start in zip(rows, starts, strict=True):
        nll = 0.0
        for t in range(start + 1, len(row)):
            nll -= F.log_softmax(generator(torch.tensor([row[:t]]))[0, -1], -1)[row[t]].item()
        found.append(nll)
    return found


def test_loss_and_likelihood_are_of_the_text_alone():
    rows, data = example()
    torch.manual_seed(0)
    generator = Generator(7, 8, 1, 2, 8, dropout=0.0)
    expected = by_hand(generator, rows, [2, 0, 3])
    batch = data.batch([0, 1, 2])
    assert mle_loss(generator, batch, 10.0).item() == pytest.approx(sum(expected) / 10, rel=1e-5)
    nll = text_nll(generator, data, batch_size=2, device=torch.device("cpu"))
    assert nll.tolist() == pytest.approx(expected, rel=1e-5)
    fitted = calibrate(generator, data, unk_id=None, device=torch.device("cpu"))
    assert fitted["nll_before"] == pytest.approx(sum(expected) / (2 + 5 + 3), rel=1e-5)


def test_rows_without_conditions_have_no_starts():
    batch = TokenDataset(torch.tensor([0, 1, 0]), torch.tensor([0, 3]), 0).batch([0])
    assert batch.starts is None
    assert batch.mask.tolist() == [[True, True]]
    assert batch.openings.shape == (1, 0)
    assert isinstance(batch.to("cpu"), Batch)
    assert batch.to("cpu").starts is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"template": "x {condition}"}, "template='x {condition}' has no effect without `condition`"),
        ({"condition_dropout": 0.1}, "condition_dropout=0.1 has no effect without `condition`"),
        ({"condition": "t", "template": "no place"}, "must hold {condition} exactly once"),
        ({"condition": "t", "template": "{condition}{condition}"}, "must hold {condition} exactly once"),
        ({"condition": "t", "too_long": "window"}, "too_long=window would cut texts from their condition"),
        ({"condition": "t", "condition_dropout": 1}, "less than 1"),
    ],
)
def test_settings_of_conditions_that_do_not_go_together_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        Config.model_validate({"data": data})


@pytest.mark.parametrize(
    ("source", "name", "examples"),
    [
        ("stories", "title", {"Mia and the river", "Leo and the cave"}),
        ("stories", "keywords", {"Leo, cave, wizard, lantern, sunny"}),
        ("stories", "luck", {"good", "bad", "none"}),
        ("stories-zh", "title", {"豆豆和小猫"}),
    ],
)
def test_embedded_stories_have_conditions_that_their_text_tells(source, name, examples):
    corpus = load_corpus(source, condition=name, size=3000, dev_fraction=0.1, test_fraction=0)
    assert examples <= set(corpus.conditions["train"])
    hero_comes_first = 0
    for condition, text in zip(corpus.conditions["train"], corpus.train, strict=True):
        assert story_condition(corpus.oracle, text, name) == condition
        hero_comes_first += name == "luck" or condition.replace("和", " ").replace(",", "").split()[0] in text
    assert hero_comes_first == len(corpus.train)
    assert story_condition(corpus.oracle, "No story.", name) is None
    assert len(corpus.conditions["dev"]) == len(corpus.dev)


def test_what_embedded_stories_do_not_tell_is_refused():
    with pytest.raises(UserError, match=r"data.condition=titel: stories have no such feature; did you mean 'title'"):
        load_corpus("stories", condition="titel")
    with pytest.raises(UserError, match=r"data.label=title: stories have no such feature"):
        load_corpus("stories", label="title")


def test_other_openings_are_the_next_that_differ():
    _, data = example()
    others, rows = with_other_openings(data, 8)
    assert rows.tolist() == [0, 1, 2]
    assert [others.opening(i) for i in range(3)] == [[], [1, 1, 2], [1, 2]]
    texts = [
        others.tokens[a + 1 + s : b].tolist()
        for a, b, s in zip(others.offsets, others.offsets[1:], others.starts, strict=False)
    ]
    assert texts == [[3, 0], [4, 5, 6, 1, 0], [6, 5, 0]]
    assert with_other_openings(data, 7)[1].tolist() == [0, 2]  # the longest text has no room behind three more
    tokens = torch.tensor([0, 7, 1, 0, 0, 7, 2, 0, 0, 7, 3, 0, 0, 8, 4, 0])
    repeats = TokenDataset(tokens, torch.arange(0, 17, 4), 0, starts=torch.ones(4, dtype=torch.long))
    assert [with_other_openings(repeats, 9)[0].opening(i) for i in range(4)] == [[8], [8], [8], [7]]
    same = repeats.select(torch.tensor([0, 1]))
    assert with_other_openings(same, 9)[1].tolist() == []


def test_a_vae_has_no_conditions():
    with pytest.raises(ValueError, match=r"data.condition=t: a VAE writes from its latent alone"):
        Config.model_validate({"data": {"condition": "t"}, "mle": None, "vae": {}})


def test_a_classifier_reads_texts_alone():
    only = {"mle": None, "adversarial": None, "classifier": {}}
    with pytest.raises(ValueError, match=r"data.condition=t: a classifier reads texts alone"):
        Config.model_validate({"data": {"condition": "t", "label": "l"}, **only})
    with pytest.raises(ValueError, match="a classifier trains all its weights: drop the `adapter` section"):
        Config.model_validate({"data": {"label": "l"}, "adapter": {"kind": "lora"}, **only})

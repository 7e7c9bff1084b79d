"""Values that papers report: what is shipped, and when it becomes a mark beside one's own."""

import pytest

from textgan.analysis.protocols import find_protocol
from textgan.analysis.published import published_for, published_values
from textgan.metrics.suite import Scorer

COCO = {"protocol": "image-coco-legacy v1", "split": "test"}
NEWS = {"protocol": "emnlp-news v1", "split": "test"}


def named(rows):
    return {row["label"]: row["values"] for row in rows}


def test_every_row_says_where_it_is_from():
    rows = published_values()
    assert len(rows) > 50
    for row in rows:
        assert all(row[key] for key in ("label", "source", "protocol", "values"))
        assert all(isinstance(value, float) and value > 0 for value in row["values"].values())
    for protocol in (COCO["protocol"], NEWS["protocol"]):
        assert str(find_protocol(protocol.split()[0])) == protocol  # a mark that no run can meet would be lost


def test_texygens_table_is_shown_under_its_protocol():
    marks = published_for(COCO, 10_000)
    assert named(marks)["LeakGAN"] == {
        **dict(zip((f"bleu_{n}" for n in (2, 3, 4, 5)), (0.746, 0.528, 0.355, 0.230), strict=True)),
        **dict(zip((f"self_bleu_{n}" for n in (2, 3, 4, 5)), (0.966, 0.913, 0.848, 0.780), strict=True)),
    }
    assert named(marks)["RelGAN (100)"]["bleu_5"] == 0.331
    assert all("Texygen" in mark["source"] or "RelGAN" in mark["source"] for mark in marks)
    assert "training text" not in named(marks)  # of another copy of the captions


def test_self_bleu_needs_as_many_texts():
    for n, shown in ((1000, False), (9500, True), (10_400, True), (11_000, False)):
        assert ("self_bleu_4" in named(published_for(COCO, n))["LeakGAN"]) is shown, n
        assert named(published_for(COCO, n))["LeakGAN"]["bleu_4"] == 0.355


@pytest.mark.parametrize(
    "signature",
    [
        {"protocol": "image-coco-resplit v1", "split": "dev"},
        {**COCO, "protocol": "image-coco-legacy v2"},
        {**NEWS, "split": "dev"},
        {"protocol": None, "split": "test", "references_sha256": "0" * 16, "tokenize": "words", "lowercase": True},
        {},
        {"references_sha256": None, "tokenize": "words", "lowercase": True},
    ],
)
def test_no_marks_elsewhere(signature):
    assert published_for(signature, 10_000) == []


@pytest.mark.corpora
def test_files_against_the_same_references_get_them(corpora):
    references = (corpora / "image_coco" / "test.txt").read_text().split("\n")
    for lowercase, shown in ((True, True), (False, False)):
        signature = Scorer(references, lowercase=lowercase).signature(9984)
        assert bool(published_for(signature, 9984)) is shown
    news = (corpora / "emnlp_news" / "test.txt").read_text().splitlines()
    marks = published_for(Scorer(news, tokenize="whitespace", lowercase=True).signature(10_000), 10_000)
    assert {"bleu_5", "self_bleu_5"} == set(named(marks)["FM-GAN"])

"""TensorBoard's projector: what its own plugin serves is what was written, whatever was written before."""

import builtins
import io
import types

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
from torch.utils.tensorboard import SummaryWriter
from werkzeug.test import Client

from textgan.data.corpus import load_corpus
from textgan.data.dataset import build_dataset
from textgan.data.tokenizer import train_tokenizer
from textgan.training import projector
from textgan.training.projector import project_dev, sentiment, text_columns, write_projector

VECTORS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
COLUMNS = {"text": ["a b", "c", "d\te\n", "", "f"], "tokens": [2, 1, 2, 0, 1]}


class Served:
    """The projector's plugin as TensorBoard runs it on a folder of runs."""

    def __init__(self, logdir):
        runs = plugin_event_multiplexer.EventMultiplexer()
        runs.AddRunsFromDirectory(str(logdir))
        runs.Reload()
        context = base_plugin.TBContext(
            logdir=str(logdir), data_provider=data_provider.MultiplexerDataProvider(runs, str(logdir))
        )
        self.apps = ProjectorPlugin(context).get_plugin_apps()

    def get(self, route, **query):
        response = Client(self.apps[route]).get("/", query_string=query)
        assert response.status_code == 200, response.data
        return response

    def entries(self, run):
        found = self.get("/info", run=run).json["embeddings"]
        return {entry["tensorName"]: entry["tensorShape"] for entry in found}

    def vectors(self, run, name, width):
        return np.frombuffer(self.get("/tensor", run=run, name=name).data, dtype="float32").reshape(-1, width)

    def table(self, run, name):
        lines = io.StringIO(self.get("/metadata", run=run, name=name).text).read().splitlines()
        return [line.split("\t") for line in lines]


@pytest.fixture
def folder(tmp_path):
    SummaryWriter(str(tmp_path / "runs" / "one")).close()  # TensorBoard looks where events are
    return tmp_path / "runs" / "one"


def test_tensorboard_serves_what_was_written(folder):
    assert write_projector(folder, VECTORS, COLUMNS, name="means") == folder / "projector_config.pbtxt"
    served = Served(folder.parent)
    assert served.get("/runs").json == ["one"]
    assert served.entries("one") == {"means": [5, 3]}
    np.testing.assert_allclose(served.vectors("one", "means", 3), VECTORS.numpy(), rtol=1e-4)
    assert served.table("one", "means") == [
        ["text", "tokens"],
        ["a b", "2"],
        ["c", "1"],
        ["d e", "2"],  # a tab or line break would shift the columns
        ["(empty)", "0"],
        ["f", "1"],
    ]


def test_written_again_an_entry_is_replaced_and_others_stay(folder):
    write_projector(folder, VECTORS, COLUMNS, name="means")
    write_projector(folder, VECTORS[:2, :2], {"text": ["x", "y"]}, name="codes")
    write_projector(folder, -VECTORS, COLUMNS, name="means")
    served = Served(folder.parent)
    assert served.entries("one") == {"means": [5, 3], "codes": [2, 2]}
    np.testing.assert_allclose(served.vectors("one", "means", 3), -VECTORS.numpy(), rtol=1e-4)
    assert served.table("one", "codes") == [["text", "row"], ["x", "0"], ["y", "1"]]  # a header needs two columns
    assert (folder / "projector_config.pbtxt").read_text().count("embeddings") == 2
    assert not list(folder.rglob("*.new"))
    assert served.get("/runs").json == ["one"]  # no run of its own


@pytest.mark.parametrize("vectors, columns", [(VECTORS[:4], COLUMNS), (VECTORS[0], COLUMNS), (VECTORS, {})])
def test_what_does_not_fit_is_refused(vectors, columns, folder):
    with pytest.raises(ValueError, match="do not fit columns"):
        write_projector(folder, vectors, columns, name="means")


# --- the columns


def test_texts_are_shortened_and_labels_and_feelings_left_out_where_there_are_none():
    long = "word " * 40
    columns = text_columns([long, "a\n b"], tokens=[40, 2], labels=[None, None])
    assert list(columns) == ["text", "tokens", "characters"]
    assert (columns["tokens"], columns["characters"]) == ([40, 2], [200, 4])
    assert columns["text"][1] == "a b"
    assert len(columns["text"][0]) <= 80
    assert columns["text"][0].endswith("word…")
    assert text_columns(["a", "b"], tokens=[1, 1], labels=["x", None])["label"] == ["x", "none"]


def test_sentiment_has_the_sign_of_the_feeling():
    pytest.importorskip("vaderSentiment")
    columns = text_columns(["what a wonderful, lovely day", "this is terrible", "a table"], tokens=[6, 3, 2])
    good, bad, neutral = columns["sentiment"]
    assert -1 <= bad < -0.3 < 0.3 < good <= 1
    assert neutral == 0


def test_without_the_library_the_column_is_missing_and_that_is_said_once(monkeypatch, capsys):
    real_import = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("vaderSentiment"):
            raise ImportError
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for cached in (sentiment, projector._say_once):
        cached.cache_clear()
    for text in ("what a wonderful day", "a terrible one"):
        assert list(text_columns([text], tokens=[4])) == ["text", "tokens", "characters"]
    assert capsys.readouterr().err.count("pip install 'textgan[story]'") == 1
    sentiment.cache_clear()


# --- the dev texts of a run


@pytest.fixture
def run(folder, tmp_path):
    """What `project_dev` looks at of a run: rows of texts of two sources, one of them too long."""
    for name, texts in (("low", [f"a{i} b" for i in range(30)]), ("high", ["x " * 9, *(f"c{i}" for i in range(30))])):
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / f"{name}.txt").write_text("\n".join(texts))
    source = tmp_path / "texts"
    corpus = load_corpus(source, dev=source, test_fraction=0)
    tokenizer = train_tokenizer("word", corpus.train, split="whitespace")
    dev, dropped = build_dataset(corpus.dev, tokenizer, block_size=5, too_long="drop")
    assert dropped == 1
    return types.SimpleNamespace(folder=folder, corpus=corpus, tokenizer=tokenizer, dev=dev)


def test_rows_of_dev_keep_their_text_label_and_numbers(run):
    kl = torch.arange(60) / 7
    vectors = torch.arange(60.0)[:, None].expand(60, 2)
    project_dev(run, vectors, name="means", numbers={"kl": kl})
    served = Served(run.folder.parent)
    head, *table = served.table("one", "means")
    assert head == ["text", "tokens", "characters", "label", "kl"]
    found = served.vectors("one", "means", 2)
    assert len(table) == len(found) == 60
    for row, (text, tokens, characters, label, nats) in enumerate(table):
        assert text == run.corpus.dev[run.dev.origins[row]]
        assert label == ("low" if text.endswith(" b") else "high")
        assert (int(tokens), int(characters)) == (len(text.split()) + 1, len(text))
        assert float(nats) == pytest.approx(row / 7, abs=1e-3)
        assert found[row].tolist() == [row, row]


def test_of_many_rows_some_of_every_part_are_shown(run, monkeypatch):
    monkeypatch.setattr(projector, "MOST_POINTS", 7)
    project_dev(run, torch.arange(60.0)[:, None], name="means")
    served = Served(run.folder.parent)
    rows = served.vectors("one", "means", 1)[:, 0].tolist()
    assert rows[0] == 0
    assert rows[-1] == 59
    assert len(set(rows)) == 7
    assert {row[3] for row in served.table("one", "means")[1:]} == {"low", "high"}

"""A classifier learns what can be learned and nothing else; its scores, its options, and a run that is killed."""

import json
import random

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.kills import Killed, plain
from tests.tiny_encoders import LETTERS, save_encoder
from textgan.configfile import load_config
from textgan.data.corpus import load_corpus
from textgan.errors import UserError
from textgan.metrics.classification import calibration_error, classification_scores
from textgan.training import run
from textgan.training.checkpoint import load_state, load_weights
from textgan.training.classes import build_classifier, freeze, new_classifier
from textgan.training.classifying import load_classifier
from textgan.training.dry_run import plan, plan_text
from textgan.training.encoders import load_encoder_tokenizer
from textgan.training.progress import Progress

pytest.importorskip("transformers")
BASE = [
    "threads=1", "mle=none", "encoder.n_layer=1", "encoder.n_head=2", "encoder.n_embd=16", "classifier.block_size=12",
    "classifier.batch_size=8", "classifier.warmup_steps=2", "classifier.lr=3e-3", "evaluation.every=4", "log_every=2",
    "checkpoint.every=4", "data.dev_fraction=0.2", "data.test_fraction=0.2",
]  # fmt: skip


def write_texts(folder, *, shuffled=False):
    """Two files of texts of five letters, told apart by whether there is a "b"; or the same at random."""
    rng = random.Random(0)
    texts = {" ".join(rng.choices("abcde", k=5)) for _ in range(500)}
    files = {"yes": [], "no": []}
    for text in sorted(texts):
        files["yes" if (rng.random() < 0.5 if shuffled else "b" in text) else "no"].append(text)
    for name, own in files.items():
        (folder / f"{name}.txt").write_text("\n".join(own))
    return f"data.source={folder}/*.txt"


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("name: c\nclassifier: {}\n")
    return lambda *overrides: load_config(path, [*BASE, *overrides])


# ----------------------------------------------------------------------------------------------- scores


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 4)), rng.integers(0, 3, 200)  # class 3 never occurs, but is named
    scores, confusion = classification_scores(torch.tensor(logits), torch.tensor(labels))
    named = logits.argmax(1)
    assert confusion.tolist() == sk.confusion_matrix(labels, named, labels=range(4)).tolist()
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(labels, named))
    expected = sk.f1_score(labels, named, labels=range(4), average="macro", zero_division=0)
    assert scores["macro_f1"] == pytest.approx(expected)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert scores["cross_entropy"] == pytest.approx(sk.log_loss(labels, p, labels=range(4)))
    assert scores["majority"] == pytest.approx(np.bincount(labels).max() / 200)


def test_calibration_error_by_hand():
    """Two bins of two: in (0.6, 0.667] one of two right at 0.65; in (0.867, 0.933] both right at 0.9."""
    p = torch.tensor([[0.65, 0.35], [0.65, 0.35], [0.1, 0.9], [0.1, 0.9]])
    labels = torch.tensor([0, 1, 1, 1])
    assert calibration_error(p, labels) == pytest.approx((2 * abs(0.65 - 0.5) + 2 * abs(0.9 - 1)) / 4)
    assert calibration_error(torch.tensor([[1.0, 0.0]]), torch.tensor([0])) == 0


# -------------------------------------------------------------------------------------------- learning


def test_it_learns_what_can_be_learned(texts, tmp_path, config):
    results = run.train(config(texts, "classifier.max_steps=100", "evaluation.every=25"), tmp_path / "run")
    entry = results["phases"]["classifier"]
    assert entry["metrics"]["test_accuracy"] > 0.95 > 0.8 > entry["metrics"]["test_majority"]
    trained = load_classifier(tmp_path / "run")
    assert trained.classes == ["no", "yes"]
    found = trained.probabilities(["b a c a a", "c a d a a", "a a a a a"])
    assert found.argmax(1).tolist() == [1, 0, 0]
    torch.testing.assert_close(found.sum(1), torch.ones(3, dtype=torch.float64))
    alone = torch.cat([trained.probabilities([text]) for text in ("b a c a a", "c a")])
    torch.testing.assert_close(trained.probabilities(["b a c a a", "c a"]), alone, atol=1e-6, rtol=0)
    corpus = load_corpus(texts.split("=")[1], dev_fraction=0.2, test_fraction=0.2)
    named = [trained.classes[i] for i in trained.probabilities(corpus.test).argmax(1)]
    expected = sk.confusion_matrix(corpus.labels["test"], named, labels=trained.classes)
    assert entry["confusion"]["test"] == expected.tolist()
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    shown = events.Tensors("samples/confusion")[-1].tensor_proto.string_val[0].decode()
    assert [line.split(" | ")[0] for line in shown.split("\n")[2:]] == ["| no", "| yes"]
    assert events.Scalars("classifier/accuracy")[-1].value > 0.95


def test_it_learns_nothing_from_labels_at_random(tmp_path, config):
    source = write_texts(tmp_path, shuffled=True)
    results = run.train(config(source, "classifier.max_steps=150", "evaluation.every=25"), tmp_path / "run")
    found = results["phases"]["classifier"]["metrics"]
    assert abs(found["test_accuracy"] - 0.5) < 0.15
    assert found["cross_entropy"] > 0.65  # the best of dev is no better than saying nothing: log 2 = 0.69


def test_a_pretrained_encoder_is_fine_tuned(texts, tmp_path, config):
    folder = save_encoder(tmp_path / "bert", LETTERS)
    overrides = [texts, "classifier.max_steps=120", "evaluation.every=40", f"classifier.init_from={folder}"]
    overrides += ["encoder.n_layer=2", "encoder.n_head=4", "encoder.n_embd=256", "classifier.lr=1e-2"]
    settings = config(*overrides)
    results = run.train(settings, tmp_path / "run")
    assert results["phases"]["classifier"]["metrics"]["accuracy"] > 0.7
    trained = load_classifier(tmp_path / "run")
    assert trained.tokenizer.vocab_size == 15
    start = new_classifier(settings, load_encoder_tokenizer(folder, "x").tokenizer, 2).state_dict()
    changed = {name for name, w in trained.model.state_dict().items() if not torch.equal(w, start[name])}
    assert {"encoder.wte.weight", "head.weight"} <= changed


# --------------------------------------------------------------------------------------------- options


def test_early_stopping_stops_and_keeps_the_best(tmp_path, config):
    source = write_texts(tmp_path, shuffled=True)
    settings = [source, "classifier.max_steps=400", "classifier.patience=3", "evaluation.every=5", "classifier.lr=1e-2"]
    entry = run.train(config(*settings), tmp_path / "run")["phases"]["classifier"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    looks = {line["step"]: line["classifier/cross_entropy"] for line in lines if "classifier/cross_entropy" in line}
    best = min(looks, key=looks.get)
    assert max(looks) == best + 15 < 400
    assert entry["step"] == best
    assert entry["metrics"]["cross_entropy"] == pytest.approx(looks[best])


@pytest.mark.parametrize("select", ["accuracy", "macro_f1", "cross_entropy"])
def test_the_best_step_is_that_of_the_chosen_score(texts, tmp_path, config, select):
    settings = [texts, "classifier.max_steps=24", f"classifier.select={select}", "evaluation.every=2"]
    entry = run.train(config(*settings), tmp_path / "run")["phases"]["classifier"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    looks = {line["step"]: line[f"classifier/{select}"] for line in lines if f"classifier/{select}" in line}
    assert entry["step"] == (min if select == "cross_entropy" else max)(looks, key=looks.get)


@pytest.mark.parametrize(
    "override",
    [
        "classifier.dropout=0.5", "classifier.weight_decay=1", "classifier.warmup_steps=0", "classifier.grad_clip=0.01",
        "classifier.lr=1e-3", "classifier.final_lr_ratio=1", "classifier.betas=[0.5,0.9]", "classifier.batch_size=4",
        "classifier.block_size=3", "classifier.freeze=[head.*]", "encoder.pooling=max", "encoder.kind=lstm",
    ],
)  # fmt: skip
def test_each_option_changes_what_is_learned(texts, tmp_path, config, override):
    weights = []
    for i, overrides in enumerate([[], [override]]):
        run.train(config(texts, "classifier.max_steps=4", *overrides), tmp_path / str(i))
        weights.append(plain(load_weights(tmp_path / str(i) / "checkpoints" / "classifier")))
    assert weights[0] != weights[1]


def test_accumulation_gives_the_same_update(texts, tmp_path, config):
    weights = []
    for parts in (1, 4):
        settings = [texts, "classifier.max_steps=1", f"classifier.accumulate={parts}", "classifier.dropout=0"]
        run.train(config(*settings, "encoder.dropout=0", "classifier.warmup_steps=0"), tmp_path / str(parts))
        weights.append(load_weights(tmp_path / str(parts) / "checkpoints" / "classifier"))
    torch.testing.assert_close(*weights, atol=1e-5, rtol=1e-4)


def test_frozen_parameters_stay(texts, tmp_path, config):
    settings = config(texts, "classifier.max_steps=4", "classifier.freeze=[encoder.w*, encoder.h.0.attn.*]")
    run.train(settings, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints"
    first, last = load_state(checkpoint / "step-00000004")["model"], load_weights(checkpoint / "classifier")
    torch.manual_seed(0)
    frozen = {name for name in last if name.startswith(("encoder.w", "encoder.h.0.attn."))}
    optimizer = load_state(checkpoint / "step-00000004")["optimizer"]
    assert len(optimizer["state"]) == len(last) - len(frozen) == len(first) - len(frozen)
    assert frozen
    model = build_classifier(settings, 7, 2)
    freeze(model, ["head.*"])
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["head.weight", "head.bias"]
    with pytest.raises(UserError, match=r"no parameter is called 'wte\*'.*for example: encoder\.wte"):
        freeze(model, ["wte*"])
    with pytest.raises(UserError, match="leaves nothing to train"):
        freeze(model, ["*"])


def test_long_texts_are_cut_and_it_is_said(texts, tmp_path, config, capfd):
    run.train(config(texts, "classifier.max_steps=1", "classifier.block_size=4"), tmp_path / "run")
    assert "texts are cut at classifier.block_size=4 tokens" in capfd.readouterr().err
    trained = load_classifier(tmp_path / "run")
    a, b = trained.probabilities(["a b c d d", "a b c e"])
    assert a.tolist() == b.tolist()


# ------------------------------------------------------------------------------------- a run as a whole


def test_a_killed_run_resumes_to_the_same_bits(texts, tmp_path, config, monkeypatch):
    settings = [texts, "classifier.max_steps=12", "classifier.patience=2"]
    run.train(config(*settings), tmp_path / "whole")
    advance = Progress.advance

    def fatal(self, **counts):
        advance(self, **counts)
        if self.steps - self.first == 7:
            raise Killed

    monkeypatch.setattr(Progress, "advance", fatal)
    with pytest.raises(Killed):
        run.train(config(*settings), tmp_path / "run")
    monkeypatch.undo()
    run.train(config(*settings), tmp_path / "run", resume=True)
    found = []
    for name in ("whole", "run"):
        root = tmp_path / name
        results = json.loads((root / "results.json").read_text())
        state = plain(load_state(root / "checkpoints" / "classifier"))
        weights = plain(load_weights(root / "checkpoints" / "classifier"))
        found.append(((root / "metrics.jsonl").read_bytes(), results["phases"], weights, state))
    assert found[0] == found[1]


def test_labels_that_changed_are_noticed(tmp_path, config, monkeypatch):
    source = write_texts(tmp_path)
    settings = config(source, "classifier.max_steps=6")

    advance = Progress.advance
    monkeypatch.setattr(Progress, "advance", lambda self, **c: (advance(self, **c), self.steps == 5 and die()))
    with pytest.raises(Killed):
        run.train(settings, tmp_path / "run")
    monkeypatch.undo()
    both = [(tmp_path / f"{name}.txt") for name in ("no", "yes")]
    (first, *rest), others = both[0].read_text().split("\n"), both[1].read_text()
    both[0].write_text("\n".join(rest))
    both[1].write_text(f"{first}\n{others}")
    with pytest.raises(UserError, match="changed"):
        run.train(settings, tmp_path / "run", resume=True)


def die():
    raise Killed


def test_the_dry_run_says_what_it_would_do(texts, tmp_path, config):
    settings = config(texts)
    facts = plan(settings, tmp_path / "run")
    expected = sum(p.numel() for p in build_classifier(settings, facts["vocab_size"], 2).parameters())
    assert facts["classifier_parameters"] == expected
    assert list(facts["phases"]) == ["classifier"]
    assert f"classifier: {expected:,} parameters" in plan_text(settings, facts)


@pytest.mark.parametrize("source", ["stories", "stories-zh"])
def test_the_luck_of_stories_is_a_label(source):
    corpus = load_corpus(source, size=300, label="luck")
    assert set(corpus.labels["train"]) == {"good", "bad", "none"}
    signs = {"stories": ("walked slowly home", "all the way home"), "stories-zh": ("低着头慢慢走回了家", "笑着说")}[
        source
    ]
    for sign, label in zip(signs, ("bad", "good"), strict=True):
        found = [x for text, x in zip(corpus.train, corpus.labels["train"], strict=True) if sign in text]
        assert found
        assert set(found) == {label}
    assert corpus.train == load_corpus(source, size=300).train


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["mle={}"], "trains that alone: set mle=none"),
        (["generator.n_layer=1"], "generator: without effect beside this `classifier`"),
        (["classifier.init_from=here"], "encoder: without effect .* brings its encoder and tokenizer"),
        (["data.too_long=window"], "data.too_long=window: without effect for a classifier"),
        (["classifier.accumulate=3"], r"classifier\.batch_size=8 is not divisible by classifier\.accumulate=3"),
    ],
)
def test_settings_that_cannot_be_are_refused(config, overrides, message):
    with pytest.raises(UserError, match=message):
        config(*overrides)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["data.source=stories"], "300 of 300 texts of train have no label"),
        (["data.source=stories", "data.label=lick"], "no such feature; did you mean 'luck'"),
        (["data.source=stories", "data.label=luck", "classifier.freeze=[x]"], "no parameter is called 'x'"),
    ],
)
def test_texts_without_labels_are_refused_before_anything_is_written(tmp_path, config, overrides, message):
    with pytest.raises(UserError, match=message):
        run.train(config(*overrides, "data.size=300"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_classes_that_train_lacks_are_refused(tmp_path, config):
    for name, labels in (("train", "xy"), ("dev", "xyz"), ("one", "xx")):
        rows = [json.dumps({"text": f"{name} {i} {label}", "is": label}) for i, label in enumerate(labels * 5)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    given = [f"data.dev={tmp_path}/dev.jsonl", "data.label=is", "data.test_fraction=0"]
    with pytest.raises(UserError, match="dev has class 'z', of which train has no text"):
        run.train(config(f"data.source={tmp_path}/train.jsonl", *given), tmp_path / "run")
    with pytest.raises(UserError, match="all texts of train are 'x'"):
        run.train(config(f"data.source={tmp_path}/one.jsonl", *given), tmp_path / "run")

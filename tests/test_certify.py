"""``textgan certify`` on a run of seconds: what meets what, what is kept, and what is refused."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

import textgan.cli.certify as command
from tests import commands
from textgan.analysis import certify as module
from textgan.analysis import critics, crossfit
from textgan.analysis.certify import Study, certify, sentence
from textgan.analysis.drawing import draw, encode_targets
from textgan.configfile import load_config
from textgan.data.dataset import build_dataset
from textgan.errors import UserError
from textgan.metrics.certificate import Gain, calibrate, gain, permuted_gains
from textgan.ops.ngrams import ragged
from textgan.sampling.decode import generate
from textgan.training import run as training
from textgan.training.loading import load_for_sampling

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(critics, "BITS", 14)  # few features, so as to be quick
    monkeypatch.setattr(critics, "PENALTIES", (3.0, 0.3))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    settings = [
        "threads=1",
        "data.size=200",
        "data.dev_fraction=0.3",
        "data.test_fraction=0.2",
        "tokenizer.min_count=9",
    ]
    training.train(load_config(SMOKE, settings), folder)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def rows_of(texts):
    return [tuple(row.tolist()) for row in texts.tokens.split(texts.lengths.tolist())]


@pytest.fixture
def seen(monkeypatch):
    """What the wide critic is fitted on, and what is scored."""
    found = {"own": []}
    fit, score = module.fit_wide, module.neural_scores

    def spying_fit(pools, real, fake, *, clip):
        found.update(pools=pools, real=real, fake=fake)
        found["wide"] = fit(pools, real, fake, clip=clip)
        return found["wide"]

    def spying_score(critic, texts, **options):
        found["own"].append(texts)
        return score(critic, texts, **options)

    monkeypatch.setattr(module, "fit_wide", spying_fit)
    monkeypatch.setattr(module, "neural_scores", spying_score)
    return found


def test_texts_are_used_once_and_unknown_words_are_hidden(run, seen):
    record = certify(run, Study(arm="mle", n=40), device=CPU)
    model = load_for_sampling(run / "checkpoints" / "mle")
    unk, eos = model.tokenizer.unk_id, model.tokenizer.eos_id
    corpus = training.read_corpus(load_config(run / "config.yaml"))
    block = model.generator.block_size
    splits = {
        name: rows_of(encode_targets(getattr(corpus, name), model.tokenizer, block)[0]) for name in ("train", "dev")
    }
    own_real = [rows_of(texts) for texts in seen["own"][::2]]
    own_fake = [rows_of(texts) for texts in seen["own"][1::2]]
    (pool,) = seen["pools"]

    drawn = rows_of(draw(model, 80 + len(splits["train"]), seed=0))
    assert sorted(rows_of(pool.real)) == sorted(splits["train"])
    assert rows_of(pool.fake) == drawn[80:]
    assert rows_of(seen["fake"]) == drawn[:40]
    assert any(unk in row for row in drawn)  # drawn as the model has them
    assert not pool.visible[unk]
    assert not pool.visible[eos]
    assert pool.visible.sum() == model.tokenizer.vocab_size - 2

    def without(rows):
        return [tuple(token for token in row if token != unk) for row in rows]

    half = len(splits["dev"]) // 2
    assert own_fake == [without(drawn[:40]), without(drawn[40:80])]
    assert [len(rows) for rows in own_real] == [half, half]
    assert sorted(own_real[0] + own_real[1]) == sorted(without(splits["dev"]))
    assert own_real[0] == without(rows_of(seen["real"]))
    assert record["texts"] == {"train": len(splits["train"]), "calibration": half, "value": half}
    assert record["tokens_per_text"] * half == pytest.approx(
        sum(map(len, splits["dev"])) - sum(map(len, rows_of(seen["real"])))
    )


def test_the_record_holds_what_the_functions_find(run, monkeypatch):
    scores = {}
    inner = module.certificate

    def spying(critic, given, study, tokens):
        scores[critic] = given
        return inner(critic, given, study, tokens)

    monkeypatch.setattr(module, "certificate", spying)
    record = certify(run, Study(n=50, permutations=7, seed=3, level=0.9), device=CPU)
    assert list(record["critics"]) == ["own", "wide", "both"]
    assert record["arm"] == "adversarial"
    for name, found in record["critics"].items():
        f = calibrate(*scores[name]["calibration"])
        on_real, on_fake = map(f, scores[name]["value"])
        expected = gain(on_real, on_fake, level=0.9, seed=3)
        assert found["gain"] == {"value": expected.value, "lower": expected.lower, "upper": expected.upper}
        assert found["gain_per_token"]["value"] == expected.value / record["tokens_per_text"]
        assert (found["ess"], found["auc"]) == (expected.ess, expected.auc)
        null = permuted_gains(scores[name]["calibration"], scores[name]["value"], permutations=7, seed=3)
        assert found["control"] == {"mean": null.mean().item(), "largest": null.max().item(), "permutations": 7}
        assert found["certified"] == (expected.lower > 0 and expected.value > null.max())
        assert len(found["scales"]) == (2 if name == "both" else 1)
    for use in ("calibration", "value"):
        for side in (0, 1):
            assert torch.equal(scores["both"][use][side][:, 0], scores["own"][use][side])
            assert torch.equal(scores["both"][use][side][:, 1], scores["wide"][use][side])
    assert record["critics"]["own"]["checkpoint"] == "adversarial"


def test_records_of_different_questions_stand_side_by_side(run):
    first = certify(run, Study(n=40, critics=("wide",)), device=CPU)
    again = certify(run, Study(n=40, critics=("wide",)), device=CPU)
    assert first == again
    mle = certify(run, Study(arm="mle", n=40, critics=("wide",), seed=1), device=CPU)
    kept = json.loads((run / "certificate.json").read_text())
    assert kept == {"format": 1, "certificates": {"adversarial/dev": first, "mle/dev": json.loads(json.dumps(mle))}}
    assert mle["weights"] != first["weights"]
    other = certify(run, Study(n=40, critics=("own",), seed=1), device=CPU)
    assert list(other["critics"]) == ["own"]
    assert json.loads((run / "certificate.json").read_text())["certificates"]["adversarial/dev"]["seed"] == 1


def test_critics_asked_for_one_after_the_other_stand_in_one_record(run):
    own = certify(run, Study(n=40, critics=("own",)), device=CPU)["critics"]
    wide = certify(run, Study(n=40, critics=("wide",)), device=CPU)["critics"]
    assert list(wide) == ["wide"]
    kept = json.loads((run / "certificate.json").read_text())["certificates"]["adversarial/dev"]
    assert kept["critics"] == own | wide
    certify(run, Study(n=50, critics=("own",)), device=CPU)  # other samples: nothing of the old is left
    kept = json.loads((run / "certificate.json").read_text())["certificates"]["adversarial/dev"]
    assert list(kept["critics"]) == ["own"]


def test_a_look_at_the_test_split_is_counted_and_calibrated_on_dev(run, seen, capsys):
    record = certify(run, Study(n=40, split="test"), device=CPU, command="textgan certify x")
    corpus = training.read_corpus(load_config(run / "config.yaml"))
    assert record["texts"]["calibration"] == len(seen["real"].lengths) == len(corpus.dev)
    assert record["texts"]["value"] == len(corpus.test)
    reads = json.loads((run / "evaluation" / "test_reads.json").read_text())
    assert reads["count"] == 1
    assert reads["reads"][0]["command"] == "textgan certify x"
    assert reads["reads"][0]["finished"]
    assert "look number 1 at the test split" in capsys.readouterr().err
    certify(run, Study(n=40, critics=("own",)), device=CPU)
    assert json.loads((run / "evaluation" / "test_reads.json").read_text())["count"] == 1


def test_cross_fitting_keeps_generator_and_texts_apart(run, seen, monkeypatch):
    study = Study(arm="mle", n=30, critics=("wide",), cross_fit=2)
    record = certify(run, study, device=CPU)
    model = load_for_sampling(run / "checkpoints" / "mle")
    corpus = training.read_corpus(load_config(run / "config.yaml"))
    used = [rows_of(pool.real) for pool in seen["pools"]]
    every = rows_of(encode_targets(corpus.train, model.tokenizer, model.generator.block_size)[0])
    assert sorted(used[0] + used[1]) == sorted(every)
    assert record["critics"]["wide"]["fitted_on"] == [len(used[0]), len(used[1])]
    for k, pool in enumerate(seen["pools"], 1):
        fold = run / "certificate" / f"fold-{k}-of-2"
        lines = [
            json.loads(line)["text"] for line in (run / "certificate" / f"fold-{k}-of-2.jsonl").read_text().splitlines()
        ]
        taught = rows_of(encode_targets(lines, model.tokenizer, model.generator.block_size)[0])
        assert sorted(taught + rows_of(pool.real)) == sorted(every)
        theirs = load_for_sampling(fold / "checkpoints" / "mle")
        assert theirs.config.mle.max_steps == 3  # half of the run's
        words = [theirs.tokenizer.tokens(row) for row in rows_of(draw(theirs, len(pool.fake.lengths), seed=0))]
        known = set(theirs.tokenizer.tokens(range(2, theirs.tokenizer.vocab_size)))
        shown = [model.tokenizer.tokens(row) for row in rows_of(critics.only(pool.fake, pool.visible))]
        assert shown == [[word for word in row if word in known] for row in words]
        visible = set(model.tokenizer.tokens(pool.visible.nonzero().squeeze(1).tolist()))
        assert visible == known & set(model.tokenizer.tokens(range(2, model.tokenizer.vocab_size)))
    kept = json.loads((run / "certificate.json").read_text())["certificates"]
    assert list(kept) == ["mle/dev/cross-fit-2"]
    steps = [p.stat().st_mtime_ns for p in run.glob("certificate/*/checkpoints/mle/model.safetensors")]
    monkeypatch.chdir(run)  # named otherwise, it is still the same run
    assert certify(Path("."), study, device=CPU) == record
    assert [p.stat().st_mtime_ns for p in run.glob("certificate/*/checkpoints/mle/model.safetensors")] == steps


def test_pieces_of_words_are_read_again_in_the_runs_ids(monkeypatch):
    class Pieces:
        unk_id, eos_id, vocab_size = None, 0, 10

        def encode(self, text):
            return [int(c) for c in text]

        def decode(self, ids):
            return "".join(str(i - 10) for i in ids)

    fake, visible = crossfit._in_ids_of(Pieces(), Pieces(), ragged([[11, 13], [], [19]]))
    assert rows_of(fake) == [(1, 3), (), (9,)]
    assert visible.tolist() == [False] + [True] * 9


def test_draws_are_the_model_itself_in_order(trained):
    model = load_for_sampling(trained / "checkpoints" / "mle")
    texts = rows_of(draw(model, 300, seed=5))
    expected = generate(model.generator, [[]] * 300, eos_id=0, seed=5, batch_size=300)
    assert texts == [tuple(sample.ids) for sample in expected]


def test_targets_are_what_the_model_predicts(trained):
    model = load_for_sampling(trained / "checkpoints" / "mle")
    texts = ["One windy evening", "", "the"]
    dataset, _ = build_dataset(texts, model.tokenizer, block_size=9, too_long="drop")
    batch = dataset.batch([0, 1, 2])
    found, long = encode_targets(texts, model.tokenizer, 9)
    assert rows_of(found) == [tuple(row[:n].tolist()) for row, n in zip(batch.targets, batch.lengths, strict=True)]
    assert long == 0
    assert encode_targets(texts, model.tokenizer, 2)[1] == 1


@pytest.mark.parametrize(
    "study, said",
    [
        (Study(arm="nobody"), "no arm `nobody`; it has mle, adversarial, continued"),
        (Study(cross_fit=1, n=20), "cross-fit 1: give at least 2 folds"),
        (Study(cross_fit=150, n=20), "too few for so many folds"),
        (Study(cross_fit=2, critics=("own",)), "cross-fit is for the wide critic"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_work_starts(run, study, said, monkeypatch):
    monkeypatch.setattr(module, "draw", None)
    with pytest.raises(UserError, match=said):
        certify(run, study, device=CPU)


def test_runs_that_cannot_be_certified_are_refused(run, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="is not the folder of a run"):
        certify(tmp_path / "nowhere", Study(), device=CPU)
    monkeypatch.setattr(module, "FEWEST", 1000)
    with pytest.raises(UserError, match="only 200 real texts for the train of a certificate"):
        certify(run, Study(), device=CPU)
    monkeypatch.undo()
    for name in ("adversarial", "continued", "step-00000009", "step-00000010"):
        shutil.rmtree(run / "checkpoints" / name, ignore_errors=True)
    with pytest.raises(UserError, match=r"no critic of its own \(no adversarial phase\): give --critic wide"):
        certify(run, Study(critics=("own",)), device=CPU)
    text = (run / "config.yaml").read_text()
    assert "seed: 0" in text
    (run / "config.yaml").write_text(text.replace("size: 200", "size: 201"))
    with pytest.raises(UserError, match="was trained on other data"):
        certify(run, Study(), device=CPU)


def test_sentences_say_what_was_found():
    def said(value, lower, upper, certified, clipped=0.0, critic="wide"):
        found = Gain(value, lower, upper, ess=0.47, auc=0.7)
        return sentence(critic, "mle", found, 10.0, certified=certified, clipped=clipped)

    assert said(0.33, 0.29, 0.37, True) == (
        "Re-weighting mle by a wide critic brings it 0.330 nats a text [0.290, 0.370] closer to real text "
        "(0.0330 a token); effective sample size 47.0%."
    )
    assert "60% of the texts are at the clip" in said(5.0, 4.0, 6.0, True, clipped=0.6)
    nothing = said(0.01, -0.01, 0.02, False, critic="own")
    assert nothing.startswith("No gain is certified for mle by the run's own critic: 0.010")
    assert nothing.endswith("worth less than 0.020.")
    assert "takes it away from real text" in said(-0.2, -0.3, -0.1, False, critic="both")


invoke = partial(commands.invoke, command.certify)


def test_the_command_prints_a_table_or_json(run, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/anywhere/textgan", "certify", "a run", "--split", "test"])
    table = invoke(run, "--n", 40, "--arm", "mle", "--critic", "both").stdout
    kept = json.loads((run / "certificate.json").read_text())["certificates"]["mle/dev"]
    assert list(kept["critics"]) == ["both"]
    assert kept["n"] == 40
    lines = table.splitlines()
    assert lines[0].startswith("mle (step 6), dev: calibrated on 30 real texts, value on 30, against 40 samples each")
    assert lines[3].split()[:2] == ["both", f"{kept['critics']['both']['gain']['value']:.4f}"]
    assert lines[-1] == kept["critics"]["both"]["sentence"]
    found = json.loads(invoke(run, "-n", 30, "--critic", "own", "--seed", 2, "--split", "test", "--json").stdout)
    assert found == json.loads((run / "certificate.json").read_text())["certificates"]["adversarial/test"]
    assert (found["n"], found["seed"], list(found["critics"])) == (30, 2, ["own"])
    reads = json.loads((run / "evaluation" / "test_reads.json").read_text())["reads"]
    assert reads[0]["command"] == "textgan certify 'a run' --split test"


def test_the_command_passes_on_folds(monkeypatch, run):
    asked = []

    def certified(folder, study, **options):
        asked.append((folder, study))
        raise UserError("enough")

    monkeypatch.setattr(module, "certify", certified)
    with pytest.raises(UserError, match="enough"):
        invoke(run, "--cross-fit", 3)
    assert asked == [(run, Study(cross_fit=3))]

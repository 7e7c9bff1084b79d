"""`textgan evaluate`: records against the same numbers worked out by hand, and going on after a stop."""

import gzip
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from textgan.analysis.certify import Study, certify
from textgan.analysis.evaluate import Sweep, evaluate
from textgan.analysis.points import points_of, read_point
from textgan.analysis.protocols import find_protocol
from textgan.analysis.study import signature_differences
from textgan.cli import evaluate as command
from textgan.configfile import load_config
from textgan.data.tokenizer import load_tokenizer
from textgan.errors import UserError
from textgan.metrics.jackknife import jackknife_interval
from textgan.metrics.suite import Scorer
from textgan.models.kneser_ney import fit_kneser_ney
from textgan.ops.ngrams import ragged
from textgan.sampling.decode import generate
from textgan.sampling.samplers import parse_samplers
from textgan.training.checkpoint import arms
from textgan.training.loading import load_for_sampling
from textgan.training.run import read_corpus, train

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
N = 60
SMALL = {"n": N, "embedders": ()}  # embeddings take a second a point; test_measures.py looks at them
SAMPLERS = tuple(parse_samplers("temperature=0.8,1,top_k=3,rejection=1"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    train(load_config(ROOT / "configs" / "smoke.yaml"), folder)
    return folder


@pytest.fixture(scope="module")
def evaluated(trained):
    return evaluate(trained, Sweep(SAMPLERS, **SMALL), device=CPU)


@pytest.fixture
def copy(trained, evaluated, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def record(run, arm="mle", sampler="temperature=1", setting=f"dev-n{N}-s0", texts=True):
    return read_point(run / "evaluation" / setting / arm / f"{sampler}.json", texts=texts)


def files(run):
    return {path: path.stat().st_mtime_ns for path in (run / "evaluation").rglob("*=*.json")}


def texts_by_hand(run, arm, **settings):
    model = load_for_sampling(arms(run)[arm])
    samples = generate(
        model.generator,
        [[]] * N,
        eos_id=model.tokenizer.eos_id,
        banned_ids=[model.tokenizer.unk_id],
        batch_size=256,
        **settings,
    )
    return samples, [model.tokenizer.decode(sample.ids) for sample in samples]


# ---------------------------------------------------------------------------------------------- records


def test_there_is_a_record_for_each_arm_and_sampler(trained, evaluated):
    names = [(point.arm, point.sampler) for point in evaluated["points"]]
    trained_arms = [(arm, str(sampler)) for arm in arms(trained) for sampler in SAMPLERS]
    assert names == [*trained_arms, ("kneser_ney", "temperature=1"), ("mle+kneser_ney", "temperature=1")]
    assert {"mle", "adversarial"} <= {arm for arm, _ in names}
    assert sorted((p.arm, p.sampler) for p in points_of(trained)) == sorted(names)


@pytest.mark.parametrize("sampler, settings", [("temperature=0.8", {"temperature": 0.8}), ("top_k=3", {"top_k": 3})])
def test_a_record_holds_the_texts_and_their_metrics(trained, evaluated, sampler, settings):
    point = record(trained, "adversarial", sampler)
    samples, texts = texts_by_hand(trained, "adversarial", **settings)
    assert point.texts == texts
    assert point.per_text["log_prob"] == pytest.approx([sample.log_prob for sample in samples])
    assert point.per_text["truncated"].tolist() == [sample.finish_reason == "length" for sample in samples]
    corpus = read_corpus(load_config(trained / "config.yaml"))
    scores = Scorer(corpus.dev, corpus.train, full=True).score(texts, truncated=point.per_text["truncated"])
    for name, value in scores.values.items():
        assert point.values[name] == pytest.approx(value), name
    assert scores.signature.items() <= point.signature.items()
    assert (point.n, point.seed, point.split, point.training_seed) == (N, 0, "dev", 0)
    tokens = sum(len(sample.ids) for sample in samples)
    assert point.values["nll_div"] == pytest.approx(-sum(sample.log_prob for sample in samples) / tokens)


def test_held_out_likelihood_is_that_of_the_training_log(trained, evaluated):
    results = json.loads((trained / "results.json").read_text())["phases"]["mle"]["metrics"]
    for sampler in ("temperature=0.8", "rejection=1"):
        values = record(trained, "mle", sampler).values
        for name in ("nll", "nll_text", "kl_to_model"):
            assert values[name] == pytest.approx(results[name], rel=1e-5), name
    assert values["nll_gen"] != values["nll"]


def test_reference_rows_are_the_ngram_models_of_the_training_text(trained, evaluated):
    config = load_config(trained / "config.yaml")
    corpus = read_corpus(config)
    tokenizer = load_tokenizer(trained / "tokenizer.json")
    rows = {split: [tokenizer.encode(text) for text in getattr(corpus, split)] for split in ("train", "dev")}
    model = fit_kneser_ney(ragged(rows["train"]), order=4, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id)
    point = record(trained, "kneser_ney")
    tokens = sum(len(row) + 1 for row in rows["dev"])
    assert point.values["nll"] == pytest.approx(-model.log_prob(ragged(rows["dev"])).sum().item() / tokens, rel=1e-5)
    whole = ~point.per_text["truncated"]  # the others have no end
    assert whole.any()
    written = [tokenizer.encode(text) for text, kept in zip(point.texts, whole, strict=True) if kept]
    log_probs = model.log_prob(ragged(written)).numpy()
    same = np.isclose(point.per_text["log_prob"][whole], log_probs, rtol=1e-4)
    assert same.mean() > 0.9  # not all: decoding and encoding again may put a quotation mark elsewhere
    assert (point.step, point.training_seed) == (None, None)
    mixed = record(trained, "mle+kneser_ney")
    # The weight is fitted on dev: no worse there than either model.
    assert mixed.values["nll"] <= min(point.values["nll"], record(trained).values["nll"]) + 1e-6
    assert {"kneser_ney", "mle+kneser_ney"} & set(evaluated["super_baseline"]) == {"mle+kneser_ney"}


def test_values_have_intervals_and_leave_group_out_values(trained, evaluated):
    point = record(trained)
    for name in ("self_bleu_4", "distinct_2", "nll", "nll_gen", "nll_div"):
        _, low, high = jackknife_interval(point.values[name], point.groups[name])
        assert point.intervals[name] == pytest.approx([low, high])
    low, high = point.intervals["bleu_4"]
    assert low < point.values["bleu_4"] < high
    assert len(point.groups["bleu_4"]) == 20
    # Text 0 is in group 0: its score is the only one of its group that this leaves in.
    scores = point.per_text["bleu_4"]
    assert point.groups["bleu_4"][0] == pytest.approx(np.delete(scores, np.arange(0, N, 20)).mean())


def test_arms_are_paired_by_their_random_numbers(trained, evaluated):
    first, second = ([text.split()[:1] for text in record(trained, arm).texts] for arm in ("mle", "adversarial"))
    paired = np.mean([a == b for a, b in zip(first, second, strict=True)])
    unpaired = np.mean([a == b for a, b in zip(first, second[1:] + second[:1], strict=True)])
    assert paired > unpaired + 0.2


def test_all_points_of_a_run_have_one_signature(trained, evaluated):
    signatures = [json.dumps(point.signature, sort_keys=True) for point in points_of(trained)]
    assert len(set(signatures)) == 1
    signature = evaluated["signature"]
    assert signature["sampling"]["max_new_tokens"] == 96
    held_out = signature["held_out"]
    assert held_out.items() >= {"texts": 20, "train_texts": N, "temperature": 1}.items()
    pieces = load_tokenizer(trained / "tokenizer.json").tokens(range(int(held_out["vocabulary"].split()[0])))
    assert hashlib.sha256("\n".join(pieces).encode()).hexdigest().startswith(held_out["vocabulary"].split()[-1])
    assert signature["protocol"] is None


def test_another_vocabulary_is_another_unit_of_likelihood(trained, evaluated, tmp_path):
    config = load_config(trained / "config.yaml", ["tokenizer.min_count=2", "adversarial=none"])
    train(config, tmp_path / "run")
    other = evaluate(tmp_path / "run", Sweep(SAMPLERS[1:2], arms=("mle",), **SMALL), device=CPU)["signature"]
    assert signature_differences(evaluated["signature"], other) == ["held_out.vocabulary"]


@pytest.mark.parametrize("too_long", ["drop", "window"])
def test_no_divergence_from_the_truth_where_texts_were_cut_or_dropped(trained, evaluated, tmp_path, too_long):
    assert "kl_to_model" in evaluated["points"][0].values
    settings = ["generator.block_size=54", f"data.too_long={too_long}", "adversarial=none"]
    results = train(load_config(trained / "config.yaml", settings), tmp_path / "run")
    (point,) = evaluate(tmp_path / "run", Sweep(SAMPLERS[1:2], arms=("mle",), **SMALL), device=CPU)["points"]
    for values in (point.values, results["phases"]["mle"]["metrics"]):
        assert "nll" in values
        assert "kl_to_model" not in values


def test_real_text_and_super_baseline_stand_beside(trained, evaluated):
    folder = trained / "evaluation"
    real = json.loads((folder / f"dev-n{N}-s0" / "real.json").read_text())
    assert real["values"] == evaluated["real"]
    assert real["values"]["valid"] == 1
    best = json.loads((folder / "super_baseline.json").read_text())[f"dev-n{N}-s0"]
    assert best == json.loads(json.dumps(evaluated["super_baseline"]))
    values = {p.sampler: p.values["bleu_4"] for p in evaluated["points"] if p.arm == "mle"}
    assert best["mle"]["bleu_4"]["value"] == max(values.values()) == values[best["mle"]["bleu_4"]["sampler"]]
    assert "adversarial" not in best


def test_tensorboard_shows_a_curve_for_each_arm_and_family(trained, evaluated):
    folder = trained / "evaluation" / f"dev-n{N}-s0" / "mle" / "temperature"
    events = EventAccumulator(str(folder)).Reload()
    curve = [(event.step, event.value) for event in events.Scalars("front/self_bleu_4")]
    expected = [(step, record(trained, "mle", f"temperature={step / 100:g}").values) for step in (80, 100)]
    assert curve == [(step, pytest.approx(values["self_bleu_4"])) for step, values in expected]
    assert EventAccumulator(str(folder.parents[0] / "top_k")).Reload().Scalars("front/nll")[0].step == 300
    whole = EventAccumulator(str(folder.parents[1])).Reload().Tags()
    assert whole["images"] == ["front/bleu_4_against_self_bleu_4", "front/lm_kn_against_rlm_kn"]


# ---------------------------------------------------------------------------------------------- going on


def test_what_is_there_is_kept(copy, capsys):
    before = files(copy)
    again = evaluate(copy, Sweep(SAMPLERS, **SMALL), device=CPU)
    assert files(copy) == before
    assert len(again["points"]) == len(before)
    assert f"{len(before)} of {len(before)} operating points are there already" in capsys.readouterr().err


def test_new_samplers_are_added_and_the_old_ones_stay(copy):
    before = files(copy)
    result = evaluate(copy, Sweep(tuple(parse_samplers("temperature=0.5")), arms=("mle",), **SMALL), device=CPU)
    (point,) = result["points"]  # an arm that is named is swept, and no reference row comes along
    assert (point.arm, point.sampler) == ("mle", "temperature=0.5")
    assert len(files(copy)) == len(before) + 1
    assert before.items() <= files(copy).items()
    events = EventAccumulator(str(copy / "evaluation" / f"dev-n{N}-s0" / "mle" / "temperature")).Reload()
    assert [event.step for event in events.Scalars("front/bleu_4")] == [50, 80, 100]
    assert len(result["super_baseline"]["mle"]) > 20


def test_a_stopped_evaluation_goes_on_and_ends_the_same(trained, evaluated, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation")))
    calls = 0

    def stop():
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt

    sweep = Sweep(SAMPLERS[1:], arms=("adversarial",), **SMALL)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, sweep, device=CPU, between=stop)
    left = files(run)
    assert 0 < len(left) < len(sweep.samplers)
    assert (run / "evaluation" / "super_baseline.json").is_file()
    points = evaluate(run, sweep, device=CPU)["points"]
    assert len(points) == len(sweep.samplers)
    assert left.items() <= files(run).items()
    for point in points:
        whole, again = (record(folder, point.arm, point.sampler) for folder in (trained, run))
        assert again.values == whole.values
        assert again.texts == whole.texts


def test_other_weights_are_measured_anew(copy):
    before = files(copy)
    shutil.copy(arms(copy)["adversarial"] / "model.safetensors", arms(copy)["mle"] / "model.safetensors")
    evaluate(copy, Sweep(SAMPLERS[1:2], arms=("mle", "adversarial", "mle+kneser_ney"), **SMALL), device=CPU)
    changed = {path.parent.name for path, time in files(copy).items() if before[path] != time}
    assert changed == {"mle", "mle+kneser_ney"}
    assert record(copy).values == record(copy, "adversarial").values


def test_records_of_weights_that_are_gone_do_not_stay_beside_new_ones(copy, capsys):
    shutil.copy(arms(copy)["continued"] / "model.safetensors", arms(copy)["mle"] / "model.safetensors")
    evaluate(copy, Sweep(SAMPLERS[1:2], arms=("mle",), **SMALL), device=CPU)
    assert "mle: removed 4 records of other weights" in capsys.readouterr().err
    folder = copy / "evaluation" / f"dev-n{N}-s0"
    assert sorted(path.name for path in (folder / "mle").iterdir() if path.is_file()) == [
        "temperature=1.json",
        "temperature=1.jsonl.gz",
        "temperature=1.npz",
    ]
    assert len(list((folder / "adversarial").glob("*.json"))) == len(SAMPLERS)


def test_a_broken_record_of_a_point_that_is_not_asked_for_does_no_harm(copy):
    (copy / "evaluation" / f"dev-n{N}-s0" / "mle" / "temperature=1.json").write_text("{")
    result = evaluate(copy, Sweep(SAMPLERS[:1], arms=("mle",), **SMALL), device=CPU)
    assert [point.sampler for point in result["points"]] == ["temperature=0.8"]


def test_another_tokenization_is_measured_anew_on_the_texts_that_are_there(copy, monkeypatch):
    texts = record(copy).texts
    values = record(copy).values

    def fail(*args, **kwargs):
        raise AssertionError("the texts need not be drawn again")

    monkeypatch.setattr("textgan.sampling.samplers.generate", fail)
    result = evaluate(copy, Sweep(SAMPLERS[1:2], tokenize="chars", arms=("mle",), **SMALL), device=CPU)
    assert record(copy).texts == texts
    assert record(copy).values["length_mean"] > 2 * values["length_mean"]
    assert record(copy).values["nll_div"] == values["nll_div"]
    assert "kl_from_model" not in values or record(copy).values["kl_from_model"] == values["kl_from_model"]
    assert result["signature"]["tokenize"] == "chars"


def test_texts_of_another_version_are_drawn_anew(copy):
    path = copy / "evaluation" / f"dev-n{N}-s0" / "mle" / "temperature=1.json"
    texts = record(copy).texts
    content = json.loads(path.read_text())
    content["signature"]["textgan"] = "0.0.1"
    path.write_text(json.dumps(content))
    with gzip.open(path.with_suffix(".jsonl.gz"), "wt") as file:
        file.write('"old"\n' * N)
    assert record(copy).texts == ["old"] * N
    evaluate(copy, Sweep(SAMPLERS[1:2], arms=("mle",), **SMALL), device=CPU)
    assert record(copy).texts == texts


def test_a_broken_record_is_made_anew(copy):
    path = copy / "evaluation" / f"dev-n{N}-s0" / "mle" / "temperature=1.json"
    kept = record(copy).values
    path.write_text("{")
    evaluate(copy, Sweep(SAMPLERS, **SMALL), device=CPU)
    assert record(copy).values == kept


@pytest.mark.parametrize("suffix", [".npz", ".jsonl.gz"])
@pytest.mark.parametrize("damage", ["cut", "garbled", "gone"])
def test_broken_texts_are_told_and_made_anew(copy, suffix, damage):
    path = copy / "evaluation" / f"dev-n{N}-s0" / "mle" / f"temperature=1{suffix}"
    texts, content = record(copy).texts, path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        half = len(content) // 2
        path.write_bytes(content[:half] if damage == "cut" else content[:half] + bytes(len(content) - half))
    with pytest.raises(UserError, match=r"temperature=1\.json cannot be read .*; delete it and evaluate again"):
        record(copy)
    evaluate(copy, Sweep(SAMPLERS[1:2], tokenize="chars", arms=("mle",), **SMALL), device=CPU)
    assert record(copy).texts == texts


def test_a_kill_while_a_record_is_replaced_leaves_none(copy, monkeypatch):
    def killed(*args, **kwargs):
        raise SystemExit

    monkeypatch.setattr(np, "savez_compressed", killed)
    with pytest.raises(SystemExit):
        evaluate(copy, Sweep(SAMPLERS[1:2], tokenize="chars", arms=("mle",), **SMALL), device=CPU)
    assert (copy / "evaluation" / f"dev-n{N}-s0" / "mle" / "temperature=0.8.json").is_file()
    assert not (copy / "evaluation" / f"dev-n{N}-s0" / "mle" / "temperature=1.json").is_file()


# ---------------------------------------------------------------------------------------------- test split, protocols


def test_looks_at_the_test_split_are_counted(copy, capsys):
    sweep = Sweep(SAMPLERS[:1], split="test", arms=("mle",), **SMALL)
    assert evaluate(copy, sweep, device=CPU, command="a")["test_reads"] == 1
    assert "look number 1" in capsys.readouterr().err
    assert evaluate(copy, sweep, device=CPU, command="a")["test_reads"] == 1  # all was there: nothing was read
    other = Sweep(SAMPLERS[1:2], split="test", arms=("mle",), **SMALL)
    assert evaluate(copy, other, device=CPU, command="b")["test_reads"] == 2
    point = record(copy, "mle", str(SAMPLERS[0]), f"test-n{N}-s0")
    corpus = read_corpus(load_config(copy / "config.yaml"))
    assert point.values["bleu_4"] == pytest.approx(Scorer(corpus.test).score(point.texts).values["bleu_4"])
    results = json.loads((copy / "results.json").read_text())["phases"]["mle"]["metrics"]
    assert point.values["nll"] == pytest.approx(results["test_nll"], rel=1e-5)


def test_a_protocol_refuses_a_run_on_other_data(trained):
    with pytest.raises(UserError, match="was trained on other data than story-grammar v1"):
        evaluate(trained, Sweep(SAMPLERS, protocol=find_protocol("story-grammar")), device=CPU)


@pytest.mark.parametrize(
    "arms_asked, told",
    [
        (("nonsense",), "has no arm 'nonsense'; it has: mle, adversarial.*kneser_ney"),
        (("mle", "x"), "no arm 'x'"),
        ((), "no arm is named; give some of mle, adversarial"),
    ],
)
def test_an_arm_that_is_not_there_is_told(trained, arms_asked, told):
    with pytest.raises(UserError, match=told):
        evaluate(trained, Sweep(SAMPLERS, arms=arms_asked), device=CPU)


def test_what_is_no_run_is_told(tmp_path):
    with pytest.raises(UserError, match="is not the folder of a run"):
        evaluate(tmp_path, Sweep(SAMPLERS), device=CPU)


def test_a_checkpoint_is_no_run(trained):
    for judge, what in ((evaluate, Sweep(SAMPLERS)), (certify, Study())):
        with pytest.raises(UserError, match="mle is one checkpoint; give the folder of its run"):
            judge(trained / "checkpoints" / "mle", what, device=CPU)


def test_a_step_that_stands_in_for_an_arm_is_told(copy, capsys):
    shutil.rmtree(copy / "checkpoints" / "adversarial")
    evaluate(copy, Sweep(SAMPLERS[1:2], arms=("adversarial",), **SMALL), device=CPU)
    said = capsys.readouterr().err
    assert "step-00000010 stands in for adversarial, whose phase has not ended: it is not calibrated" in said
    evaluate(copy, Sweep(SAMPLERS[1:2], arms=("mle",), **SMALL), device=CPU)
    assert "stands in" not in capsys.readouterr().err


def test_changed_data_is_told(copy):
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("size: 400", "size: 300"))
    with pytest.raises(UserError, match="trained on other data than its config gives now"):
        evaluate(copy, Sweep(SAMPLERS), device=CPU)


# ---------------------------------------------------------------------------------------------- command line


def invoke(*args, code=0):
    result = CliRunner().invoke(command.evaluate, [str(arg) for arg in args])
    if isinstance(result.exception, UserError):
        return result.exception
    assert result.exit_code == code, result.output
    return result


ARGS = ("-n", N, "--samplers", "temperature=0.8,1", "--samplers", "top_k=3,rejection=1", "--embedder", "none")


def test_the_table(copy):
    lines = invoke(copy, *ARGS).stdout.splitlines()
    assert lines[0] == f"{copy}: {N} texts a point, split dev, seed 0"
    values = record(copy).values
    (row,) = (line for line in lines if line.startswith("mle temperature=1 "))
    assert f"{values['bleu_4']:.4f} ±" in row
    assert f"{values['nll']:.4f} ±" in row
    assert lines[2].split()[:3] == ["bleu_4", "self_bleu_4", "nll"]
    assert lines[3].startswith("real text")
    assert any(line.startswith("mle, best of all samplers") for line in lines)


def test_the_table_shows_the_embedders_and_models_that_were_asked_for(copy):
    args = ("-n", N, "--samplers", "temperature=1", "--arms", "mle")
    header = invoke(copy, *args, "--embedder", "ngrams", "--lm", "none").stdout.splitlines()[2]
    assert header.split() == ["bleu_4", "self_bleu_4", "nll", "frechet_ngrams", "valid", "kl_to_model", "copies"]
    sweep = Sweep(SAMPLERS, embedders=("minilm", "hf:a/b"), lm=("kn", "neural"))
    shown = ["frechet_minilm", "frechet_hf", "lm_kn", "lm_neural", "rlm_kn", "rlm_neural"]
    assert [name for name in command._headline(sweep) if "_" in name and "bleu" not in name][:6] == shown


def test_json(copy):
    result = json.loads(invoke(copy, *ARGS, "--arms", "adversarial", "--json").stdout)
    assert [point["sampler"] for point in result["points"]] == [str(sampler) for sampler in SAMPLERS]
    assert {point["arm"] for point in result["points"]} == {"adversarial"}
    assert result["points"][1]["values"] == record(copy, "adversarial").values
    assert result["points"][1]["intervals"] == record(copy, "adversarial").intervals


def test_list_protocols():
    lines = invoke("--list-protocols").stdout
    assert "image-coco-legacy v1" in lines
    assert "train with: data.source=stories data.size=50000 data.seed=0" in lines


def test_a_protocol_decides_what_the_command_line_may_not(trained):
    for args in (("-n", 500), ("--seed", 1), ("--samplers", "top_k=3"), ("--embedder", "minilm"), ("--lm", "none")):
        error = invoke(trained, "--protocol", "story-grammar", *args)
        assert "story-grammar v1 fixes " in str(error), args
    for args in (("-n", 10_000), ("--samplers", "rejection=2,top_k=40"), ("--embedder", "ngrams"), ("--lm", "kn")):
        error = invoke(trained, "--protocol", "story-grammar", *args)
        assert "was trained on other data" in str(error), args


def test_wrong_usage(trained):
    assert "give the folder of a run" in invoke(code=2).stderr
    assert "is not in the range" in invoke(trained, "-n", 5, code=2).stderr
    assert "did you mean" in str(invoke(trained, "--protocol", "storygrammar"))

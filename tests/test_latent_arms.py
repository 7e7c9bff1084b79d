"""VAEs beside other generators in `evaluate`, `compare` and `certify`, on a run whose weights were made by hand."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.synthetic_runs import write_run
from textgan.analysis import all_measures, critics, front_log, judged
from textgan.analysis.certify import Study, certify
from textgan.analysis.compare import compare
from textgan.analysis.evaluate import evaluate
from textgan.analysis.measures import LikelihoodMeasure
from textgan.analysis.points import read_point
from textgan.analysis.runs import run_sources
from textgan.analysis.sentences import joint_sentence
from textgan.analysis.study import build_study
from textgan.analysis.sweep import Sweep
from textgan.cli import evaluate as command
from textgan.configfile import dump_config, load_config
from textgan.data.tokenizer import save_tokenizer
from textgan.errors import UserError
from textgan.metrics.meanings import better, meaning
from textgan.sampling.decode import generate
from textgan.sampling.latent import LatentGenerator
from textgan.sampling.latent_likelihood import importance_nll, latent_values
from textgan.sampling.samplers import parse_samplers
from textgan.training.building import build_model
from textgan.training.checkpoint import arms, save_checkpoint
from textgan.training.loading import load_for_sampling
from textgan.training.run import encode, make_tokenizer, read_corpus

SMOKE = Path(__file__).parents[1] / "configs" / "vae" / "smoke.yaml"
CPU = torch.device("cpu")
N, K = 60, 3
LATENT = {"recon", "shuffled_recon", "kl", "elbo", "mi", "active_units", "active_directions"}
OF_LIKELIHOOD = {"nll", "nll_text", "nll_gen", "nll_known", "ppl", "kl_to_model"}
SAMPLERS = tuple(parse_samplers("temperature=0.8,1,z_temperature=0.5"))
SETTINGS = [
    "threads=1",
    "data.size=150",
    "data.dev_fraction=0.3",
    "data.test_fraction=0.1",
    "tokenizer.min_count=3",
    "generator.block_size=70",
    "latent_gan={}",
]

LAYERWISE = ["vae.latents=layerwise", "generator.n_layer=2"]
LSTM = [
    "generator={kind: lstm, block_size: 70, n_layer: 1, n_embd: 8, n_hidden: 12}",
    "encoder={kind: lstm, n_layer: 1, n_embd: 8, n_hidden: 12}",
]


def sweep(samplers=SAMPLERS, **settings):
    return Sweep(samplers, **{"n": N, "embedders": (), "lm": (), "iw_samples": K, **settings})


def write_arms(folder, settings=(), names=("mle", "vae", "latent_gan"), fitted=True):
    """A run that looks as if it had been trained; its decoders write words by their latents."""
    config = load_config(SMOKE, [*SETTINGS, *settings])
    corpus = read_corpus(config)
    tokenizer = make_tokenizer(config, corpus)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(config))
    save_tokenizer(tokenizer, folder / "tokenizer.json")
    for i, name in enumerate(names):
        torch.manual_seed(i if name != "latent_gan" else names.index("vae"))
        model = build_model(config, tokenizer.vocab_size, name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            if name != "mle" and fitted:
                model.aggregate_mean.fill_(0.3)
                model.aggregate_factor.copy_(torch.eye(4) * 0.6)
        meta = {"step": 5 + i, "phase": name, "data": corpus.fingerprint, "metrics": {}, "results": {}}
        (folder / "checkpoints").mkdir(exist_ok=True)
        save_checkpoint(
            folder / "checkpoints" / name, generator=model, config=config, tokenizer=tokenizer, state={}, meta=meta
        )
    return folder


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Without the classifiers and pictures, which are as for other arms and take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(all_measures, "ClassifierMeasure", lambda *args, **settings: LikelihoodMeasure())
        patch.setattr(front_log, "has_matplotlib", lambda: False)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_arms(tmp_path_factory.mktemp("runs") / "vae")


@pytest.fixture(scope="module")
def evaluated(run):
    return evaluate(run, sweep(), device=CPU)


@pytest.fixture
def copy(run, evaluated, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "copy"))


def values(result, arm, sampler="temperature=1"):
    (point,) = [p for p in result["points"] if (p.arm, p.sampler) == (arm, sampler)]
    return point.values


def dev_of(run):
    config = load_config(run / "config.yaml")
    return encode(config, read_corpus(config), load_for_sampling(arms(run)["vae"]).tokenizer)["dev"]


# ---------------------------------------------------------------------------------------------- evaluate


def test_latents_have_a_temperature_and_a_row_of_the_fitted_posterior(evaluated):
    names = [(p.arm, p.sampler) for p in evaluated["points"]]
    swept = [("vae", str(s)) for s in SAMPLERS] + [("latent_gan", str(s)) for s in SAMPLERS]
    alone = [(arm, "temperature=1") for arm in ("vae+aggregate", "kneser_ney", "mle+kneser_ney")]
    assert names == [("mle", "temperature=0.8"), ("mle", "temperature=1"), *swept, *alone]


def test_the_texts_are_those_of_generate(run, evaluated):
    model = load_for_sampling(arms(run)["vae"])
    folder = run / "evaluation" / f"dev-n{N}-s0"
    cases = [
        ("vae", "temperature=1", model.generator, {}),
        ("vae", "z_temperature=0.5", model.generator.at(z_temperature=0.5), {}),
        ("vae", "temperature=0.8", model.generator, {"temperature": 0.8}),
        ("vae+aggregate", "temperature=1", model.generator.at(source="aggregate"), {}),
        ("latent_gan", "temperature=1", load_for_sampling(arms(run)["latent_gan"]).generator, {}),
    ]
    seen = set()
    for arm, sampler, generator, settings in cases:
        banned = [model.tokenizer.unk_id]
        samples = generate(
            generator, [[]] * N, eos_id=model.tokenizer.eos_id, banned_ids=banned, batch_size=256, **settings
        )
        texts = [model.tokenizer.decode(sample.ids) for sample in samples]
        assert read_point(folder / arm / f"{sampler}.json").texts == texts
        seen.add(tuple(texts))
    assert len(seen) == len(cases)


def test_the_likelihood_is_the_bound_of_the_arms_own_latents(run, evaluated):
    model, dev = load_for_sampling(arms(run)["vae"]), dev_of(run)
    for arm, source in (("vae", "prior"), ("vae+aggregate", "aggregate")):
        generator = LatentGenerator(model.generator.vae, source)
        nll = importance_nll(generator, dev, k=K, seed=0, batch_size=64, device=CPU)
        found = values(evaluated, arm)
        assert found["nll"] == pytest.approx((nll.sum() / dev.lengths.sum()).item(), rel=1e-5)
        assert found["nll_text"] == pytest.approx(nll.mean().item(), rel=1e-5)
        assert found["ppl"] == pytest.approx(np.exp(found["nll"]))
        assert {"nll_gen", "nll_known", "kl_to_model"} <= found.keys()
    assert values(evaluated, "vae")["nll"] != values(evaluated, "vae+aggregate")["nll"]
    assert not OF_LIKELIHOOD & values(evaluated, "latent_gan").keys()
    assert values(evaluated, "mle").keys() >= OF_LIKELIHOOD
    assert evaluated["signature"]["held_out"]["iw_samples"] == K


def test_more_draws_are_a_tighter_bound_and_another_signature(copy):
    few = [values(evaluate(copy, sweep(arms=("vae",)), device=CPU), "vae")]
    before = read_point(copy / "evaluation" / f"dev-n{N}-s0" / "vae" / "temperature=1.json")
    many = evaluate(copy, sweep(arms=("vae",), iw_samples=20 * K), device=CPU)
    assert values(many, "vae")["nll"] < few[0]["nll"]
    assert values(many, "vae")["bleu_4"] == few[0]["bleu_4"]
    after = read_point(copy / "evaluation" / f"dev-n{N}-s0" / "vae" / "temperature=1.json")
    assert after.texts == before.texts
    assert after.signature["held_out"]["iw_samples"] == 20 * K


def test_what_the_latent_does_stands_among_the_values(run, evaluated):
    model, dev = load_for_sampling(arms(run)["vae"]), dev_of(run)
    expected, found = latent_values(model.generator.vae, dev, seed=0, batch_size=64, device=CPU)
    told = values(evaluated, "vae")
    for name in LATENT:
        assert told[name] == pytest.approx(expected[name], rel=1e-5), name
        assert meaning(name)
    assert told["elbo"] == pytest.approx(told["recon"] + told["kl"])
    assert told["elbo"] > told["nll_text"] - 1
    (point,) = [p for p in evaluated["points"] if (p.arm, p.sampler) == ("vae", "temperature=0.8")]
    kl = found.kl.numpy()
    assert point.groups["kl"][0] == pytest.approx(np.delete(kl, np.arange(0, len(kl), 20)).mean(), rel=1e-5)
    # Of latents that a GAN makes there is no density to hold a posterior against.
    assert LATENT & values(evaluated, "latent_gan").keys() == LATENT - {"kl", "elbo"}
    for arm in ("mle", "kneser_ney", "vae+aggregate"):
        assert not LATENT & values(evaluated, arm).keys()
    assert [better(name) for name in ("elbo", "ppl", "kl", "mi", "recon", "active_units")] == [-1, -1, 0, 0, 0, 0]


def test_what_needs_the_likelihood_of_samples_is_left_out(evaluated):
    assert "nll_div" in values(evaluated, "mle")
    for arm in ("vae", "vae+aggregate", "latent_gan"):
        assert not {"nll_div", "kl_from_model"} & values(evaluated, arm).keys()


def test_a_bound_of_latents_ends_where_it_is_interrupted(run, evaluated):
    held_out = judged.HeldOut(
        dev_of(run), dev_of(run), tokenizer=load_for_sampling(arms(run)["vae"]).tokenizer, most_train=N, iw_samples=2
    )

    def stop():
        raise KeyboardInterrupt

    arm = judged.load_arm("vae", arms(run)["vae"], CPU)
    with pytest.raises(KeyboardInterrupt):
        held_out(arm, CPU, stop)
    both = [held_out(a, CPU).values["nll"] for a in (arm, judged.aggregate_arm(arm))]
    assert both[0] != both[1]


def test_records_stay_and_texts_are_measured_anew(copy, capsys):
    evaluate(copy, sweep(), device=CPU)
    err = capsys.readouterr().err
    assert "11 of 11 operating points are there already" in err
    assert "note: z_temperature skipped for mle: no latents" in err
    again = evaluate(copy, sweep(tokenize="chars"), device=CPU)
    path = copy / "evaluation" / f"dev-n{N}-s0" / "vae" / "z_temperature=0.5.json"
    assert read_point(path).signature["tokenize"] == "chars"
    assert "log_prob" not in read_point(path).per_text
    assert "nll_div" not in values(again, "vae")


def test_a_bound_that_a_record_has_is_not_found_again(copy, monkeypatch, capsys):
    before = values(evaluate(copy, sweep(), device=CPU), "vae")
    monkeypatch.setattr(judged, "importance_nlls", None)
    more = evaluate(copy, sweep(tuple(parse_samplers("top_k=3")), arms=("vae",)), device=CPU)
    after = values(more, "vae", "top_k=3")
    names = [*LATENT, *OF_LIKELIHOOD]
    assert [after[name] for name in names] == [before[name] for name in names]
    one, other = (
        read_point(copy / "evaluation" / f"dev-n{N}-s0" / "vae" / f"{s}.json") for s in ("temperature=1", "top_k=3")
    )
    assert one.groups["nll"].tolist() == other.groups["nll"].tolist()
    with pytest.raises(TypeError):  # another number of draws is another bound
        evaluate(copy, sweep(arms=("vae",), iw_samples=K + 1), device=CPU)


def test_records_from_before_there_were_latents_stay(tmp_path, capsys):
    """An older version's signature says nothing of draws: nothing that it measured moves with their number."""
    folder = write_arms(tmp_path / "old", names=("mle",))
    plain = tuple(parse_samplers("temperature=1"))
    first = evaluate(folder, sweep(plain, iw_samples=100), device=CPU)
    for path in (folder / "evaluation").rglob("*.json"):
        content = json.loads(path.read_text())
        if "signature" in content:
            del content["signature"]["held_out"]["iw_samples"]
            path.write_text(json.dumps(content))
    capsys.readouterr()
    again = evaluate(folder, sweep(plain, iw_samples=100), device=CPU)
    assert "3 of 3 operating points are there already" in capsys.readouterr().err
    assert again["signature"] == first["signature"]
    study = build_study(run_sources([folder]))
    assert study.real == first["real"]


@pytest.mark.parametrize("fitted", [True, False])
def test_a_posterior_that_was_not_fitted_has_no_row(tmp_path, fitted):
    folder = write_arms(tmp_path / "run", names=("vae",), fitted=fitted)
    plain = tuple(parse_samplers("temperature=1"))
    names = [p.arm for p in evaluate(folder, sweep(plain), device=CPU)["points"]]
    assert names == (["vae", "vae+aggregate"] if fitted else ["vae"])
    if not fitted:
        with pytest.raises(UserError, match=r"vae\+aggregate needs the end of the phase"):
            evaluate(folder, sweep(plain, arms=("vae+aggregate",)), device=CPU)


def test_samplers_of_latents_alone_need_some(run):
    cold = tuple(parse_samplers("z_temperature=0.5"))
    with pytest.raises(UserError, match="z_temperature is for arms with latents, unlike mle"):
        evaluate(run, sweep(cold, arms=("mle",)), device=CPU)


def test_the_named_row_is_swept(copy):
    result = evaluate(copy, sweep(arms=("vae+aggregate",)), device=CPU)
    assert [(p.arm, p.sampler) for p in result["points"]] == [("vae+aggregate", str(s)) for s in SAMPLERS]


@pytest.mark.parametrize("settings", [LAYERWISE, LSTM], ids=["layerwise", "lstm"])
def test_every_kind_of_vae_is_evaluated(tmp_path, settings):
    folder = write_arms(tmp_path / "run", settings, names=("mle", "vae"))
    result = evaluate(folder, sweep(), device=CPU)
    assert values(result, "vae", "z_temperature=0.5").keys() >= LATENT | OF_LIKELIHOOD
    assert "nll" in values(result, "mle+kneser_ney")


# ---------------------------------------------------------------------------------------------- the command


def invoke(*args, code=0):
    result = CliRunner().invoke(command.evaluate, [str(arg) for arg in args])
    if code is None:
        return result
    assert result.exit_code == code, result.output
    return result


def test_the_command_shows_what_latents_do(copy):
    args = [copy, "-n", N, "--samplers", "temperature=0.8,1,z_temperature=0.5", "--embedder", "none", "--lm", "none"]
    table = invoke(*args, "--iw-samples", K).stdout
    head = next(line for line in table.splitlines() if "bleu_4" in line)
    assert head.split()[-5:] == ["recon", "kl", "mi", "active_units", "active_directions"]
    assert "vae z_temperature=0.5" in table
    assert "vae, best of all samplers" in table
    bound = f"nll, kl_to_model of vae, vae+aggregate: upper bounds, importance-weighted with {K} draws of z a text"
    assert table.splitlines()[-1] == bound
    assert "upper bounds" not in invoke(*args, "--iw-samples", K, "--arms", "mle").stdout
    told = json.loads(invoke(*args, "--iw-samples", K, "--json").stdout)
    assert told["signature"]["held_out"]["iw_samples"] == K
    assert invoke(copy, "--iw-samples", 0, code=2)


def test_protocols_leave_temperatures_of_latents_open(monkeypatch, run):
    seen = []

    def keep(run, sweep, **rest):
        seen.append([str(sampler) for sampler in sweep.samplers])
        raise UserError("seen")

    monkeypatch.setattr("textgan.analysis.evaluate.evaluate", keep)
    for args in ([], ["--samplers", "z_temperature=0.3,temperature=1"], ["--samplers", "temperature=1"]):
        assert "seen" in str(invoke(run, "--protocol", "story-grammar", *args, code=None).exception)
    assert seen[0][-3:] == ["z_temperature=0.5", "z_temperature=0.75", "z_temperature=1.25"]
    assert "temperature=1" in seen[0]
    assert seen[1:] == [["temperature=1", "z_temperature=0.3"], ["temperature=1"]]


# ---------------------------------------------------------------------------------------------- compare


def test_a_vae_is_held_against_the_model_of_its_size(run, evaluated):
    comparison = compare(build_study(run_sources([run])))
    against = [(j["arm"], j["against"]) for j in comparison["joint"] if j["metric"] == "nll"]
    assert against == [("vae", "mle"), ("vae", "mle+kneser_ney")]
    pairs = {(f["arm"], f["against"]) for pair in comparison["pairs"] for f in pair["comparisons"]}
    assert pairs <= {("vae", "mle"), ("latent_gan", "mle"), ("latent_gan", "vae")}
    assert ("vae", "mle") in pairs
    (nll,) = [j for j in comparison["joint"] if (j["metric"], j["against"]) == ("nll", "mle")]
    assert nll["bounded"] == ["vae"]
    assert "The value of vae is an upper bound" in nll["sentence"]
    assert not any(j["bounded"] for j in comparison["joint"] if j["metric"] not in ("nll", "kl_to_model"))
    note = f"of vae and vae+aggregate are upper bounds, importance-weighted over {K} draws of each text's latent"
    assert any(note in line for line in comparison["notes"])
    table = {row["metric"]: row for row in comparison["table"]}
    assert table["kl"]["arms"]["vae"]["at_1"]["mean"] == values(evaluated, "vae")["kl"]
    assert table["active_units"]["meaning"].startswith("latent dimensions")
    shown = [arm["name"] for arm in comparison["arms"]]
    assert shown == ["mle", "vae", "latent_gan", "vae+aggregate", "kneser_ney", "mle+kneser_ney"]


def test_runs_without_latents_compare_with_those_that_have_some(run, evaluated, tmp_path):
    """Another run's baseline: what was drawn for a bound is named alike for all arms."""
    other = write_arms(tmp_path / "other", ["seed=1", "mle.lr=0.002"], names=("mle",))
    evaluate(other, sweep(), device=CPU)
    comparison = compare(build_study(run_sources([run, other])))
    assert not any(arm["differs"] for arm in comparison["arms"])


@pytest.mark.parametrize(
    "difference, bounded, told, untold",
    [
        ((-2, -1), ["vae"], "vae is worse by its bound", "is better"),
        ((-2, -1), ["vae"], "that vae itself is worse is not proven", "not higher"),
        ((1, 2), ["vae"], "vae is better (", "not proven"),
        ((1, 2), ["vae"], "the truth may be lower, not higher", "not proven"),
        ((1, 2), ["mle"], "vae is better than the bound", "not higher"),
        ((1, 2), ["mle"], "that mle itself is worse is not proven", "not higher"),
        ((-1, 2), ["vae", "mle"], "vae and mle are upper bounds", "not proven"),
        ((-2, -1), [], "vae is worse (", "bound"),
    ],
)
def test_a_sentence_says_what_a_bound_shows(difference, bounded, told, untold):
    lower, upper = difference
    joint = {
        "metric": "nll",
        "arm": "vae",
        "against": "mle",
        "best": {name: {"value": 1.0, "sampler": None} for name in ("vae", "mle")},
        "difference": {"mean": (lower + upper) / 2, "lower": lower, "upper": upper},
        "bounded": bounded,
    }
    sentence = joint_sentence(joint)
    assert told in sentence
    assert untold not in sentence


def test_a_verdict_names_the_bound(tmp_path):
    groups = np.full(20, 2.0) + 0.001 * np.arange(20)
    samplers = {"temperature=1": {"nll": (2.0, groups)}}
    worse = {"temperature=1": {"nll": (3.0, groups + 1)}}
    write_run(tmp_path / "run", {"mle": samplers, "vae": worse})
    comparison = compare(build_study(run_sources([tmp_path / "run"])))
    assert any("worse by held-out NLL (upper bound)" in line for line in comparison["verdict"])


# ---------------------------------------------------------------------------------------------- certify


def test_a_vae_is_certified_by_its_draws(copy, monkeypatch):
    monkeypatch.setattr(critics, "BITS", 12)
    monkeypatch.setattr(critics, "PENALTIES", (1.0,))
    for arm in ("vae", "latent_gan"):
        record = certify(copy, Study(arm=arm, n=60, permutations=20), device=CPU)
        assert record["arm"] == arm
        assert arm in record["critics"]["wide"]["sentence"]
    with pytest.raises(UserError, match="--cross-fit trains generators by maximum likelihood"):
        certify(copy, Study(arm="vae", n=60, cross_fit=2), device=CPU)

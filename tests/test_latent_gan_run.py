"""The phase inside a run: its checkpoints and results, resuming to the bit, and errors in one line."""

import json
from pathlib import Path

import pytest
import torch

from tests.kills import Killed
from textgan.configfile import load_config
from textgan.errors import UserError
from textgan.sampling.decode import generate
from textgan.training import run
from textgan.training.checkpoint import arms, check_checkpoint, load_state, load_weights
from textgan.training.experiment import Experiment
from textgan.training.loading import load_for_sampling

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Overrides for a run of a moment: a small VAE, then a latent GAN, on a hundred short texts."""
    text = tmp_path_factory.mktemp("data") / "texts.txt"
    text.write_text("\n".join(f"{a} {b} {c} ." for a in "abcd" for b in "abcde" for c in "abcde"))
    return [
        "threads=1", f"data.source={text}", "generator.block_size=8", "mle=none", "adversarial=none", "log_every=1",
        "encoder.n_layer=1", "encoder.n_head=2", "encoder.n_embd=16",
        "vae.z_size=3", "vae.max_steps=2", "vae.batch_size=16", "vae.kl_ramp_steps=1", "vae.ema=0",
        "latent_gan.max_steps=4", "latent_gan.batch_size=16", "latent_gan.n_hidden=8", "latent_gan.warmup_steps=0",
        "evaluation.every=2", "evaluation.samples=4", "evaluation.final_samples=4", "evaluation.iw_samples=2",
        "evaluation.final_iw_samples=2", "checkpoint.every=1", "checkpoint.keep_last=1",
    ]  # fmt: skip


JOINT = ["latent_gan.encoder_weight=1", "latent_gan.ema=0", "latent_gan.lr_vae=0.01", "vae.bn_gamma=0.5"]


@pytest.fixture(scope="module")
def finished(few, tmp_path_factory):
    """Folders of finished runs: of a frozen autoencoder, and of one that goes on learning."""
    folders = {}
    for name, more in (("frozen", []), ("joint", JOINT)):
        folders[name] = tmp_path_factory.mktemp(name) / "run"
        run.train(load_config(SMOKE, [*few, *more]), folders[name])
    return folders


@pytest.mark.parametrize("name", ["frozen", "joint"])
def test_a_run_ends_with_both_arms(finished, name):
    folder = finished[name]
    found = arms(folder)
    assert list(found) == ["vae", "latent_gan"]
    before, after = (load_weights(path) for path in found.values())
    assert {key.partition(".")[0] for key in after.keys() - before.keys()} == {"latent_generator"}
    moved = {key for key, tensor in before.items() if not torch.equal(after[key], tensor)}
    if name == "frozen":
        assert not moved
    else:
        assert {"bn.0.running_mean", "aggregate_mean", "aggregate_factor"} <= moved
        assert {"encoder", "decoder"} <= {key.partition(".")[0] for key in moved}
    assert (folder / "checkpoints" / "best").read_text().strip() == "latent_gan"
    steps = [check_checkpoint(path)["step"] for path in found.values()]
    assert steps == [2, 6]


def test_results_hold_no_likelihood_that_is_not_known(finished):
    phases = json.loads((finished["frozen"] / "results.json").read_text())["phases"]
    assert {"nll", "kl"} <= phases["vae"]["metrics"].keys()
    entry = phases["latent_gan"]
    assert not {"nll", "ppl", "nll_text", "test_nll", "elbo_nll", "kl"} & entry["metrics"].keys()
    assert {"bleu_4", "self_bleu_4", "recon"} <= entry["metrics"].keys()
    assert entry["metrics"]["recon"] == phases["vae"]["metrics"]["recon"]
    assert entry["calibration"] == phases["vae"]["calibration"] is not None
    summary = {name: step for name, (step, _) in run.stages(phases).items()}
    assert summary == {"vae": 2, "end": 6, "best": 6}  # the pictures of the end hold the VAE's values as well
    assert {"latent/mmd", "latent/mmd_real", "latent/mmd_prior", "latent/frechet"} <= entry["latent"].keys()
    joint = json.loads((finished["joint"] / "results.json").read_text())["phases"]
    assert joint["latent_gan"]["metrics"]["recon"] != joint["vae"]["metrics"]["recon"]
    assert joint["latent_gan"]["calibration"] != joint["vae"]["calibration"]


def test_the_log_tells_how_the_players_fare(finished):
    for name, more in (("frozen", set()), ("joint", {"train/e_loss", "train/recon", "schedule/lr_vae"})):
        lines = [json.loads(line) for line in (finished[name] / "metrics.jsonl").read_text().splitlines()]
        last = {key for line in lines if line["step"] == 6 for key in line}
        assert {"train/g_loss", "train/d_loss", "train/d_acc", "schedule/lr_d", "latent/mmd"} | more <= last
        assert ("train/e_loss" in last) == (name == "joint")


def test_texts_are_drawn_through_the_generator_of_latents(finished):
    model = load_for_sampling(finished["frozen"])
    assert model.generator.source == "gan"
    latents = model.generator.latents(5, 0, 4)
    assert not torch.allclose(latents, model.generator.at(source="prior").latents(5, 0, 4))
    texts = generate(model.generator, [[]] * 4, eos_id=model.tokenizer.eos_id, seed=5)
    given = generate(model.generator, [[]] * 4, eos_id=model.tokenizer.eos_id, seed=5, latents=latents)
    assert texts == given


@pytest.mark.parametrize("more, fatal", [([], 1), ([], 4), (JOINT, 3), (JOINT, 6)])
def test_killed_and_resumed_equals_uninterrupted(few, finished, tmp_path, monkeypatch, more, fatal):
    whole, folder = finished["joint" if more else "frozen"], tmp_path / "killed"
    config = load_config(SMOKE, [*few, *more])
    save, count = Experiment.save, 0

    def deadly(self, name, **values):
        nonlocal count
        path = save(self, name, **values)
        count += values["phase"] == "latent_gan" or name == "vae"
        if count == fatal:
            count += 1
            raise Killed
        return path

    monkeypatch.setattr(Experiment, "save", deadly)
    with pytest.raises(Killed):
        run.train(config, folder)
    run.train(config, folder, resume=True)
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    own, other = (load_weights(f / "checkpoints" / "latent_gan") for f in (folder, whole))
    assert own.keys() == other.keys()
    assert all(torch.equal(own[key], other[key]) for key in own)
    critics = [load_state(f / "checkpoints" / "latent_gan")["critic"] for f in (folder, whole)]
    assert all(torch.equal(critics[0][key], critics[1][key]) for key in critics[1])
    phases = [json.loads((f / "results.json").read_text())["phases"] for f in (folder, whole)]
    assert phases[0] == phases[1]


def test_patience_ends_the_phase(few, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "textgan.training.latent_gan.compare_codes",
        lambda run, vae: {"latent/mmd": next(values), "latent/frechet": 0.0},
    )
    values = iter([0.5, 0.25, 0.75, 0.75, 0.25])
    more = ["latent_gan.patience=1", "latent_gan.max_steps=50"]
    results = run.train(load_config(SMOKE, [*few, *more]), tmp_path / "run")
    assert "stopped early at step 8: generated codes were nearest to those of dev texts at step 6 (MMD 0.25)" in (
        capsys.readouterr().err
    )
    assert results["phases"]["latent_gan"]["step"] == 8


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["vae=none", "mle.max_steps=1"], "latent_gan learns from the codes of a VAE"),
        (["latent_gan.loss=wasserstein", "latent_gan.r1=0", "latent_gan.r2=0"], "bounded slope"),
        (["latent_gan.loss=gan"], "latent_gan.loss"),
        (["latent_gan.batch_size=1"], "latent_gan.batch_size"),
        (["latent_gan.noise_size=0"], "latent_gan.noise_size"),
    ],
)
def test_bad_settings_are_refused_in_words(few, overrides, said):
    kept = few if overrides[0] != "vae=none" else [o for o in few if not o.startswith(("vae", "mle"))]
    with pytest.raises(UserError, match=said):
        load_config(SMOKE, [*kept, *overrides])

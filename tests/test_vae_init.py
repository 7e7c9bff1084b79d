"""A VAE whose decoder starts from a generator: from this run's own, or from another run's."""

import json

import pytest
import torch

from textgan.analysis.runs import setting_of
from textgan.configfile import load_config
from textgan.errors import UserError
from textgan.training import dry_run, report, run, vae
from textgan.training.checkpoint import load_weights
from textgan.training.evaluation import text_nll
from textgan.training.loading import load_for_sampling

TINY = [
    "name=tiny", "threads=1", "data.source=stories", "data.size=200", "generator.block_size=96",
    "generator.n_layer=1", "generator.n_head=2", "generator.n_embd=16", "generator.n_hidden=16", "encoder.n_layer=1",
    "encoder.n_head=2", "encoder.n_embd=16", "mle.max_steps=3", "mle.batch_size=8", "vae.z_size=4", "vae.max_steps=2",
    "vae.batch_size=8", "vae.kl_ramp_steps=1", "evaluation.every=9", "evaluation.samples=4",
    "evaluation.final_samples=4", "evaluation.iw_samples=2", "evaluation.final_iw_samples=2", "evaluation.show=1",
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "empty.yaml"
    path.write_text("name: tiny\n")
    return lambda *options: load_config(path, [*TINY, *options])


@pytest.fixture(scope="module")
def parents(config, tmp_path_factory):
    """A finished generator of each kind."""
    folder = tmp_path_factory.mktemp("parents")
    for kind in ("transformer", "lstm"):
        run.train(config("vae=none", f"generator.kind={kind}"), folder / kind)
    return folder


def first_vae(config, folder, monkeypatch):
    """What ``set_up`` made, and the run's other models."""
    made = []
    set_up = vae.set_up

    def spy(experiment):
        learner = set_up(experiment)
        made.append({name: tensor.clone() for name, tensor in learner.vae.state_dict().items()})
        return learner

    monkeypatch.setattr(vae, "set_up", spy)
    run.train(config, folder)
    return made


def decoder_of(weights):
    return {name.removeprefix("decoder."): t for name, t in weights.items() if name.startswith("decoder.")}


def test_the_runs_own_generator_starts_the_decoder_and_starts_it_anew_after_pretraining(config, tmp_path, monkeypatch):
    settings = config("vae.init_from=mle", "vae.pretrain_steps=2", "vae.lr=1e-2")
    made = first_vae(settings, tmp_path / "run", monkeypatch)
    results = json.loads((tmp_path / "run" / "results.json").read_text())["phases"]
    told = "vae: its decoder started from mle and learned on: no comparison at equal updates"
    assert told in report.arm_lines(results)
    parent = load_weights(tmp_path / "run" / "checkpoints" / "mle")
    assert len(made) == 2  # at the start, and behind the pretraining
    for weights in made:
        decoder = decoder_of(weights)
        assert decoder.keys() == parent.keys()
        assert all(torch.equal(decoder[name], tensor) for name, tensor in parent.items())
    after = load_weights(tmp_path / "run" / "checkpoints" / "vae")
    assert not torch.equal(decoder_of(after)["wte.weight"], parent["wte.weight"])


def test_another_runs_generator_starts_the_decoder_alike(config, parents, tmp_path, monkeypatch):
    other = f"vae.init_from={parents / 'transformer'}"
    (weights,) = first_vae(config("mle=none", other), tmp_path / "run", monkeypatch)
    parent = load_weights(parents / "transformer" / "checkpoints" / "mle")
    assert all(torch.equal(decoder_of(weights)[name], tensor) for name, tensor in parent.items())


@pytest.mark.parametrize("injection", ["embedding", "memory"])
def test_an_lstm_decoder_starts_as_the_language_model_whatever_stands_beside_its_inputs(config, parents, injection):
    settings = config(
        "mle=none", "generator.kind=lstm", f"vae.init_from={parents / 'lstm'}", f"vae.injection={injection}"
    )
    parent = load_for_sampling(parents / "lstm")
    dev = run.encode(settings, run.read_corpus(settings), parent.tokenizer)["dev"]
    experiment = type("Run", (), {"config": settings, "tokenizer": parent.tokenizer, "device": torch.device("cpu")})
    model = vae.new_vae(experiment).eval()
    batch = dev.batch(torch.arange(len(dev)))
    z = torch.randn(len(dev), 4, generator=torch.Generator().manual_seed(0))
    z = z if injection == "embedding" else z * 0  # a first state of zeros
    with torch.no_grad():
        found = -model.log_likelihood(batch.ids, batch.lengths, z).double()
    expected = text_nll(parent.generator, dev, batch_size=8, device=torch.device("cpu"))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_a_parent_must_fit_and_exist(config, parents, tmp_path):
    lstm = parents / "lstm"
    with pytest.raises(UserError, match=rf"vae\.init_from={lstm} was made with other settings: generator\.kind=lstm"):
        run.train(config("mle=none", f"vae.init_from={lstm}"), tmp_path / "run")
    with pytest.raises(UserError, match="does not exist"):
        run.train(config("mle=none", "vae.init_from=runs/nothing"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"vae\.init_from=mle needs a `mle` section"):
        config("mle=none", "vae.init_from=mle")


def test_a_vae_is_no_parent_and_nothing_is_written_before_that_is_said(config, tmp_path):
    run.train(config(), tmp_path / "vae")
    own, adversarial = tmp_path / "vae" / "checkpoints" / "mle", "adversarial.batch_size=4"
    for key, *options in (("vae.init_from",), ("adversarial.init_from", "vae=none", adversarial)):
        with pytest.raises(UserError, match=rf"^{key}=.*vae is a VAE \(.*\), .*; give {own}$"):
            run.train(config(*options, "mle=none", f"{key}={tmp_path / 'vae'}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_parent_that_may_have_read_what_is_held_out_here_is_told_of(config, parents, tmp_path, capsys):
    options = ["mle=none", f"vae.init_from={parents / 'transformer'}"]
    dry_run.plan(config(*options), tmp_path / "run")
    assert "warning" not in capsys.readouterr().err
    dry_run.plan(config(*options, "data.seed=1"), tmp_path / "run")
    told = capsys.readouterr().err
    assert told.count("was trained on other texts or another split of them") == 1


def test_runs_whose_parents_differ_in_seed_alone_are_one_setting(config, parents, tmp_path):
    run.train(config("vae=none", "seed=1"), tmp_path / "parent")
    ends = [parents / "transformer" / "checkpoints" / "mle", tmp_path / "parent" / "checkpoints" / "mle"]
    one, two = (setting_of(config("mle=none", f"vae.init_from={end}")) for end in ends)
    assert one == two
    assert one != setting_of(config("mle=none", f"vae.init_from={parents / 'lstm' / 'checkpoints' / 'mle'}"))

"""Parameters frozen by pattern: which they are, that they keep every bit, what is said of them, what is refused."""

from pathlib import Path

import pytest
import torch

from tests.commands import invoke
from tests.kills import Killed, everything
from textgan.cli.train import train as train_command
from textgan.config import Config
from textgan.configfile import load_config
from textgan.errors import UserError
from textgan.training import run
from textgan.training.building import build_generator
from textgan.training.checkpoint import load_weights
from textgan.training.experiment import Experiment
from textgan.training.finetune import build_trained

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")
SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
FEW = [
    "threads=1", "data.size=120", "generator.n_layer=2", "mle.max_steps=2", "mle.lr=0.05", "adversarial.max_steps=2",
    "adversarial.lr=0.05", "adversarial.d_pretrain_steps=1", "evaluation.every=2", "evaluation.samples=4",
    "evaluation.final_samples=4", "checkpoint.every=1",
]  # fmt: skip


def config(*overrides):
    return load_config(SMOKE, [*FEW, *overrides])


def frozen_names(*overrides):
    return {name for name, p in build_trained(config(*overrides), 30).named_parameters() if not p.requires_grad}


def all_names(*overrides):
    return [name for name, _ in build_trained(config(*overrides), 30).named_parameters()]


def test_patterns_are_of_names_and_a_module_stands_for_all_in_it():
    names = all_names("generator.n_layer=11")
    assert frozen_names("generator.n_layer=11", "finetune.freeze=[wte, h.1]") == {
        name for name in names if name == "wte.weight" or name.startswith("h.1.")
    }
    assert frozen_names("finetune.freeze=['h.*.ln_1', '*.bias']") == {
        name for name in all_names() if ".ln_1." in name or name.endswith(".bias")
    }
    assert frozen_names() == set()
    lstm = frozen_names("generator.kind=lstm", "finetune.freeze=[lstm.0, head]")
    assert {name.rsplit(".", 1)[0] for name in lstm} == {"lstm.0", "head"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("finetune.freeze=[wtx]", r"finetune.freeze: `wtx` matches nothing in the generator; did you mean wte"),
        ("finetune.freeze=[h.0, h.7]", r"`h.7` matches nothing"),
        ("finetune.freeze=['*']", "freezes all of the generator"),
    ],
)
def test_what_does_not_fit_is_refused_before_work_starts(override, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run.train(config(override), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=message):
        invoke(train_command, SMOKE, *FEW, override, "--dry-run")


def test_refused_beside_an_adapter_and_where_no_phase_would_look():
    with pytest.raises(UserError, match="freeze beside an adapter"):
        config("finetune.freeze=[wte]", "adapter.kind=lora")
    with pytest.raises(UserError, match="finetune is of the phases `mle` and `adversarial`"):
        config("finetune.freeze=[wte]", "mle=none", "adversarial=none", "vae.max_steps=2000")
    with pytest.raises(ValueError, match="finetune: without effect beside this `classifier`"):
        Config(finetune={"freeze": ["wte"]}, mle=None, classifier={}, data={"label": "mood"})


@pytest.mark.parametrize(
    "more",
    [[], ["mle.accumulate=2", "adversarial.accumulate=2"], ["adversarial.estimator=soft"]],
    ids=["plain", "accumulated", "soft"],
)
def test_frozen_weights_keep_every_bit_through_all_arms_and_others_do_not(tmp_path, more, capsys):
    settings = ["finetune.freeze=[wte, h.0]", *more]
    run.train(config(*settings), tmp_path / "run")
    root = tmp_path / "run" / "checkpoints"
    start = build_generator(config(), len(load_weights(root / "mle")["wte.weight"])).state_dict()
    weights = {arm: load_weights(root / arm) for arm in ("mle", "adversarial", "continued")}
    frozen = {name for name in start if name == "wte.weight" or name.startswith("h.0.")}
    for a, b in (("mle", "adversarial"), ("mle", "continued")):
        for name in start:
            same = torch.equal(weights[a][name], weights[b][name])
            assert same == (name in frozen) or name == "logit_bias", (a, b, name)
    trained = sum(x.numel() for name, x in start.items() if name not in frozen and name != "logit_bias")
    total = sum(x.numel() for name, x in start.items() if name != "logit_bias")
    said = capsys.readouterr().err
    assert said.count(f"frozen: wte, h.0; {trained:,} of {total:,} parameters are trained ({trained / total:.2%})") == 2


def test_mle_leaves_frozen_weights_at_their_start(tmp_path):
    """Where all but a norm is frozen, all but that ends as it began."""
    few = ["adversarial=none", "mle.calibrate=false"]
    run.train(config(*few, "finetune.freeze=[wte, wpe, 'h.*', ln_f.bias]"), tmp_path / "run")
    run.train(config(*few, "mle.lr=1e-9", "mle.weight_decay=0"), tmp_path / "still")
    found, still = (load_weights(tmp_path / name / "checkpoints" / "mle") for name in ("run", "still"))
    for name, tensor in found.items():
        if name == "ln_f.weight":
            assert not torch.allclose(tensor, still[name], atol=1e-3)
        else:
            torch.testing.assert_close(tensor, still[name], atol=1e-7, rtol=0)


def test_a_killed_run_resumes_to_the_same_bits(tmp_path, monkeypatch):
    settings = config("finetune.freeze=[wte, h.0.attn]", "mle.max_steps=3", "mle.ema=0")
    run.train(settings, tmp_path / "whole")
    save = Experiment.save

    def deadly(self, name, **kwargs):
        save(self, name, **kwargs)
        if kwargs["step"] in (1, 4) and not (tmp_path / f"killed-{kwargs['step']}").exists():
            (tmp_path / f"killed-{kwargs['step']}").touch()
            raise Killed

    monkeypatch.setattr(Experiment, "save", deadly)
    with pytest.raises(Killed):
        run.train(settings, tmp_path / "run")
    with pytest.raises(Killed):
        run.train(settings, tmp_path / "run", resume=True)
    run.train(settings, tmp_path / "run", resume=True)
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")


def test_a_dry_run_tells_what_trains():
    result = invoke(train_command, SMOKE, *FEW, "finetune.freeze=[wte]", "--dry-run")
    assert "frozen: wte; " in result.output
    assert "parameters are trained" in result.output

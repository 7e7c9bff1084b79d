"""The arms of a run and its critic: found by name, also in runs from before they had names."""

import shutil
from pathlib import Path

import pytest
import torch

from textgan.configfile import load_config
from textgan.errors import UserError
from textgan.training import run
from textgan.training.checkpoint import arms, load_state
from textgan.training.critic import load_critic

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run.train(load_config(SMOKE, ["threads=1", "data.size=100"]), folder)
    return folder


def copied(whole, tmp_path, *gone):
    shutil.copytree(whole, tmp_path / "run")
    for name in gone:
        shutil.rmtree(tmp_path / "run" / "checkpoints" / name, ignore_errors=True)
    return tmp_path / "run"


def test_the_newest_adversarial_step_stands_in_for_an_end_without_a_name(whole, tmp_path):
    folder = copied(whole, tmp_path, "adversarial", "continued")
    assert arms(folder) == {
        "mle": folder / "checkpoints" / "mle",
        "adversarial": folder / "checkpoints" / "step-00000010",
    }
    assert load_critic(folder)[1].path.name == "step-00000010"


def test_a_run_without_an_adversarial_phase_has_one_arm_and_no_critic(whole, tmp_path):
    folder = copied(whole, tmp_path)
    for path in (folder / "checkpoints").iterdir():
        if path.is_dir() and path.name != "mle":
            shutil.rmtree(path)
    assert set(arms(folder)) == {"mle"}
    with pytest.raises(UserError, match="has no discriminator: its arms are mle"):
        load_critic(folder)
    with pytest.raises(UserError, match=r"mle has no discriminator \(phase mle\)"):
        load_critic(folder / "checkpoints" / "mle")
    shutil.rmtree(folder / "checkpoints" / "mle")
    with pytest.raises(UserError, match="no finished phase yet"):
        arms(folder)
    with pytest.raises(UserError, match="does not exist"):
        arms(tmp_path / "nowhere")


def test_the_critic_is_the_trained_one_and_scores_texts(whole):
    critic, model = load_critic(whole)
    state = load_state(whole / "checkpoints" / "step-00000010")
    for name, weight in state["players"]["discriminator"].items():
        assert torch.equal(critic.state_dict()[name], weight), name
    assert not critic.training
    row = [*model.tokenizer.encode("One windy evening"), model.tokenizer.eos_id]
    score = critic(torch.tensor([row, row]), torch.tensor([len(row), 1])).sequence
    assert score.shape == (2,)
    assert score[0] != score[1]

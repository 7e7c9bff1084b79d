"""Every config in configs/ is right as a whole and says something that its defaults do not."""

import math
from pathlib import Path

import pytest

from textgan.configfile import describe_config, dump_config, load_config
from textgan.training import run

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))


def test_the_promised_configs_are_there():
    names = {str(path.relative_to(CONFIGS)) for path in FILES}
    assert {
        "quickstart.yaml",
        "smoke.yaml",
        "stories/mle.yaml",
        "stories/gan.yaml",
        "image_coco/mle.yaml",
        "image_coco/gan.yaml",
        "image_coco/relgan.yaml",
        "emnlp_news/mle.yaml",
        "emnlp_news/gan.yaml",
    } <= names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_config_loads_and_round_trips(path, tmp_path):
    config = load_config(path)
    for text in (dump_config(config), describe_config(config)):
        copy = tmp_path / "copy.yaml"
        copy.write_text(text, encoding="utf-8")
        assert load_config(copy) == config
    assert path.read_text(encoding="utf-8").startswith("#"), "begin with a comment that says what it is for"


def test_names_are_all_different():
    names = [load_config(path).name for path in FILES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_config_trains_for_two_steps(path, tmp_path):
    overrides = ["threads=1", "evaluation.samples=4", "evaluation.final_samples=4", "data.size=300"]
    config = load_config(path)
    for key in ("source", "dev", "test"):
        if str(getattr(config.data, key)).startswith("corpora/"):  # not shipped: texts of the same form
            texts = tmp_path / f"{key}.txt"
            texts.write_text("\n".join(f"A {key} of {i} red buses and a cat on street {i % 9} ." for i in range(150)))
            overrides.append(f"data.{key}={texts}")
    for phase in ("mle", "adversarial"):
        if getattr(config, phase):
            overrides += [f"{phase}.max_steps=2", f"{phase}.batch_size=8"]
    if config.adversarial:
        overrides.append(f"adversarial.d_pretrain_steps={min(1, config.adversarial.d_pretrain_steps)}")
    results = run.train(load_config(path, overrides), tmp_path / "run")
    last = list(results["phases"].values())[-1]
    assert last["step"] == sum(2 for phase in (config.mle, config.adversarial) if phase)
    assert math.isfinite(last["metrics"]["nll"])

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
        "image_coco/resplit_mle.yaml",
        "image_coco/resplit_gan.yaml",
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
    last = results["phases"]["adversarial" if config.adversarial else "mle"]
    assert last["step"] == sum(2 for phase in (config.mle, config.adversarial) if phase)
    assert all(math.isfinite(entry["metrics"]["nll"]) for entry in results["phases"].values())


def test_adversarial_configs_train_their_baseline_too():
    for path in CONFIGS.glob("*/*.yaml"):
        settings = load_config(path).adversarial
        assert settings is None or settings.continuation is not None, path


def test_the_resplit_pools_both_files_and_has_one_topic():
    """The two configs share one split by hash; nothing of it is a file of its own."""
    parent, child = (load_config(CONFIGS / "image_coco" / f"resplit_{name}.yaml") for name in ("mle", "gan"))
    assert parent.data == child.data
    assert (parent.data.dev, parent.data.test, parent.data.dedupe) == (None, None, True)
    assert parent.generator == child.generator
    assert parent.mle == child.mle


@pytest.mark.corpora
def test_the_resplit_has_the_sizes_that_it_names(corpora):
    config = load_config(CONFIGS / "image_coco" / "resplit_mle.yaml", [f"data.source={corpora}/image_coco"])
    corpus = run.read_corpus(config)
    found = [f"{len(texts):,}" for texts in (corpus.train, corpus.dev, corpus.test)]
    assert " / ".join(found) in (CONFIGS / "image_coco" / "resplit_mle.yaml").read_text(encoding="utf-8")

"""Every config in configs/ is right as a whole and says something that its defaults do not."""

from pathlib import Path

import pytest

from textgan.configfile import describe_config, dump_config, load_config

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

"""The README stays true: its commands run, and what it names exists."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from textgan.cli.main import cli
from textgan.config import Config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.S)
    for line in block.splitlines()
    if line.startswith("textgan ")
]
# So that a command takes seconds: what `smoke.yaml` has, over the config that the README names.
SMALL = [
    "threads=1",
    "log_every=1",
    "data.size=1000",
    "generator.n_layer=1",
    "generator.n_head=2",
    "generator.n_embd=16",
    "discriminator.n_layer=1",
    "discriminator.n_head=2",
    "discriminator.n_embd=16",
    "evaluation.samples=8",
    "evaluation.final_samples=8",
    "evaluation.prompts=[]",
    "checkpoint.every=1",
]
MLE = ["mle.max_steps=2", "mle.batch_size=8"]
GAN = ["adversarial.max_steps=2", "adversarial.batch_size=8", "adversarial.d_pretrain_steps=1"]


def shrunk(words: list[str]) -> list[str]:
    """The words of a `textgan train` command with overrides that make it small, and no step option."""
    config, overrides = words[2], [*SMALL]
    overrides += [] if "mle=none" in words else MLE
    overrides += GAN if "stories/mle" not in config and "adversarial=none" not in words else []
    if "--max-steps" in words:
        at = words.index("--max-steps")
        words = words[:at] + words[at + 2 :]
    return [*words[1:3], *overrides, *words[3:]]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with what the README's reader has at hand: configs, some texts, a run called quickstart."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "mytexts.txt").write_text("\n".join(f"The {i % 7} cats sat on mat {i} ." for i in range(300)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        command = ["textgan", "train", "configs/quickstart.yaml"]
        result = CliRunner().invoke(cli, shrunk(command), catch_exceptions=False)
        assert result.exit_code == 0, result.output
    return folder


def test_the_readme_has_the_two_commands():
    assert "pip install -e . && textgan train configs/quickstart.yaml\n" in README
    assert "pip install -e '.[test]' && pytest\n" in README
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(desk, monkeypatch, command):
    monkeypatch.chdir(desk)
    words = shlex.split(command)
    if "samples.txt" in words and words[1] == "score":
        (desk / "samples.txt").write_text("A cat sat .\nThe 3 cats sat on mat 3 .\n")
    elif "samples.txt" in words:
        (desk / "samples.txt").unlink(missing_ok=True)
    if words[1] == "train":
        arguments = shrunk(words)
    elif words[1] in ("evaluate", "certify") and "--list-protocols" not in words:
        arguments = [*words[1:], "-n", "60", *(["--samplers", "temperature=0.9,1"] if words[1] == "evaluate" else [])]
    elif "check" in words:
        globs = [sorted(Path().glob(word)) if "*" in word else [word] for word in words[1:]]
        arguments = [str(path) for paths in globs for path in paths]
    else:
        arguments = words[1:]
    for at, word in enumerate(arguments):  # the tiny run knows few words
        if word in ("One windy evening", "It was a sunny morning"):
            arguments[at] = "It was a"
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_python_examples_run():
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.S):
        exec(compile(block, "README.md", "exec"), {})


def test_everything_named_in_backticks_exists():
    for path in re.findall(
        r"`((?:configs|tests|textgan|runs|data|models|sampling|training|ops)/[\w/.]+\.\w+)`", README
    ):
        assert (ROOT / path).exists() or (ROOT / "textgan" / path).exists(), path
    sections = Config.model_fields
    for key in re.findall(r"`(?:data|tokenizer|generator|adversarial|mle|evaluation)\.(?!json)\w+", README):
        section, _, name = key.strip("`").partition(".")
        model = sections[section].annotation
        names = getattr(model, "model_fields", None) or model.__args__[0].model_fields
        assert name in names or name == "warmup", key  # `mle.warmup` is the README's example of a wrong key


def test_pictures_are_there():
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).is_file(), picture

"""The README stays true: its commands run, and what it names exists."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from torch.distributed.run import get_args_parser

from tests.benchmarks import vae_remedies
from tests.pretrained_models import as_on_the_hub, save_bert, save_gpt2
from textgan.cli.main import SHARED, cli
from textgan.config import Config
from textgan.configfile import load_config
from textgan.data.story_grammar import load_grammar
from textgan.training.tags import TAGS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.S)
    for line in block.splitlines()
    if line.startswith("textgan ")
]
# Commands with their output, of runs that a test has in small; those on published samples it has not.
SHOWN = [line for line in re.findall(r"^\$ (textgan .*)$", README, flags=re.M) if " runs/" in line]
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
VAE = [
    "encoder.n_layer=1",
    "encoder.n_head=2",
    "encoder.n_embd=16",
    "vae.z_size=4",
    "vae.max_steps=2",
    "vae.batch_size=8",
    "vae.kl_ramp_steps=1",
    "evaluation.iw_samples=1",
    "evaluation.final_iw_samples=2",
]
LATENT_GAN = ["latent_gan.max_steps=2", "latent_gan.batch_size=8"]
GAN = ["adversarial.max_steps=2", "adversarial.batch_size=8", "adversarial.d_pretrain_steps=1"]


def shrunk(words: list[str]) -> list[str]:
    """The words of a `textgan train` command with overrides that make it small, and no step option."""
    config, overrides = words[2], [*SMALL]
    if "configs/classifier/" in config:
        return [*words[1:3], "threads=1", "data.size=300", "classifier.max_steps=2", "evaluation.every=1", *words[3:]]
    if "configs/pretrained/" in config:
        overrides = [line for line in SMALL if not line.startswith(("generator", "discriminator"))]
    overrides += [] if "mle=none" in words else MLE
    if "configs/vae/" in config:
        overrides += VAE + (LATENT_GAN if "latent_gan" in config else [])
    elif "stories/mle" not in config and "adversarial=none" not in words:
        overrides += GAN
    if "--max-steps" in words:
        at = words.index("--max-steps")
        words = words[:at] + words[at + 2 :]
    return [*words[1:3], *overrides, *words[3:]]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with what the README's reader has at hand: configs, some texts, runs of three configs."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "mytexts.txt").write_text("\n".join(f"The {i % 7} cats sat on mat {i} ." for i in range(300)))
    (folder / "reviews").mkdir()
    for name in ("bad", "good"):
        (folder / "reviews" / f"{name}.txt").write_text(f"The food was {name} .\nA {name} place .\n")
    stories = load_grammar("en").sample_many(16, seed=5)
    for name, part in (("stories", stories[:4]), ("failed", stories[4:10]), ("managed", stories[10:16])):
        (folder / f"{name}.txt").write_text("\n".join(part) + "\n")
    save_gpt2(folder / "gpt2")
    save_bert(folder / "bert")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        as_on_the_hub(patch, folder / "hub", **{"gpt2": folder / "gpt2", "bert-base-uncased": folder / "bert"})
        for name in (
            "quickstart",
            "pretrained/gpt2_lora",
            "stories/titles",
            "vae/stories",
            "vae/latent_gan",
            "classifier/stories",
        ):
            command = ["textgan", "train", f"configs/{name}.yaml"]
            result = CliRunner().invoke(cli, shrunk(command), catch_exceptions=False)
            assert result.exit_code == 0, result.output
    return folder


def test_the_readme_has_the_two_commands():
    assert "pip install -e . && textgan train configs/quickstart.yaml\n" in README
    assert "pip install -e '.[test]' && pytest\n" in README
    assert len(COMMANDS) > 10
    assert len(SHOWN) > 5


@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS + SHOWN))
def test_command_runs(desk, tmp_path, monkeypatch, command):
    monkeypatch.chdir(desk)
    words = shlex.split(command, comments=True)
    if "configs/pretrained/" in command:  # of a hub that is not here
        models = {"gpt2": desk / "gpt2", "bert-base-uncased": desk / "bert"}
        as_on_the_hub(monkeypatch, tmp_path / "hub", **models)
    if "samples.txt" in words and words[1] == "score":
        (desk / "samples.txt").write_text("A cat sat .\nThe 3 cats sat on mat 3 .\n")
    elif "samples.txt" in words:
        (desk / "samples.txt").unlink(missing_ok=True)
    if words[1] == "train":
        arguments = shrunk(words)
        if not {"--run", "--dry-run"} & set(words):
            arguments += ["--run", f"runs/again-{Path(words[2]).parent.name}-{Path(words[2]).stem}"]
    elif words[1] == "evaluate" and "--list-protocols" not in words:
        arguments = [*words[1:], "-n", "60", "--samplers", "temperature=0.9,1", "--iw-samples", "2"]
    elif words[1] == "certify":
        arguments = [*words[1:], "-n", "60"]
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


def test_torchrun_starts_what_its_lines_say():
    lines = re.findall(r"^torchrun .*$", README, flags=re.M)
    assert len(lines) == len(SHARED)
    for line, name in zip(lines, SHARED, strict=True):
        found = get_args_parser().parse_args(shlex.split(line)[1:])
        assert (found.module, found.training_script, found.training_script_args[0]) == (True, "textgan", name)
        cli.get_command(None, name).make_context(name, found.training_script_args[1:])  # knows all options


def test_python_examples_run():
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.S):
        exec(compile(block, "README.md", "exec"), {})


def test_everything_named_in_backticks_exists():
    for path in re.findall(
        r"`((?:configs|tests|textgan|runs|data|models|sampling|training|ops)/[\w/.]+\.\w+)`", README
    ):
        assert (ROOT / path).exists() or (ROOT / "textgan" / path).exists(), path
    options = re.search(r"\| `vae\.` option \|.*?\n\n", README, flags=re.S)[0]
    settings = [
        word for row in options.strip().splitlines()[2:] for word in re.findall(r"`([\w=]+)`", row.split("|")[1])
    ]
    assert len(settings) > 10
    keys = [f"vae.{setting.partition('=')[0]}" for setting in settings]
    for setting in settings:
        if "=" in setting:
            load_config(ROOT / "configs/vae/smoke.yaml", [f"vae.{setting}"])
    keys += re.findall(
        r"[` ]((?:data|tokenizer|generator|adversarial|mle|evaluation|encoder)\.(?!json|txt)\w+)", README
    )
    for key in keys:
        section, _, name = key.partition(".")
        model = Config.model_fields[section].annotation
        names = getattr(model, "model_fields", None) or model.__args__[0].model_fields
        assert name in names or name == "warmup", key  # `mle.warmup` is the README's example of a wrong key
    tags = re.findall(r"`((?:quality|diversity|train|schedule|vae|samples|latent)/\w+)`", README)
    assert len(tags) > 5
    for tag in tags:
        assert tag in TAGS, tag


def test_the_benchmark_of_remedies_can_be_planned():
    ((command),) = re.findall(r"^python -m tests.benchmarks vae_remedies (.*)$", README, flags=re.M)
    context = vae_remedies.main.make_context("vae_remedies", shlex.split(command))
    base, out, seeds = (context.params[name] for name in ("base", "out", "seeds"))
    plan = vae_remedies.make_plan(str(ROOT / base), [], None, vae_remedies.parse_seeds(seeds), Path(out))
    assert {seed for _, seed, _ in plan} == {0, 1}
    assert [row for row, _, _ in plan[:7:2]] == ["mle", "mle_longer", "ae", "plain"]


def test_pictures_are_there():
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).is_file(), picture

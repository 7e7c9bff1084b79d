"""Configs: what is read is what is meant, what is wrong is said with its place, what is written reads back."""

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from textgan.config import Config
from textgan.configfields import type_of
from textgan.configfile import describe_config, dump_config, load_config
from textgan.configyaml import parse_yaml, to_yaml
from textgan.errors import UserError


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write files into the current folder and return the path of the last."""
    monkeypatch.chdir(tmp_path)

    def write(**files):
        for name, text in files.items():
            path = Path(f"{name}.yaml")
            path.write_text(text, encoding="utf-8")
        return path

    return write


def problems(path, overrides=()):
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    return str(caught.value).split("\n")


def test_a_file_states_only_what_differs(write):
    config = load_config(write(x="name: mine\nmle:\n  lr: 1e-4\n  betas: [.5, 9e-1]\n"))
    expected = Config().model_dump()
    expected["name"] = "mine"
    expected["mle"] |= {"lr": 1e-4, "betas": (0.5, 0.9)}
    assert config.model_dump() == expected


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-4", 1e-4),
        ("2E3", 2000.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("010", 10),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("off", "off"),
        ("no", "no"),
        ("True", True),
        ("none", None),
        ("~", None),
        ("'none'", "none"),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("-.inf", float("-inf")),
        ("e5", "e5"),
        ("1.2.3", "1.2.3"),
        ("9" * 5000, "9" * 5000),
        ("[1, [a, none]]", [1, ["a", None]]),
    ],
)
def test_yaml_dialect(text, value):
    found = parse_yaml(text, lambda line: f"x:{line}", []).values
    assert found == value
    assert type(found) is type(value)


def test_plain_words_become_what_the_field_means(write):
    config = load_config(
        write(x="name: 2024\ndata: {field: off, dev: none, source: 'none', dedupe: off, lowercase: yes}\n"),
        ["evaluation.prompts=[1, off, 1e3, 'a, b']", "data.encoding=010"],
    )
    assert config.name == "2024"
    assert (config.data.field, config.data.dev, config.data.source) == ("off", None, "none")
    assert (config.data.dedupe, config.data.lowercase) == (False, True)
    assert config.evaluation.prompts == ["1", "off", "1e3", "a, b"]
    assert config.data.encoding == "010"


def test_every_problem_is_reported_with_its_line(write):
    path = write(
        x="""\
name: a/b
mle:
  lrr: 3
  max_steps: 0
  betas: [0.9]
  patience: true
  ema: high
lr: 3
adversarial:
  loss: hing
generator: {n_embd: 100,
            n_head: 8}
discriminator: 4
"""
    )
    found = problems(path, ["mle.warmup=3", "device=gpu", "train=1"])
    expected = [
        "x.yaml:1: `name=a/b` has a character that is not allowed here",
        "override `device=gpu`: `device=gpu` must be one of auto, cpu, cuda",
        "x.yaml:11: generator.n_embd=100 is not divisible by generator.n_head=8; try 96 or 104",
        "x.yaml:13: `discriminator=4` must be a section",
        "x.yaml:4: `mle.max_steps=0` must be above 0",
        "x.yaml:5: `mle.betas` has too few values",
        "x.yaml:6: `mle.patience=true` must be a whole number",
        "x.yaml:7: `mle.ema=high` must be a number",
        "x.yaml:3: unknown key `mle.lrr`; did you mean `mle.lr`?",
        "override `mle.warmup=3`: unknown key `mle.warmup`; did you mean `mle.warmup_steps`?",
        "x.yaml:10: `adversarial.loss=hing` must be one of non_saturating, hinge, ",
        "x.yaml:8: unknown key `lr`; did you mean `mle.lr`, `adversarial.lr`, `vae.lr`, `latent_gan.lr` or ",
        "override `train=1`: unknown key `train`; allowed: name, seed, ",
    ]
    for start in expected:
        assert any(line.startswith(start) for line in found), start
    assert len(found) == len(expected)


def test_problems_across_fields_name_the_line_of_a_key_they_mention(write):
    path = write(x="mle: none\n\nadversarial:\n  batch_size: 5\n  accumulate: 2\n  tau_start: 0.5\n")
    found = problems(path)
    assert "x.yaml:4: `adversarial`: batch_size=5 is not divisible by accumulate=2" in found
    assert any(line.startswith("x.yaml:6: `adversarial`: tau_end=1.0 is above tau_start=0.5") for line in found)


def test_a_key_given_twice_is_refused(write):
    assert problems(write(x="mle:\n  lr: 1e-3\n  ema: 0.9\n  lr: 1e-4\n")) == [
        "x.yaml:4: `mle.lr` is given twice; first at x.yaml:2"
    ]


def test_an_empty_section_is_ambiguous_and_said_so(write):
    (line,) = problems(write(x="seed: 1\nadversarial:\n"))
    assert line == (
        "x.yaml:2: `adversarial` is empty; write `adversarial: {}` for its defaults, "
        "or `adversarial: none` to leave it out"
    )


def test_extends_lays_the_child_over_the_parent(write):
    path = write(
        base="name: base\nmle: {lr: 0.01, max_steps: 7}\nadversarial: {d_steps: 3}\nseed: 5\n",
        x="extends: base.yaml\nname: child\nmle: {lr: 0.02}\nadversarial: none\n",
    )
    config = load_config(path, ["mle.ema=0.5"])
    assert (config.name, config.seed) == ("child", 5)
    assert (config.mle.lr, config.mle.max_steps, config.mle.ema) == (0.02, 7, 0.5)
    assert config.adversarial is None
    assert load_config(path, ["adversarial={}"]).adversarial == Config(adversarial={}).adversarial


def test_extends_is_relative_to_the_child_and_blames_the_right_file(write):
    write(base="mle: {lr: 0.01}\nbad: 1\n")
    Path("sub").mkdir()
    child = Path("sub/child.yaml")
    child.write_text("extends: ../base.yaml\nworse: 1\n")
    found = problems(child)
    assert [line.split(": unknown")[0] for line in found] == ["sub/../base.yaml:2", "sub/child.yaml:2"]


@pytest.mark.parametrize(
    "files, message",
    [
        ({"x": "extends: y.yaml\n"}, "x.yaml:1: `extends: y.yaml`: there is no file y.yaml"),
        ({"x": "seed: 1\nextends: x.yaml\n"}, "x.yaml extends x.yaml itself; only one level"),
        (
            {"z": "seed: 1\n", "y": "extends: z.yaml", "x": "extends: y.yaml\n"},
            "y.yaml extends z.yaml itself",
        ),
        ({"x": "extends: [a, b]\n"}, "x.yaml:1: `extends` must be the name of one config file"),
    ],
)
def test_extends_refused(write, files, message):
    assert message in problems(write(**files))[0]


def test_overrides(write):
    path = write(x="mle: none\nadversarial: {init_from: runs/a}\n")
    config = load_config(path, ["adversarial=none", "mle={lr: 0.5}", "mle.betas=[0, 0.5]", "mle.lr=1e-3"])
    assert config.adversarial is None
    assert (config.mle.lr, config.mle.betas) == (1e-3, (0.0, 0.5))
    assert load_config(path, ["adversarial.init_from=runs/b=c"]).adversarial.init_from == "runs/b=c"


def test_text_of_an_override_may_need_quotes(write):
    (message,) = problems(write(x="data: {condition: title}"), ["data.template={condition} ->"])
    assert message.startswith("override `data.template={condition} ->`: not valid YAML: ")
    assert message.endswith("put text with such signs in quotes: 'data.template=\"...\"'")
    config = load_config(write(y="data: {condition: title}"), ['data.template="{condition} ->"', "adversarial=none"])
    assert config.data.template == "{condition} ->"


@pytest.mark.parametrize("override", ["mle.lr", "=3", "mle..lr=3"])
def test_an_override_without_key_or_value(write, override):
    assert problems(write(x="seed: 1"), [override]) == [
        f"override `{override}`: write it as key.path=value, like mle.max_steps=100"
    ]


@pytest.mark.parametrize(
    "text, message",
    [
        (b"", "x.yaml: a config has keys like `name: my-run`; found nothing"),
        (b"- a\n- b\n", "x.yaml: a config has keys like `name: my-run`; found a list"),
        (b"a: b: c\n", "x.yaml:1: not valid YAML: mapping values are not allowed"),
        (b"mle:\n\tlr: 1\n", "(indent with spaces)"),
        (b"seed: 1\n--- \nseed: 2\n", "x.yaml:2: not valid YAML: but found another document"),
        (b"seed: \x00\n", "x.yaml:1: not valid YAML"),
        (b"name: caf\xe9\n", "config file x.yaml is not UTF-8 text (byte 9)"),
        (b"seed: 1\nmle: &a {x: *a}\n", "x.yaml:2: an alias (*name) may not stand inside what it names"),
        (
            b"name: !!python/name:os.system x\n",
            "x.yaml:1: the YAML tag tag:yaml.org,2002:python/name:os.system",
        ),
        (b"? [a]\n: 1\n", "x.yaml:1: a key must be a plain word"),
    ],
)
def test_files_that_are_no_config(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_bytes(text)
    (line,) = problems("x.yaml")
    assert message in line


def test_a_missing_file_names_the_nearest(write):
    write(quickstart="seed: 1\n")
    assert problems("quikstart.yaml") == ["config file quikstart.yaml does not exist; did you mean quickstart.yaml?"]
    Path("folder").mkdir()
    assert problems("folder") == ["folder is a folder; give a config file"]


def test_a_byte_order_mark_is_ignored(write):
    assert load_config(write(x="\ufeffseed: 4\n")).seed == 4


TEXT = st.text(max_size=12) | st.sampled_from(
    [
        "none",
        "null",
        "off",
        "1e-4",
        "010",
        "1:30",
        "- a",
        "a: b",
        " x ",
        "#",
        "a #b",
        "\n",
        "a\n\nb",
        "'",
        "\x85",
    ]
)


@settings(deadline=None, max_examples=150)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=8,
    )
)
def test_yaml_round_trip(value):
    assert parse_yaml(to_yaml(value), lambda line: "", []).values == value


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    source=TEXT,
    dev=st.none() | TEXT,
    prompts=st.lists(TEXT, max_size=3),
    lr=st.floats(min_value=1e-300, max_value=1),
    name=st.from_regex(r"[a-z0-9.-]+", fullmatch=True),
    mle=st.booleans(),
)
def test_dump_and_describe_read_back_to_the_same_config(tmp_path, source, dev, prompts, lr, name, mle):
    config = Config(
        name=name,
        data={"source": source, "dev": dev},
        mle={"lr": lr} if mle else None,
        adversarial=None if mle else {"init_from": "runs/a", "lr": lr},
        evaluation={"prompts": prompts},
    )
    path = tmp_path / "x.yaml"
    for text in (dump_config(config), describe_config(config)):
        path.write_text(text, encoding="utf-8")
        assert load_config(path) == config


def test_what_is_dumped_reads_the_same_in_any_yaml_reader():
    config = Config(name="010", data={"field": "off", "encoding": "none"}, evaluation={"prompts": ["1:30"]})
    plain = yaml.safe_load(dump_config(config))
    assert plain == config.model_dump(mode="json")


def fields_of(model, prefix=""):
    for name, field in model.model_fields.items():
        yield prefix + name, field
        if type_of(field).section is not None:
            yield from fields_of(type_of(field).section, f"{prefix}{name}.")


def test_describe_has_every_field_its_meaning_choices_and_limits():
    text = describe_config(Config(seed=3))
    flat = " ".join(text.replace("#", " ").split())
    for _, field in fields_of(Config):
        if field.description:
            assert " ".join(field.description.replace("#", " ").split()) in flat
    assert "one of: auto, cpu, cuda" in flat
    assert "[above 0 and at most 1]" in flat
    assert "seed: 3  # changed; default: 0\n" in text
    assert text.count("changed") == 1
    assert "adversarial: none\n" in text
    assert "#   d_steps: 1\n" in text


def test_describe_marks_sections_switched_on_and_off():
    text = describe_config(Config(mle=None, adversarial={"init_from": "runs/a"}))
    assert "mle: none  # changed; on by default" in text
    assert "adversarial:  # changed; default: none" in text
    assert "  init_from: runs/a  # changed; default: none" in text


def test_every_field_has_a_description_and_a_known_type():
    for name, field in fields_of(Config):
        type_ = type_of(field)
        if type_.section is None:
            assert field.description, f"{name} has no description"
            assert set(type_.kinds) <= {str, int, float, bool, list, tuple}, name
        else:
            assert issubclass(type_.section, BaseModel)
            assert type_.section.model_config["extra"] == "forbid"


def test_a_folder_names_the_configs_in_it(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} is a folder; give a config file$"):
        load_config(tmp_path)
    (tmp_path / "a.yaml").write_text("mle: {}")
    with pytest.raises(UserError, match=f"is a folder; give a config file, such as {tmp_path}/a.yaml$"):
        load_config(tmp_path)

"""A model of pairs from end to end: learned, sampled through its template, evaluated, refused where it cannot serve."""

import json
import random
import re
from pathlib import Path

import pytest
import torch

from tests.commands import invoke
from tests.kills import Killed, everything
from tests.processes import torchrun
from tests.test_logging import texts
from textgan.analysis.certify import Study, certify
from textgan.analysis.evaluate import evaluate
from textgan.analysis.sweep import Sweep
from textgan.cli.export import export
from textgan.cli.sample import sample
from textgan.configfile import load_config
from textgan.errors import UserError
from textgan.sampling.decode import generate
from textgan.sampling.samplers import parse_samplers
from textgan.training import adversarial, mle, run
from textgan.training.loading import load_for_sampling

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")
SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
TEMPLATE = "Title: {condition} | Story:"
ANIMALS = {"dog": "barks", "cat": "purrs", "狗": "叫"}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Pairs of an animal with a number, and what that animal does: the number says nothing."""
    path, rng = tmp_path_factory.mktemp("pairs") / "pairs.jsonl", random.Random(0)
    records = [
        {"title": f"{animal} {k}", "story": f"It {sound} {rng.choice(['now', 'then', 'there'])} ."}
        for k in range(80)
        for animal, sound in ANIMALS.items()
    ]
    rng.shuffle(records)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    return path


def settings(file, *more):
    return load_config(
        SMOKE,
        [
            *("threads=1", f"data.source={file}", "data.field=story", "data.condition=title", "data.format=jsonl"),
            *(f"data.template={TEMPLATE!r}", "data.dev_fraction=0.15", "data.test_fraction=0.15"),
            *(
                "tokenizer.min_count=1",
                "generator.block_size=20",
                "generator.dropout=0",
                "generator.n_embd=32",
                "mle.lr=0.01",
                "mle.ema=0",
            ),
            *(
                "generator.n_layer=2",
                "mle.max_steps=300",
                "mle.batch_size=16",
                "mle.accumulate=1",
                "mle.warmup_steps=5",
            ),
            *("evaluation.every=30", "evaluation.samples=30", "evaluation.final_samples=30"),
            *("adversarial.replay_batches=0", *more),
        ],
    )


@pytest.fixture(scope="module")
def both(file, tmp_path_factory):
    """A run whose model writes with and without conditions."""
    folder = tmp_path_factory.mktemp("runs") / "both"
    run.train(settings(file, "data.condition_dropout=0.4"), folder)
    return folder


def records(*args):
    return [json.loads(line) for line in invoke(sample, *args, "--json").stdout.splitlines()]


def test_one_model_writes_with_and_without_conditions(both):
    for animal, sound in ANIMALS.items():
        found = records(both, "--prompt", f"{animal} 7", "-n", "40")
        assert {record["condition"] for record in found} == {f"{animal} 7"}
        assert "prompt" not in found[0]
        assert sum(sound in record["text"] for record in found) >= 36
        assert not any("Title" in record["text"] or animal in record["text"] for record in found)
    free = [record["text"] for record in records(both, "-n", "120")]
    assert all(sum(sound in text for text in free) >= 15 for sound in ANIMALS.values())


def test_the_template_of_the_checkpoint_stands_before_the_text(both):
    model = load_for_sampling(both)
    assert (model.path / "config.yaml").read_text().count(TEMPLATE) == 1
    ids = model.tokenizer.encode("Title: dog 3 | Story:")
    assert model.encode_prompt(" dog 3 ", name="x") == ids
    model.generator.double()
    by_hand = generate(model.generator, [ids], eos_id=model.tokenizer.eos_id, temperature=0)[0]
    (found,) = records(both, "--prompt", "dog 3", "--temperature", "0")
    assert found["text"] == model.tokenizer.decode(by_hand.ids)
    assert found["log_prob"] == pytest.approx(by_hand.log_prob, abs=1e-6)


def test_the_condition_heads_the_text_for_people_and_not_for_programs(both, tmp_path):
    told = invoke(sample, both, "--prompt", "dog 3", "--temperature", "0").stdout
    assert re.fullmatch(r"dog 3\nIt barks \w+\.\n", told)
    (tmp_path / "titles.txt").write_text("dog 3\n猫 1\n".replace("猫", "cat"))
    options = ("--prompts", tmp_path / "titles.txt", "--temperature", "0")
    lines = invoke(sample, both, *options, "--lines").stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["barks", "purrs"]
    streamed = invoke(sample, both, *options, "--lines", "--stream").stdout
    assert streamed.splitlines() == lines
    answered = invoke(sample, both, "--chat", "--temperature", "0", stdin="dog 3\nzebra\ncat 1\n")
    assert answered.stdout.replace("\n\n", "\n").splitlines() == lines
    assert "this line: the model does not know the word `zebra`" in answered.stderr


def test_stop_strings_are_looked_for_in_the_text_alone(both):
    (found,) = records(both, "--prompt", "dog 3", "--temperature", "0", "--stop", "Story:", "--stop", "barks")
    assert (found["text"].strip(), found["finish_reason"]) == ("It", "stop")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", " "], "--prompt is empty; a condition is needed"),
        (["--prompt", "zebra"], "the model does not know the word `zebra`"),
        (["--prompt", "dog " * 16], "--prompt: 21 tokens, but the model reads 20 with the opening one"),
    ],
)
def test_conditions_that_cannot_be_read_are_refused(both, options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        invoke(sample, both, *options)


def test_guidance_keeps_texts_to_their_condition(both):
    def heeded(scale):
        found = records(both, "--prompt", "狗 5", "-n", "200", "--temperature", "1.5", "--guidance-scale", scale)
        return sum("叫" in record["text"] for record in found)

    at = [heeded(scale) for scale in ("0", "0.3", "1")]
    assert at[0] + 20 < at[1] < at[2] - 20
    (both / "checkpoints" / "mle" / "generation.yaml").write_text("guidance_scale: 4\n")
    told = ("--prompt", "狗 5", "-n", "20", "--temperature", "3", "--lines")
    by_default = invoke(sample, both / "checkpoints" / "mle", *told)
    assert by_default.stdout == invoke(sample, both / "checkpoints" / "mle", *told, "--guidance-scale", "4").stdout
    assert "guidance_scale" not in invoke(sample, both / "checkpoints" / "mle", "-n", "2").stderr  # nothing to keep to


@pytest.fixture(scope="module")
def strict(file, tmp_path_factory):
    """A run that always saw the condition, with an adversarial phase."""
    folder = tmp_path_factory.mktemp("runs") / "strict"
    run.train(settings(file), folder)
    return folder


def test_free_texts_of_a_model_that_never_saw_any_are_refused(strict):
    with pytest.raises(UserError, match="learned to write for a title alone: give --prompt or --prompts"):
        invoke(sample, strict, "-n", "2")
    with pytest.raises(UserError, match=r"--guidance-scale 2 compares with texts of no title, which .* never saw"):
        invoke(sample, strict, "--prompt", "dog 1", "--guidance-scale", "2")


def test_the_log_says_what_conditions_are_worth(strict, both):
    log = [json.loads(line) for line in (strict / "metrics.jsonl").read_text().splitlines()]
    gains = [line["quality/condition_gain"] for line in log if "quality/condition_gain" in line]
    assert len(gains) >= 2
    # Another animal is asked for two times in three: what a model that knows all says to that is far from likely.
    assert gains[-1] > 1
    assert all("quality/kl_to_model" not in line for line in log)
    assert all(re.search(r"(dog|cat|狗) \d+: ", text) for _, text in texts(strict, "samples/free"))
    assert json.loads((strict / "results.json").read_text())["phases"]["mle"]["metrics"]["condition_gain"] > 1


def test_fakes_continue_the_openings_of_the_real_texts_beside_them(file, tmp_path, monkeypatch):
    seen = []

    def look(run_, players, real, fakes, name, count):
        seen.append((name[0], real, fakes))
        return step(run_, players, real, fakes, name, count)

    step = adversarial.discriminator_step
    monkeypatch.setattr(adversarial, "discriminator_step", look)
    more = ("adversarial.d_steps=2", "adversarial.max_steps=2", "mle.max_steps=2", "data.condition_dropout=0.3")
    run.train(settings(file, *more, "adversarial.continuation=none"), tmp_path / "run")
    assert {name for name, _, _ in seen} == {"d", "d-pretrain"}
    dropped = 0
    for _, real, (ids, lengths) in seen:
        assert (lengths > real.starts).all()
        for row, start in enumerate(real.starts.tolist()):
            dropped += start == 0
            assert ids[row, :start].tolist() == real.targets[row, :start].tolist()
    assert 0 < dropped < sum(len(real.starts) for _, real, _ in seen)


@pytest.mark.parametrize("phase", ["mle", "adversarial"])
def test_a_killed_run_of_pairs_goes_on_to_the_same_bits(file, tmp_path, monkeypatch, phase):
    config = settings(
        file, "data.condition_dropout=0.3", "mle.max_steps=6", "adversarial.max_steps=6", "checkpoint.every=2",
        "evaluation.every=3",
    )  # fmt: skip
    run.train(config, tmp_path / "whole")
    module, name, at = (mle, "clip_gradients", 4) if phase == "mle" else (adversarial, "generator_step", 4)
    calls, own = [], getattr(module, name)

    def kill(*args, **options):
        calls.append(1)
        if len(calls) == at:
            raise Killed
        return own(*args, **options)

    monkeypatch.setattr(module, name, kill)
    with pytest.raises(Killed):
        run.train(config, tmp_path / "killed")
    monkeypatch.undo()
    run.train(config, tmp_path / "killed", resume=True)
    assert everything(tmp_path / "killed") == everything(tmp_path / "whole")


def test_two_processes_train_what_one_does(file, tmp_path):
    more = ("data.condition_dropout=0.3", "mle.max_steps=4", "adversarial.max_steps=3", "discriminator.dropout=0")
    more += ("adversarial.estimator=gapped",)  # the others draw noise, on each rank its own
    config = settings(file, *more)
    run.train(config, tmp_path / "one")
    (tmp_path / "config.yaml").write_text((tmp_path / "one" / "config.yaml").read_text())
    together = torchrun(2, "train", tmp_path / "config.yaml", "--run-folder", tmp_path / "two")
    _, err = together.communicate(timeout=300)
    assert together.returncode == 0, err
    logs = (
        [json.loads(line) for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()] for n in ("one", "two")
    )
    for a, b in zip(*logs, strict=True):
        for name in ("train/nll", "train/g_loss", "train/d_loss", "train/fake_length", "quality/condition_gain"):
            if name in a:
                assert b[name] == pytest.approx(a[name], rel=2e-3, abs=1e-4), (a["step"], name)


def test_evaluation_asks_for_the_conditions_of_dev(strict, capsys):
    sweep = Sweep(tuple(parse_samplers("temperature=0.5,1")), n=60, arms=("mle", "kneser_ney"))
    result = evaluate(strict, sweep, device=torch.device("cpu"))
    assert result["signature"]["sampling"]["template"] == TEMPLATE
    assert result["real"]["relevance_auc_ngrams"] < 0.7  # the texts do not name their animals
    for point in result["points"]:
        names = {"relevance_ngrams", "relevance_other_ngrams", "condition_spread_ngrams", "condition_self_bleu_2"}
        assert names <= point.values.keys()
        assert "relevance_ngrams" in point.intervals
        assert "kl_to_model" not in point.values
    own = {(point.arm, point.sampler): point.values for point in result["points"]}
    assert own["mle", "temperature=1"]["condition_gain"] > 1
    # Three words end these texts: at a low temperature the likeliest of them comes more often.
    cold, plain = (own["mle", f"temperature={t}"]["condition_distinct_2"] for t in ("0.5", "1"))
    assert cold < plain
    again = evaluate(strict, sweep, device=torch.device("cpu"))
    assert again["points"][0].values == result["points"][0].values
    assert "4 of 4 operating points are there already" in capsys.readouterr().err


def test_what_is_given_back_writes_for_conditions_too(both, tmp_path):
    invoke(export, both, tmp_path / "out", "--format", "safetensors")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"It writes for a title, which goes into the place of {{condition}} in {TEMPLATE!r}" in card
    options = ("--prompt", "dog 3", "-n", "5", "--lines")
    assert invoke(sample, tmp_path / "out", *options).stdout == invoke(sample, both, *options).stdout


def test_what_cheap_arithmetic_costs_is_that_of_texts_given_their_conditions(both):
    told = invoke(sample, both, "--prompt", "dog 3", "--precision", "bfloat16", "-n", "1").stderr
    exact = float(re.search(r"NLL of \d+ dev texts ([\d.]+) in float32", told)[1])
    # The model sampled from is the end of the run, of which the log has the dev NLL.
    results = json.loads((both / "results.json").read_text())["phases"]
    nll = [entry["metrics"]["nll"] for entry in results.values()]
    assert any(exact == pytest.approx(value, abs=1e-4) for value in nll)


def test_a_critic_of_pairs_is_no_judge_of_texts_alone(strict):
    with pytest.raises(UserError, match="its critic reads a text behind its title"):
        invoke(sample, strict, "--prompt", "dog 1", "--best-of", "2", "--judge", strict)


def test_a_certificate_is_refused(strict):
    with pytest.raises(UserError, match=r"learned pairs \(data.condition=title\)"):
        certify(strict, Study(), device=torch.device("cpu"))


def test_a_parent_with_another_template_is_refused(strict, file, tmp_path):
    other = settings(file, "mle=none", f"adversarial.init_from={strict}", "data.template='{condition} |'")
    with pytest.raises(UserError, match=r"other settings: data.template"):
        run.train(other, tmp_path / "run")


def test_a_template_that_words_cannot_see_is_warned_of(file, tmp_path, capsys):
    run.train(settings(file, r"data.template='{condition} '", "mle.max_steps=1", "adversarial=none"), tmp_path / "run")
    assert "ends in nothing that tokenizer.kind=word sees" in capsys.readouterr().err

"""``textgan sample`` on a small untrained checkpoint: what it prints, refuses and leaves on the disk."""

import io
import json
import subprocess
import sys
from functools import partial

import pytest
import torch

import textgan.sampling.decode
from tests import commands
from textgan.cli import output
from textgan.cli import sample as command
from textgan.config import Config
from textgan.data.tokenizer import train_tokenizer
from textgan.errors import UserError
from textgan.training.building import build_generator
from textgan.training.checkpoint import save_checkpoint
from textgan.training.loading import load_for_sampling

TEXTS = ["Lily sees a red ball .", "Tom has a small dog .", "the dog runs to Lily ."]
BLOCK = 12


def write_checkpoint(folder, kind="word", *, edit=None):
    tokenizer = train_tokenizer(kind, TEXTS, vocab_size=280 if kind == "bpe" else None, min_count=1, lowercase=False)
    config = Config.model_validate(
        {"generator": {"block_size": BLOCK, "n_layer": 1, "n_head": 2, "n_embd": 8, "dropout": 0.1}}
    )
    torch.manual_seed(3)
    generator = build_generator(config, tokenizer.vocab_size)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter += torch.randn_like(parameter) * 0.3
        if edit:
            edit(generator, tokenizer)
    return save_checkpoint(folder, generator=generator, config=config, tokenizer=tokenizer, state={}, meta={"step": 40})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("run") / "checkpoints" / "step-00000040")


invoke = partial(commands.invoke, command.sample)


def records(*args, **kwargs):
    return [json.loads(line) for line in invoke(*args, "--json", **kwargs).stdout.splitlines()]


def test_readable_text(checkpoint):
    result = invoke(checkpoint)
    texts = [record["text"] for record in records(checkpoint)]
    assert len(texts) == 5
    assert result.stdout == "\n\n".join(texts) + "\n"
    assert f"{checkpoint}, step 40: temperature 1.0" in result.stderr
    assert "seed 0" in result.stderr


def test_batches_are_joined_without_a_trace(checkpoint):
    assert invoke(checkpoint, "--batch-size", 2).stdout == invoke(checkpoint).stdout


def test_lines_are_what_score_reads(checkpoint):
    texts = [record["text"] for record in records(checkpoint, "-n", 30)]
    assert invoke(checkpoint, "-n", 30, "--lines", "--batch-size", 7).stdout.split("\n") == [*texts, ""]


def test_json_record(checkpoint):
    rows = records(checkpoint, "-n", 40, "--prompt", "Tom has a", "--seed", 7, "--temperature", 1.5, "--top-k", 6)
    model = load_for_sampling(checkpoint)
    assert [row["index"] for row in rows] == list(range(40))
    assert {row["finish_reason"] for row in rows} == {"eos", "length"}
    assert len({row["text"] for row in rows}) > 20
    for row in rows:
        assert row["prompt"] == "Tom has a"
        assert row["text"].startswith("Tom has a")
        assert (row["seed"], row["step"], row["checkpoint"]) == (7, 40, str(checkpoint))
        assert row["settings"]["temperature"] == 1.5
        assert row["settings"]["top_k"] == 6
        assert row["settings"]["top_p"] is None
        assert row["settings"]["allow_unk"] is False
        assert (row["tokens"][-1] == "<|endoftext|>") == (row["finish_reason"] == "eos")
        vocabulary = model.tokenizer.tokens(range(model.tokenizer.vocab_size))
        ids = [0, *model.tokenizer.encode("Tom has a"), *(vocabulary.index(token) for token in row["tokens"])]
        assert model.tokenizer.decode(ids) == row["text"]
        with torch.no_grad():
            logits = model.generator.double()(torch.tensor([ids[:-1]]))[0]
        gains = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])
        assert row["log_prob"] == pytest.approx(float(gains[3:].sum()), abs=1e-9)


def test_same_seed_same_text(checkpoint):
    twelve = [row["text"] for row in records(checkpoint, "-n", 12)]
    assert [row["text"] for row in records(checkpoint, "-n", 12, "--batch-size", 5)] == twelve
    assert [row["text"] for row in records(checkpoint, "-n", 4)] == twelve[:4]
    assert [row["text"] for row in records(checkpoint, "-n", 12, "--seed", 1)] != twelve


@pytest.mark.parametrize("stdin", [False, True])
def test_prompts_of_different_lengths(checkpoint, tmp_path, stdin):
    content = "\ufeffTom\r\nLily sees a red\r\nthe dog\r\n".encode()
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    rows = records(checkpoint, "--prompts", "-" if stdin else path, "-n", 2, stdin=content if stdin else None)
    assert [row["prompt"] for row in rows] == ["Tom"] * 2 + ["Lily sees a red"] * 2 + ["the dog"] * 2
    assert all(row["text"].startswith(row["prompt"]) for row in rows)
    assert len(records(checkpoint, "--prompts", path)) == 3


@pytest.mark.parametrize(
    "prompt, message",
    [
        ("Lyly has a ball", r"--prompt: the model does not know the word `Lyly` \(known: Lily"),
        ("Tom sees Zebulon 7 7", r"does not know the words `Zebulon`, `7`; use others"),
        ("the dog " * 6, r"--prompt: 12 tokens, but the model reads 12 with the opening one: shorten .* to 11"),
        ("", "--prompt is empty; leave it away"),
        ("  ", "--prompt is empty; leave it away"),
    ],
)
def test_refused_prompts(checkpoint, prompt, message):
    with pytest.raises(UserError, match=message):
        invoke(checkpoint, "--prompt", prompt)


def test_unk_written_out_is_known(checkpoint):
    assert records(checkpoint, "--prompt", "Tom has <unk>")[0]["text"].startswith("Tom has <unk>")


def test_longest_prompt_gets_one_token(checkpoint):
    row = records(checkpoint, "--prompt", " ".join(["dog"] * (BLOCK - 1)))[0]
    assert len(row["tokens"]) == 1


@pytest.mark.parametrize(
    "content, message",
    [
        (b"Tom\n\nLily\n", "line 2 is empty; leave it away"),
        (b"Tom\nLily met\n", "line 2: the model does not know the word `met`"),
        (b"Tom\n\xff\n", "line 2: not UTF-8"),
        (b"", "is empty"),
    ],
)
def test_refused_prompt_files(checkpoint, tmp_path, content, message):
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        invoke(checkpoint, "--prompts", path)


def test_missing_prompt_file(checkpoint):
    with pytest.raises(UserError, match=r"--prompts /nowhere/x\.txt: No such file"):
        invoke(checkpoint, "--prompts", "/nowhere/x.txt")


@pytest.mark.parametrize(
    "args, message",
    [
        (["--num-beams", 3, "--top-p", 0.9], "--num-beams is beam search, which draws nothing: --top-p has no effect"),
        (["--num-beams", 3, "--temperature", 0.9], "--temperature has no effect"),
        (["--temperature", 0, "--top-k", 4], "--temperature 0 is greedy decoding, .*: --top-k has no effect"),
        (["--prompt", "Tom", "--prompts", "x"], "two sources"),
        (["--lines", "--json"], "two formats"),
        (["--output", "/nowhere/at/all.txt"], "there is no folder /nowhere/at"),
        (["--output", "/"], "--output / is a folder"),
    ],
)
def test_refused_combinations(checkpoint, args, message):
    with pytest.raises(UserError, match=message):
        invoke(checkpoint, *args)


@pytest.mark.parametrize(
    "flag, value",
    [
        ("--temperature", -0.1),
        ("--temperature", "nan"),
        ("--temperature", "inf"),
        ("--top-k", -1),
        ("--top-p", 1.1),
        ("--min-p", -0.5),
        ("--typical-p", 0),
        ("--repetition-penalty", 0),
        ("--no-repeat-ngram-size", -1),
        ("--num-beams", 0),
        ("--max-new-tokens", 0),
        ("--batch-size", 0),
        ("--seed", -1),
        ("-n", 0),
        ("--device", "tpu"),
    ],
)
def test_values_out_of_range(checkpoint, flag, value):
    assert flag in invoke(checkpoint, flag, value, code=2).stderr


def test_neutral_values_are_free_sampling(checkpoint):
    neutral = ["--top-k", 0, "--top-p", 1, "--min-p", 0, "--typical-p", 1, "--repetition-penalty", 1]
    assert invoke(checkpoint, *neutral, "--no-repeat-ngram-size", 0).stdout == invoke(checkpoint).stdout
    assert invoke(checkpoint, "--num-beams", 2, *neutral).stdout == invoke(checkpoint, "--num-beams", 2).stdout


def test_beams_and_greedy(checkpoint):
    greedy = records(checkpoint, "--temperature", 0, "--prompt", "Tom", "--max-new-tokens", 5)
    beams = records(checkpoint, "--num-beams", 8, "--prompt", "Tom", "--max-new-tokens", 5)
    assert len(greedy) == len(beams) == 1
    rates = [row["log_prob"] / len(row["tokens"]) for row in (*greedy, *beams)]
    assert rates[1] >= rates[0]
    assert "note: nothing is drawn" in invoke(checkpoint, "--temperature", 0, "-n", 2).stderr


def test_no_repeat_reaches_the_model(checkpoint):
    for row in records(checkpoint, "-n", 30, "--no-repeat-ngram-size", 2, "--temperature", 0.3):
        pairs = list(zip(row["tokens"], row["tokens"][1:], strict=False))
        assert len(pairs) == len(set(pairs))
    loose = records(checkpoint, "-n", 30, "--temperature", 0.3)
    assert any(row["tokens"][i : i + 2] in (row["tokens"][i + 1 : i + 3],) for row in loose for i in range(9))


def test_unk_is_written_only_when_allowed(tmp_path):
    def prefer_unk(generator, tokenizer):
        generator.logit_bias[tokenizer.unk_id] = 30

    path = write_checkpoint(tmp_path / "step-00000040", edit=prefer_unk)
    assert "<unk>" not in invoke(path, "-n", 20).stdout
    assert "<unk> <unk>" in invoke(path, "--allow-unk").stdout


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_other_tokenizers(tmp_path, kind):
    path = write_checkpoint(tmp_path / "step-00000040", kind)
    rows = records(path, "--prompt", "a red b", "-n", 8)
    assert all(row["text"].startswith("a red b") for row in rows)
    if kind == "char":
        with pytest.raises(UserError, match=r"does not know the characters `Z`, `é`; use others"):
            invoke(path, "--prompt", "Zé a")
    else:
        assert len(records(path, "--prompt", "Zé")) == 1


def test_checkpoint_defaults(tmp_path):
    path = write_checkpoint(tmp_path / "step-00000040")
    plain, greedy = invoke(path).stdout, invoke(path, "--temperature", 0).stdout
    (path / "generation.yaml").write_text(f"{{temperature: 0, max_new_tokens: {BLOCK}}}")
    assert invoke(path).stdout == greedy
    assert invoke(path, "--temperature", 1).stdout == plain
    (path / "generation.yaml").write_text(f"{{temperature: 0.5, top_k: 3, max_new_tokens: {BLOCK}}}")
    cooler = invoke(path, "--temperature", 0.5, "--top-k", 3).stdout
    assert invoke(path).stdout == cooler
    assert invoke(path, "--num-beams", 3, code=0).stdout  # what the file says of drawing is left aside
    assert invoke(path, "--temperature", 0).stdout == greedy


@pytest.mark.parametrize(
    "content, message",
    [
        ("heat: 1", "must hold settings of these names only: temperature, top_k"),
        ("temperature: warm", "`temperature: warm`: .*not a valid float"),
        ("top_p: 3", "`top_p: 3`: 3.* is not in the range"),
        ("[1", "cannot be read"),
    ],
)
def test_broken_checkpoint_defaults(tmp_path, content, message):
    path = write_checkpoint(tmp_path / "step-00000040")
    (path / "generation.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        invoke(path)


def test_notes_on_length(checkpoint):
    args = [checkpoint, "--max-new-tokens", 1, "--prompt", "Tom has", "-n", 9]
    cut = [row["finish_reason"] for row in records(*args)].count("length")
    assert 0 < cut < 9
    assert f"{cut} of 9 texts were cut" in invoke(*args).stderr
    assert f"reads {BLOCK} tokens" in invoke(checkpoint, "--max-new-tokens", 500).stderr


def test_output_file(checkpoint, tmp_path):
    result = invoke(checkpoint, "--output", tmp_path / "texts.txt")
    assert result.stdout == ""
    assert (tmp_path / "texts.txt").read_text() == invoke(checkpoint).stdout
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]


def fail_at_second_batch(monkeypatch, error):
    generate, calls = textgan.sampling.decode.generate, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise error
        return generate(*args, **kwargs)

    monkeypatch.setattr(textgan.sampling.decode, "generate", failing)


def test_a_failure_leaves_the_old_file(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "texts.txt").write_text("old")
    fail_at_second_batch(monkeypatch, RuntimeError("out of memory"))
    with pytest.raises(RuntimeError):
        invoke(checkpoint, "--batch-size", 2, "--output", tmp_path / "texts.txt")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("texts.txt", "old")]


@pytest.mark.parametrize("to_file", [False, True])
def test_ctrl_c_keeps_what_is_done(checkpoint, tmp_path, monkeypatch, to_file):
    expected = invoke(checkpoint, "-n", 2).stdout
    fail_at_second_batch(monkeypatch, KeyboardInterrupt())
    path = tmp_path / "texts.txt"
    args = ["--output", path] if to_file else []
    result = invoke(checkpoint, "--batch-size", 2, *args, code=130)
    assert (path.read_text() if to_file else result.stdout) == expected
    assert "stopped: 2 of 5 texts are written" in result.stderr


def test_wrapping_counts_cells():
    assert output.wrap("one two three four", 9) == "one two\nthree\nfour"
    assert output.wrap("小猫在花园里玩", 6) == "小猫在\n花园里\n玩"
    assert output.wrap("a\n\nb [bold] :smile:", 40) == "a\n\nb [bold] :smile:"


def test_progress_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with output.progress(200, visible=True) as advance:
        advance(64)
        advance(136)
    assert "200/200" in sys.stderr.getvalue()
    assert "texts/s" in sys.stderr.getvalue()


def test_help_does_not_wait_for_torch():
    code = "import sys, textgan.cli.sample; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

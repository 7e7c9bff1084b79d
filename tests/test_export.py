"""Exported models, read by transformers and by onnxruntime: the same logits, ids and greedy texts, and a card."""

import shutil

import pytest
import torch
import yaml
from click.testing import CliRunner

from tests.commands import invoke
from tests.pretrained_models import save_gpt2, save_llama, stories
from textgan.analysis.export import export
from textgan.analysis.export_tokenizer import save_tokenizer
from textgan.cli.export import export as export_command
from textgan.cli.sample import sample
from textgan.configfile import load_config
from textgan.data.tokenizer import train_tokenizer
from textgan.errors import UserError
from textgan.sampling.decode import generate
from textgan.training import run
from textgan.training.loading import load_for_sampling

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")
SETTINGS = """
name: given
threads: 1
data: {source: stories, size: 120}
discriminator: {n_layer: 1, n_head: 2, n_embd: 16}
mle: {max_steps: 3, batch_size: 8, warmup_steps: 1, lr: 0.01}
evaluation: {every: 3, samples: 4, final_samples: 4}
"""
OWN = ["generator.block_size=90", "generator.n_layer=2", "generator.n_head=2", "generator.n_embd=16"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, no_waiting_for_the_disk):
    """Finished runs of each kind of generator and tokenizer."""
    root = tmp_path_factory.mktemp("runs")
    save_gpt2(root / "pretrained-gpt2")
    save_llama(root / "pretrained-llama")
    (root / "config.yaml").write_text(SETTINGS)
    kinds = {
        "words": OWN,
        "zh": [*OWN, "data.source=stories-zh"],
        "whitespace": [*OWN, "tokenizer.split=whitespace", "data.lowercase=true"],
        "char": [*OWN, "tokenizer.kind=char", "generator.block_size=320"],
        "bpe": [*OWN, "tokenizer.kind=bpe", "tokenizer.vocab_size=500"],
        "gpt2": [f"generator.init_from={root / 'pretrained-gpt2'}", "generator.block_size=90"],
        "llama": [f"generator.init_from={root / 'pretrained-llama'}", "generator.block_size=90"],
        "lstm": ["generator.kind=lstm", "generator.block_size=90", "generator.n_embd=16", "generator.n_hidden=16"],
    }
    for name, overrides in kinds.items():
        run.train(load_config(root / "config.yaml", overrides), root / name)
    return root


def sharpen(folder):
    """Give the checkpoint's model weights that matter, a bias and other ends, so that a greedy text means something."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights, rng = load_file(path), torch.Generator().manual_seed(0)
    weights = {k: v + torch.randn(v.shape, generator=rng) * 0.1 if v.dim() > 1 else v for k, v in weights.items()}
    if "wpe.weight" in weights:
        weights["logit_bias"] = torch.randn(weights["logit_bias"].shape, generator=rng)
    save_file(weights, path)


@pytest.mark.parametrize("kind", ["words", "zh", "whitespace", "char", "bpe", "gpt2", "llama"])
def test_transformers_says_the_same(runs, tmp_path, kind):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = tmp_path / "checkpoint"
    shutil.copytree(runs / kind / "checkpoints" / "mle", source)
    sharpen(source)
    ours = export(source, "hf", tmp_path / "out")
    trust = {"trust_remote_code": True} if kind in ("words", "zh") else {}
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", **trust)

    texts = stories(3, "zh" if kind == "zh" else "en")
    for text in [*texts, "An <unk> Word ‘quoted’ — isn't it? <|endoftext|> 🐈\ttab", "", " two  spaces "]:
        ids = ours.tokenizer.encode(text)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
        assert tokenizer(text)["input_ids"] == [theirs.config.bos_token_id, *ids]
        assert tokenizer.decode(ids).strip() == ours.tokenizer.decode(ids).strip()
    ids = ours.tokenizer.encode(texts[0])[:80]
    with torch.no_grad():
        expected = ours.generator(torch.tensor([[ours.tokenizer.eos_id, *ids]]))
        found = theirs(torch.tensor([[theirs.config.bos_token_id, *ids]])).logits
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)

    prompt = ours.tokenizer.encode(texts[1])[:3]
    (written,) = generate(ours.generator, [prompt], eos_id=ours.tokenizer.eos_id, temperature=0.0, max_new_tokens=30)
    given = torch.tensor([[theirs.config.bos_token_id, *prompt]])
    continued = theirs.generate(given, do_sample=False, max_new_tokens=30, pad_token_id=ours.tokenizer.eos_id)
    assert continued[0, given.shape[1] :].tolist() == written.ids
    assert len(set(written.ids)) > 1


@pytest.mark.parametrize("kind", ["gpt2", "llama", "words", "char", "whitespace", "bpe"])
def test_a_run_starts_from_what_was_exported(runs, tmp_path, kind):
    from textgan.training.building import build_generator
    from textgan.training.pretrained import fill_pretrained, find_pretrained, resolve

    export(runs / kind, "hf", tmp_path / "out")
    overrides = [f"generator.init_from={tmp_path / 'out'}", "generator.block_size=90"]
    config = load_config(runs / "config.yaml", overrides)
    ours = load_for_sampling(runs / kind)
    config = resolve(config)
    generator = build_generator(config, find_pretrained(str(tmp_path / "out")).tokenizer.vocab_size).eval()
    fill_pretrained(generator, str(tmp_path / "out"))
    ids = torch.tensor([[ours.tokenizer.eos_id, *ours.tokenizer.encode(stories(1)[0])[:60]]])
    with torch.no_grad():
        torch.testing.assert_close(generator(ids), ours.generator(ids), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["words", "gpt2"])
def test_onnx_gives_the_same_logits_for_any_length(runs, tmp_path, kind):
    import onnxruntime

    ours = export(runs / kind, "onnx", tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    rng = torch.Generator().manual_seed(0)
    for shape in ((1, 1), (3, 10), (2, 90)):
        ids = torch.randint(ours.tokenizer.vocab_size, shape, generator=rng)
        (found,) = session.run(None, {"input_ids": ids.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), ours.generator(ids), rtol=0, atol=1e-5)


def test_safetensors_can_be_sampled_from(runs, tmp_path):
    export(runs / "words", "safetensors", tmp_path / "out")
    texts = [invoke(sample, path, "-n", 3, "--lines").stdout for path in (runs / "words", tmp_path / "out")]
    assert texts[0] == texts[1]
    assert not (tmp_path / "out" / "state.pt").exists()


@pytest.mark.parametrize("form", ["hf", "safetensors", "onnx"])
def test_the_card_tells_data_metrics_and_settings(runs, tmp_path, form):
    model = export(runs / "words", form, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header)["pipeline_tag"] == "text-generation"
    metrics = model.meta["results"]["mle"]["metrics"]
    assert f"| nll | - | {metrics['nll']:.4f} | low |" in text
    assert f"| self_bleu_4 | {metrics['self_bleu_4_real']:.3f} | {metrics['self_bleu_4']:.3f} | real |" in text
    assert model.meta["data"] in text
    assert '"references_sha256": ' in text
    assert "max_steps: 3" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {6}


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(runs, tmp_path):
    with pytest.raises(UserError, match="is an LSTM, which transformers has no model for; give --format safetensors"):
        export(runs / "lstm", "hf", tmp_path / "deep" / "out")
    assert not list((tmp_path / "deep").iterdir())
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="is a LSTMGenerator; --format onnx is for Transformers made here"):
        export(runs / "lstm", "onnx", tmp_path / "out")
    with pytest.raises(UserError, match="there exists; give a folder that does not"):
        export(runs / "words", "hf", tmp_path / "there")
    with pytest.raises(UserError, match="nowhere does not exist"):
        export(tmp_path / "nowhere", "hf", tmp_path / "out")
    result = CliRunner().invoke(export_command, [str(runs / "words"), str(tmp_path / "out"), "--format", "tf"])
    assert result.exit_code == 2
    assert "'tf' is not one of 'hf', 'safetensors', 'onnx'" in result.output


def test_the_command_says_where_it_went(runs, tmp_path):
    assert invoke(export_command, runs / "bpe", tmp_path / "out").stdout == f"{tmp_path / 'out'}\n"


@pytest.mark.parametrize("space", [" ", "\t\n", "\x1c", "\x85", "\u3000", "\u2009"])
def test_white_space_is_that_of_python(tmp_path, space):
    from transformers import AutoTokenizer

    ours = train_tokenizer("word", ["a b c"], split="whitespace")
    save_tokenizer(ours, tmp_path, opening=0, block_size=9)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = f"{space}a{space}b{space}{space}x"
    assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)

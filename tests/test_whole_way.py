"""A pretrained GPT-2 goes the whole way: adapted, trained against BERT, judged, exported, read by transformers.

The models are small and random, and stand where the hub's would be: nothing else is other than on a connected machine.
"""

import json
import re

import pytest
import torch

from tests.commands import invoke
from tests.pretrained_models import as_on_the_hub, save_bert, save_gpt2
from textgan.cli.evaluate import evaluate
from textgan.cli.export import export
from textgan.cli.sample import sample
from textgan.cli.train import train
from textgan.training.loading import load_for_sampling

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")
SMALL = [
    "threads=1", "log_every=1", "data.size=300", "mle.max_steps=60", "mle.batch_size=8", "mle.lr=0.02",
    "mle.warmup_steps=2", "adversarial.max_steps=3", "adversarial.batch_size=4", "adversarial.d_pretrain_steps=2",
    "evaluation.every=30", "evaluation.samples=20", "evaluation.final_samples=20", "checkpoint.every=30",
]  # fmt: skip


@pytest.fixture(scope="module")
def gone_the_way(tmp_path_factory):
    """The folder of the run, and that of the exported model."""
    root = tmp_path_factory.mktemp("way")
    save_gpt2(root / "gpt2", n_layer=1)
    save_bert(root / "bert")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        as_on_the_hub(patch, root / "hub", **{"gpt2": root / "gpt2", "bert-base-uncased": root / "bert"})
        config = __file__.removesuffix("tests/test_whole_way.py") + "configs/pretrained/gpt2_lora.yaml"
        told = invoke(train, config, *SMALL).output
        judged = invoke(evaluate, "runs/gpt2-lora", "-n", 40, "--samplers", "temperature=1").output
        invoke(export, "runs/gpt2-lora", "story-gpt2")
    return root, told, judged


def test_little_is_trained_and_it_learns(gone_the_way):
    root, told, _ = gone_the_way
    assert re.search(r"adapter: lora; 4,096 of [\d,]+ parameters are trained \(\d+\.\d\d%\)", told)
    phases = json.loads((root / "runs/gpt2-lora/results.json").read_text())["phases"]
    nll = {name: entry["metrics"]["nll"] for name, entry in phases.items()}
    assert nll["mle"] < nll["pretrained"] - 0.05
    assert list(phases)[:3] == ["pretrained", "mle", "adversarial"]
    assert "continued" in phases


def test_before_and_after_are_judged_by_the_same_suite(gone_the_way):
    _, _, judged = gone_the_way
    for arm in ("pretrained", "mle", "adversarial", "continued", "kneser_ney"):
        assert any(line.startswith(f"{arm} temperature=1") for line in judged.splitlines()), arm


def test_the_critic_is_bert_and_gradients_reached_the_adapter_through_it(gone_the_way):
    from safetensors.torch import load_file

    root, _, _ = gone_the_way
    before, after = (
        load_file(root / f"runs/gpt2-lora/checkpoints/{arm}/adapter.safetensors") for arm in ("mle", "adversarial")
    )
    moved = [name for name in before if "lora_B" in name and not torch.equal(before[name], after[name])]
    assert len(moved) == 4
    logged = [json.loads(line) for line in (root / "runs/gpt2-lora/metrics.jsonl").read_text().splitlines()]
    assert any(line.get("train/grad_norm_adv", 0) > 0 for line in logged)


def test_transformers_writes_the_same_text(gone_the_way):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    root, _, _ = gone_the_way
    shown = invoke(sample, root / "runs/gpt2-lora", "--prompt", "The", "--temperature", 0, "--json").stdout
    model = AutoModelForCausalLM.from_pretrained(root / "story-gpt2")
    tokenizer = AutoTokenizer.from_pretrained(root / "story-gpt2")
    ids = tokenizer("The", return_tensors="pt").input_ids
    end = tokenizer.eos_token_id
    written = model.generate(ids, do_sample=False, max_length=1 + 96, pad_token_id=end)[0, 1:].tolist()
    if end in written:
        written = written[: written.index(end)]
    assert tokenizer.decode(written) == json.loads(shown)["text"]
    assert load_for_sampling(root / "runs/gpt2-lora").generator.trained is None


def test_the_next_run_starts_from_what_was_given_back(gone_the_way, tmp_path, monkeypatch):
    root, _, _ = gone_the_way
    monkeypatch.chdir(tmp_path)
    config = __file__.removesuffix("tests/test_whole_way.py") + "configs/pretrained/gpt2.yaml"
    start = f"generator.init_from={root / 'story-gpt2'}"
    told = invoke(train, config, *SMALL, start, "adversarial=none", "mle.max_steps=1", "evaluation.every=1").output
    assert "gpt2-stories" in told
    folders = (root / "runs/gpt2-lora", tmp_path / "runs/gpt2-stories")
    phases = [json.loads((folder / "results.json").read_text())["phases"] for folder in folders]
    last = min(entry["metrics"]["nll"] for name, entry in phases[0].items() if name != "pretrained")
    assert phases[1]["pretrained"]["metrics"]["nll"] == pytest.approx(last, abs=0.02)

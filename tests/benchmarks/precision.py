"""Sampling from a model of GPT-2's size in cheaper arithmetic."""

import copy
from collections.abc import Iterator
from functools import partial

import torch

from tests.benchmarks.race import Race
from textgan.models.generator import Generator
from textgan.ops.int8 import quantize_
from textgan.sampling.decode import generate

TEXTS, LENGTH = 8, 32
END = 50256


def races(device: str) -> Iterator[Race]:
    """What is asked for first: int8 on a CPU, bfloat16 on a GPU."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    base = Generator(50257, 1024, 12, 12, 768, dropout=0.0).to(device).requires_grad_(False).eval()
    base.logit_bias[END] = -1e4  # no text ends before its length
    theirs = GPT2LMHeadModel(GPT2Config()).to(device).eval()
    start = torch.full((TEXTS, 1), END, device=device)

    def hf() -> None:
        options = {"do_sample": True, "top_k": 0, "max_new_tokens": LENGTH, "min_new_tokens": LENGTH}
        with torch.no_grad():
            theirs.generate(start, attention_mask=torch.ones_like(start), pad_token_id=END, **options)

    models = {name: copy.deepcopy(base).to(getattr(torch, name)) for name in ("float64", "float32", "bfloat16")}
    if device == "cpu":
        models["int8"] = base
        quantize_(base)
    ours = {
        name: partial(generate, model, [[]] * TEXTS, eos_id=END, max_new_tokens=LENGTH, batch_size=TEXTS)
        for name, model in models.items()
    }
    cheapest = "int8" if device == "cpu" else "bfloat16"
    yield Race(
        name="precision",
        what=f"{TEXTS} texts of {LENGTH} tokens from GPT-2's shape (124 million parameters), in {cheapest}",
        ours=ours.pop(cheapest),
        peers={f"in {name}": work for name, work in ours.items()} | {"transformers (generate, float32)": hf},
        work=TEXTS * LENGTH,
        unit="tokens",
    )

"""Sampling from a generator: tokens a second, beside other libraries with their caches."""

from collections.abc import Iterator

import torch

from tests.benchmarks.models import BATCH, EOS, LENGTH, hugging_face, ours, x_transformers
from tests.benchmarks.race import Race
from textgan.sampling.decode import generate


def races(device: str) -> Iterator[Race]:
    yield sampling(device, BATCH, bar=2.5 if device == "cpu" else None)
    yield sampling(device, 512, bar=10.0 if device != "cpu" else None)


def sampling(device: str, batch: int, bar: float | None) -> Race:
    model, theirs, other = ours(device=device), hugging_face(device=device).eval(), x_transformers(device)
    start = torch.full((batch, 1), EOS, device=device)
    mask = torch.ones_like(start)

    def hf() -> None:
        options = {"do_sample": True, "top_k": 0, "max_new_tokens": LENGTH, "min_new_tokens": LENGTH}
        with torch.no_grad():
            theirs.generate(start, attention_mask=mask, use_cache=True, **options)

    race = Race(
        name="sampling" if batch == BATCH else f"sampling_{batch}",
        what=f"{batch} texts of {LENGTH} tokens drawn at temperature 1, with their log-probabilities on our side",
        ours=lambda: generate(model, [[]] * batch, eos_id=EOS, max_new_tokens=LENGTH, batch_size=batch),
        peers={"transformers (generate, cached)": hf},
        work=batch * LENGTH,
        unit="tokens",
        bar=bar,
    )
    if other is None:
        race.missing.append("x-transformers")
    elif batch == BATCH:
        from x_transformers import AutoregressiveWrapper

        wrapped = AutoregressiveWrapper(other).eval()

        def generate_x() -> None:
            with torch.no_grad():
                wrapped.generate(start, LENGTH, filter_logits_fn=lambda logits: logits, cache_kv=True)

        race.peers["x-transformers (generate, cached)"] = generate_x
    return race

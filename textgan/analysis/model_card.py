"""The README.md of an exported model: what it is, what it learned from, how it was measured, how it is used."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from textgan import __version__
from textgan.configfile import dump_config
from textgan.data.tokenizer import LookupTokenizer
from textgan.training.loading import SamplingModel
from textgan.training.report import table_rows
from textgan.training.tags import explain_metric

USE = {
    "hf": """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}"{trust})
ids = tokenizer("", return_tensors="pt").input_ids  # the token that opens a text, then the prompt
text = model.generate(ids, do_sample=True, max_length={block_size}, pad_token_id=tokenizer.eos_token_id)
print(tokenizer.decode(text[0], skip_special_tokens=True))
```""",
    "safetensors": """```
textgan sample {name}
```""",
    "onnx": """```python
import onnxruntime

session = onnxruntime.InferenceSession("{name}/model.onnx")
(logits,) = session.run(None, {{"input_ids": [[{eos_id}]]}})  # of the token that follows each; {eos_id} opens a text
```""",
}
WORDS_CODE = (
    "\nIts tokenizer is a few lines of Python beside it (`tokenization_textgan.py`, `words.py`; they need NLTK), which "
    "`trust_remote_code=True` allows to run.\n"
)


def model_card(model: SamplingModel, form: str, name: str) -> str:
    """The card of an exported model in Markdown, with the header that hubs read.

    Args:
        model: what is exported.
        form: a key of ``USE``.
        name: of its folder.
    """
    config, meta = model.config, model.meta
    phase = meta.get("phase", "mle")
    header = {"library_name": "transformers" if form == "hf" else "textgan", "pipeline_tag": "text-generation"}
    header["tags"] = ["textgan", phase]
    if origin := config.generator.init_from:
        header["base_model"] = origin
    by_code = isinstance(model.tokenizer, LookupTokenizer) and model.tokenizer.split == "words"
    parts = {"trust": ", trust_remote_code=True" if by_code else "", "eos_id": model.tokenizer.eos_id}
    use = USE[form].format(name=name, block_size=config.generator.block_size, **parts)
    started = f" It started from `{origin}`." if origin else ""
    fitted = meta.get("calibration")
    calibrated = (
        f" Calibrated on dev: softmax temperature {fitted['temperature']:.3f}, <unk> bias {fitted['unk_bias']:+.2f}."
        if fitted
        else ""
    )
    count = sum(p.numel() for p in model.generator.parameters())
    about = (
        f"A text generator of {count:,} parameters, trained with textgan {meta.get('textgan', __version__)}: phase "
        f"`{phase}`, step {model.step:,}.{started}{calibrated} It writes texts of up to {config.generator.block_size} "
        f"tokens ({model.tokenizer.kind}, vocabulary of {model.tokenizer.vocab_size:,}), each after one token that "
        "opens it."
    )
    if model.writes_for_conditions:
        about += (
            f" It writes for a {config.data.condition}, which goes into the place of {{condition}} in "
            f"{config.data.template!r}; the text is what follows."
        )
    return f"""---
{yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip()}
---

# {config.name}

{about}

## Use

{use}
{WORDS_CODE if by_code and form == "hf" else ""}
## Data

Learned from `{config.data.source}`{_splits(model)}. Fingerprint of texts and splits: `{meta["data"]}`.
What stands in these texts, the model may say: their language, their views, their mistakes.

## Metrics

{_metrics(model, phase)}

## Settings

```yaml
{dump_config(config).strip()}
```
"""


def _splits(model: SamplingModel) -> str:
    fraction = f"dev_fraction {model.config.data.dev_fraction}, test_fraction {model.config.data.test_fraction}"
    own = [f"{split} `{name}`" for split in ("dev", "test") if (name := getattr(model.config.data, split))]
    return f" ({', '.join(own) if own else fraction})"


def _metrics(model: SamplingModel, phase: str) -> str:
    """The table of this arm beside real text, what each number means, and the signature without which none does."""
    results = (model.meta.get("results") or {}).items()
    # The end of a phase and its best step are two entries of one phase.
    entry = next((e for name, e in results if name.startswith(phase) and e["step"] == model.step), None)
    if entry is None:  # a step of a phase that has not ended
        values = model.meta.get("metrics") or {}
        if not values:
            return "None were computed for this checkpoint."
        entry = {"metrics": {tag.partition("/")[2]: value for tag, value in values.items()}}
    rows = table_rows({phase: entry})
    lines = ["| metric | real text | model | best | |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {real} | {value} | {best} | {_cell(explain_metric(name))} |" for name, real, value, best in rows
    ]
    signature = _signature(model.path)
    told = f"{entry['samples']:,} samples at temperature 1" if "samples" in entry else "samples of an evaluation"
    lines += ["", f"Of {told}, `best` says where good is (real: at the value of real text)."]
    if signature:
        lines += ["Signature:", "", "```json", json.dumps(signature, indent=1, ensure_ascii=False), "```"]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _signature(checkpoint: Path) -> Mapping[str, Any] | None:
    """What the metrics of the run were computed with; None where it has not ended."""
    path = checkpoint.parent.parent / "results.json"
    return json.loads(path.read_text(encoding="utf-8"))["signature"] if path.is_file() else None

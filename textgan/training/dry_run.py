"""What a run would do, take and hold, said before it does it: ``textgan train --dry-run``."""

import datetime
from pathlib import Path
from typing import Any

import torch

from textgan.config import Config
from textgan.ops.devices import device_name, pick_device
from textgan.training.adapting import share_text
from textgan.training.checkpoint import check_checkpoint, find_checkpoint, read_pointer
from textgan.training.classes import check_classifier
from textgan.training.critic import check_vocabulary
from textgan.training.finetune import check_finetune
from textgan.training.forecast import forecast, last_time
from textgan.training.inputs import check_rows, encode, make_tokenizer, read_corpus
from textgan.training.phases import Planner
from textgan.training.pretrained import resolve
from textgan.training.run import check_folder


def plan(config: Config, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """What ``train`` would do, without doing it: folder, data, vocabulary, parameters, and the phases.

    Phases, and ``last_time``, are as :mod:`textgan.training.forecast` says; ``seconds`` and ``peak_bytes`` are of the
    whole run.

    Raises:
        UserError: what ``train`` would not begin with either.
    """
    config = resolve(config, folder if resume else None)
    check_folder(config, folder, resume=resume)
    resumed = resume and read_pointer(folder / "checkpoints", "last") is not None
    device = pick_device(config.device)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    corpus = read_corpus(config)
    tokenizer = make_tokenizer(config, corpus)
    splits = encode(config, corpus, tokenizer)
    check_rows(config, splits)
    check_vocabulary(config, tokenizer)
    if config.classifier:
        check_classifier(config, corpus, tokenizer)
    if config.mle or config.adversarial:
        check_finetune(config, tokenizer.vocab_size)
    planner = Planner(config, splits, tokenizer.vocab_size, device.type)
    phases = forecast(config, planner, device)
    seconds = [phase["seconds"] for phase in phases.values()]
    return {
        "run": str(folder),
        "resumed_at": check_checkpoint(find_checkpoint(folder, prefer="last"))["step"] if resumed else None,
        "rows": {name: len(data) if data else 0 for name, data in splits.items()},
        "tokens_a_row": splits["train"].lengths.double().mean().item(),
        "tokenizer": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        **planner.parameters(),
        "phases": phases,
        "seconds": None if None in seconds else sum(seconds),
        "peak_bytes": max(phase["peak_bytes"] for phase in phases.values()),
        "device": device_name(device),
        "last_time": last_time(folder.parent, device),
    }


def plan_text(config: Config, facts: dict[str, Any]) -> str:
    """What a run would do, in a few lines."""
    rows = ", ".join(f"{name} {count:,}" for name, count in facts["rows"].items())
    start = "" if facts["resumed_at"] is None else f", to be resumed at step {facts['resumed_at']}"
    lines = [
        f"run: {facts['run']}{start}",
        f"data: {config.data.source}; rows: {rows}; {facts['tokens_a_row']:.1f} tokens a row",
        f"tokenizer: {facts['tokenizer']}, {facts['vocab_size']:,} tokens",
    ]
    for name in ("generator", "classifier"):
        if f"{name}_parameters" in facts:
            lines.append(f"{name}: {facts[f'{name}_parameters']:,} parameters")
    if "trained_parameters" in facts:
        lines.append(share_text(config, facts["trained_parameters"], facts["generator_parameters"]))
    if "vae_parameters" in facts:
        lines.append(
            f"vae: {facts['vae_parameters']:,} parameters, {facts['encoder_parameters']:,} of them the encoder's"
        )
    if "discriminator_parameters" in facts:
        lines.append(f"discriminator: {facts['discriminator_parameters']:,} parameters")
    for name, phase in facts["phases"].items():
        line = f"{name}: {phase['steps']:,} steps, {phase['epochs']:.1f} epochs"
        if name == "continued":
            line += f" (maximum likelihood from the same parent, as many {config.adversarial.continuation})"
        if phase["seconds"] is not None:
            line += f"; {_ms(phase['step_seconds'])} a step, {_clock(phase['seconds'])} with evaluations"
        lines.append(f"{line}; {_gib(phase['peak_bytes'])}")
    took = f"about {_clock(facts['seconds'])} on" if facts["seconds"] is not None else "no times are fitted for"
    lines.append(f"in all: {took} {facts['device']}, {_gib(facts['peak_bytes'])} of memory at most")
    if facts["last_time"]:
        lines.append(_last_time(facts["last_time"]))
    return "\n".join(lines)


def _last_time(found: dict[str, Any]) -> str:
    """How far off the forecast of another run was."""
    told = []
    for name, phase in found["phases"].items():
        took, expected = phase["step_seconds"], phase["expected_step_seconds"]
        off = "" if expected is None else f" where {_ms(expected)} was expected ({took / expected - 1:+.0%})"
        told.append(f"{name} took {_ms(took)} a step{off}")
    held, expected = found["peak_bytes"], found["expected_peak_bytes"]
    told.append(f"memory {_gib(held)} where {_gib(expected)} was expected ({held / expected - 1:+.0%})")
    return f"last time ({found['run']}): {', '.join(told)}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))

"""One run from config to results: read the data, run the phases, leave a folder that explains itself.

runs/NAME/   config.yaml, tokenizer.json      what was run
             checkpoints/                     see checkpoint.py
             events.out.tfevents...           TensorBoard
             metrics.jsonl                    every logged value, bit-equal when resumed
             continued/                       the log of the MLE continuation, where there is one
             timing.jsonl                     rates and times
             took.json                        what steps and memory were expected to be, and were
             results.json                     the final table, with the signature of its metrics
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from textgan.config import Config
from textgan.configfile import dump_config, load_config
from textgan.data.corpus import Corpus
from textgan.data.tokenizer import Tokenizer, load_tokenizer, save_tokenizer
from textgan.errors import UserError
from textgan.models.generator import Generator
from textgan.ops.devices import check_compiler, device_name, has_bfloat16, pick_device
from textgan.training.adapting import adopt
from textgan.training.adversarial import train_adversarial
from textgan.training.building import build_generator
from textgan.training.checkpoint import (
    check_checkpoint,
    find_checkpoint,
    load_model,
    load_state,
    read_pointer,
    write_atomically,
)
from textgan.training.classes import check_classifier
from textgan.training.classifier import train_classifier
from textgan.training.continuation import continue_mle
from textgan.training.critic import check_vocabulary, reading_line
from textgan.training.evaluation import Evaluator
from textgan.training.experiment import Experiment, say
from textgan.training.finetune import check_finetune
from textgan.training.finish import finish_arm
from textgan.training.forecast import Took, forecast
from textgan.training.inputs import check_rows, encode, make_tokenizer, read_corpus
from textgan.training.interrupt import Interrupt
from textgan.training.latent_gan import train_latent_gan
from textgan.training.logging import flatten, open_log
from textgan.training.mle import train_mle
from textgan.training.phases import Planner
from textgan.training.pretrained import fill_pretrained, pretrained_weights, resolve
from textgan.training.ranks import Ranks, local_device
from textgan.training.vae import train_vae

# What a resumed run may change: where and how fast it computes, not what.
RESUME_MAY_CHANGE = ("device", "threads", "shard_optimizer", "generator.gradient_checkpointing")


def train(config: Config, folder: Path, *, resume: bool = False, ranks: Ranks | None = None) -> dict[str, Any]:
    """Train as ``config`` says into run ``folder`` (made here, or resumed); returns the content of results.json.

    Args:
        config: what to do.
        folder: the run's.
        resume: go on with the run in it.
        ranks: the processes that do it together, each of which calls this; None: this one alone.

    Raises:
        UserError: bad data or config, a folder that is in use, nothing to resume, divergence, a process that is gone.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when everything is saved.
    """
    device = local_device(pick_device(config.device))
    torch.set_num_threads(config.threads or torch.get_num_threads())
    torch.set_flush_denormal(True)  # denormals in AdamW's moments cost CPUs a factor of four
    ranks = ranks or Ranks()
    check_ranks(config, ranks)
    if config.compile:
        check_compiler()
    config = ranks.first_does(lambda: resolve(config, folder if resume else None))
    if (shape := config.generator).init_from:
        say(f"generator: {shape.init_from}, {shape.n_layer} layers, {shape.n_head} heads, width {shape.n_embd}")
    ranks.first_does(lambda: check_folder(config, folder, resume=resume))
    last = ranks.first_does(lambda: resume_point(folder)) if resume else None
    if last and (folder / "results.json").is_file():
        say(f"{folder} is finished: nothing to resume")
        return json.loads((folder / "results.json").read_text(encoding="utf-8"))
    state = load_state(last) if last else None

    corpus = read_corpus(config)
    tokenizer = load_tokenizer(folder / "tokenizer.json") if last else make_tokenizer(config, corpus)
    splits = encode(config, corpus, tokenizer)
    if last:
        check_same_data(last, corpus)
    check_rows(config, splits)
    if reading := check_vocabulary(config, tokenizer):
        say(reading_line(config, reading))
    if config.classifier:
        check_classifier(config, corpus, tokenizer)
    if config.mle or config.adversarial:
        check_finetune(config, tokenizer.vocab_size)
    took = None
    if ranks.size == 1:  # what several processes take, they take together
        planner = Planner(config, splits, tokenizer.vocab_size, device.type)
        took = Took(folder, forecast(config, planner, device), device)
    evaluator = None
    if not config.classifier:
        evaluator = Evaluator(config, corpus, tokenizer, splits["dev"], splits["test"], device, ranks)
    say(how_it_computes(config, device))
    if not last and config.generator.init_from and config.parent is None:
        pretrained_weights(config.generator.init_from)
    if not last:  # nothing is written before everything is known to be sound
        ranks.first_does(lambda: start_folder(config, folder, tokenizer))
    resumed_at = None
    if state:
        resumed_at = state.get("run_log") or (state["step"], state["log_position"])
        say(f"resuming {folder} at step {state['step']}")
    with Interrupt(quiet=not ranks.first) as interrupt:
        logger = open_log(folder, ranks, config=config, resume=resumed_at)
        status = "failed"
        try:
            run = Experiment(
                config,
                folder,
                device,
                corpus,
                tokenizer,
                splits["train"],
                splits["dev"],
                evaluator,
                logger,
                interrupt,
                ranks,
                results=check_checkpoint(last)["results"] if last else {},
                took=took,
            )
            if state:
                ranks.first_does(lambda: run.restore_best(state))
            if config.classifier:
                if state is None or state["phase"] != "classifier-done":
                    train_classifier(run, splits["test"], state)
            else:
                run_phases(run, state)
            logger.summary(stages(run.results))
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            logger.close(status)
        return ranks.first_does(lambda: write_results(run))  # the last thing written: it says that the run is finished


def how_it_computes(config: Config, device: torch.device) -> str:
    """One line on where and in what arithmetic, with what stands in the way of speed."""
    line = f"computing on {device_name(device)} in {config.precision}{', blocks compiled' if config.compile else ''}"
    if config.precision == "bfloat16" and not has_bfloat16(device):
        line += "; this device has no arithmetic for bfloat16: precision=float32 is faster here"
    return line


def default_folder(name: str, *, resume: bool) -> Path:
    """``runs/NAME``, or NAME-2, NAME-3 ... : the first that is free; for ``resume`` the newest there is."""
    taken = 0
    while (folder := _numbered(name, taken + 1)).exists() and any(folder.iterdir()):
        taken += 1
    return _numbered(name, max(1, taken) if resume else taken + 1)


def _numbered(name: str, number: int) -> Path:
    return Path("runs") / (name if number == 1 else f"{name}-{number}")


def is_run(folder: Path) -> bool:
    """Whether a run was started in ``folder``; it may have no checkpoint yet."""
    return (folder / "config.yaml").is_file()


def check_folder(config: Config, folder: Path, *, resume: bool) -> None:
    """UserError where ``folder`` cannot hold a new run, or, for ``resume``, holds none of this ``config``."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder for the run")
    if resume:
        check_resumable(config, folder)
    elif folder.exists() and any(folder.iterdir()):
        other = "give another --run, or --resume to go on with it"
        raise UserError(f"{folder} is not empty; {other if is_run(folder) else 'give a new or an empty --run'}")


def check_ranks(config: Config, ranks: Ranks) -> None:
    """UserError where the config cannot be shared out among so many processes."""
    if ranks.size > 1 and config.vae:
        raise UserError(
            f"torchrun started {ranks.size} processes, but a run with a `vae` section is of one: its codes are "
            "normalised and compared over the whole batch; leave torchrun away, or give vae=none"
        )
    for name in ("mle", "adversarial", "classifier"):
        phase = getattr(config, name)
        if phase and phase.batch_size // phase.accumulate < ranks.size:
            raise UserError(
                f"{name}.batch_size={phase.batch_size} in {phase.accumulate} parts leaves no text for each of "
                f"{ranks.size} processes; raise {name}.batch_size, or start fewer"
            )


def start_folder(config: Config, folder: Path, tokenizer: Tokenizer) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the run folder {folder} cannot be made: {error.strerror}; give another --run") from None
    write_atomically(folder / "config.yaml", dump_config(config))
    save_tokenizer(tokenizer, folder / "tokenizer.json")


def run_phases(run: Experiment, state: dict[str, Any] | None) -> None:
    """Run what the config asks for and ``state`` (of the last checkpoint, where resumed) has not done yet."""
    config, phase, generator, step = run.config, state["phase"] if state else None, None, 0
    if phase in (None, "mle") and config.mle:
        generator, step = train_mle(run, state)
    elif phase is None and config.adversarial:
        generator, step = adopt_parent(run)
    elif config.mle or config.adversarial:  # the parent of a later phase under way, or the end of everything
        generator, step = load_parent(run, "mle")
    if config.vae:
        if phase in (None, "mle", "mle-done", "vae"):
            vae, step = train_vae(run, step, state if phase == "vae" else None)
        else:
            vae, step = load_parent(run, "vae")
        if config.latent_gan and phase != "latent_gan-done":
            train_latent_gan(run, vae, step, state if phase == "latent_gan" else None)
        return
    if config.adversarial is None:
        return
    if phase in (None, "mle", "mle-done", "adversarial"):
        train_adversarial(run, generator, step, state if phase == "adversarial" else None)
    if config.adversarial.continuation and phase != "continued-done":
        continue_mle(run, generator, step, state if phase == "continued" else None)


def load_parent(run: Experiment, arm: str) -> tuple[nn.Module, int]:
    """The model of a finished phase of this run, and its step."""
    folder = run.checkpoints / arm
    model = load_model(folder, run.config, run.tokenizer.vocab_size, arm).to(run.device)
    return model, check_checkpoint(folder)["step"]


def adopt_parent(run: Experiment) -> tuple[Generator, int]:
    """The parent that the config names, evaluated and saved here as checkpoint ``mle``: ``adversarial.init_from``, or
    the pretrained model of ``generator.init_from``.

    One that was calibrated stays as it is; on the dev texts of other data, though, it was not calibrated as the arms of
    this run will be, and it is done again.
    """
    config = run.config
    if config.parent is None:
        step, known = 0, None
        say(f"starting from {config.generator.init_from}")
        generator = build_generator(config, run.tokenizer.vocab_size)  # with this config's dropout
        fill_pretrained(generator, config.generator.init_from)
    else:
        folder = find_checkpoint(config.adversarial.init_from)
        meta = check_checkpoint(folder)
        step, known = meta["step"], meta.get("calibration")
        generator, adapter = adopt(folder, config, run.tokenizer.vocab_size)
        say(f"starting from {folder} (step {step}){adapter}")
        if meta["data"] != run.corpus.fingerprint:
            known = None
    generator.to(run.device)
    fit = config.adversarial.calibrate
    entry = finish_arm(run, "mle", generator, step, fit=fit, known=known)
    values = run.evaluate(generator, step)
    run.save(
        "mle",
        generator=generator,
        phase="mle",
        step=step,
        state={"phase": "mle-done", "step": step},
        metrics=values,
        calibration=entry["calibration"],
        best="mle",
    )
    return generator, step


def check_resumable(config: Config, folder: Path) -> None:
    """UserError where ``folder`` holds no run, or one whose config is not ``config``."""
    if not is_run(folder):
        raise UserError(f"nothing to resume: {folder} holds no run; leave --resume away to start one")
    kept = flatten(load_config(folder / "config.yaml").model_dump(mode="json"))
    given = flatten(config.model_dump(mode="json"))
    odd = [k for k in sorted(given.keys() | kept.keys()) if given.get(k) != kept.get(k)]
    odd = [k for k in odd if k not in RESUME_MAY_CHANGE]
    if odd:
        shown = "; ".join(f"{k} was {kept.get(k)!r}, now {given.get(k)!r}" for k in odd[:5])
        raise UserError(f"{folder} was started with other settings ({shown}); give the same ones, or another --run")


def resume_point(folder: Path) -> Path | None:
    """The checkpoint to go on from; None where the run has none yet, and what it had logged is removed."""
    if read_pointer(folder / "checkpoints", "last") is None:
        say(f"{folder} has no checkpoint yet: starting over")
        for path in (folder / "metrics.jsonl", folder / "timing.jsonl", *folder.rglob("events.out.tfevents.*")):
            path.unlink(missing_ok=True)
        return None
    return find_checkpoint(folder, prefer="last")


def check_same_data(last: Path, corpus: Corpus) -> None:
    meta = check_checkpoint(last)
    if meta["data"] != corpus.fingerprint:
        raise UserError(
            f"the data has changed since {last} was written (fingerprint {meta['data'][:12]} then, "
            f"{corpus.fingerprint[:12]} now); bring the old data back, or start a new run"
        )
    if meta["threads"] != torch.get_num_threads():
        say(
            f"warning: {last} was made with {meta['threads']} threads, now there are "
            f"{torch.get_num_threads()}: the bits will differ (set threads={meta['threads']})"
        )


def write_results(run: Experiment) -> dict[str, Any]:
    """Write and return results.json: real text, each phase, and the signature of the metrics."""
    results = {"run": str(run.folder), "data": run.corpus.fingerprint, "phases": run.results}
    if run.evaluator is not None:
        results["signature"] = run.evaluator.signature(run.config.evaluation.final_samples)
    write_atomically(run.folder / "results.json", json.dumps(results, indent=1, ensure_ascii=False))
    return results


def stages(results: dict[str, dict[str, Any]]) -> dict[str, tuple[int, dict[str, float]]]:
    """The final scores as the log's summary wants them: by names of ``tags.STAGES``, in the order of steps."""
    entries = {name: (entry["step"], entry["metrics"]) for name, entry in results.items()}
    before = {"pretrained": entries["pretrained"]} if "pretrained" in entries else {}
    parent = {"parent": entries["mle"]} if "mle" in entries and len(entries) > 1 else {}
    if "classifier" in entries:
        return {"end": entries["classifier"], "best": entries["classifier"]}
    if "latent_gan" in entries:
        return {**before, **parent, "vae": entries["vae"], "end": entries["latent_gan"], "best": entries["latent_gan"]}
    if "vae" in entries:
        return {**before, **parent, "end": entries["vae"], "best": entries["vae"]}
    if "adversarial" not in entries:
        return {**before, "end": entries["mle"], "best": entries["mle"]}
    end = entries["adversarial"]
    return {**before, **parent, "end": end, "best": entries.get("adversarial (best dev NLL)", end)}

"""How a phase ends: every arm is calibrated, evaluated, scored and saved in the same way.

So no arm wins by being calibrated: see ``calibrate.py`` for how much that is worth.
"""

from pathlib import Path
from typing import Any

from textgan.models.generator import Generator
from textgan.sampling.latent import LatentGenerator
from textgan.training.calibrate import calibrate
from textgan.training.checkpoint import check_checkpoint, load_model, load_state, read_pointer
from textgan.training.evaluation import AnyGenerator
from textgan.training.experiment import Experiment, say


def finish_arm(
    run: Experiment,
    name: str,
    generator: AnyGenerator,
    step: int,
    *,
    fit: bool,
    known: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Calibrate ``generator`` in place (``fit``), and keep its final scores as ``run.results[name]``; returns them.

    They hold ``calibration`` (what was fitted; None: nothing was) and, where it was fitted here, ``uncalibrated``: the
    likelihood of dev before.

    Args:
        known: what was fitted before, of a generator that comes calibrated.
    """
    fitted, before = known, None
    if fit and known is None:
        before = run.evaluator.likelihood(generator, run.dev, run.config.evaluation.final_iw_samples)
        fitted = calibrate(generator, run.dev, unk_id=run.tokenizer.unk_id, device=run.device)
        say(
            "{}: calibrated on dev: softmax temperature {temperature:.3f}, <unk> bias {unk_bias:+.2f}, "
            "{} {nll_before:.4f} -> {nll_after:.4f} nats a token".format(
                name, "reconstruction" if isinstance(generator, LatentGenerator) else "NLL", **fitted
            )
        )
    entry = run.final_scores(name, generator, step)
    entry["calibration"] = fitted
    if before is not None:
        entry["uncalibrated"] = {tag.partition("/")[2]: value for tag, value in before.items()}
    return entry


def finish_phase(
    run: Experiment,
    arm: str,
    generator: Generator,
    step: int,
    state: dict[str, Any],
    extra: dict[str, Any] | None = None,
) -> Generator:
    """End a phase that began at a parent: its last weights are the arm, its best by dev NLL is kept beside.

    Both are calibrated; the pointer to the best then names the one with the lower dev NLL.

    Args:
        run: the experiment; its pointer to the best names a step of this phase.
        arm: name of the checkpoint and of the results; those of the best get ``-best`` and ``(best dev NLL)``.
        generator: the phase's last (averaged) weights, calibrated in place.
        step: at which the phase ended.
        state: what the arm's checkpoint has to hold.
        extra: what its results have to hold.

    Returns:
        ``generator``.
    """
    fit = run.config.adversarial.calibrate
    entry = finish_arm(run, arm, generator, step, fit=fit)
    entry |= extra or {}
    values = run.evaluate(generator, step)
    best, source = arm, run.checkpoints / read_pointer(run.checkpoints, run.best_pointer)
    if check_checkpoint(source)["step"] != step:
        other = finish_best(run, arm, source, fit)
        if other["metrics"]["nll"] < entry["metrics"]["nll"]:
            best = f"{arm}-best"
    if run.beside:  # the run's own summary comes at its end
        scores = {name: (e["step"], e["metrics"]) for name, e in run.results.items() if name.startswith(arm)}
        run.logger.summary({"end": scores[arm], "best": scores.get(f"{arm} (best dev NLL)", scores[arm])})
    run.save(
        arm,
        generator=generator,
        phase=arm,
        step=step,
        state={"phase": f"{arm}-done", "step": step, **state},
        metrics=values,
        calibration=entry["calibration"],
        best=best,
    )
    return generator


def finish_best(run: Experiment, arm: str, source: Path, fit: bool) -> dict[str, Any]:
    """The step ``source`` as checkpoint ``ARM-best``: calibrated, scored; returns its scores."""
    step = check_checkpoint(source)["step"]
    generator = load_model(source, run.config, run.tokenizer.vocab_size).to(run.device)
    entry = finish_arm(run, f"{arm} (best dev NLL)", generator, step, fit=fit)
    players = load_state(source).get("players", {})
    run.save(
        f"{arm}-best",
        generator=generator,
        phase=arm,
        step=step,
        state={"step": step} | ({"discriminator": players["discriminator"]} if "discriminator" in players else {}),
        metrics=run.evaluator.likelihood(generator, run.dev),
        calibration=entry["calibration"],
        last=False,  # a run that is killed here goes on from the end of the phase
    )
    return entry

"""Operating points in TensorBoard: a run for each arm and sampler family, the knob as the step; pictures of fronts.

The event files stand in ``evaluation/SETTING/ARM/FAMILY`` of the run and are written anew from the records each time,
so they show what is there and nothing else. Steps are whole: 100 times the knob (temperature 0.8 is step 80).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from textgan.analysis.plots import front_image, has_matplotlib
from textgan.analysis.points import Point
from textgan.metrics.suite import better
from textgan.sampling.samplers import parse_samplers

ABOUT = (
    "Operating points of `textgan evaluate`. The step is 100 times the knob of the sampler: temperature 0.8 is step "
    "80, top\\_p 0.9 step 90, top\\_k 40 step 4000; it is no time. Curves of two arms over the same knob do not say "
    "which arm is better: at one knob both quality *and* diversity differ. The pictures show one against the other."
)
PAIRS = (("bleu_4", "self_bleu_4"), ("lm_kn", "rlm_kn"))


def log_points(folder: Path, points: Sequence[Point], real: Mapping[str, float], *, pictures: bool = True) -> None:
    """Write the event files of these points below ``folder`` (``RUN/evaluation/SETTING``).

    Pictures of fronts come with them where matplotlib is there; they take a second.
    """
    for old in folder.rglob("events.out.tfevents.*"):
        old.unlink()
    curves = _curves(points)
    for (arm, family), own in curves.items():
        with SummaryWriter(str(folder / arm / family)) as writer:
            for value, point in own:
                for name, number in point.values.items():
                    writer.add_scalar(f"front/{name}", number, round(100 * value))
    with SummaryWriter(str(folder)) as writer:
        writer.add_text("front/about", ABOUT, 0)
        if pictures and has_matplotlib():
            for quality, diversity in PAIRS:
                image = _picture(points, quality, diversity, real)
                if image is not None:
                    writer.add_image(f"front/{quality}_against_{diversity}", image, 0, dataformats="HWC")


def _curves(points: Sequence[Point]) -> dict[tuple[str, str], list[tuple[float, Point]]]:
    """The points of each arm and sampler family with the value of their knob, ascending."""
    curves: dict[tuple[str, str], list[tuple[float, Point]]] = {}
    for point in points:
        (sampler,) = parse_samplers(point.sampler)
        curves.setdefault((point.arm, point.family), []).append((sampler.value, point))
    return {key: sorted(own, key=lambda pair: pair[0]) for key, own in curves.items()}


def _picture(points: Sequence[Point], quality: str, diversity: str, real: Mapping[str, float]) -> np.ndarray | None:
    arms: dict[str, list[tuple[str, float, float]]] = {}
    for point in points:
        if quality in point.values and diversity in point.values:
            at = (point.sampler, point.values[quality], point.values[diversity])
            arms.setdefault(point.arm, []).append(at)
    if not arms:
        return None
    return front_image(
        arms,
        quality=quality,
        diversity=diversity,
        quality_better=better(quality),
        diversity_better=better(diversity),
        real=(real[quality], real[diversity]) if quality in real and diversity in real else None,
    )

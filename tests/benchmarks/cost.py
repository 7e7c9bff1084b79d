"""How cost grows with batch, length, vocabulary, width and layers: the model of ``textgan train --dry-run``, fitted.

``python -m tests.benchmarks cost`` times steps of maximum likelihood, sampling, and adversarial iterations at shapes
around a middle one, fits what a unit of each kind of work costs (nonnegative least squares of relative errors), and
says how far off the model is there and at shapes that it was not fitted to, one of them larger than any that it was.
"""

import functools
import itertools
import json
import math
import statistics
from collections.abc import Callable

import click
import numpy as np
import torch

from tests.benchmarks import memory
from tests.benchmarks.adversarial import config_of, full_batch, one_iteration, players
from tests.benchmarks.mle import our_step
from tests.benchmarks.models import EOS, MIDDLE, Shape, ours
from textgan.sampling.rollout import sample_ids
from textgan.training import estimate
from textgan.training.building import build_generator
from textgan.training.cost import seconds_on
from textgan.training.critic import build_discriminator
from textgan.training.work import KINDS, Texts, Work, decode, iteration, mle_step, net_of, on_meta

AXES = {
    "batch": (16, 32, 128, 256),
    "length": (8, 16, 64, 128),
    "vocab": (500, 2000, 20_000),
    "width": (64, 128, 512),
    "layers": (1, 2, 8),
}
GRID = (
    MIDDLE,
    *(MIDDLE._replace(**{axis: value}) for axis, values in AXES.items() for value in values),
    *(Shape(vocab=500, width=width, layers=layers) for width, layers in ((64, 2), (64, 8), (128, 4))),  # few products
)
NOT_FITTED = (
    Shape(batch=48, length=24, vocab=3000, width=192, layers=3),
    Shape(batch=96, length=48, vocab=9000, width=320, layers=6, heads=5),
    Shape(batch=64, length=40, vocab=400, width=96, layers=2),
    Shape(batch=16, length=96, vocab=25_000, width=640, layers=10, heads=10),  # beyond the grid
)
HELD = (
    MIDDLE,
    MIDDLE._replace(batch=256),
    MIDDLE._replace(length=128),
    MIDDLE._replace(vocab=20_000),
    Shape(width=512, layers=6, heads=8),
)  # whose memory is measured; nothing is fitted to it but a common factor
WORKS = ("mle", "mle_dropout", "sampling", "adversarial")
LEAST = 0.5  # seconds that a measurement takes, or more


def amount(name: str, shape: Shape) -> Work:
    """How much work a piece of it is."""
    config = config_of(shape, 0.1 if name == "mle_dropout" else 0.0)
    nets = [
        net_of(on_meta(build, config, shape.vocab), of, shape.vocab)
        for build, of in ((build_generator, config.generator), (build_discriminator, config.discriminator))
    ]
    texts = Texts(shape.batch, *[shape.batch * shape.length] * 2, shape.length)
    if name == "adversarial":
        return iteration(config, *nets, texts, texts)
    return (decode if name == "sampling" else mle_step)(nets[0], texts)


def setting(name: str, shape: Shape, device: str) -> Callable[[], object]:
    """Does a piece of work at each call."""
    batch = full_batch(device, shape)
    if name == "adversarial":
        return one_iteration(*players(device, shape), batch)
    model = ours(0.1 if name == "mle_dropout" else 0.0, device, shape)
    if name == "sampling":
        model.eval()
        rng = torch.Generator(device).manual_seed(0)
        return lambda: sample_ids(model, shape.batch, shape.length, eos_id=EOS, rng=rng)
    return functools.partial(our_step(model), batch)


def measure(name: str, shape: Shape, device: str) -> dict:
    """Seconds of a piece of work, and of the probe's tasks: medians.

    They take turns: a machine that is slower for a while is so for both.
    """
    work, where = setting(name, shape, device), torch.device(device)
    work()
    times, speeds = [], []
    while sum(times) < LEAST or len(times) < 3:
        speeds.append(estimate.probe(where))
        began = seconds_on(where)
        work()
        times.append(seconds_on(where) - began)
    speed = [statistics.median(part) for part in zip(*speeds, strict=True)]
    return {"work": name, "shape": shape, "seconds": statistics.median(times), "speed": speed}


def features(point: dict) -> list[float]:
    """What each kind of a point's work would take at the probe's own price, seconds."""
    return estimate.features(amount(point["work"], Shape(*point["shape"])), estimate.Speed(*point["speed"]))


def fit(features: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Prices (K,), none negative, that make the squares of relative errors least.

    By coordinate descent: the problem is convex, and small. ``features`` (P, K) and ``seconds`` (P,).
    """
    A = features / seconds[:, None]
    prices = np.ones(A.shape[1])
    for _ in range(20_000):
        for j, column in enumerate(A.T):
            if squares := column @ column:
                prices[j] = max(0.0, prices[j] + column @ (1 - A @ prices) / squares)
    return prices


def exponents(points: list[dict], key: Callable[[dict], float]) -> dict[str, float]:
    """By work and axis: the power that cost grows with from the middle shape to the largest on that axis."""
    by_shape = {(p["work"], Shape(*p["shape"])): key(p) for p in points}
    found = {}
    for (axis, values), name in itertools.product(AXES.items(), WORKS):
        ends = MIDDLE, MIDDLE._replace(**{axis: values[-1]})
        low, high = (by_shape[name, end] for end in ends)
        found[f"{name}: {axis}"] = math.log(high / low) / math.log(values[-1] / getattr(MIDDLE, axis))
    return found


@click.command()
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--json", "as_json", is_flag=True)
def main(device: str, as_json: bool) -> None:
    """Fit the prices of textgan.training.estimate on this machine; prints them as its source has them."""
    torch.set_flush_denormal(True)
    points, others = [], []
    for into, shapes in ((points, GRID), (others, NOT_FITTED)):
        for shape, name in itertools.product(shapes, WORKS):
            into.append(measure(name, shape, device))
            click.echo(f"{name} {tuple(shape)}: {into[-1]['seconds'] * 1e3:.1f} ms", err=True)
    prices = fit(np.array([features(point) for point in points]), np.array([point["seconds"] for point in points]))
    for point in (*points, *others):
        point["estimate"] = float(np.array(features(point)) @ prices)
        point["off"] = point["estimate"] / point["seconds"] - 1
    held = []
    for shape, (phase, dropout) in itertools.product(HELD, itertools.product(("mle", "adversarial"), (0.0, 0.1))):
        found = memory.bytes_of(phase, shape, dropout)
        held.append({"phase": phase, "dropout": dropout, "shape": shape, **found})
        click.echo(f"memory of {phase} {tuple(shape)}: {found['own'] / 2**20:.0f} MiB", err=True)
    grown = {"measured": exponents(points, lambda p: p["seconds"]), "model": exponents(points, lambda p: p["estimate"])}
    found = {
        "prices": {name: round(float(price), 3) for name, price in zip(KINDS, prices, strict=True)},
        "fitted": points,
        "not_fitted": others,
        "memory": held,
        "exponents": grown,
    }
    click.echo(json.dumps(found, indent=1) if as_json else table(found))


def sizes(point: dict) -> str:
    B, T, V, D, N, _ = point["shape"]
    return f"{B:>4}{T:>5}{V:>7,}{D:>5}{N:>4}"


def table(found: dict) -> str:
    """The prices, and how far off they are, for people."""
    lines = [f"prices: {json.dumps(found['prices'])}"]
    off = sorted(abs(point["off"]) for point in found["fitted"])
    lines.append(f"{len(off)} fitted points: off by {statistics.median(off):.0%} in the middle, {off[-1]:.0%} at most")
    lines.append(f"{'not fitted':<14}{'B':>4}{'T':>5}{'V':>7}{'D':>5}{'N':>4}{'measured':>12}{'model':>12}")
    for point in found["not_fitted"]:
        lines.append(
            f"{point['work']:<14}{sizes(point)}{point['seconds'] * 1e3:>9.0f} ms"
            f"{point['estimate'] * 1e3:>9.0f} ms  {point['off']:+.0%}"
        )
    lines.append(f"{'memory':<12}{'p':>5}{'B':>4}{'T':>5}{'V':>7}{'D':>5}{'N':>4}{'measured':>12}{'model':>12}")
    for point in found["memory"]:
        own, expected = (point[name] / 2**20 for name in ("own", "expected"))
        lines.append(
            f"{point['phase']:<12}{point['dropout']:>5}{sizes(point)}{own:>8.0f} MiB{expected:>8.0f} MiB"
            f"  {expected / own - 1:+.0%}"
        )
    lines.append(f"{'grows with':<14}" + "".join(f"{axis:>16}" for axis in AXES))
    for name in WORKS:
        powers = [[found["exponents"][by][f"{name}: {axis}"] for by in ("measured", "model")] for axis in AXES]
        lines.append(f"{name:<14}" + "".join(f"{own:>8.2f} ({model:.2f})" for own, model in powers))
    lines.append("powers of the axis from the middle shape to its largest value: measured (model)")
    return "\n".join(lines)

"""Run folders with made-up records, whose fronts are known: for the tests of what compares them."""

import json
from pathlib import Path

import numpy as np

from textgan.analysis.points import Point, point_path, write_point
from textgan.configfile import dump_config, load_config

ROOT = Path(__file__).resolve().parents[1]
N = 200
G = 20
SIGNATURE = {"texts": N, "references": 50, "references_sha256": "aa", "train_sha256": "bb", "protocol": None}
TEMPERATURES = (0.6, 0.8, 1.0, 1.2)


def write_run(folder, arms, *, seed=0, signature=SIGNATURE, real=None, setting="dev", n=N, overrides=()):
    """A run whose arms have points as ``arms`` says: {arm: {sampler: {metric: value, or (value, groups)}}}."""
    folder.mkdir(parents=True, exist_ok=True)
    config = load_config(ROOT / "configs" / "smoke.yaml", [*overrides, f"seed={seed}"])
    (folder / "config.yaml").write_text(dump_config(config))
    for arm, samplers in arms.items():
        for sampler, values in samplers.items():
            write_record(folder, arm, sampler, values, seed=seed, signature=signature, setting=setting, n=n)
    if real is not None:
        path = folder / "evaluation" / f"{setting}-n{n}-s0" / "real.json"
        path.write_text(json.dumps({"signature": signature, "values": real}))
    return folder


def write_record(
    folder, arm, sampler, values, *, seed=0, signature=SIGNATURE, setting="dev", n=N, weights=None, per_text=None
):
    """One record; text i says which arm, sampler and number it is."""
    numbers = {name: value[0] if isinstance(value, tuple) else value for name, value in values.items()}
    point = Point(
        arm=arm,
        sampler=sampler,
        split=setting,
        n=n,
        seed=0,
        signature=signature,
        values=numbers,
        intervals={"mmd_p": [0.0, 1.0]} if "mmd_p" in numbers else {},
        groups={name: value[1] for name, value in values.items() if isinstance(value, tuple)},
        per_text=per_text or {},
        texts=[f"{arm} {sampler} {i}" for i in range(n)],
        step=10,
        training_seed=seed,
        weights=weights or f"{arm}-{seed}",
    )
    path = point_path(folder, arm, sampler, split=setting, n=n, seed=0)
    write_point(path, point)
    return path


def front(rng, *, shift=0.0, seed_sd=0.0, sd=0.002, temperatures=TEMPERATURES, family="temperature"):
    """Points on a line of BLEU-4 against self-BLEU-4; a ``shift`` above 0 is more diversity at equal quality.

    ``seed_sd``: of the whole curve; ``sd``: sampling error of each value, which its leave-group-out values show too.
    """
    offset = rng.normal(0, seed_sd) if seed_sd else 0.0
    points = {}
    for t in temperatures:
        quality, repetition = 0.8 - 0.4 * t, 0.9 - 0.5 * t - shift + offset
        points[f"{family}={t:g}"] = {
            "bleu_4": noisy(rng, quality, sd),
            "self_bleu_4": noisy(rng, repetition, sd),
            "frechet_ngrams": noisy(rng, 0.1 + (t - 1) ** 2 - shift, sd),
            "copies": noisy(rng, 0.02, 0.001),
            "nll": 2.0 - shift,
        }
    return points


def noisy(rng, value, sd):
    """A value with sampling error ``sd`` and leave-group-out values that have just this jackknife error."""
    deviations = rng.normal(size=G)
    deviations -= deviations.mean()
    deviations *= sd / np.sqrt((G - 1) / G * np.square(deviations).sum())
    found = value + rng.normal(0, sd)
    return found, found + deviations

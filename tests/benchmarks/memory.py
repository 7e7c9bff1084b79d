"""Peak memory of an adversarial iteration in that of a step of maximum likelihood: each in a process of its own."""

import gc
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch

from tests.benchmarks.adversarial import config_of, full_batch, one_iteration, players, rows_of
from tests.benchmarks.mle import our_step
from tests.benchmarks.models import MIDDLE, Shape, ours
from textgan.training.estimate import SLACK
from textgan.training.phases import Planner

LIMIT = 2.0
WORK = ("mle", "adversarial")


def measure() -> dict:
    """Bytes at the peak above what models, optimisers and libraries hold, and the ratio of the two."""
    alone = {"mle_weight": 0.0, "adv_ratio": None}
    peaks = {work: bytes_of(work, MIDDLE, **alone) for work in WORK}
    return {
        "what": "most memory of a process that takes three steps, and how much of it came with the steps",
        "ours": peaks["adversarial"]["peak"],
        "peers": {"a step of MLE": peaks["mle"]["peak"]},
        "ratio": peaks["mle"]["peak"] / peaks["adversarial"]["peak"],
        "grown": {work: found["grown"] for work, found in peaks.items()},
        "multiple": peaks["adversarial"]["grown"] / peaks["mle"]["grown"],
        "limit": LIMIT,
    }


def table(found: dict) -> str:
    mib = {work: grown / 2**20 for work, grown in found["grown"].items()}
    return (
        f"memory: {found['what']}\n"
        f"  a step of MLE                             {found['peers']['a step of MLE'] / 2**20:10.0f} MiB"
        f", of which {mib['mle']:.0f}\n"
        f"  an adversarial iteration                  {found['ours'] / 2**20:10.0f} MiB"
        f", of which {mib['adversarial']:.0f}: {found['multiple']:.2f} times, asked for at most {found['limit']:g}"
    )


def bytes_of(name: str, shape: Shape, dropout: float = 0.0, **settings: object) -> dict:
    """What a process of its own says of three steps at a shape, bytes.

    The ``peak``, how much of it has ``grown`` with the steps, how much is its ``own`` beside the libraries, and how
    much of that was ``expected`` by the model behind ``--dry-run``.
    """
    work = json.dumps([name, shape, dropout, settings])
    done = subprocess.run([sys.executable, "-m", __name__, work], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _work(name: str, shape: Shape, dropout: float, settings: dict) -> dict:
    torch.set_flush_denormal(True)
    config = config_of(shape, dropout, **settings)
    splits = {"train": rows_of(shape), "dev": rows_of(shape), "test": None}
    expected = Planner(config, splits, shape.vocab, "cpu").phases()[name].held * SLACK
    batch, bare = full_batch("cpu", shape), _start()
    if name == "mle":
        step = partial(our_step(ours(dropout, shape=shape)), batch)
    else:
        step = one_iteration(*players("cpu", shape, dropout, **settings), batch)
    before = _start()
    for _ in range(3):
        step()
    peak = _status("VmHWM")
    return {"peak": peak, "grown": peak - before, "own": peak - bare, "expected": expected}


def _start() -> int:
    """Bytes that this process holds now; the peak, VmHWM, is counted anew from here on (Linux alone can do that)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    name, shape, *rest = json.loads(sys.argv[1])
    print(json.dumps(_work(name, Shape(*shape), *rest)))

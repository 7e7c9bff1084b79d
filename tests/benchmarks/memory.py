"""Peak memory of an adversarial iteration in that of a step of maximum likelihood: each in a process of its own."""

import gc
import json
import subprocess
import sys
from pathlib import Path

LIMIT = 2.0
WORK = ("mle", "adversarial")


def measure() -> dict:
    """Bytes at the peak above what models, optimisers and libraries hold, and the ratio of the two."""
    command = [sys.executable, "-m", "tests.benchmarks.memory"]
    peaks = {}
    for work in WORK:
        done = subprocess.run([*command, work], capture_output=True, text=True, check=True)
        peaks[work] = json.loads(done.stdout)
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


def _work(name: str) -> dict:
    import torch

    from tests.benchmarks.adversarial import full_batch, players
    from tests.benchmarks.mle import our_step
    from tests.benchmarks.models import ours
    from textgan.training.adversarial_steps import discriminator_step, draw_texts, generator_step

    torch.set_flush_denormal(True)
    batch = full_batch("cpu")
    if name == "adversarial":
        run, both, parent = players("cpu", mle_weight=0.0, kl_weight=0.0, adv_ratio=None)
    else:
        step = our_step(ours())
    before = _start()
    for k in range(3):
        if name == "mle":
            step(batch)
        elif name == "adversarial":
            (judged,), own = draw_texts(run, both, k)
            discriminator_step(run, both, batch, judged, ("d", k), k)
            generator_step(run, both, parent, batch, own, 1.0, k, logged=False)
    return {"peak": _peak(), "grown": _peak() - before}


def _start() -> int:
    """Bytes that this process holds now; from here on the peak is counted anew (Linux alone can do that)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    """Most memory that this process has held since :func:`_start`, in bytes."""
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    print(json.dumps(_work(sys.argv[1])))

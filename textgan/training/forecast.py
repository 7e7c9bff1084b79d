"""What the phases of a run should take and hold on this machine, and what they then did.

A run leaves both in ``took.json``; the next dry run beside it says how far off the first was.
"""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from textgan.config import Config
from textgan.ops.devices import device_name
from textgan.training import estimate
from textgan.training.checkpoint import write_atomically
from textgan.training.phases import Planner
from textgan.training.progress import Progress

TOOK = "took.json"
ENOUGH = 10  # steps in one process: the first are slower than the rest


def forecast(config: Config, planner: Planner, device: torch.device) -> dict[str, dict[str, Any]]:
    """Of each phase its ``steps``, ``epochs``, ``step_seconds``, ``seconds`` (evaluations counted), and ``peak_bytes``.

    Seconds are None on a kind of device that none were fitted for. Bytes are of the GPU's memory, or of the memory of
    this whole process.
    """
    speed = estimate.probe(device, config.precision)
    here = 0 if device.type == "cuda" else held_now()
    found = {}
    for name, phase in planner.phases().items():
        step, around = (estimate.seconds(work, speed, device.type) for work in (phase.step, phase.around))
        found[name] = {
            "steps": phase.steps,
            "epochs": phase.epochs,
            "step_seconds": step,
            "seconds": None if step is None else phase.steps * step + around,
            "peak_bytes": round(here + estimate.SLACK * phase.held),
        }
    return found


class Took:
    """Writes ``took.json`` of a run, phase by phase."""

    def __init__(self, folder: Path, expected: dict[str, dict[str, Any]], device: torch.device):
        """``expected``: what :func:`forecast` said."""
        self._path, self._expected, self._device = folder / TOOK, expected, device
        self._found = _read(self._path) or {"device": device_name(device), "phases": {}}

    def note(self, phase: str, progress: Progress) -> None:
        """Remember what the steps of a phase have taken so far, and what the process has held at most."""
        steps, expected = progress.steps - progress.first, self._expected.get(phase)
        if steps < ENOUGH or expected is None:
            return
        phases = self._found["phases"]
        phases[phase] = {
            "steps": steps,
            "step_seconds": 1 / progress.rate("steps"),
            "expected_step_seconds": expected["step_seconds"],
        }
        self._found["peak_bytes"] = most_held(self._device)
        self._found["expected_peak_bytes"] = max(self._expected[name]["peak_bytes"] for name in phases)
        with contextlib.suppress(OSError):  # it is no result: a run does not end for it
            write_atomically(self._path, json.dumps(self._found, indent=1))


def last_time(beside: Path, device: torch.device) -> dict[str, Any] | None:
    """What the newest run in the folder ``beside`` on such a device took, and ``run``; None where there is none."""
    name, newest = device_name(device), None
    for path in beside.glob(f"*/{TOOK}"):
        found = _read(path)
        if found and found["device"] == name and found["phases"]:
            newest = max(newest or (0.0, {}), (path.stat().st_mtime, {"run": str(path.parent), **found}), key=_time)
    return newest and newest[1]


def _time(entry: tuple[float, dict[str, Any]]) -> float:
    return entry[0]


def _read(path: Path) -> dict[str, Any] | None:
    """What stands in a ``took.json``; None where there is none, or one that was not written to the end."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"device", "phases"} <= found.keys() else None


def held_now() -> int:
    """Bytes of memory that this process has; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return most_held(torch.device("cpu"))


def most_held(device: torch.device) -> int:
    """The most bytes that tensors on a GPU, or this process on a CPU, have held; 0 where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

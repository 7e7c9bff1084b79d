"""What tests of killed and resumed runs share: the kill, and what must be the same bits afterwards."""

import json
from pathlib import Path

import torch

from textgan.training.checkpoint import arms, load_state, load_weights, read_pointer


class Killed(BaseException):
    """Stands for a kill: nothing in the program may catch it."""


def everything(folder: Path) -> dict:
    """What must be the same bits: the log, the results, the pointers and each checkpoint that they name."""
    results = json.loads((folder / "results.json").read_text())
    root = folder / "checkpoints"
    kept = {name: read_pointer(root, name) for name in ("best", "last", "best-continued")}
    beside = folder / "continued" / "metrics.jsonl"
    return {
        "metrics": (folder / "metrics.jsonl").read_bytes(),
        "beside": beside.read_bytes() if beside.exists() else None,
        "results": {key: value for key, value in results.items() if key != "run"},
        "pointers": kept,
        "weights": {name: plain(load_weights(root / name)) for name in {*arms(folder), *kept.values()} if name},
        "state": plain(load_state(root / kept["last"])),
    }


def plain(value):
    """Tensors as lists, so that nested states can be compared."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value

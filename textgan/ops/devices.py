"""Where to compute."""

import torch

from textgan.errors import UserError

DEVICES = ("auto", "cpu", "cuda")


def pick_device(name: str) -> torch.device:
    """The device that ``auto`` (the GPU if there is one), ``cpu`` or ``cuda`` means here.

    Raises:
        UserError: ``cuda`` where torch sees no CUDA device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, but torch sees no CUDA device here; take auto or cpu")
    return torch.device(name)

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


def device_name(device: torch.device) -> str:
    """What computes, for people: the name of a GPU, or the number of CPU threads."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` has arithmetic of its own for bfloat16; without, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def check_compiler() -> None:
    """UserError where torch.compile finds no C++ compiler, which it needs on a GPU too."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError):
        raise UserError(
            "compile=true needs a C++ compiler, and none is found; install g++, or set compile=false"
        ) from None

"""Randomness as a pure function of names and numbers.

Training keeps no generator state: every step draws from streams that follow from (seed, what for, step). So
a resumed run needs only its step to go on with the same bits, and an evaluation in between disturbs nothing.
"""

import hashlib

import torch


def stream_seed(*parts: object) -> int:
    """A 63-bit seed that depends on all ``parts`` (their ``str``), the same in every process."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def stream(device: torch.device | str, *parts: object) -> torch.Generator:
    """A torch generator on ``device`` seeded by :func:`stream_seed` of ``parts``."""
    return torch.Generator(device).manual_seed(stream_seed(*parts))


def seed_dropout(*parts: object) -> None:
    """Seed torch's global generators, which only dropout reads, from ``parts``."""
    torch.manual_seed(stream_seed("dropout", *parts))

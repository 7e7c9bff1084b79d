"""What training costs: counted while it runs, so that a baseline can be given as much."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def seconds_on(device: torch.device) -> float:
    """Seconds of a clock that only differences of mean something; all that was given to ``device`` is done by then."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


class Spent:
    """What the phase has cost so far: the measure of a baseline of equal cost.

    Attributes:
        tokens: that went through the generator: of real texts that it learned from (once, whatever the number of its
            losses), and of texts that it sampled, for itself and for the discriminator. End tokens count.
        seconds: of its updates and the discriminator's, pretraining counted, evaluations and checkpoints not; measured
            only where it is asked for, as no resumed run could repeat it to the bit.
    """

    def __init__(self, timed: bool, device: torch.device):
        self.tokens: Tensor | int = 0  # a tensor once training: reading it off a GPU at each step would slow it down
        self.seconds = 0.0
        self.timed, self.device = timed, device

    @contextlib.contextmanager
    def clock(self) -> Iterator[None]:
        """What runs inside is timed."""
        began = seconds_on(self.device) if self.timed else 0.0
        yield
        if self.timed:
            self.seconds += seconds_on(self.device) - began

    def state_dict(self) -> dict[str, Any]:
        return {"tokens": int(self.tokens), "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tokens, self.seconds = state["tokens"], state["seconds"]

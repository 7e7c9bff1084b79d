"""Aggressive updates of a VAE's encoder (He et al. 2019, "Lagging Inference Networks", algorithm 1).

Early in training the posterior lags behind the decoder, which then learns to do without z. So the encoder alone is
updated until it has caught up, before each update of the decoder; once the latent carries information, and no more of
it from one evaluation to the next, training goes on in the ordinary way.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor


@dataclasses.dataclass
class Aggressive:
    """Whether the encoder still runs ahead, the mutual information that decides it, and the updates it has cost."""

    active: bool
    updates: int = 0  # of the encoder alone, in the whole phase; the next one's batch and noise follow from it
    information: float = -math.inf  # on dev at the last evaluation, nats

    def note(self, information: float) -> None:
        """An evaluation: the encoder stops running ahead when the information has not risen since the last one."""
        self.active = self.active and information > self.information
        self.information = information

    def state_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def catch_up(update: Callable[[], tuple[Tensor, int]], *, most: int, window: int) -> int:
    """Update the encoder until its loss falls no more; returns how many updates that took.

    The loss is averaged over ``window`` updates; the loop ends where an average is not below the one before.

    Args:
        update: one update on a fresh batch; returns the batch's loss in nats and how many tokens it is of.
        most: updates at most.
        window: updates an average is taken over. The loss is read once in each, as a GPU waits for that.
    """
    before, total, tokens = math.inf, 0.0, 0
    for made in range(1, most + 1):
        loss, count = update()
        total, tokens = total + loss, tokens + count
        if made % window == 0:
            mean = float(total) / tokens
            if not mean < before:
                return made
            before, total, tokens = mean, 0.0, 0
    return most

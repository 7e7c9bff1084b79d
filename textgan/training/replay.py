"""A store of old fakes, so that a discriminator does not forget what the generator did before."""

from collections import deque
from typing import Any

import torch
from torch import Tensor


class Replay:
    """The last ``capacity`` fake batches; a share of each discriminator batch is drawn from them."""

    def __init__(self, capacity: int, share: float):
        self.batches: deque[tuple[Tensor, Tensor]] = deque(maxlen=capacity)
        self.share = share if capacity else 0.0

    def fresh(self, batch_size: int, batches: int) -> list[int]:
        """How many texts of each of the next ``batches`` must be sampled anew (all, while the store is empty)."""
        first = 0 if self.batches else 1
        return [batch_size - (int(self.share * batch_size) if k >= first else 0) for k in range(batches)]

    def mix(
        self, ids: Tensor, lengths: Tensor, batch_size: int, *, eos_id: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """``batch_size`` fakes: the fresh ``ids`` (F, T) and ``lengths`` (F,), filled up with old ones.

        Fresh fakes are then kept. ``rng`` is a CPU generator; old texts are drawn with replacement.
        """
        missing = batch_size - len(ids)
        batches = [(ids, lengths)]
        if missing:
            old = []
            for place in torch.randint(len(self.batches), (missing,), generator=rng).tolist():
                old_ids, old_lengths = self.batches[place]
                row = torch.randint(len(old_ids), (1,), generator=rng)
                old.append((old_ids[row], old_lengths[row]))
            old_ids, old_lengths = concatenate(old, eos_id)
            batches.append((old_ids.to(ids.device), old_lengths.to(ids.device)))
        if self.batches.maxlen:
            self.batches.append((ids.cpu(), lengths.cpu()))
        return concatenate(batches, eos_id)

    def state_dict(self) -> list[dict[str, Tensor]]:
        return [{"ids": ids, "lengths": lengths} for ids, lengths in self.batches]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        self.batches.clear()
        self.batches.extend((batch["ids"], batch["lengths"]) for batch in state)


def concatenate(batches: list[tuple[Tensor, Tensor]], eos_id: int) -> tuple[Tensor, Tensor]:
    """Several (ids, lengths) as one, padded on the right with ``eos_id`` to the widest."""
    width = max(ids.shape[1] for ids, _ in batches)
    padded = [torch.nn.functional.pad(ids, (0, width - ids.shape[1]), value=eos_id) for ids, _ in batches]
    return torch.cat(padded), torch.cat([lengths for _, lengths in batches])

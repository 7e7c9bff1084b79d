"""AdamW divided among the processes of a run: the first stage of ZeRO (Rajbhandari et al. 2020).

Each parameter belongs to one rank, which keeps its moments, updates it, and sends it to the others. As AdamW looks at
one number at a time, the updates are to the bit those of ranks that keep everything.

Weights and gradients stay whole on each rank. Torch's ``fully_shard`` would divide them too, and gather each layer when
it is passed; but ranks that sample, evaluate, or compute their texts in parts of like length pass it another number of
times each, and would wait for each other for ever.
"""

from typing import Any

import torch
from torch.distributed.optim import ZeroRedundancyOptimizer

from textgan.training.ranks import losses_of_ranks


class ShardedAdamW(ZeroRedundancyOptimizer):
    """AdamW whose moments are divided among the ranks; its arguments are those of ``torch.optim.AdamW``."""

    def __init__(self, groups: list[dict[str, Any]], **settings: Any):
        super().__init__(groups, torch.optim.AdamW, **settings)

    def step(self, closure: None = None) -> None:
        with losses_of_ranks():
            super().step(closure)

    def state_dict(self) -> dict[str, Any]:
        """The state of a whole AdamW, on the first rank, in the memory of its CPU; all ranks have to call this."""
        with losses_of_ranks():
            self.consolidate_state_dict()
        return super().state_dict() if self.rank == 0 else {}

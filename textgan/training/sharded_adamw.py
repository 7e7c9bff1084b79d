"""AdamW divided among the processes of a run: the first stage of ZeRO (Rajbhandari et al. 2020).

A parameter is never cut, and AdamW works element by element: with the same gradients on all ranks, updates keep every
bit of those of an AdamW that is whole. (Torch's ``ZeroRedundancyOptimizer`` moves counts of steps to the CPU when it
loads them, where the fused AdamW of GPUs does not look.)

Weights and gradients stay whole on each rank. Torch's ``fully_shard`` would divide them too, and gather each layer when
it is passed; but it cannot copy a model for its weight average, sample with packed weights, or differentiate a critic
twice, and ranks that sample, evaluate, or compute texts in parts of like length pass a layer another number of times
each, and would wait for each other for ever.
"""

from typing import Any

import torch
import torch.distributed as dist

from textgan.training.ranks import Ranks, loss_of_a_rank


class ShardedAdamW(torch.optim.AdamW):
    """AdamW of which each rank updates some of the parameters, for which alone it keeps moments, and sends them round.

    ZeRO stage 1 (Rajbhandari et al. 2020). A parameter is never cut, and AdamW works element by element: with the same
    gradients on all ranks, updates keep every bit of those of an AdamW that is whole. So does the state, which loads
    into either. (torch's ``ZeroRedundancyOptimizer`` keeps its moments twice once they are loaded.)
    """

    def __init__(self, groups: list[dict[str, Any]], ranks: Ranks, *, betas: tuple[float, float]):
        super().__init__(groups, lr=0.0, betas=betas, fused=True)
        self.ranks = ranks
        self.dealt = [p for group in self.param_groups for p in group["params"]]  # in the order of the state
        self.owners = _deal([p.numel() for p in self.dealt], ranks.size)

    def step(self, closure: None = None) -> None:
        """Updates all parameters on all ranks; gradients of those that others update are gone then."""
        for parameter, owner in zip(self.dealt, self.owners, strict=True):
            if owner != self.ranks.rank:
                parameter.grad = None
        super().step()
        with loss_of_a_rank():
            pairs = zip(self.dealt, self.owners, strict=True)
            for sent in [dist.broadcast(p.detach(), owner, async_op=True) for p, owner in pairs]:
                sent.wait()

    def state_dict(self) -> dict[str, Any]:
        """The whole state, its moments in host memory, on the first rank; nothing on the others, which must ask too."""
        whole = super().state_dict()
        own = {i: {name: x.cpu() for name, x in part.items()} for i, part in whole["state"].items()}
        parts: list[Any] | None = [None] * self.ranks.size if self.ranks.first else None
        with loss_of_a_rank():
            dist.gather_object(own, parts)
        if parts is None:
            return {}
        state = {i: part for found in parts for i, part in found.items()}
        return whole | {"state": dict(sorted(state.items()))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes this rank's part of a whole state."""
        own = {i: part for i, part in state_dict["state"].items() if self.owners[i] == self.ranks.rank}
        super().load_state_dict(state_dict | {"state": own})


def _deal(sizes: list[int], ranks: int) -> list[int]:
    """The rank that each part goes to: the biggest first, always to the rank that has least."""
    loads, owners = [0] * ranks, [0] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        owners[i] = loads.index(min(loads))
        loads[owners[i]] += sizes[i]
    return owners

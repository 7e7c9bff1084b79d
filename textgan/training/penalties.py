"""L1, L2 and L2-SP: what is added to a generator's gradient to hold its weights small, or near their start.

Unlike AdamW's decoupled weight decay (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101), which shrinks each
weight by ``lr * weight_decay`` of itself whatever its gradient, these are part of the gradient: they are clipped with
it, and Adam divides them by the gradient's own size, so that weights of large gradients feel them less. Both may stand
beside each other.
"""

from typing import Any

import torch
from torch import Tensor, nn

from textgan.configfinetune import Finetune


class Penalties:
    """The penalties of a phase, on the matrices that train (as weight decay; biases and gains are free).

    Attributes:
        start: the matrices as the phase found them, by name, where L2-SP looks at them; else none.
    """

    def __init__(self, settings: Finetune, generator: nn.Module):
        self.settings = settings
        self.matrices = {name: p for name, p in generator.named_parameters() if p.requires_grad and p.dim() >= 2}
        self.start: dict[str, Tensor] = {}
        if settings.l2_sp:
            self.start = {name: p.detach().clone() for name, p in self.matrices.items()}

    @torch.no_grad()
    def add(self) -> None:
        """Adds the gradient of l1 |w| + l2 / 2 |w|^2 + l2_sp / 2 |w - w_start|^2 to the gradients there are.

        The last is L2-SP (Li et al. 2018, https://arxiv.org/abs/1802.01483, equation 2, whose alpha is ``l2_sp``).
        """
        settings = self.settings
        if not (settings.l1 or settings.l2 or settings.l2_sp):
            return
        for name, p in self.matrices.items():
            if p.grad is None:  # not thawed yet
                continue
            if settings.l1:
                p.grad.add_(p.sign(), alpha=settings.l1)
            if settings.l2:
                p.grad.add_(p, alpha=settings.l2)
            if settings.l2_sp:
                p.grad.add_(p - self.start[name], alpha=settings.l2_sp)

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start} if self.start else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, start in state.get("start", {}).items():
            self.start[name].copy_(start)

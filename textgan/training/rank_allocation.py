"""AdaLoRA's budget: singular values of updates are taken away where they matter least, until a mean rank is left.

Zhang et al. 2023, "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning"
(https://arxiv.org/abs/2303.10512), algorithm 1 and equations 7 to 12.
"""

from typing import Any

import torch
from torch import Tensor, nn

from textgan.configadapter import Adapter
from textgan.models.adapters import AdaptiveRank

PARTS = ("lora_A", "lora_E", "lora_B")


class RankAllocator:
    """Finds the ranks of the updates of a generator while it trains; without such updates it does nothing.

    Ranks fall once, in the first phase that the adapter trains in; phases after it keep them.
    """

    def __init__(self, generator: nn.Module, average: nn.Module, adapter: Adapter | None, total_steps: int):
        """average: of the generator's weights, or itself; what is taken away is taken from both."""
        self.layers = [module for module in generator.modules() if isinstance(module, AdaptiveRank)]
        self.averaged = [module for module in average.modules() if isinstance(module, AdaptiveRank)]
        self.options = adapter.options if self.layers else {}
        self.total_steps, self.step = total_steps, 0
        self.settled = any(not layer.keep.all() for layer in self.layers)
        parameters = [getattr(layer, part) for layer in self.layers for part in PARTS]
        self.sensitivity = [torch.zeros_like(p, requires_grad=False) for p in parameters]
        self.uncertainty = [torch.zeros_like(p, requires_grad=False) for p in parameters]

    def observe(self) -> None:
        """Before an update: adds the gradient of the penalty to the parameters', and notes how much each matters."""
        if not self.layers:
            return
        self.step += 1
        if self.options["orth_reg_weight"]:
            loss = self.options["orth_reg_weight"] * orthogonality(self.layers)
            parameters = [p for layer in self.layers for p in (layer.lora_A, layer.lora_B)]
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad.add_(gradient)
        if self.settled or self._budget()[2]:
            return
        beta1, beta2 = self.options["beta1"], self.options["beta2"]
        parameters = (getattr(layer, part) for layer in self.layers for part in PARTS)
        for p, mean, spread in zip(parameters, self.sensitivity, self.uncertainty, strict=True):
            now = (p.detach() * p.grad).abs()
            mean.lerp_(now, 1 - beta1)
            spread.lerp_((now - mean).abs(), 1 - beta2)

    @torch.no_grad()
    def prune(self) -> None:
        """After an update: sets to zero the singular values beyond the budget, for good at the schedule's end."""
        if not self.layers:
            return
        if not self.settled:
            budget, choose, last = self._budget()
            if not choose:
                return
            best = self.scores().argsort(descending=True, stable=True)[:budget]
            kept = torch.zeros(self.initial, dtype=torch.bool, device=best.device)
            kept[best] = True
            self._mask(kept)
            if not last:
                return
            self.settled = True
            for layers in (self.layers, self.averaged):
                for layer, own in zip(layers, kept.split(self.options["init_r"]), strict=True):
                    layer.keep.copy_(own)
        self._mask(torch.cat([layer.keep for layer in self.layers]))

    @property
    def initial(self) -> int:
        """Singular values of all updates together at the start."""
        return len(self.layers) * self.options["init_r"]

    def scores(self) -> Tensor:
        """How much each singular value matters with its vectors (equation 7), of all updates after each other."""
        found = []
        weighed = (mean * spread for mean, spread in zip(self.sensitivity, self.uncertainty, strict=True))
        for right, value, left in zip(weighed, weighed, weighed, strict=True):  # in the order of PARTS
            found.append(value + right.mean(1) + left.mean(0))
        return torch.cat(found)

    def _budget(self) -> tuple[int, bool, bool]:
        return budget_at(self.step, self.total_steps, len(self.layers), self.options)

    def _mask(self, kept: Tensor) -> None:
        for layers in (self.layers, self.averaged):
            for layer, own in zip(layers, kept.split(self.options["init_r"]), strict=True):
                layer.lora_E.masked_fill_(~own, 0.0)

    def state_dict(self) -> dict[str, Any]:
        if not self.layers:
            return {}
        return {name: getattr(self, name) for name in ("step", "sensitivity", "uncertainty")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not self.layers:
            return
        self.step = state["step"]
        for name in ("sensitivity", "uncertainty"):
            for own, given in zip(getattr(self, name), state[name], strict=True):
                own.copy_(given)


def budget_at(step: int, total_steps: int, n_layers: int, options: dict[str, Any]) -> tuple[int, bool, bool]:
    """Singular values that are to be left behind update ``step`` (from 1), by a cubic schedule (equation 12).

    Returns:
        Their number over all ``n_layers`` updates; whether they are to be chosen anew now; and whether for the last
        time.
    """
    start, end = (n_layers * options[name] for name in ("init_r", "target_r"))
    tinit, falls_until = options["tinit"], total_steps - options["tfinal"]
    if step <= tinit:
        return start, False, False
    if step >= falls_until:
        return end, True, True
    left = 1 - (step - tinit) / (falls_until - tinit)
    return int((start - end) * left**3 + end), step % options["deltaT"] == 0, False


def orthogonality(layers: list[AdaptiveRank]) -> Tensor:
    """Mean Frobenius norm of P'P - 1 and QQ' - 1 over the updates (equation 4, not squared, as in peft)."""
    total = 0.0
    for layer in layers:
        for vectors in (layer.lora_A, layer.lora_B.T):
            gram = vectors @ vectors.T
            total = total + torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device))
    return total / (2 * len(layers))

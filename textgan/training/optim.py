"""Optimiser, learning-rate schedule, weight average and gradient norms."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from textgan.models.sharing import copy_of, load_own_state, own_state
from textgan.training.ranks import Ranks
from textgan.training.sharded_adamw import ShardedAdamW


def adamw(
    model: nn.Module,
    *,
    betas: tuple[float, float],
    weight_decay: float,
    shards: Ranks | None = None,
    kinds: Callable[[str], dict[str, Any]] | None = None,
) -> torch.optim.AdamW:
    """AdamW over the parameters that train; decay on matrices only (biases, gains: none). Loops set ``lr``.

    Args:
        model: whose they are.
        betas, weight_decay: AdamW's.
        shards: processes that its moments are divided among; see :mod:`textgan.training.sharded_adamw`.
        kinds: what the groups of parameters shall tell of each, by its name (``lr_scale``, see :func:`set_lr`);
            those of one kind stand together.
    """
    parameters = [(kinds(name) if kinds else {}, p) for name, p in model.named_parameters() if p.requires_grad]
    groups, found = [], []
    for kind, _ in parameters:
        if kind in found:
            continue
        found.append(kind)
        own = [p for other, p in parameters if other == kind]
        groups += [
            {"params": [p for p in own if p.dim() >= 2], "weight_decay": weight_decay, **kind},
            {"params": [p for p in own if p.dim() < 2], "weight_decay": 0.0, **kind},
        ]
    if shards is not None:
        return ShardedAdamW(groups, shards, betas=betas)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of all groups; one with an ``lr_scale`` gets that share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def lr_at(step: int, *, total_steps: int, peak: float, warmup_steps: int, final_ratio: float) -> float:
    """Learning rate of update ``step`` (from 0): linear warm-up, then a cosine down to ``final_ratio * peak``."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return peak * (final_ratio + (1 - final_ratio) * 0.5 * (1 + math.cos(math.pi * progress)))


class WeightAverage:
    """Exponential moving average of a model's parameters, as a model of its own.

    The decay warms up as ``min(decay, (1 + n) / (10 + n))`` so that the random start is soon forgotten.
    ``module`` is what gets evaluated, sampled and saved. Decay 0 tracks the model itself, without a copy; and what is
    frozen under an adapter is the model's own, without one.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = model
        self.decay = decay
        self.updates = 0
        self.module = copy_of(model).requires_grad_(False) if decay else model

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        if self.decay:
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
            pairs = zip(self.module.parameters(), self.model.parameters(), strict=True)
            averaged, now = zip(*((a, b) for a, b in pairs if a is not b), strict=True)
            torch._foreach_lerp_(averaged, now, 1 - decay)

    def state_dict(self) -> dict:
        return {"updates": self.updates, "weights": own_state(self.module) if self.decay else None}

    def load_state_dict(self, state: dict) -> None:
        self.updates = state["updates"]
        if self.decay:
            load_own_state(self.module, state["weights"])


def grad_norm(grads: Iterable[Tensor | None]) -> Tensor:
    """Euclidean norm over all gradients together, a scalar tensor."""
    return nn.utils.get_total_norm([g for g in grads if g is not None])


def clip_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """Scale the model's gradients so that their norm is at most ``max_norm`` (0: leave); returns the norm before."""
    norm = grad_norm(p.grad for p in model.parameters())
    if max_norm:
        nn.utils.clip_grads_with_norm_(model.parameters(), max_norm, norm)
    return norm

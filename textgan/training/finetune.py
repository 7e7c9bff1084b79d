"""How the section ``finetune`` of a config changes what of a generator trains, and how fast.

Of all parameters it is known how deep they stand (:func:`depths`); the groups of the optimiser keep it, so that a
resumed run and one whose optimiser is divided among processes need nothing more.
"""

from typing import Any

import torch
from torch import nn

from textgan.config import Config
from textgan.configphases import MLE, Adversarial
from textgan.errors import UserError
from textgan.models.adapters import chosen
from textgan.models.causal_lm import CausalLM
from textgan.models.lstm import LSTMGenerator
from textgan.training.building import build_adapted
from textgan.training.optim import adamw
from textgan.training.ranks import Ranks
from textgan.training.work import on_meta


def freeze(config: Config, generator: nn.Module) -> nn.Module:
    """``generator``, in place, without gradients for the parameters that ``finetune.freeze`` names.

    Raises:
        UserError: a pattern matches nothing, or all is frozen.
    """
    patterns = config.finetune.freeze
    try:
        names = set(chosen(patterns, [name for name, _ in generator.named_parameters()], "finetune.freeze"))
    except ValueError as error:
        raise UserError(str(error)) from None
    for name, parameter in generator.named_parameters():
        if name in names:
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in generator.parameters()):
        raise UserError(f"finetune.freeze={patterns} freezes all of the generator: leave something to train")
    return generator


def build_trained(config: Config, vocab_size: int) -> nn.Module:
    """A fresh generator of the config's shape, with its adapter if it has one, and frozen where it says so.

    Raises:
        UserError: what is to be added or frozen does not fit it.
    """
    return freeze(config, build_adapted(config, vocab_size))


def depths(generator: nn.Module) -> dict[str, int]:
    """How deep each parameter stands, by name: 0 embeddings, 1 to n the blocks upwards, n + 1 all else.

    A table that is also the output layer is an embedding.
    """
    if isinstance(generator, CausalLM):
        blocks = generator.blocks
    else:
        blocks = generator.lstm if isinstance(generator, LSTMGenerator) else generator.h
    by_id = {id(p): i for i, block in enumerate(blocks, 1) for p in block.parameters()}
    tables = (module for module in generator.modules() if isinstance(module, nn.Embedding))
    by_id |= {id(p): 0 for table in tables for p in table.parameters()}
    return {name: by_id.get(id(p), len(blocks) + 1) for name, p in generator.named_parameters()}


def tuned_adamw(
    config: Config, generator: nn.Module, settings: MLE | Adversarial, shards: Ranks | None = None
) -> torch.optim.AdamW:
    """The optimiser of a phase with these ``settings``; its groups know their depth where the config looks at it.

    The learning rate of depth k of n blocks is ``layer_lr_decay^(n + 1 - k)`` of the full one: discriminative
    fine-tuning (Howard & Ruder 2018, https://arxiv.org/abs/1801.06146, section 3.2).
    """
    finetune, depth, top = config.finetune, depths(generator), config.generator.n_layer + 1

    def kind(name: str) -> dict[str, Any]:
        return {"depth": depth[name], "lr_scale": finetune.layer_lr_decay ** (top - depth[name])}

    looked_at = finetune.layer_lr_decay < 1 or finetune.unfreeze_every
    return adamw(
        generator,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        shards=shards,
        kinds=kind if looked_at else None,
    )


def thaw(config: Config, optimizer: torch.optim.Optimizer, done: int) -> None:
    """Gives gradients to what trains at a phase's update ``done`` (from 0): gradual unfreezing (Howard & Ruder 2018).

    What has none yet is not touched by the optimiser, by its weight decay neither, and its moments begin when it is
    thawed. With ``unfreeze_every`` N: block i of 0 to n - 1 trains from update (n - 1 - i) N on, embeddings from n N.
    """
    every = config.finetune.unfreeze_every
    if every:
        lowest = config.generator.n_layer - done // every
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.requires_grad_(group["depth"] >= lowest)


def check_finetune(config: Config, vocab_size: int) -> None:
    """UserError where an adapter, or what ``finetune`` asks for, does not fit the generator, or has no effect on it."""
    generator = on_meta(build_trained, config, vocab_size)
    if config.compile and config.generator.kind == "causal_lm" and config.generator.gradient_checkpointing:
        raise UserError(
            "compile=true and generator.gradient_checkpointing=true do not go together for generator.kind=causal_lm, "
            "whose layers draw their dropout where the compiler cannot draw it again: leave one of them away"
        )
    finetune, depth = config.finetune, depths(generator)
    trained = sorted({depth[name] for name, p in generator.named_parameters() if p.requires_grad})
    if len(trained) == 1 and (finetune.layer_lr_decay < 1 or finetune.unfreeze_every):
        name = "unfreeze_every" if finetune.unfreeze_every else "layer_lr_decay"
        raise UserError(
            f"finetune.{name}={getattr(finetune, name)} tells layers apart, and what trains of the generator stands in "
            "one: leave it away"
        )
    if (finetune.l1 or finetune.l2 or finetune.l2_sp) and not any(
        p.requires_grad and p.dim() >= 2 for p in generator.parameters()
    ):
        raise UserError(
            f"finetune.l1={finetune.l1}, l2={finetune.l2}, l2_sp={finetune.l2_sp} are of matrices, and none of the "
            "generator trains: leave them away, or freeze less"
        )
    every, n_layer = finetune.unfreeze_every, config.generator.n_layer
    if every and trained[-1] < n_layer:
        raise UserError(
            f"finetune.unfreeze_every={every} begins with the topmost block and what stands above it, which are "
            "frozen: leave finetune.unfreeze_every away"
        )
    for phase in ("mle", "adversarial"):
        settings, last = getattr(config, phase), every * (n_layer - trained[0])
        if settings and last >= settings.max_steps > 0 < every:
            raise UserError(
                f"finetune.unfreeze_every={every} thaws the lowest layer at update {last}, and {phase}.max_steps="
                f"{settings.max_steps} ends before: lower the one, raise the other, or name what shall "
                "never train in finetune.freeze"
            )

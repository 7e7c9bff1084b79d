"""Generators with adapters between phases, runs and checkpoints, and what is said of them."""

from pathlib import Path

import torch
from torch import nn

from textgan.config import Config
from textgan.configfile import load_config
from textgan.errors import UserError
from textgan.models.adapters import adapted_copy, merge
from textgan.models.generator import Generator
from textgan.models.sharing import copy_of, count, frozen, let_train, load_own_state
from textgan.training.building import fill
from textgan.training.checkpoint import adapter_of, load_model, load_weights, read_pointer
from textgan.training.finetune import freeze
from textgan.training.seeding import seed_dropout


def pupil(config: Config, parent: Generator) -> Generator:
    """What a phase trains from ``parent``: a copy, that shares the parent's tensors as far as they stay frozen.

    Where the config has an adapter and the parent has none, the copy gets a fresh one: the same in every phase.
    """
    if config.adapter is None or parent.trained is not None:
        return freeze(config, let_train(copy_of(parent)))
    seed_dropout(config.seed, "adapter")
    try:
        return adapted_copy(parent, **config.adapter.shape)
    except ValueError as error:
        raise UserError(str(error)) from None


def adopt(folder: Path, config: Config, vocab_size: int) -> tuple[Generator, str]:
    """The generator of another run's checkpoint to start from, and words on its adapter for the user, maybe none.

    The adapter goes on where the config has the same; another one is folded into the weights.

    Raises:
        UserError: the weights do not fit, or the adapter cannot be folded in.
    """
    generator, theirs = load_model(folder, config, vocab_size), adapter_of(folder)
    if theirs is None:
        return generator, ""
    if theirs == config.adapter:
        return generator, f"; its adapter ({theirs.kind}) goes on being trained"
    return merged(generator, folder), f"; its adapter ({theirs.kind}) is folded into the weights"


def plain_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint's generator, an adapter folded in; UserError where that is not possible."""
    weights = load_weights(folder)
    if adapter_of(folder) is None:
        return weights
    config = load_config(folder / "config.yaml")
    return merged(load_model(folder, config, len(weights["wte.weight"])), folder).state_dict()


def merged(generator: Generator, origin: Path) -> Generator:
    """:func:`textgan.models.adapters.merge`; UserError where that is not possible."""
    try:
        return merge(generator)
    except ValueError as error:
        raise UserError(
            f"{origin}: {error}; to go on from it give the same `adapter` section ({origin}/config.yaml)"
        ) from None


def restore(generator: Generator, state: dict[str, torch.Tensor], root: Path) -> None:
    """Takes the state of a run's last checkpoint; what is frozen comes from that checkpoint's weights."""
    if frozen(generator):
        last = root / read_pointer(root, "last")
        fill(generator, load_weights(last), last)
    load_own_state(generator, state)


def told(config: Config, generator: nn.Module) -> str:
    """One line on how much of the generator trains."""
    return share_text(config, *count(generator))


def share_text(config: Config, trained: int, everything: int) -> str:
    what = f"adapter: {config.adapter.kind}" if config.adapter else f"frozen: {', '.join(config.finetune.freeze)}"
    return f"{what}; {trained:,} of {everything:,} parameters are trained ({trained / everything:.2%})"

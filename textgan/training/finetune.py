"""How the section ``finetune`` of a config changes what of a generator trains, and how."""

from torch import nn

from textgan.config import Config
from textgan.errors import UserError
from textgan.models.adapters import chosen
from textgan.training.building import build_adapted


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

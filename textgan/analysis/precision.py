"""Generators in cheaper arithmetic, and what that costs in likelihood."""

from typing import NamedTuple

import torch

from textgan.data.dataset import TokenDataset
from textgan.errors import UserError
from textgan.models.causal_lm import CausalLM
from textgan.models.generator import Generator
from textgan.ops.int8 import quantize_
from textgan.training.evaluation import text_nll
from textgan.training.inputs import rows_of, texts_of
from textgan.training.loading import SamplingModel

# What arithmetic costs and saves, of weights and products. Rounding in float64 is too small to tip a draw.
PRECISIONS = ("float64", "float32", "bfloat16", "int8")
TEXTS = 200  # of dev, that the loss is measured on
BATCH = 50


class Loss(NamedTuple):
    """Negative log-likelihood of ``texts`` dev texts, nats a token: in float32, and in the cheaper arithmetic."""

    exact: float
    cheap: float
    texts: int

    def __str__(self) -> str:
        difference = self.cheap - self.exact
        return (
            f"NLL of {self.texts} dev texts {self.exact:.4f} in float32, {self.cheap:.4f} here ({difference:+.4f} nats "
            "a token)"
        )


def check_precision(model: SamplingModel, precision: str) -> None:
    """UserError where the generator cannot compute in one of :data:`PRECISIONS`."""
    if precision in ("bfloat16", "int8") and not isinstance(model.generator, Generator | CausalLM):
        raise UserError(f"--precision {precision} is for Transformers, which {model.path} is not; give float32")
    if precision == "int8" and model.generator.device.type != "cpu":
        raise UserError("--precision int8 is for a CPU; give --precision bfloat16, or --device cpu")


def set_precision(model: SamplingModel, precision: str) -> None:
    """Let the generator compute in one of :data:`PRECISIONS`, in place.

    ``bfloat16``: all weights. ``int8``: weights of linear layers and of the output layer in eight bits, inputs rounded
    as they come (:mod:`textgan.ops.int8`), all else in float32.
    """
    if precision == "int8":
        quantize_(model.generator.float())
    else:
        model.generator.to(getattr(torch, precision))


def measured(model: SamplingModel, precision: str) -> Loss:
    """What the arithmetic costs on texts of the dev split of what the model learned from; sets it, too.

    Raises:
        UserError: these texts are not there any more; nothing is set then.
    """
    dev = _dev_rows(model)
    model.generator.float()
    exact = _nll(model, dev)
    set_precision(model, precision)
    return Loss(exact, _nll(model, dev), len(dev))


def _dev_rows(model: SamplingModel) -> TokenDataset:
    return rows_of(model.config, texts_of(model.config), "dev", model.tokenizer, TEXTS)[0]


@torch.no_grad()
def _nll(model: SamplingModel, rows: TokenDataset) -> float:
    losses = text_nll(model.generator, rows, batch_size=BATCH, device=model.generator.device)
    return float(losses.sum() / rows.counted.sum())

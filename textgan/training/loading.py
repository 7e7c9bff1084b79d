"""A checkpoint as a model that writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from textgan.config import Config
from textgan.configfile import load_config
from textgan.data.pairs import encode_condition
from textgan.data.prompts import encode_prompt
from textgan.data.tokenizer import Tokenizer, load_tokenizer
from textgan.errors import UserError
from textgan.models.adapters import can_merge, merge
from textgan.models.causal_lm import CausalLM
from textgan.models.generator import Generator
from textgan.models.lstm import LSTMGenerator
from textgan.models.vae import TextVAE
from textgan.sampling.latent import LatentGenerator
from textgan.training.checkpoint import check_checkpoint, find_checkpoint, load_model, no_generator


@dataclass(frozen=True)
class SamplingModel:
    """What ``textgan sample`` needs of a checkpoint."""

    generator: Generator | LSTMGenerator | LatentGenerator
    tokenizer: Tokenizer
    config: Config
    path: Path
    step: int
    meta: dict[str, Any]

    @property
    def writes_for_conditions(self) -> bool:
        """Whether it learned pairs: a prompt is then what a text is written for, and no part of the text."""
        return self.config.data.condition is not None

    def encode_prompt(self, prompt: str, *, name: str) -> list[int]:
        """Ids that a text of this prompt begins with, without opening token; of pairs by the template of the training.

        Raises:
            UserError: the prompt, called ``name`` in the message, is empty, has words that the model does not know, or
                leaves no room for a text.
        """
        block_size = self.config.generator.block_size
        if self.writes_for_conditions:
            template = self.config.data.template
            return encode_condition(self.tokenizer, template, prompt, block_size=block_size, name=name)
        return encode_prompt(self.tokenizer, prompt, block_size=block_size, name=name)

    def check_free(self) -> None:
        """UserError where free texts are none of its own: it learned pairs, and always saw the condition."""
        data = self.config.data
        if self.writes_for_conditions and not data.condition_dropout:
            raise UserError(
                f"{self.path} learned to write for a {data.condition} alone: give --prompt or --prompts (training with "
                "data.condition_dropout above 0 makes a model that writes without, too)"
            )


def load_for_sampling(path: str | Path, device: str | torch.device = "cpu") -> SamplingModel:
    """Generator (eval mode, on ``device``), tokenizer and config of a run or checkpoint.

    A run means its best checkpoint (lowest dev NLL in its last phase). An adapter is folded into the weights where that
    is possible: it then costs nothing. Of a VAE it is a ``LatentGenerator``, which draws its latents from the prior, or
    from the latent GAN where one was trained.

    Raises:
        UserError: as :func:`find_checkpoint`, or the weights do not fit the config (both shapes are named).
    """
    folder = find_checkpoint(path)
    meta = check_checkpoint(folder)
    if meta.get("phase") == "classifier":
        raise UserError(no_generator(folder))
    config = load_config(folder / "config.yaml")
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    phase = meta.get("phase", "mle")
    model = load_model(folder, config, tokenizer.vocab_size, phase)
    if isinstance(model, Generator | CausalLM) and can_merge(model):
        model = merge(model)
    if isinstance(model, TextVAE):
        model = LatentGenerator(model, source="gan" if phase == "latent_gan" else "prior")
    model.to(device).eval().requires_grad_(False)
    return SamplingModel(model, tokenizer, config, folder, meta["step"], meta)

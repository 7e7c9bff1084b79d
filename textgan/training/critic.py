"""The discriminator of a run: made as the config says, and read back for whoever asks what it knows."""

import json
from pathlib import Path

import torch
from torch import nn

from textgan.config import Config
from textgan.data.tokenizer import Tokenizer
from textgan.errors import UserError
from textgan.models.discriminator import CNNCritic, EncoderCritic, TransformerCritic
from textgan.training.checkpoint import arms, load_state
from textgan.training.encoders import (
    Reading,
    encoder_shape,
    load_encoder,
    load_encoder_tokenizer,
    read_tokens,
    rebuild_encoder,
)
from textgan.training.loading import SamplingModel, load_for_sampling

INIT_FROM = "discriminator.init_from"


def new_discriminator(config: Config, tokenizer: Tokenizer) -> nn.Module:
    """The critic that a run of this config starts with: pretrained where it is to be, else fresh.

    Raises:
        UserError: as :func:`check_vocabulary`, or the pretrained one cannot be loaded.
    """
    shape = config.discriminator
    if shape.kind != "bert":
        return build_discriminator(config, tokenizer.vocab_size)
    encoder = load_encoder(
        shape.init_from,
        INIT_FROM,
        check_vocabulary(config, tokenizer),
        block_size=config.generator.block_size,
        dropout=shape.dropout,
        block_key="generator.block_size",
    )
    return EncoderCritic(encoder)


def check_vocabulary(config: Config, tokenizer: Tokenizer) -> Reading | None:
    """How the config's pretrained critic reads the generator's tokens; None where it has none.

    Raises:
        UserError: it has no piece for a token, and none is to be made of several.
    """
    shape = config.discriminator
    if config.adversarial is None or shape.kind != "bert":
        return None
    reading = read_tokens(tokenizer, load_encoder_tokenizer(shape.init_from, INIT_FROM))
    if reading.odd and not shape.bridge:
        raise UserError(
            f"{INIT_FROM}={shape.init_from} has {reading.size:,} tokens and the generator {tokenizer.vocab_size:,}, "
            f"{len(reading.odd):,} of which are no single token there (the first: {reading.odd[0]!r}): set "
            f"tokenizer.kind=pretrained and tokenizer.init_from={shape.init_from} to share them, discriminator.bridge="
            "true to read each such token as the mean of its pieces, or discriminator.kind=transformer"
        )
    return reading


def reading_line(config: Config, reading: Reading) -> str:
    """What a pretrained critic reads, in one line."""
    total, odd = len(reading.pieces), len(reading.odd)
    line = (
        f"discriminator: {config.discriminator.init_from} reads {total - odd:,} of {total:,} tokens as one of its own"
    )
    return f"{line}, {odd:,} as the mean of several (the first: {reading.odd[0]!r})" if odd else line


def build_discriminator(config: Config, vocab_size: int, architecture: str | None = None) -> nn.Module:
    """A critic of the config's shape with random weights; it reads up to ``generator.block_size`` tokens.

    ``architecture``: of its encoder, where it was pretrained; None: looked up under ``discriminator.init_from``.
    """
    shape, length = config.discriminator, config.generator.block_size
    if shape.kind == "bert":
        known = json.loads(architecture) if architecture else encoder_shape(shape.init_from, INIT_FROM)
        return EncoderCritic(rebuild_encoder(known, vocab_size, block_size=length, dropout=shape.dropout))
    common = {"dropout": shape.dropout, "spectral_norm": shape.spectral_norm}
    if shape.kind == "transformer":
        return TransformerCritic(vocab_size, length, shape.n_layer, shape.n_head, shape.n_embd, **common)
    return CNNCritic(vocab_size, length, shape.n_embd, shape.n_representations, shape.channels, **common)


def load_critic(path: str | Path, device: str | torch.device = "cpu") -> tuple[nn.Module, SamplingModel]:
    """The trained critic (eval mode, on ``device``, without gradient) and the generator beside which it is kept.

    A run means its arm ``adversarial``. ``critic(ids (B, T), lengths (B,)).sequence`` is (B,): the score of each row of
    targets ``[w1..wn, eos]``, larger where the text looks real. Under ``rsgan`` and ``ragan`` only differences of
    scores mean something, under ``non_saturating`` the score itself is the log-odds.

    Raises:
        UserError: as :func:`load_for_sampling`, or the checkpoint is of no adversarial phase.
    """
    path = Path(path)
    if (path / "checkpoints").is_dir() or path.name == "checkpoints":
        run = path.parent if path.name == "checkpoints" else path
        found = arms(run)
        if "adversarial" not in found:
            raise UserError(
                f"{run} has no discriminator: its arms are {', '.join(found)}; train one with an `adversarial` section"
            )
        path = found["adversarial"]
    model = load_for_sampling(path, device)
    state = load_state(model.path)
    weights = state.get("discriminator") or state.get("players", {}).get("discriminator")
    if weights is None:
        raise UserError(f"{model.path} has no discriminator (phase {model.meta.get('phase')}); give an adversarial one")
    critic = build_discriminator(model.config, model.tokenizer.vocab_size, weights.get("_extra_state"))
    critic.load_state_dict(weights)
    return critic.to(device).eval().requires_grad_(False), model

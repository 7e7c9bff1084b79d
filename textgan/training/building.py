"""Models of the shapes that a config gives, fresh or filled with the weights of a checkpoint."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from textgan.config import Config
from textgan.errors import UserError
from textgan.models.encoder import LSTMEncoder, TransformerEncoder
from textgan.models.generator import Generator
from textgan.models.latent_gan import LatentMapper
from textgan.models.lstm import LSTMGenerator
from textgan.models.transformer import Block
from textgan.models.vae import TextVAE

VAE_PHASES = ("vae", "latent_gan")  # their checkpoints hold a whole VAE


def build_generator(config: Config, vocab_size: int, n_extra: int = 0) -> Generator | LSTMGenerator:
    """A fresh generator of the config's shape; an LSTM reads ``n_extra`` numbers beside each token."""
    shape = config.generator
    if shape.kind == "lstm":
        sizes = (shape.n_layer, shape.n_embd, shape.n_hidden)
        return LSTMGenerator(vocab_size, shape.block_size, *sizes, dropout=shape.dropout, n_extra=n_extra)
    return Generator(vocab_size, shape.block_size, shape.n_layer, shape.n_head, shape.n_embd, dropout=shape.dropout)


def build_vae(config: Config, vocab_size: int) -> TextVAE:
    """A fresh VAE of the config's shape: its encoder, and a decoder of the shape of its generator."""
    vae = config.vae
    encoder = build_encoder(config, vocab_size, config.generator.block_size)
    decoder = build_generator(config, vocab_size, n_extra=vae.z_size if vae.injection != "memory" else 0)
    return TextVAE(
        encoder,
        decoder,
        vae.z_size,
        latents=vae.latents,
        injection=vae.injection,
        bn_gamma=vae.bn_gamma,
        bn_whiten=vae.bn_whiten,
    )


def build_encoder(config: Config, vocab_size: int, block_size: int) -> TransformerEncoder | LSTMEncoder:
    """A fresh encoder of the config's shape, for texts of up to ``block_size`` tokens."""
    shape = config.encoder
    if shape.kind == "lstm":
        return LSTMEncoder(vocab_size, shape.n_layer, shape.n_embd, shape.n_hidden, dropout=shape.dropout)
    sizes = (shape.n_layer, shape.n_head, shape.n_embd)
    return TransformerEncoder(vocab_size, block_size, *sizes, dropout=shape.dropout, pooling=shape.pooling)


def build_model(config: Config, vocab_size: int, phase: str) -> Generator | TextVAE:
    """A fresh model of the kind that checkpoints of ``phase`` hold."""
    model = (build_vae if phase in VAE_PHASES else build_generator)(config, vocab_size)
    if phase == "latent_gan":
        model.latent_generator = build_latent_mapper(config)
    return model


def build_latent_mapper(config: Config) -> LatentMapper:
    """A fresh generator of latents of the config's shape."""
    shape = config.latent_gan
    return LatentMapper(config.vae.z_size, shape.noise_size, shape.n_layer, shape.n_hidden)


def compile_blocks(config: Config, model: nn.Module) -> None:
    """Compile the Transformer blocks of ``model`` at their first use where the config asks for it; in place."""
    if config.compile:
        for module in model.modules():
            if isinstance(module, Block):
                module.compile(dynamic=True)  # batches are as wide as their longest text


def fill(generator: nn.Module, weights: dict[str, torch.Tensor], origin: Path) -> None:
    """Copy ``weights`` into a model; UserError with both shapes where they do not fit."""
    own = generator.state_dict()
    if set(own) != set(weights):
        odd = sorted(set(own) ^ set(weights))[0]
        raise UserError(f"{origin}: the weights are not this generator's: `{odd}` is on one side only")
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            raise UserError(
                f"{origin}: `{name}` is {tuple(weights[name].shape)} in the checkpoint and "
                f"{tuple(tensor.shape)} by the config and tokenizer; they do not belong together"
            )
    generator.load_state_dict(weights)


def fill_decoder(vae: TextVAE, weights: dict[str, torch.Tensor], origin: Path) -> None:
    """Copy a generator's ``weights`` into the decoder, whose inputs beside the tokens get weights of zero.

    Raises:
        UserError: as :func:`fill`.
    """
    if isinstance(vae.decoder, LSTMGenerator):
        first = "lstm.0.weight_ih_l0"  # its last columns read the latent
        weights = weights | {first: F.pad(weights[first], (0, vae.decoder.n_extra))}
    fill(vae.decoder, weights, origin)

"""Models of the shapes that a config gives, fresh or filled with the weights of a checkpoint."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from textgan.config import Config
from textgan.configadapter import Adapter
from textgan.confignets import Generator as GeneratorShape
from textgan.errors import UserError
from textgan.models.adapters import LOW_RANK, put_on
from textgan.models.causal_lm import CausalLM
from textgan.models.encoder import LSTMEncoder, TransformerEncoder
from textgan.models.generator import Generator
from textgan.models.latent_gan import LatentMapper
from textgan.models.lstm import LSTMGenerator
from textgan.models.transformer import Block
from textgan.models.vae import TextVAE
from textgan.training.hub import library
from textgan.training.seeding import seed_dropout

# Names of dropout in the configurations of transformers.
DROPOUTS = (
    *("attention_dropout", "attn_dropout", "attn_pdrop", "hidden_dropout", "dropout", "resid_dropout", "resid_pdrop"),
    *("embd_pdrop", "embed_dropout", "activation_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob"),
)
OF_ATTENTION = ["*attn*.*"]  # linear layers that low-rank adapters change in models of transformers, unless told
VAE_PHASES = ("vae", "latent_gan")  # their checkpoints hold a whole VAE


def build_generator(config: Config, vocab_size: int, n_extra: int = 0) -> Generator | LSTMGenerator | CausalLM:
    """A fresh generator of the config's shape; an LSTM reads ``n_extra`` numbers beside each token."""
    shape = config.generator
    if shape.kind == "lstm":
        sizes = (shape.n_layer, shape.n_embd, shape.n_hidden)
        return LSTMGenerator(vocab_size, shape.block_size, *sizes, dropout=shape.dropout, n_extra=n_extra)
    if shape.kind == "causal_lm":
        model = library("generator.kind=causal_lm").AutoModelForCausalLM
        model = model.from_config(causal_lm_config(shape, vocab_size), dtype=torch.float32)
        return causal_lm_of(model, shape.block_size, gradient_checkpointing=shape.gradient_checkpointing)
    sizes = (shape.block_size, shape.n_layer, shape.n_head, shape.n_embd)
    return Generator(
        vocab_size,
        *sizes,
        dropout=shape.dropout,
        attention_dropout=shape.attention_dropout,
        gradient_checkpointing=shape.gradient_checkpointing,
    )


def causal_lm_config(shape: GeneratorShape, vocab_size: int) -> Any:
    """The configuration of transformers for a generator of kind ``causal_lm``: its own, with our sizes and dropout.

    Raises:
        UserError: a dropout of attention is asked for, and it has none.
    """
    values = json.loads(shape.causal_lm)
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))  # ours are the tokenizer's
    drops = {name: shape.dropout for name in DROPOUTS if name in values}
    if shape.attention_dropout is not None:
        attention = [name for name in drops if "attention" in name or "attn" in name]
        if not attention:
            raise UserError(
                f"generator.attention_dropout={shape.attention_dropout}: {shape.init_from} has no dropout of its "
                "attention weights; leave it away"
            )
        drops |= dict.fromkeys(attention, shape.attention_dropout)
    transformers = library("generator.kind=causal_lm")
    return transformers.AutoConfig.for_model(**values | ids | drops | {"vocab_size": vocab_size})


def causal_lm_of(model: nn.Module, block_size: int, *, gradient_checkpointing: bool = False) -> CausalLM:
    """The adapter of a model of transformers with its output layer."""
    head = model.get_output_embeddings()
    tied = head.weight is model.get_input_embeddings().weight
    return CausalLM(model.base_model, None if tied else head, block_size, gradient_checkpointing)


def adapt(config: Config, generator: Generator) -> Generator:
    """``generator``, whose weights are those to start from, with the config's fresh adapter, if it has one; in place.

    Raises:
        UserError: the adapter does not fit it.
    """
    if config.adapter is None:
        return generator
    seed_dropout(config.seed, "adapter")
    return fit_adapter(generator, config.adapter)


def build_adapted(config: Config, vocab_size: int) -> Generator | LSTMGenerator:
    """A fresh generator of the config's shape, with its adapter if it has one."""
    return adapt(config, build_generator(config, vocab_size))


def fit_adapter(generator: Generator | CausalLM, adapter: Adapter) -> Generator | CausalLM:
    """:func:`textgan.models.adapters.put_on` as a section of a config says; UserError where it does not fit."""
    options = adapter.shape
    if isinstance(generator, CausalLM):
        if adapter.kind not in LOW_RANK:
            raise UserError(
                f"adapter.kind={adapter.kind} is for GPT-2's layers; a {type(generator.base).__name__} takes "
                f"{' or '.join(LOW_RANK)}"
            )
        if adapter.targets is None:
            options["targets"] = OF_ATTENTION
    try:
        return put_on(generator, **options)
    except ValueError as error:
        raise UserError(str(error)) from None


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
            blocks = module.blocks if isinstance(module, CausalLM) else [module] if isinstance(module, Block) else []
            for block in blocks:
                block.compile(dynamic=True)  # batches are as wide as their longest text


def fill(generator: nn.Module, weights: dict[str, torch.Tensor], origin: Path | str) -> None:
    """Copy ``weights`` of ``origin`` into a model; UserError with both shapes where they do not fit."""
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

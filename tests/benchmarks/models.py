"""The models that the benchmarks of speed race: one shape, ours and the peers', with weights of their own."""

from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import nn

from textgan.models.generator import Generator

# As in the table of measured peers: 4.4 million parameters, the size of a generator of captions.
VOCAB, LENGTH, BATCH = 5000, 32, 64
LAYERS, HEADS, WIDTH = 4, 4, 256
EOS = 0


class Shape(NamedTuple):
    """What is computed at once: texts of so many tokens each, and a generator."""

    batch: int = BATCH
    length: int = LENGTH
    vocab: int = VOCAB
    width: int = WIDTH
    layers: int = LAYERS
    heads: int = HEADS


MIDDLE = Shape()


def ours(dropout: float = 0.0, device: str = "cpu", shape: Shape = MIDDLE) -> Generator:
    """Our generator; it never ends a text, so that all of them do the same work."""
    torch.manual_seed(0)
    sizes = (shape.vocab, 2 * shape.length, shape.layers, shape.heads, shape.width)
    model = Generator(*sizes, dropout=dropout).to(device)
    model.logit_bias[EOS] = -1e9
    return model


def hugging_face(dropout: float = 0.0, device: str = "cpu") -> nn.Module:
    """GPT-2 of ``transformers``."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCAB,
        n_positions=2 * LENGTH,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=EOS,
        eos_token_id=None,
        pad_token_id=EOS,
    )
    return GPT2LMHeadModel(config).to(device)


def x_transformers(device: str = "cpu") -> nn.Module | None:
    """A decoder of x-transformers; None where it is not installed."""
    if find_spec("x_transformers") is None:
        return None
    from x_transformers import Decoder, TransformerWrapper

    torch.manual_seed(0)
    decoder = Decoder(dim=WIDTH, depth=LAYERS, heads=HEADS, attn_dim_head=WIDTH // HEADS, attn_flash=True)
    return TransformerWrapper(num_tokens=VOCAB, max_seq_len=2 * LENGTH, tie_embedding=True, attn_layers=decoder).to(
        device
    )


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())

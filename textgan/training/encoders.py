"""Pretrained encoders by name: their tokenizers, their weights, and how they read tokens of another vocabulary."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from textgan.data.tokenizer import Tokenizer
from textgan.errors import UserError
from textgan.models.bert import PretrainedEncoder
from textgan.training.hub import Pretrained, from_pretrained, library, load_tokenizer


def load_encoder_tokenizer(name: str, what: str) -> Pretrained:
    """The tokenizer of an encoder: ``minilm``, a name on the hub, or a folder. ``what``: the setting, for messages.

    Raises:
        UserError: there is none, or it is of no encoder.
    """
    found = load_tokenizer(name, what)
    if not found.is_encoders:
        raise UserError(
            f"{what}={name} cannot be used: its tokenizer has not the special tokens of an encoder (before a text, "
            "behind it, and for a masked word); give an encoder such as BERT"
        )
    return found


class Reading(NamedTuple):
    """How an encoder reads each token of a vocabulary: as the mean of these pieces of its own.

    Attributes:
        pieces: of each token, at least one.
        odd: tokens that are no single piece, as they are written.
        size: of the encoder's vocabulary.
        opening: the encoder's piece that stands before a text.
    """

    pieces: list[list[int]]
    odd: list[str]
    size: int
    opening: int


def read_tokens(tokenizer: Tokenizer, pretrained: Pretrained) -> Reading:
    """How an encoder with the tokenizer ``pretrained`` reads the tokens of ``tokenizer``.

    As the same token where it has that, else as the pieces of its text. The end of text is the
    encoder's, and so is the unknown token, which stands for what has no pieces too.
    """
    encoder = pretrained.tokenizer
    own, theirs = _vocabulary(tokenizer), _vocabulary(encoder)
    identical, ids = own == theirs, {piece: i for i, piece in theirs.items()}
    looked_up = tokenizer.kind in ("word", "char")  # whose pieces are texts; others write them as the encoder does
    pieces, odd = [], []
    for i in range(tokenizer.vocab_size):
        if identical:
            pieces.append([i])
        elif i in (tokenizer.eos_id, tokenizer.unk_id):
            pieces.append([encoder.eos_id if i == tokenizer.eos_id else encoder.unk_id])
        elif not looked_up and own[i] in ids:
            pieces.append([ids[own[i]]])
        else:
            text = tokenizer.decode(
                [i]
            )  # a word as it stands in a text: '"' for the opening quotation mark of treebanks
            found = encoder.encode(f" {text}" if tokenizer.kind == "word" else text)
            if len(found) != 1 or found[0] == encoder.unk_id:
                odd += tokenizer.tokens([i])
            pieces.append(found or [encoder.unk_id])
    return Reading(pieces, odd, encoder.vocab_size, pretrained.opening)


def load_encoder(
    name: str, what: str, reading: Reading, *, block_size: int, dropout: float, block_key: str
) -> PretrainedEncoder:
    """The pretrained encoder of this name behind a table of the tokens that it is to read; float32.

    Args:
        name, what: as in :func:`load_encoder_tokenizer`.
        reading: of :func:`read_tokens`.
        block_size: most columns of a text; ``block_key``: the setting that says so.
        dropout: share that is dropped.

    Raises:
        UserError: there is no such model, or it is no encoder, or reads fewer columns.
    """
    body = from_pretrained("AutoModel", name, what, dtype=torch.float32)
    _check_body(body.config, f"{what}={name}", block_size, block_key)
    words = body.get_input_embeddings().weight.detach()
    if len(words) < reading.size:
        raise UserError(
            f"{what}={name} has a tokenizer of {reading.size:,} tokens and a table of {len(words):,}: they do not "
            "belong together"
        )
    return PretrainedEncoder(
        body, mean_rows(words, reading.pieces), words[reading.opening].clone(), block_size, dropout
    )


def mean_rows(table: Tensor, pieces: Sequence[Sequence[int]]) -> Tensor:
    """The mean (V, E) of the rows of ``table`` that each of V tokens has as its pieces; exact where it has one."""
    flat = torch.tensor([piece for own in pieces for piece in own], device=table.device)
    sizes = torch.tensor([len(own) for own in pieces], device=table.device)
    return nn.functional.embedding_bag(flat, table, sizes.cumsum(0) - sizes, mode="mean")


def encoder_shape(name: str, what: str) -> dict[str, Any]:
    """The ``config.json`` of an encoder.

    Raises:
        UserError: as :func:`load_encoder`.
    """
    return from_pretrained("AutoConfig", name, what).to_dict()


def rebuild_encoder(
    architecture: dict[str, Any], vocab_size: int, *, block_size: int, dropout: float
) -> PretrainedEncoder:
    """An encoder of an ``architecture``, with random weights, behind a table of ``vocab_size`` tokens."""
    transformers = library("a pretrained encoder")
    values = {key: value for key, value in architecture.items() if key not in ("model_type", "dtype")}
    config = transformers.AutoConfig.for_model(architecture["model_type"], **values)
    body = transformers.AutoModel.from_config(config)
    width = body.get_input_embeddings().weight.shape[1]
    table = torch.zeros(vocab_size, width)
    return PretrainedEncoder(body, table, torch.zeros(width), block_size, dropout)


def _check_body(config: Any, given: str, block_size: int, block_key: str) -> None:
    if config.is_encoder_decoder:
        raise UserError(f"{given} is an encoder with a decoder ({config.model_type}); give an encoder such as BERT")
    most = getattr(config, "max_position_embeddings", None)
    if most is None or most < 1:  # positions are relative
        return
    # RoBERTa and its kin count positions from behind the padding's.
    shifted = config.model_type in (
        "roberta",
        "xlm-roberta",
        "camembert",
        "mpnet",
        "longformer",
        "roberta-prelayernorm",
    )
    most -= (config.pad_token_id + 1 if shifted else 0) + 1  # the opening
    if block_size > most:
        raise UserError(f"{block_key}={block_size} is above the {most} tokens that {given} reads; lower it")


def _vocabulary(tokenizer: Tokenizer) -> dict[int, str]:
    """The pieces of a tokenizer as its model writes them, by id."""
    content = json.loads(tokenizer.to_json())
    vocabulary = content["model"]["vocab"]
    found = vocabulary.items() if isinstance(vocabulary, dict) else ((p, i) for i, (p, _) in enumerate(vocabulary))
    by_id = {i: piece for piece, i in found}
    return by_id | {token["id"]: token["content"] for token in content.get("added_tokens") or []}

"""What a classifier starts with: the classes of its texts, its network, and what of that stays as it is."""

import fnmatch
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from textgan.config import Config
from textgan.data.corpus import SPLITS, Corpus
from textgan.data.tokenizer import Tokenizer
from textgan.errors import UserError
from textgan.models.classifier import Classifier
from textgan.training.building import build_encoder
from textgan.training.encoders import (
    encoder_shape,
    load_encoder,
    load_encoder_tokenizer,
    read_tokens,
    rebuild_encoder,
)
from textgan.training.work import on_meta

INIT_FROM = "classifier.init_from"


def class_names(config: Config, corpus: Corpus) -> list[str]:
    """The labels of the training texts, sorted.

    Raises:
        UserError: a text has none, there is only one, or dev or test have others.
    """
    for split in SPLITS:
        without = sum(label is None for label in corpus.labels[split])
        if without:
            raise UserError(
                f"{config.data.source}: {without:,} of {len(corpus.labels[split]):,} texts of {split} have no label to "
                "learn; give data.label (a field of jsonl, csv or hf, or a feature of the embedded stories such as "
                "luck), or a file for each class: data.source='texts/*.txt'"
            )
    classes = sorted(set(corpus.labels["train"]))
    if len(classes) < 2:
        raise UserError(f"{config.data.source}: all texts of train are {classes[0]!r}; a classifier needs two classes")
    for split in SPLITS[1:]:
        unknown = sorted(set(corpus.labels[split]) - set(classes))
        if unknown:
            raise UserError(f"{config.data.source}: {split} has class {unknown[0]!r}, of which train has no text")
    return classes


def label_ids(corpus: Corpus, classes: Sequence[str]) -> dict[str, Tensor]:
    """The class (N,) of each text, by split."""
    number = {name: i for i, name in enumerate(classes)}
    return {split: torch.tensor([number[label] for label in corpus.labels[split]]) for split in SPLITS}


def build_classifier(
    config: Config, vocab_size: int, n_classes: int, architecture: dict[str, Any] | None = None
) -> Classifier:
    """A classifier of the config's shape with random weights.

    ``architecture``: of its encoder, where it was pretrained; None: looked up under ``classifier.init_from``.
    """
    settings = config.classifier
    if settings.init_from is None:
        encoder = build_encoder(config, vocab_size, settings.block_size)
    else:
        known = architecture or encoder_shape(settings.init_from, INIT_FROM)
        encoder = rebuild_encoder(known, vocab_size, block_size=settings.block_size, dropout=settings.dropout)
    return Classifier(encoder, n_classes, settings.dropout)


def new_classifier(config: Config, tokenizer: Tokenizer, n_classes: int) -> Classifier:
    """What a run of this config starts with: a pretrained encoder where there is to be one, and a fresh output layer.

    Raises:
        UserError: the pretrained encoder cannot be loaded.
    """
    settings = config.classifier
    if settings.init_from is None:
        return build_classifier(config, tokenizer.vocab_size, n_classes)
    encoder = load_encoder(
        settings.init_from,
        INIT_FROM,
        read_tokens(tokenizer, load_encoder_tokenizer(settings.init_from, INIT_FROM)),
        block_size=settings.block_size,
        dropout=settings.dropout,
        block_key="classifier.block_size",
    )
    return Classifier(encoder, n_classes, settings.dropout)


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Take the parameters whose names match one of the ``patterns`` (of shells) out of training.

    Raises:
        UserError: a pattern matches none, or all are frozen.
    """
    names = dict(model.named_parameters())
    for pattern in patterns:
        found = fnmatch.filter(names, pattern)
        if not found:
            shown = ", ".join(list(names)[:: max(1, len(names) // 6)])
            raise UserError(f"classifier.freeze: no parameter is called {pattern!r}; there are, for example: {shown}")
        for name in found:
            names[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in names.values()):
        raise UserError(f"classifier.freeze={list(patterns)} leaves nothing to train; name fewer parameters")


def check_classifier(config: Config, corpus: Corpus, tokenizer: Tokenizer) -> None:
    """UserError where a run cannot begin: as :func:`class_names` and :func:`freeze`."""
    classes = class_names(config, corpus)
    freeze(on_meta(build_classifier, config, tokenizer.vocab_size, len(classes)), config.classifier.freeze)


def digest_of(corpus: Corpus) -> str:
    """A digest of all labels: a resumed run must have the same."""
    return hashlib.sha256(json.dumps(corpus.labels).encode()).hexdigest()

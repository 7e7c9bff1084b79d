"""Prompts and texts as ids, refused in one clear line where a model cannot read them."""

import difflib

from textgan.data.tokenizer import UNK, LookupTokenizer, Tokenizer
from textgan.errors import UserError

NAMED = 5  # unknown words that are named in a message


def encode_prompt(tokenizer: Tokenizer, text: str, *, block_size: int, name: str) -> list[int]:
    """Ids of the prompt ``text``, without opening token.

    Raises:
        UserError: the prompt, called ``name`` in the message, is empty, has words that the model does not know,
            or leaves no room for a continuation in ``block_size`` tokens.
    """
    longest = block_size - 1
    if not text.strip():
        raise UserError(f"{name} is empty; leave it away for free samples")
    ids = _encode(tokenizer, text, name)
    if unknown := unknown_pieces(tokenizer, text, ids):
        raise UserError(f"{name}: {_unknown(tokenizer, list(dict.fromkeys(unknown)))}")
    if len(ids) > longest:
        raise UserError(
            f"{name}: {len(ids)} tokens, but the model reads {longest + 1} with the opening one: "
            f"shorten the prompt to {longest}"
        )
    return ids


def encode_text(tokenizer: Tokenizer, text: str, *, block_size: int, name: str) -> list[int]:
    """Ids of a whole ``text`` that a model shall read; words that it does not know are the unknown token.

    Raises:
        UserError: the text, called ``name`` in the message, is empty, or with its end longer than ``block_size``.
    """
    if not text.strip():
        raise UserError(f"{name} is empty: a text is needed")
    ids = _encode(tokenizer, text, name)
    if len(ids) >= block_size:
        raise UserError(
            f"{name}: {len(ids)} tokens, but the model reads {block_size} with the closing one: "
            f"shorten the text to {block_size - 1}"
        )
    return ids


def _encode(tokenizer: Tokenizer, text: str, name: str) -> list[int]:
    try:
        return tokenizer.encode(text)
    except UnicodeEncodeError:
        raise UserError(f"{name}: not UTF-8") from None


def unknown_pieces(tokenizer: Tokenizer, text: str, ids: list[int]) -> list[str]:
    """The words or characters of ``text`` that the model does not know; `<unk>` written out is asked for."""
    if tokenizer.unk_id is None:
        return []
    pieces = zip(tokenizer.pieces(text), ids, strict=True)
    return [piece for piece, i in pieces if i == tokenizer.unk_id and piece != UNK]


def _unknown(tokenizer: LookupTokenizer, unknown: list[str]) -> str:
    """Names the unknown words or characters, with the nearest known words."""
    named = []
    for piece in unknown[:NAMED]:
        near = []
        if tokenizer.kind == "word":
            near = difflib.get_close_matches(piece, tokenizer.tokens(range(2, tokenizer.vocab_size)), 3)
        named.append(f"`{piece}`" + (f" (known: {', '.join(near)})" if near else ""))
    more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
    what = ("character" if tokenizer.kind == "char" else "word") + ("s" if len(unknown) > 1 else "")
    return f"the model does not know the {what} {', '.join(named)}{more}; use others"

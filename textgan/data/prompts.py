"""Prompts as ids, refused in one clear line where a model cannot read them."""

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
    try:
        ids = tokenizer.encode(text)
    except UnicodeEncodeError:
        raise UserError(f"{name}: not UTF-8") from None
    if tokenizer.unk_id is not None and (unknown := _unknown_pieces(tokenizer, text, ids)):
        raise UserError(f"{name}: {_unknown(tokenizer, unknown)}")
    if len(ids) > longest:
        raise UserError(
            f"{name}: {len(ids)} tokens, but the model reads {longest + 1} with the opening one: "
            f"shorten the prompt to {longest}"
        )
    return ids


def _unknown_pieces(tokenizer: LookupTokenizer, text: str, ids: list[int]) -> list[str]:
    """The words or characters that the model does not know, each once; `<unk>` written out is asked for."""
    pieces = zip(tokenizer.pieces(text), ids, strict=True)
    return list(dict.fromkeys(piece for piece, i in pieces if i == tokenizer.unk_id and piece != UNK))


def _unknown(tokenizer: LookupTokenizer, unknown: list[str]) -> str:
    """Names the unknown words or characters, with the nearest known words."""
    named = []
    for piece in unknown[:NAMED]:
        near = []
        if tokenizer.kind == "word":
            near = difflib.get_close_matches(piece, tokenizer.tokens(range(2, tokenizer.vocab_size)), 3)
        named.append(f"`{piece}`" + (f" (known: {', '.join(near)})" if near else ""))
    more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
    what = ("word" if tokenizer.kind == "word" else "character") + ("s" if len(unknown) > 1 else "")
    return f"the model does not know the {what} {', '.join(named)}{more}; use others"

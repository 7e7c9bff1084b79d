"""The tokenizer of a pretrained encoder (BERT and its kin) as that of a generator or a classifier.

Its `[SEP]` (RoBERTa's `</s>`) opens and closes texts here, so that a text ends as the encoder expects it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from tokenizers import Tokenizer as HFTokenizer

from textgan.data.words import join_words

UNK = "<unk>"
# What stands before a text, what closes it, what is unknown, and the mask, which no generator's tokenizer has.
_SPECIALS = (("[CLS]", "[SEP]", "[UNK]", "[MASK]"), ("<s>", "</s>", "<unk>", "<mask>"))
_INSIDE = "##"  # what WordPiece writes before a piece that goes on with a word


class EncoderTokenizer:
    """A tokenizer of the `tokenizers` library with the special tokens of an encoder; its file is `tokenizer.json`.

    Upper case and accents come back from `decode(encode(x))` as far as its model keeps them. Word pieces do not keep
    spacing: it is that of `join_words`, without spaces in Chinese.

    Attributes:
        cls_id: of the token that the encoder expects before a text.
    """

    kind = "encoder"

    def __init__(self, tokenizer: HFTokenizer):
        """Raises ValueError if it lacks the special tokens of an encoder."""
        known = [[tokenizer.token_to_id(token) for token in names] for names in _SPECIALS]
        found = next((ids for ids in known if None not in ids), None)
        if found is None:
            every = " or ".join(", ".join(names) for names in _SPECIALS)
            raise ValueError(f"has not the special tokens of an encoder: {every}")
        self.cls_id, self.eos_id, self.unk_id, _ = found
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # special tokens written out in a text are text
        self.vocab_size = tokenizer.get_vocab_size()
        self._tokenizer = tokenizer
        self._has_words = json.loads(tokenizer.to_str())["model"]["type"] == "WordPiece"

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        pieces = [piece for i, piece in zip(ids, self.tokens(ids), strict=True) if i != self.eos_id]
        if not self._has_words:
            return self._tokenizer.decoder.decode(pieces).strip()
        words: list[str] = []
        for piece in pieces:
            if piece.startswith(_INSIDE) and len(piece) > len(_INSIDE) and words:
                words[-1] += piece.removeprefix(_INSIDE)
            else:
                words.append(piece)
        return join_words(words)

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The piece of each id, as the vocabulary has it."""
        if len(ids) and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise ValueError(f"ids must lie in 0..{self.vocab_size - 1}, not in {min(ids)}..{max(ids)}")
        return [UNK if i == self.unk_id else self._tokenizer.id_to_token(i) for i in ids]

    def to_json(self) -> str:
        return self._tokenizer.to_str()

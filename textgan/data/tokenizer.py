"""Text to ids and back: words, characters or pieces of words, each saved as one `tokenizer.json`.

One special token serves all purposes, as in GPT-2: `<|endoftext|>` (id 0 in tokenizers trained here, what a pretrained
model ends texts with in its own) opens and closes texts and fills padding. `encode` never yields it, even where a text
contains those characters.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from textgan.data.words import join_words, settled_words, split_words
from textgan.errors import UserError

EOS = "<|endoftext|>"
UNK = "<unk>"
TOKENIZERS = ("word", "char", "bpe")
SPLITS = ("words", "whitespace")
BPE_DEFAULT_SIZE = 8192
_BPE_SMALLEST = 257  # the bytes and the end of text
_FORMAT = 3
_INSIDE = "##"  # what WordPiece writes before a piece that goes on with a word


class Tokenizer(Protocol):
    """What the rest of the program knows of a tokenizer.

    kind: one of `TOKENIZERS`, or "pretrained". vocab_size: special tokens included. unk_id: None where nothing is
    unknown.
    """

    kind: str
    vocab_size: int
    eos_id: int
    unk_id: int | None

    def encode(self, text: str) -> list[int]:
        """Ids of `text` without special tokens other than `unk_id`."""
        ...

    def pieces(self, text: str) -> list[str]:
        """The part of `text` that each id of `encode` stands for."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; ends of text are left out, unknown tokens read `<unk>`."""
        ...

    def settled(self, ids: Sequence[int]) -> str:
        """The beginning of `decode(ids)` that stays as it is whatever ids follow."""
        ...

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The readable text of each id alone, special tokens included."""
        ...

    def to_json(self) -> str:
        """The content of `tokenizer.json`."""
        ...


class LookupTokenizer:
    """Words or characters numbered by a list; what is not in it is unknown.

    Words follow `split_words`, so `decode(encode(x)) == x` up to the spacing that `join_words` documents, or with
    `split="whitespace"` stand between white space and come back with one space between them; characters give any
    text of known characters back exactly. All up to lower case if `lowercase`. A word `<unk>` in a text is the
    unknown token, as in corpora whose rare words were replaced by it, and so is what `decode` writes for one.
    """

    eos_id = 0
    unk_id = 1

    def __init__(self, kind: str, vocabulary: Sequence[str], *, lowercase: bool, split: str | None = None):
        """vocabulary: pieces in the order of their ids, the two special tokens first. split: see `_PIECES`."""
        self._split, self._join = _PIECES[kind, split]
        if list(vocabulary[:2]) != [EOS, UNK] or len(set(vocabulary)) != len(vocabulary):
            raise ValueError(f"a vocabulary holds {EOS}, {UNK} and different pieces, in this order")
        self.kind = kind
        self.split = split
        self.lowercase = lowercase
        self.vocab_size = len(vocabulary)
        self._pieces = list(vocabulary)
        self._ids = {piece: i for i, piece in enumerate(vocabulary) if i > self.unk_id}

    def pieces(self, text: str) -> list[str]:
        """The words or characters of `text`, as they are looked up: one for each id that `encode` gives."""
        return self._split(text.lower() if self.lowercase else text)

    def encode(self, text: str) -> list[int]:
        return [self._ids.get(piece, self.unk_id) for piece in self.pieces(text)]

    def decode(self, ids: Sequence[int]) -> str:
        return self._join([piece for i, piece in zip(ids, self.tokens(ids), strict=True) if i != self.eos_id])

    def settled(self, ids: Sequence[int]) -> str:
        pieces = [piece for i, piece in zip(ids, self.tokens(ids), strict=True) if i != self.eos_id]
        return self._join(pieces[: settled_words(pieces)] if self._join is join_words else pieces)

    def tokens(self, ids: Sequence[int]) -> list[str]:
        _check_ids(ids, self.vocab_size)
        return [self._pieces[i] for i in ids]

    def to_json(self) -> str:
        header = {"format": 1, "kind": self.kind, "lowercase": self.lowercase}
        if self.split is not None:  # versions that know format 1 alone would cut texts in another way
            header |= {"format": 2, "split": self.split}
        content = {
            "version": "1.0",
            "textgan": header,
            "model": {
                "type": "WordLevel",
                "vocab": {piece: i for i, piece in enumerate(self._pieces)},
                "unk_token": UNK,
            },
        }
        return json.dumps(content, ensure_ascii=False, indent=1)


def _split_with_unk(text: str) -> list[str]:
    """As `split_words`, with `<unk>` as a word instead of the three that it makes of it."""
    if UNK not in text:
        return split_words(text)
    mark = next(c for c in map(chr, range(0xE000, 0xF900)) if c not in text)  # in its place, as any other word
    return [word.replace(mark, UNK) for word in split_words(text.replace(UNK, mark))]


# How each kind is cut into pieces and put together again. Files of words that do not name a split are older than it.
_PIECES: dict[tuple[str, str | None], tuple[Callable[[str], list[str]], Callable[[Sequence[str]], str]]] = {
    ("word", "words"): (_split_with_unk, join_words),
    ("word", "whitespace"): (str.split, " ".join),
    ("word", None): (split_words, join_words),
    ("char", None): (list, "".join),
}


class SubwordTokenizer:
    """A tokenizer of the `tokenizers` library: byte-level BPE trained here, or that of a pretrained model.

    Its file is Hugging Face's `tokenizer.json`; that of a pretrained model says besides which token ends texts. With
    byte-level BPE, `decode(encode(x)) == x` on any text (each character in lower case if trained so). Word pieces of
    BERT's kind keep no spacing: it is that of `join_words`, without spaces in Chinese.
    """

    def __init__(self, tokenizer: HFTokenizer, *, kind: str = "bpe", eos: str = EOS):
        """Raises ValueError if it has no token `eos`, or ids that are not 0, 1, 2, ..."""
        eos_id = tokenizer.token_to_id(eos)
        if eos_id is None:
            raise ValueError(f"has no {eos} token")
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        if max(vocabulary.values()) >= len(vocabulary):
            raise ValueError(f"its ids go up to {max(vocabulary.values())}, but it has {len(vocabulary)} tokens")
        tokenizer.add_special_tokens([eos])  # in some files it is a word as any other
        tokenizer.encode_special_tokens = True  # special tokens written out in a text are text
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.kind, self.eos, self.eos_id = kind, eos, eos_id
        self.vocab_size = len(vocabulary)
        unk_id = vocabulary.get(getattr(tokenizer.model, "unk_token", None))
        self.unk_id = None if unk_id == eos_id else unk_id
        self._tokenizer = tokenizer
        self._has_word_pieces = isinstance(tokenizer.model, models.WordPiece)

    def pieces(self, text: str) -> list[str]:
        return [text[start:end] for start, end in self._tokenizer.encode(text, add_special_tokens=False).offsets]

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        _check_ids(ids, self.vocab_size)
        ids = [i for i in ids if i != self.eos_id]
        if not self._has_word_pieces:
            return self._tokenizer.decode(ids, skip_special_tokens=False)
        return join_words(self._words(ids))

    def settled(self, ids: Sequence[int]) -> str:
        if not self._has_word_pieces:
            return self.decode(ids).rstrip("\ufffd")  # at the end a part of a character
        words = self._words([i for i in ids if i != self.eos_id])[:-1]  # the last one may go on
        return join_words(words[: settled_words(words)])

    def _words(self, ids: Sequence[int]) -> list[str]:
        """The words that word pieces make."""
        words: list[str] = []
        for piece in self.tokens(ids):
            if words and piece.startswith(_INSIDE) and piece != _INSIDE:
                words[-1] += piece.removeprefix(_INSIDE)
            else:
                words.append(piece)
        return words

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The text of each id, of word pieces as the vocabulary has it; a part of a character reads `\\ufffd`."""
        if self._has_word_pieces:
            return [UNK if i == self.unk_id else self._tokenizer.id_to_token(i) for i in ids]
        return [self.eos if i == self.eos_id else self.decode([i]) for i in ids]

    def to_json(self) -> str:
        text = self._tokenizer.to_str()
        if self.kind == "bpe":
            return text
        header = {"format": 3, "kind": self.kind, "eos": self.eos}
        return json.dumps({"textgan": header, **json.loads(text)}, ensure_ascii=False)


def _check_ids(ids: Sequence[int], vocab_size: int) -> None:
    if len(ids) and not 0 <= min(ids) <= max(ids) < vocab_size:
        raise ValueError(f"ids must lie in 0..{vocab_size - 1}, not in {min(ids)}..{max(ids)}")


def train_tokenizer(
    kind: str,
    texts: Iterable[str],
    *,
    vocab_size: int | None = None,
    min_count: int = 1,
    lowercase: bool = False,
    split: str = "words",
) -> Tokenizer:
    """A tokenizer with a vocabulary from `texts`; the same texts in the same order give the same one.

    Args:
        kind: "word", "char" or "bpe".
        texts: what to count.
        vocab_size: the most entries, special tokens included; None keeps every word or character, and is
            `BPE_DEFAULT_SIZE` for BPE.
        min_count: rarer words or characters become unknown; pairs of BPE pieces as rare are not merged.
        lowercase: turn all text to lower case, here and when encoding.
        split: of kind "word": "words" (Penn Treebank rules, see `split_words`) or "whitespace", for texts that are
            tokenized already. Either way `<unk>` in a text is the unknown token; with "whitespace" a word
            `<|endoftext|>` is unknown too, for the end of a text must not stand inside one.

    Raises:
        UserError: for an unknown kind or split, a split of what are no words, a vocabulary too small to hold
            anything, or texts without a word.
    """
    if kind not in TOKENIZERS:
        near = difflib.get_close_matches(kind, TOKENIZERS, 1, 0.3)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown tokenizer {kind!r}; known: {', '.join(TOKENIZERS)}{hint}")
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    if kind != "word" and split != "words":
        raise UserError(f"split={split} is for words; a {kind} tokenizer has none")
    smallest = _BPE_SMALLEST if kind == "bpe" else 3
    if vocab_size is not None and vocab_size < smallest:
        raise UserError(f"vocab_size={vocab_size} is too small for a {kind} tokenizer; at least {smallest}")
    if kind == "bpe":
        return _train_bpe(texts, vocab_size or BPE_DEFAULT_SIZE, min_count, lowercase)
    of_kind = split if kind == "word" else None
    cut = _PIECES[kind, of_kind][0]
    counts = Counter(chain.from_iterable(cut(text.lower() if lowercase else text) for text in texts))
    if kind == "word":
        del counts[UNK], counts[EOS]
    pieces = sorted((piece for piece, n in counts.items() if n >= min_count), key=lambda p: (-counts[p], p))
    if not pieces:
        wanted = f" that occurs {min_count} times" if counts else ""
        raise UserError(f"cannot train a {kind} tokenizer: the texts have no {kind}{wanted}")
    return LookupTokenizer(kind, [EOS, UNK, *pieces][:vocab_size], lowercase=lowercase, split=of_kind)


def _train_bpe(texts: Iterable[str], vocab_size: int, min_count: int, lowercase: bool) -> SubwordTokenizer:
    tokenizer = HFTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_count,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return SubwordTokenizer(tokenizer)


def pretrained_tokenizer(content: str, eos: str) -> SubwordTokenizer:
    """The tokenizer of a pretrained model, from its `tokenizer.json`, with the token that ends its texts.

    Raises:
        ValueError: as :class:`SubwordTokenizer`, or the library cannot read it.
    """
    return SubwordTokenizer(_parse_hf(content), kind="pretrained", eos=eos)


def save_tokenizer(tokenizer: Tokenizer, path: str | Path) -> None:
    """Write `tokenizer` as one JSON file."""
    Path(path).write_text(tokenizer.to_json(), encoding="utf-8")


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`: one saved here, or any byte-level BPE with `<|endoftext|>`.

    Raises:
        UserError: if the file is missing, broken, foreign or from a newer version.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the tokenizer {path}: {error.strerror}") from None
    except ValueError:  # broken JSON or broken UTF-8
        raise UserError(f"{path} is not a tokenizer.json: it does not hold JSON") from None
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise UserError(f"{path} is not a tokenizer.json: it has no model")
    try:
        if "textgan" in content:
            return _load_ours(content)
        if model.get("type") != "BPE" or (content.get("decoder") or {}).get("type") != "ByteLevel":
            raise ValueError(f"is a {model.get('type')} tokenizer; byte-level BPE can be used")
        return SubwordTokenizer(_parse_hf(json.dumps(content)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"cannot use the tokenizer {path}: {error}") from None


def _load_ours(content: dict) -> Tokenizer:
    header, vocab = content.pop("textgan"), content["model"]["vocab"]
    if header["format"] > _FORMAT:
        raise ValueError(f"its format {header['format']} is newer than {_FORMAT}; update textgan")
    if header["kind"] == "pretrained":
        return SubwordTokenizer(_parse_hf(json.dumps(content)), kind="pretrained", eos=header["eos"])
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise ValueError("the ids of its vocabulary are not 0, 1, 2, ...")
    kind, split = header["kind"], header.get("split")
    if (kind, split) not in _PIECES:
        what = "kind" if kind not in ("word", "char") else "split"
        raise ValueError(f"its {what} {header[what]!r} is unknown")
    return LookupTokenizer(kind, sorted(vocab, key=vocab.get), lowercase=bool(header["lowercase"]), split=split)


def _parse_hf(text: str) -> HFTokenizer:
    try:
        return HFTokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exceptions
        raise ValueError(f"the tokenizers library says: {error}") from None

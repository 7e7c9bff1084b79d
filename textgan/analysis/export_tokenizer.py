"""Our tokenizers as ``AutoTokenizer`` loads them: the same ids, behind the token that opens a text."""

import json
import re
from importlib import resources
from pathlib import Path

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as HFTokenizer

from textgan.data.tokenizer import EOS, UNK, LookupTokenizer, Tokenizer
from textgan.training.hub import library

# What ``str.split`` cuts at.
WHITE_SPACE = r"[\s\x1c-\x1f\x85]+"

# Words of the Penn Treebank are beyond what a tokenizer.json can say: this is, beside a copy of ``data/words.py``.
CODE = '''"""The tokenizer of a model of words: those of the Penn Treebank, and each Chinese character."""

import json
import os

from transformers import PreTrainedTokenizer

from .words import join_words, split_words

UNK = "<unk>"


class TextganTokenizer(PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "vocab.json"}
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file, lowercase=False, **kwargs):
        with open(vocab_file, encoding="utf-8") as file:
            self.vocabulary = json.load(file)
        self.words = {i: word for word, i in self.vocabulary.items()}
        self.lowercase = lowercase
        super().__init__(lowercase=lowercase, **kwargs)

    @property
    def vocab_size(self):
        return len(self.vocabulary)

    def get_vocab(self):
        return dict(self.vocabulary)

    def _tokenize(self, text, **kwargs):
        text = text.lower() if self.lowercase else text
        if UNK not in text:
            return split_words(text)
        mark = next(c for c in map(chr, range(0xE000, 0xF900)) if c not in text)
        return [word.replace(mark, UNK) for word in split_words(text.replace(UNK, mark))]

    def _convert_token_to_id(self, token):
        # The end of a text never stands inside one; whoever asks for it by name means it.
        return self.vocabulary.get(token, self.vocabulary[UNK])

    def _convert_id_to_token(self, index):
        return self.words[index]

    def convert_tokens_to_string(self, tokens):
        return join_words(tokens)

    def build_inputs_with_special_tokens(self, ids, other=None):
        return [self.bos_token_id, *ids, *(other or [])]

    def save_vocabulary(self, save_directory, filename_prefix=None):
        path = os.path.join(save_directory, (filename_prefix + "-" if filename_prefix else "") + "vocab.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.vocabulary, file, ensure_ascii=False)
        return (path,)
'''


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, opening: int, block_size: int) -> None:
    """Write into ``folder`` what ``AutoTokenizer.from_pretrained(folder)`` needs; for words, code of ours among it."""
    limits = {"model_max_length": block_size, "split_special_tokens": True, "clean_up_tokenization_spaces": False}
    eos = tokenizer.tokens([tokenizer.eos_id])[0]
    if isinstance(tokenizer, LookupTokenizer) and tokenizer.split == "words":
        _save_words(tokenizer, folder, limits)
        return
    theirs = _lookup(tokenizer) if isinstance(tokenizer, LookupTokenizer) else _subword(tokenizer)
    bos = theirs.id_to_token(opening)
    theirs.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, opening)])
    unk = {} if tokenizer.unk_id is None else {"unk_token": theirs.id_to_token(tokenizer.unk_id)}
    fast = library("--format hf").PreTrainedTokenizerFast
    fast(tokenizer_object=theirs, bos_token=bos, eos_token=eos, **unk, **limits).save_pretrained(folder)


def _subword(tokenizer: Tokenizer) -> HFTokenizer:
    content = json.loads(tokenizer.to_json())
    content.pop("textgan", None)
    return HFTokenizer.from_str(json.dumps(content))


def _lookup(tokenizer: LookupTokenizer) -> HFTokenizer:
    """Words between white space, or characters, as the library has them."""
    vocabulary = {piece: i for i, piece in enumerate(tokenizer.tokens(range(tokenizer.vocab_size)))}
    theirs = HFTokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    steps = [normalizers.Lowercase()] if tokenizer.lowercase else []
    if tokenizer.kind == "char":
        theirs.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        theirs.decoder = decoders.Fuse()
    else:
        # A word that reads as the end of a text stands in the vocabulary of theirs; ours does not know it.
        steps.insert(0, normalizers.Replace(Regex(r"(?<!\S)" + re.escape(EOS) + r"(?!\S)"), UNK))
        theirs.pre_tokenizer = pre_tokenizers.Split(Regex(WHITE_SPACE), "removed")
    theirs.normalizer = normalizers.Sequence(steps)
    theirs.add_special_tokens([EOS, UNK])
    return theirs


def _save_words(tokenizer: LookupTokenizer, folder: Path, limits: dict) -> None:
    vocabulary = {piece: i for i, piece in enumerate(tokenizer.tokens(range(tokenizer.vocab_size)))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenization_textgan.py").write_text(CODE, encoding="utf-8")
    words = resources.files("textgan.data").joinpath("words.py").read_text(encoding="utf-8")
    (folder / "words.py").write_text(words, encoding="utf-8")
    config = {
        "tokenizer_class": "TextganTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_textgan.TextganTokenizer", None]},
        "lowercase": tokenizer.lowercase,
        "bos_token": EOS,
        "eos_token": EOS,
        "unk_token": UNK,
        **limits,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")

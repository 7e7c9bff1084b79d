"""Small pretrained encoders that tests make and save as the library transformers does."""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 130,
}


def word_pieces(words, *, lowercase=False):
    """A BERT tokenizer of these pieces behind its special tokens."""
    from transformers import PreTrainedTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", **special)


def save_encoder(folder, words, kind="Bert", *, lowercase=False, **changes):
    """Save a random encoder and its tokenizer in ``folder``; returns the folder's name."""
    import transformers

    tokenizer = word_pieces(words, lowercase=lowercase)
    torch.manual_seed(1)
    shape = SHAPE | {"vocab_size": len(tokenizer)} | changes
    if kind == "DistilBert":
        names = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
        names |= {"intermediate_size": "hidden_dim"}
        shape = {names.get(key, key): value for key, value in shape.items()}
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**shape))
    with torch.no_grad():
        for parameter in model.parameters():  # the library's own start is so small that differences hide in rounding
            parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


LETTERS = [*"abcdefgh", "##b", "."]

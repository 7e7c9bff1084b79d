"""Small pretrained models, as transformers saves them: what tests put in the place of a hub."""

import shutil

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from textgan.data.story_grammar import load_grammar

EOS = "<|endoftext|>"


def stories(n=300, language="en"):
    """Texts of the embedded grammar."""
    return load_grammar(language).sample_many(n, 0)


def byte_level_bpe(texts, vocab_size=700, special=(EOS,)):
    """A tokenizer of GPT-2's kind, as tokenizers makes it; the special tokens come last, as in GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocab_size - len(special), initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def save_tokenizer(tokenizer, folder, **special):
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def save_bert(folder, *, texts=None, max_position_embeddings=130):
    """A random BERT with word pieces of the texts (default: stories), saved in ``folder``."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    pieces = word_piece(texts or stories())
    BertTokenizerFast(tokenizer_object=pieces).save_pretrained(folder)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(1)
    config = BertConfig(vocab_size=pieces.get_vocab_size(), max_position_embeddings=max_position_embeddings, **shape)
    noisy(BertModel(config)).save_pretrained(folder)


def as_on_the_hub(monkeypatch, root, **models):
    """From here on these names are those of models of the hub, with the files of the folders."""
    for name, folder in models.items():
        place = root / f"models--{name.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder, place / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    forget_pretrained()


def forget_pretrained():
    """A name may stand for another model now."""
    from textgan.training.pretrained import find_pretrained, pretrained_weights

    find_pretrained.cache_clear()
    pretrained_weights.cache_clear()


def noisy(model, scale=0.1, seed=0):
    """The model with weights that matter: fresh ones are so small that attention is nearly uniform."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=rng) * scale)
    return model.eval()


def save_gpt2(folder, *, texts=None, extra_rows=0, n_positions=128, **shape):
    """A random GPT-2 with a byte-level BPE of the texts (default: stories), saved in ``folder``; returns the model."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = byte_level_bpe(texts or stories())
    save_tokenizer(tokenizer, folder, bos_token=EOS, eos_token=EOS, unk_token=EOS)
    eos = tokenizer.token_to_id(EOS)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, **shape}
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size() + extra_rows,
        n_positions=n_positions,
        bos_token_id=eos,
        eos_token_id=eos,
        **sizes,
    )
    torch.manual_seed(0)
    model = noisy(GPT2LMHeadModel(config))
    model.save_pretrained(folder)
    return model


def save_llama(folder, *, kind="Llama", texts=None, tied=False, **shape):
    """A random Llama-shaped model that opens texts with ``<s>`` and ends them with ``</s>``; returns the model."""
    import transformers

    tokenizer = byte_level_bpe(texts or stories(), special=("<s>", "</s>"))
    save_tokenizer(tokenizer, folder, bos_token="<s>", eos_token="</s>")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, **shape}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=tokenizer.get_vocab_size() + 3,
        intermediate_size=64,
        max_position_embeddings=128,
        bos_token_id=tokenizer.token_to_id("<s>"),
        eos_token_id=tokenizer.token_to_id("</s>"),
        pad_token_id=None,
        tie_word_embeddings=tied,
        **sizes,
    )
    torch.manual_seed(0)
    model = noisy(getattr(transformers, f"{kind}ForCausalLM")(config))
    model.save_pretrained(folder)
    return model


def word_piece(texts, vocab_size=300, lowercase=True):
    """A tokenizer of BERT's kind."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    )
    return tokenizer

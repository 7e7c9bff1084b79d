"""Pretrained language models of transformers, in: logits, ids, shapes, and what is refused."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from tests.pretrained_models import (
    EOS,
    byte_level_bpe,
    forget_pretrained,
    noisy,
    save_gpt2,
    save_llama,
    save_tokenizer,
    stories,
    word_piece,
)
from textgan.configfile import load_config
from textgan.data.tokenizer import load_tokenizer
from textgan.errors import UserError
from textgan.models import gpt2
from textgan.models.generator import Generator
from textgan.training.building import build_generator, causal_lm_of
from textgan.training.pretrained import fill_pretrained, find_pretrained, pretrained_weights, resolve

ODD = "Ünïcode — 小猫睡着了。 <|endoftext|> 🐈"


@pytest.fixture(autouse=True)
def _afresh():
    forget_pretrained()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of small models, and the models."""
    root = tmp_path_factory.mktemp("pretrained")
    made = {
        "gpt2": save_gpt2(root / "gpt2", extra_rows=5),
        "llama": save_llama(root / "llama"),
        "qwen": save_llama(root / "qwen", kind="Qwen2", tied=True),
    }
    return root, made


def config_of(tmp_path, name, *overrides):
    path = tmp_path / "config.yaml"
    path.write_text(f"generator: {{init_from: {name}}}\n")
    return load_config(path, overrides)


def loaded(tmp_path, name, *overrides):
    config = resolve(config_of(tmp_path, name, *overrides))
    tokenizer = find_pretrained(str(name)).tokenizer
    generator = build_generator(config, tokenizer.vocab_size).eval()
    fill_pretrained(generator, str(name))
    return generator, tokenizer, config


def logits_of(model, tokenizer, text):
    """transformers' logits of a text behind the token that opens it there, and the ids that we read."""
    ids = tokenizer.encode(text)
    opening = model.config.bos_token_id
    with torch.no_grad():
        theirs = model(torch.tensor([[opening, *ids]])).logits[0, :, : tokenizer.vocab_size]
    return theirs, torch.tensor([[tokenizer.eos_id, *ids]])


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen"])
def test_logits_are_those_of_transformers(saved, tmp_path, kind):
    root, models = saved
    generator, tokenizer, config = loaded(tmp_path, root / kind)
    theirs, ids = logits_of(models[kind], tokenizer, stories(1)[0])
    assert theirs.std() > 0.1
    with torch.no_grad():
        torch.testing.assert_close(generator(ids[:, : config.generator.block_size])[0], theirs[:64], rtol=0, atol=1e-5)
    assert config.generator.kind == ("transformer" if kind == "gpt2" else "causal_lm")


@pytest.mark.parametrize("text", [ODD, *stories(2), *stories(2, "zh")])
def test_ids_and_texts_are_those_of_transformers(saved, text):
    from transformers import AutoTokenizer

    folder = saved[0] / "gpt2"
    ours, theirs = find_pretrained(str(folder)).tokenizer, AutoTokenizer.from_pretrained(folder)
    expected = theirs(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]
    assert ours.encode(text) == expected
    assert ours.decode([*expected, ours.eos_id]) == text
    assert "".join(ours.pieces("a story")) == "a story"


def test_a_pretrained_tokenizer_is_the_same_when_it_was_saved(saved, tmp_path):
    ours = find_pretrained(str(saved[0] / "llama")).tokenizer
    path = tmp_path / "tokenizer.json"
    path.write_text(ours.to_json(), encoding="utf-8")
    again = load_tokenizer(path)
    assert (again.kind, again.eos_id, again.vocab_size, again.unk_id) == ("pretrained", ours.eos_id, 700, None)
    assert again.encode(ODD) == ours.encode(ODD)
    assert ours.tokens([ours.eos_id]) == ["</s>"]


def test_word_pieces_give_english_and_chinese_back(tmp_path):
    """A Chinese GPT-2 with BERT's tokenizer, as they are: [CLS] opens its texts, [SEP] ends them."""
    from transformers import BertTokenizerFast, GPT2Config, GPT2LMHeadModel

    texts = [*stories(200, "zh"), *stories(200)]
    pieces = word_piece(texts, 900)
    BertTokenizerFast(tokenizer_object=pieces).save_pretrained(tmp_path / "model")
    size = {"vocab_size": pieces.get_vocab_size(), "n_positions": 256, "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = noisy(GPT2LMHeadModel(GPT2Config(**size, bos_token_id=2, eos_token_id=3)))
    model.save_pretrained(tmp_path / "model")
    generator, ours, _ = loaded(tmp_path, tmp_path / "model", "generator.block_size=256")
    assert ours.tokens([ours.eos_id, ours.unk_id]) == ["[SEP]", "<unk>"]
    for text in (stories(1, "zh")[0], stories(1)[0].lower()):
        assert ours.decode([*ours.encode(text), ours.eos_id]) == text
        theirs, ids = logits_of(model, ours, text)
        with torch.no_grad():
            torch.testing.assert_close(generator(ids)[0], theirs, rtol=0, atol=1e-5)
    assert ours.unk_id in ours.encode("🐈")
    assert ours.eos_id not in ours.encode("a [SEP] b")


def test_the_table_is_cut_to_the_tokenizer_and_positions_to_the_block(saved, tmp_path):
    generator, tokenizer, _ = loaded(tmp_path, saved[0] / "gpt2", "generator.block_size=20")
    assert generator.wte.weight.shape[0] == tokenizer.vocab_size == saved[1]["gpt2"].config.vocab_size - 5
    assert generator.wpe.weight.shape[0] == 20
    with pytest.raises(ValueError, match="block_size=20"):
        generator(torch.zeros(1, 21, dtype=torch.long))


def test_a_model_that_opens_with_another_token_sees_it_at_the_first_place_only(tmp_path):
    """GPT-2's shape with two special tokens: our end of text in front must read as their start."""
    folder = tmp_path / "model"
    model = save_gpt2(folder)
    tokenizer = byte_level_bpe(stories(), special=("<s>", "</s>"))
    save_tokenizer(tokenizer, folder, bos_token="<s>", eos_token="</s>")
    model.config.bos_token_id = tokenizer.token_to_id("<s>")
    generator, ours, _ = loaded(tmp_path, folder)
    theirs, ids = logits_of(model, ours, "Once upon a time")
    with torch.no_grad():
        torch.testing.assert_close(generator(ids)[0], theirs, rtol=0, atol=1e-5)
        moved = model(ids).logits[0]
    assert (moved - theirs).abs().max() > 1e-2


def test_a_bias_of_logits_goes_out_and_comes_back_exactly():
    from transformers import GPT2Config, GPT2LMHeadModel

    for silent in ([], [3, 7]):  # gains that let nothing through
        torch.manual_seed(0)
        ours = noisy(Generator(40, 16, 2, 2, 32))
        with torch.no_grad():
            ours.logit_bias.normal_(0, 3)
            ours.ln_f.weight[silent] = 0
        weights, tied = gpt2.theirs(ours.state_dict())
        theirs = GPT2LMHeadModel(
            GPT2Config(vocab_size=40, n_positions=16, n_embd=32, n_layer=2, n_head=2, tie_word_embeddings=False)
        ).eval()
        theirs.load_state_dict(weights)
        ids = torch.randint(40, (3, 16))
        back = Generator(40, 16, 2, 2, 32).eval()
        back.load_state_dict(gpt2.ours(theirs.state_dict()))
        with torch.no_grad():
            torch.testing.assert_close(theirs(ids).logits, ours(ids), rtol=0, atol=2e-5)
            torch.testing.assert_close(back(ids), ours(ids), rtol=0, atol=2e-5)
        assert not tied
        assert gpt2.theirs(Generator(40, 16, 2, 2, 32).state_dict())[1]
    theirs.lm_head.weight.data.normal_()
    with pytest.raises(ValueError, match="not tied"):
        gpt2.ours(theirs.state_dict())


SHAPES = {
    "Llama": {"num_key_value_heads": 2},
    "Qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "Mistral": {"num_key_value_heads": 2, "sliding_window": 4},
    "Gemma": {"num_key_value_heads": 2, "head_dim": 8},
    "GPTNeoX": {},
    "Phi": {},
}


@pytest.mark.parametrize("kind", SHAPES)
def test_the_adapter_reads_ids_vectors_pads_and_caches(kind):
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        pad_token_id=None,
        bos_token_id=1,
        eos_token_id=2,
        **SHAPES[kind],
    )
    torch.manual_seed(0)
    model = noisy(getattr(transformers, f"{kind}ForCausalLM")(config))
    ours, ids = causal_lm_of(model, 32), torch.randint(40, (3, 12))
    pads = torch.tensor([0, 3, 5])
    padded = torch.stack(
        [F.pad(row[: 12 - pad], (pad, 0), value=2) for row, pad in zip(ids, pads.tolist(), strict=True)]
    )
    with torch.no_grad():
        expected = model(ids).logits
        close = {"rtol": 0, "atol": 2e-5}
        torch.testing.assert_close(ours(ids), expected, **close)
        torch.testing.assert_close(ours(F.one_hot(ids, 40).float()), expected, **close)
        for pieces in ([12], [7, 1, 1, 3]):
            cache = ours.new_cache(3, 12)
            parts = [ours(piece, cache=cache, left_pad=pads) for piece in padded.split(pieces, dim=1)]
            found = torch.cat(parts, dim=1)
            for row, pad in enumerate(pads.tolist()):
                torch.testing.assert_close(found[row, pad:], expected[row, : 12 - pad], **close)
        cache = ours.new_cache(3, 12)
        ours(ids[:, :5], cache=cache)
        rows = torch.tensor([2, 0, 2])
        cache.select(rows)
        torch.testing.assert_close(ours(ids[rows, 5:6], cache=cache)[:, 0], expected[rows, 5], **close)
        ours.scale_logits_(2.0, torch.arange(40.0))
        torch.testing.assert_close(ours(ids), expected / 2 + torch.arange(40.0), **close)
        nll = ours.nll(ids[:, :-1], ids[:, 1:], at=torch.ones(3, 11, dtype=torch.bool))
    wanted = F.cross_entropy(
        (expected / 2 + torch.arange(40.0))[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    torch.testing.assert_close(nll, wanted, **close)


def test_gradient_passes_the_adapter_to_probability_vectors_and_stays_causal(saved, tmp_path):
    generator, tokenizer, _ = loaded(tmp_path, saved[0] / "llama")
    ids = torch.tensor([tokenizer.encode(stories(1)[0])[:10]])
    x = F.one_hot(ids, tokenizer.vocab_size).float().requires_grad_()
    generator(x)[:, 4].square().sum().backward()
    influence = x.grad.abs().amax(dim=(0, 2))
    assert (influence[:5] > 0).all()
    assert (influence[5:] == 0).all()


@pytest.mark.parametrize(
    "overrides, message",
    [
        (
            ["generator.n_layer=7"],
            r"generator.n_layer=7, but generator.init_from=.* has 2; leave generator.n_layer away",
        ),
        (["generator.block_size=500"], "block_size=500, but .* reads at most 128 tokens"),
        (["tokenizer.kind=word"], "tokenizer.kind=word makes a vocabulary that .* has not learned"),
        (["generator.kind=lstm"], "is of Transformers"),
        (["tokenizer.init_from=x", "tokenizer.kind=pretrained"], "leave the former away"),
        (["tokenizer.kind=pretrained", "tokenizer.vocab_size=99"], "without effect for tokenizer.kind=pretrained"),
        (["vae={}", "mle=none"], "that starts anew"),
    ],
)
def test_what_does_not_go_together_is_refused(saved, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        resolve(config_of(tmp_path, saved[0] / "gpt2", *overrides))


def test_a_config_with_every_default_is_the_same(saved, tmp_path):
    from textgan.configfile import describe_config

    config = config_of(tmp_path, saved[0] / "gpt2")
    assert config.tokenizer.kind == "pretrained"
    (tmp_path / "copy.yaml").write_text(describe_config(config), encoding="utf-8")
    assert resolve(load_config(tmp_path / "copy.yaml")) == resolve(config)


def test_other_shapes_than_gpt2_are_told_by_name(saved, tmp_path):
    with pytest.raises(UserError, match=r"generator.kind=causal_lm, but .* has transformer; leave generator.kind away"):
        resolve(config_of(tmp_path, saved[0] / "gpt2", "generator.kind=causal_lm"))
    with pytest.raises(UserError, match="a VAE needs one as decoder"):
        resolve(config_of(tmp_path, saved[0] / "llama", "vae={}", "vae.init_from=mle", "mle={}"))


def _change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_broken_models_are_refused_in_one_line(saved, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no name is looked for on a network
    with pytest.raises(UserError, match="nowhere does not exist; give a folder that save_pretrained wrote"):
        resolve(config_of(tmp_path, tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"no/model cannot be loaded: .*a name on the hub where that is reachable"):
        resolve(config_of(tmp_path, "no/model"))
    folder = tmp_path / "model"
    shutil.copytree(saved[0] / "gpt2", folder)
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "h.1.mlp" not in k}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"4 are missing, such as transformer\.h\.1\.mlp"):
        pretrained_weights(str(folder))
    _change(folder, vocab_size=300)
    find_pretrained.cache_clear()
    with pytest.raises(UserError, match="its tokenizer has 700 tokens, but the model has learned 300"):
        find_pretrained(str(folder))
    for change, message in (
        ({"activation_function": "relu"}, "activation_function is relu"),
        ({"n_inner": 7}, "n_inner is 7"),
    ):
        assert message in gpt2.difference(json.loads((saved[0] / "gpt2" / "config.json").read_text()) | change)


def test_a_model_whose_logits_are_not_linear_in_its_states_is_refused(tmp_path):
    save_llama(tmp_path / "cohere", kind="Cohere", logit_scale=0.3)
    with pytest.raises(UserError, match="not a linear function of its states"):
        pretrained_weights(str(tmp_path / "cohere"))


def test_a_tokenizer_alone_can_be_taken_over(saved, tmp_path):
    from textgan.training.inputs import make_tokenizer

    path = tmp_path / "config.yaml"
    path.write_text(f"tokenizer: {{kind: pretrained, init_from: {saved[0] / 'gpt2'}}}\n")
    assert make_tokenizer(load_config(path), None).tokens([699]) == [EOS]
    path.write_text("tokenizer: {kind: pretrained}\n")
    with pytest.raises(UserError, match="needs the model whose it is"):
        load_config(path)

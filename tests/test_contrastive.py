"""Contrastive search against a naive loop over whole sequences, without a cache and without a batch."""

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaModel

from tests.test_cli_sample import checkpoint, invoke, records, write_checkpoint  # noqa: F401
from textgan.errors import UserError
from textgan.models.causal_lm import CausalLM
from textgan.models.generator import Generator
from textgan.models.lstm import LSTMGenerator
from textgan.sampling.decode import generate

EOS, V, BLOCK = 0, 11, 16
PROMPTS = [[], [3, 4, 5], [7], [1] * 9, [2, 9, 2, 9, 2], [10] * 15]
KINDS = ["gpt2", "lstm", "llama"]


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=V, hidden_size=12, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    found = {
        "gpt2": Generator(V, BLOCK, 2, 2, 12),
        "lstm": LSTMGenerator(V, BLOCK, 2, 8, 12),
        "llama": CausalLM(LlamaModel(config), None, BLOCK),
    }
    for model in found.values():
        model.double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.4)
    return found


@torch.no_grad()
def naive(model, prompt, *, top_k, alpha, limit=BLOCK, banned=()):
    row, log_prob = [EOS, *prompt], 0.0
    for _ in range(min(limit, BLOCK - len(prompt))):
        logits = model(torch.tensor([row]))[0, -1]
        allowed = logits.clone()
        allowed[list(banned)] = -torch.inf
        p = allowed.softmax(-1)
        values = {}
        for token in p.argsort(descending=True)[:top_k].tolist():
            similar = 0.0  # where it cannot be read, the same for all: the likeliest wins
            if len(row) < BLOCK:
                states = model.states(torch.tensor([[*row, token]]))[0]
                similar = max(float(F.cosine_similarity(states[-1], state, dim=0)) for state in states[:-1])
            if p[token] > 0:
                values[token] = (1 - alpha) * float(p[token]) - alpha * similar
        token = max(values, key=values.get) if len(row) < BLOCK else int(p.argmax())
        log_prob += float(logits.log_softmax(-1)[token])
        row.append(token)
        if token == EOS:
            break
    return row[len(prompt) + 1 :], log_prob


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 4, "alpha": 0.6},
        {"top_k": 2, "alpha": 0.3, "limit": 5},
        {"top_k": 50, "alpha": 1.0},
        {"top_k": 5, "alpha": 0.5, "banned": (0, 3, 4, 6, 7, 8, 9)},
    ],
)
def test_equals_the_naive_loop(models, kind, settings):
    samples = generate(
        models[kind],
        PROMPTS,
        eos_id=EOS,
        top_k=settings["top_k"],
        penalty_alpha=settings["alpha"],
        max_new_tokens=settings.get("limit"),
        banned_ids=settings.get("banned", ()),
        batch_size=4 * settings["top_k"],
    )
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        ids, log_prob = naive(models[kind], prompt, **settings)
        assert sample.ids == ids
        assert sample.log_prob == pytest.approx(log_prob, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_neither_greedy_nor_of_one_alpha(models, kind):
    def texts(**settings):
        return [sample.ids for sample in generate(models[kind], PROMPTS, eos_id=EOS, **settings)]

    assert texts(penalty_alpha=1e-12, top_k=4) == texts(temperature=0)
    assert texts(penalty_alpha=0.6, top_k=4) != texts(temperature=0)
    assert texts(penalty_alpha=0.6, top_k=4) != texts(penalty_alpha=0.6, top_k=2)
    assert texts(penalty_alpha=0.6, top_k=4, seed=1) == texts(penalty_alpha=0.6, top_k=4, seed=2)
    assert texts(penalty_alpha=0) == texts()


def test_stops_and_least_lengths_hold(models):
    options = {"eos_id": EOS, "penalty_alpha": 0.4, "top_k": 4}
    free = generate(models["gpt2"], PROMPTS, **options)
    token = free[0].ids[1]
    stopped = generate(models["gpt2"], PROMPTS, stop=lambda prompt, ids: token in ids, **options)
    for full, sample in zip(free, stopped, strict=True):
        until = full.ids.index(token) + 1 if token in full.ids else len(full.ids)
        assert sample.ids == full.ids[:until]
    assert stopped[0].finish_reason == "stop"
    options["banned_ids"] = range(2, V)
    for sample in generate(models["gpt2"], PROMPTS, min_new_tokens=4, **options):
        assert EOS not in sample.ids[:4]


@pytest.mark.parametrize("kind", KINDS)
def test_states_with_a_cache_are_those_without(models, kind):
    model, ids = models[kind], torch.tensor([[EOS, EOS, 3, 4, 5], [EOS, 7, 8, 9, 1]])
    pad = torch.tensor([1, 0])
    with torch.no_grad():
        whole = model.states(ids, left_pad=pad)
        cache = model.new_cache(2, 5)
        parts = [model.states(part, left_pad=pad, cache=cache) for part in ids.split([3, 2], dim=1)]
        assert torch.allclose(torch.cat(parts, 1)[:, 1:], whole[:, 1:])
        assert torch.equal(model.logits(whole), model(ids, left_pad=pad))


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"penalty_alpha": 0.6}, "`penalty_alpha=0.6` needs `top_k` of at least 2"),
        ({"penalty_alpha": 0.6, "top_k": 1}, "needs `top_k`"),
        ({"penalty_alpha": 1.5, "top_k": 4}, "`penalty_alpha=1.5` must be between 0 and 1"),
        ({"penalty_alpha": 0.6, "top_k": 4, "top_p": 0.9}, "contrastive search does not sample: `top_p`"),
        ({"penalty_alpha": 0.6, "top_k": 4, "temperature": 0}, "contrastive search does not sample: `temperature`"),
        ({"penalty_alpha": 0.6, "num_beams": 4}, "beam search does not sample: `penalty_alpha`"),
    ],
)
def test_refused_settings(models, wrong, message):
    with pytest.raises(ValueError, match=message):
        generate(models["gpt2"], [[]], eos_id=EOS, **wrong)


def test_command(checkpoint, tmp_path):  # noqa: F811
    options = ["--penalty-alpha", 0.6, "--top-k", 4]
    row = records(checkpoint, *options, "--prompt", "Tom")[0]
    assert len(records(checkpoint, *options)) == 1
    assert row["text"] != records(checkpoint, "--temperature", 0, "--prompt", "Tom")[0]["text"]
    assert invoke(checkpoint, *options, "--prompt", "Tom", "--stream").stdout == row["text"] + "\n"
    assert "note: nothing is drawn" in invoke(checkpoint, *options, "-n", 2).stderr
    path = write_checkpoint(tmp_path / "step-00000040")
    (path / "generation.yaml").write_text("{penalty_alpha: 0.6, top_k: 4}")
    assert records(path, "--prompt", "Tom")[0]["text"] == row["text"]
    (path / "generation.yaml").write_text("top_k: 4")
    assert records(path, "--prompt", "Tom", "--penalty-alpha", 0.6)[0]["text"] == row["text"]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--penalty-alpha", 0.6], "--penalty-alpha chooses among candidates: give --top-k 2 or more"),
        (["--penalty-alpha", 0.6, "--top-k", 4, "--top-p", 0.9], "--penalty-alpha is contrastive search, .*: --top-p"),
        (["--penalty-alpha", 0.6, "--top-k", 4, "--temperature", 0], ".*: --temperature has no effect"),
        (["--penalty-alpha", 0.6, "--num-beams", 4], "--num-beams is beam search, .*: --penalty-alpha has no effect"),
    ],
)
def test_refused_options(checkpoint, options, message):  # noqa: F811
    with pytest.raises(UserError, match=message):
        invoke(checkpoint, *options)

"""Classifier-free guidance: against transformers, against the formula, and what it is refused for."""

import pytest
import torch

from tests.pretrained_models import save_gpt2
from tests.test_cli_sample import checkpoint, invoke, write_checkpoint  # noqa: F401
from tests.test_pretrained import loaded
from textgan.errors import UserError
from textgan.models.generator import Generator
from textgan.models.kneser_ney import fit_kneser_ney
from textgan.ops.ngrams import ragged
from textgan.sampling.decode import generate
from textgan.sampling.mixture import Mixture, NgramGenerator

EOS, V, BLOCK = 0, 7, 12


def model():
    torch.manual_seed(0)
    g = Generator(vocab_size=V, block_size=BLOCK, n_layer=1, n_head=2, n_embd=8, dropout=0.0)
    with torch.no_grad():
        for p in g.parameters():
            p.add_(torch.randn_like(p) * 0.5)
        g.logit_bias[EOS] = -1.0
    return g.double().eval()


def kneser_ney():
    rows = torch.randint(1, V, (30, 5), generator=torch.Generator().manual_seed(1))
    return fit_kneser_ney(ragged(rows.tolist()), order=3, vocab_size=V, eos_id=EOS)


@torch.no_grad()
def by_hand(g, prompt, scale):
    """The likeliest token each time, whole texts read anew."""
    ids, log_prob = [], 0.0
    while len(prompt) + len(ids) < BLOCK and (not ids or ids[-1] != EOS):
        told, free = (g(torch.tensor([[EOS, *start, *ids]]))[0, -1].log_softmax(-1) for start in (prompt, []))
        ids.append(int((free + scale * (told - free)).argmax()))
        log_prob += told[ids[-1]].item()
    return ids, log_prob


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("kind", ["generator", "mixture", "ngrams"])
def test_each_token_is_that_of_the_formula(kind, scale):
    g = model() if kind == "generator" else NgramGenerator(kneser_ney(), BLOCK)
    if kind == "mixture":
        g = Mixture(model(), kneser_ney(), 0.4)
    prompts = [[1, 2, 3], [4], [5, 6, 1, 2, 3, 4, 5, 6, 1], [3, 3]]
    found = generate(g, prompts, eos_id=EOS, temperature=0, guidance_scale=scale)
    for prompt, text in zip(prompts, found, strict=True):
        ids, log_prob = by_hand(g, prompt, scale)
        assert text.ids == ids
        assert text.log_prob == pytest.approx(log_prob, abs=1e-4 if kind == "ngrams" else 1e-9)


def test_the_scale_changes_texts_and_one_is_off():
    g, prompts = model(), [[1, 2, 3]] * 20
    plain, one, three, zero, free = (
        [s.ids for s in generate(g, own, eos_id=EOS, seed=3, max_new_tokens=6, **more)]
        for own, more in (
            (prompts, {}), (prompts, {"guidance_scale": 1}), (prompts, {"guidance_scale": 3.0}),
            (prompts, {"guidance_scale": 0.0}), ([[]] * 20, {}),
        )
    )  # fmt: skip
    assert plain == one
    assert plain != three
    assert zero == free  # without the prompt: the model by itself


def test_transformers_writes_the_same(tmp_path):
    theirs = save_gpt2(tmp_path / "gpt2").double()
    generator, tokenizer, _ = loaded(tmp_path, tmp_path / "gpt2")
    eos, prompt, texts = tokenizer.eos_id, [5, 9, 4, 7], []
    options = {"do_sample": False, "max_new_tokens": 20, "pad_token_id": eos, "eos_token_id": eos}
    for scale in (1.0, 2.5, 6.0):
        expected = theirs.generate(
            torch.tensor([[eos, *prompt]]), negative_prompt_ids=torch.tensor([[eos]]), guidance_scale=scale, **options
        )[0, 5:].tolist()
        found = generate(
            generator.double(), [prompt], eos_id=eos, temperature=0, max_new_tokens=20, guidance_scale=scale
        )
        assert found[0].ids == expected
        texts.append(expected)
    assert texts[0] != texts[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_scale": -1.0}, "`guidance_scale=-1.0` must not be negative"),
        ({"guidance_scale": 2.0, "num_beams": 2}, "beam search does not sample: `guidance_scale`"),
        ({"guidance_scale": 2.0, "penalty_alpha": 0.5, "top_k": 3}, "contrastive search does not sample: `guidance_s"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        generate(model(), [[1]], eos_id=EOS, **settings)


def test_a_text_without_prompt_has_nothing_to_keep_to(checkpoint):  # noqa: F811
    with pytest.raises(ValueError, match="needs a prompt of each text"):
        generate(model(), [[1], []], eos_id=EOS, guidance_scale=2.0)
    with pytest.raises(UserError, match="--guidance-scale 2 keeps texts to their prompt: give --prompt"):
        invoke(checkpoint, "--guidance-scale", "2")
    with pytest.raises(UserError, match="--num-beams is beam search, which draws nothing: --guidance-scale"):
        invoke(checkpoint, "--prompt", "Tom", "--guidance-scale", "2", "--num-beams", "2")

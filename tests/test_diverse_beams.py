"""Diverse beam search against a naive loop over lists of texts, one prompt at a time, without a cache."""

import pytest
import torch

from tests.test_cli_sample import checkpoint, invoke, records, write_checkpoint  # noqa: F401
from tests.test_decode import BLOCK, EOS, PROMPTS, V, exact_log_prob, models  # noqa: F401
from textgan.errors import UserError
from textgan.sampling.decode import generate


def naive(model, prompt, groups, size, penalty, limit):
    """The ids of the best groups * size texts."""
    memory = {}

    def gains(ids):
        if ids not in memory:
            with torch.no_grad():
                logits = model(torch.tensor([[EOS, *prompt, *ids]])).logits[0, -1]
            memory[ids] = logits.log_softmax(-1).tolist()
        return memory[ids]

    beams = [[((), 0.0)] for _ in range(groups)]
    ended = [[] for _ in range(groups)]
    done = [False] * groups
    limit = min(limit, BLOCK - len(prompt))
    for t in range(limit):
        taken = [0] * V
        for g in range(groups):
            if done[g]:
                continue
            candidates = [
                ((*ids, v), score + gains(ids)[v] - penalty * taken[v]) for ids, score in beams[g] for v in range(V)
            ]
            candidates.sort(key=lambda text: -text[1])
            for ids, score in candidates[:size]:
                if ids[-1] == EOS or t + 1 == limit:
                    ended[g] = sorted([*ended[g], (ids, score / (t + 1))], key=lambda text: -text[1])[:size]
            beams[g] = [text for text in candidates if text[0][-1] != EOS or t + 1 == limit][:size]
            for ids, _ in beams[g]:
                taken[ids[-1]] += 1
            best = beams[g][0][1] / (t + 1)
            done[g] = len(ended[g]) == size and best <= ended[g][-1][1]
    return [list(ids) for ids, _ in sorted((text for group in ended for text in group), key=lambda text: -text[1])]


@pytest.mark.parametrize("penalty", [0.3, 2.0])
@pytest.mark.parametrize("groups, size", [(2, 2), (3, 1), (2, 3)])
@pytest.mark.parametrize("limit", [3, 8])
def test_equals_the_naive_loop(models, groups, size, penalty, limit):  # noqa: F811
    theirs, ours = models
    prompts, K = PROMPTS[:5], groups * size
    options = {"num_beams": K, "num_beam_groups": groups, "diversity_penalty": penalty, "max_new_tokens": limit}
    samples = generate(ours, prompts, eos_id=EOS, num_return_sequences=K, **options)
    for i, prompt in enumerate(prompts):
        found = samples[i * K : (i + 1) * K]
        assert [sample.ids for sample in found] == naive(theirs, prompt, groups, size, penalty, limit)
        for sample in found:
            assert sample.log_prob == pytest.approx(exact_log_prob(theirs, prompt, sample.ids), abs=1e-9)


def test_groups_differ_the_more_the_penalty(models):  # noqa: F811
    def different(penalty):
        options = {
            "num_beams": 4,
            "num_beam_groups": 4,
            "diversity_penalty": penalty,
            "max_new_tokens": 4,
            "min_new_tokens": 4,
        }
        return {tuple(s.ids) for s in generate(models[1], [[3]], eos_id=EOS, num_return_sequences=4, **options)}

    assert len(different(1e-9)) == 1
    assert len(different(50.0)) == 4


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_beam_groups": 2, "diversity_penalty": 1.0}, "num_beam_groups 2 has no effect without beams"),
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, "3 must divide num_beams 4"),
        ({"num_beams": 4, "num_beam_groups": 2}, "needs a diversity_penalty above 0"),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": -1.0}, "needs a diversity_penalty above 0"),
        ({"num_beams": 4, "diversity_penalty": 1.0}, "diversity_penalty 1.0 has no effect without num_beam_groups"),
    ],
)
def test_refused(models, checkpoint, options, message):  # noqa: F811
    with pytest.raises(ValueError, match=message):
        generate(models[1], [[]], eos_id=EOS, **options)
    given = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    for name in ("num_beams", "num_beam_groups", "diversity_penalty"):
        message = message.replace(name, f"--{name.replace('_', '-')}")
    if min(options.values()) > 0:
        with pytest.raises(UserError, match=message):
            invoke(checkpoint, *given)


def test_command(checkpoint, tmp_path):  # noqa: F811
    plain = ["--num-beams", 4, "-n", 4, "--prompt", "Tom"]
    groups = ["--num-beam-groups", 4, "--diversity-penalty", 3]
    result = [row["text"] for row in records(checkpoint, *plain, *groups)]
    assert result != [row["text"] for row in records(checkpoint, *plain)]
    path = write_checkpoint(tmp_path / "step-00000040")
    (path / "generation.yaml").write_text("{num_beams: 4, num_beam_groups: 4, diversity_penalty: 3}")
    assert [row["text"] for row in records(path, "-n", 4, "--prompt", "Tom")] == result
    assert invoke(path, "--num-beams", 1).stdout == invoke(checkpoint).stdout

"""``textgan classify``, and ``textgan sample`` with a judge, on small runs."""

import json

import pytest
import torch

from tests.commands import invoke
from textgan.cli.choosing import choose
from textgan.cli.classify import classify
from textgan.cli.sample import sample
from textgan.configfile import load_config
from textgan.errors import UserError
from textgan.training import run
from textgan.training.classifying import load_classifier, score_texts, text_judge
from textgan.training.critic import load_critic
from textgan.training.loading import load_for_sampling

SMALL = ["threads=1", "evaluation.samples=4", "evaluation.final_samples=4", "data.size=300"]
STORIES = "configs/classifier/stories.yaml"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "classifier"
    overrides = ["encoder.n_embd=16", "encoder.n_layer=1", "classifier.max_steps=40", "classifier.batch_size=16"]
    run.train(load_config(STORIES, [*SMALL, *overrides]), folder)
    return str(folder)


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "gan"
    run.train(load_config("configs/smoke.yaml", [*SMALL, "adversarial.continuation=none"]), folder)
    return str(folder)


GOOD = "One rainy evening, an otter named Ada wanted to see the sea. She danced all the way home."
BAD = "One foggy morning, a boy named Tom lost his red kite. He walked slowly home."


def test_each_line_gets_its_class_and_its_probability(classifier, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text(f"{GOOD}\n{BAD}\n")
    trained = load_classifier(classifier)
    expected = trained.probabilities([GOOD, BAD])
    lines = invoke(classify, classifier, path).stdout.splitlines()
    assert [line.split("\t") for line in lines] == [
        [trained.classes[row.argmax()], f"{row.max():.4f}", text]
        for row, text in zip(expected, (GOOD, BAD), strict=True)
    ]
    printed = invoke(classify, classifier, "-", "--json", stdin=f"{GOOD}\n{BAD}\n").stdout
    records = [json.loads(line) for line in printed.splitlines()]
    for record, row, text in zip(records, expected, (GOOD, BAD), strict=True):
        assert record["text"] == text
        assert record["label"] == trained.classes[row.argmax()]
        assert record["probabilities"] == pytest.approx(dict(zip(trained.classes, row.tolist(), strict=True)))
        assert sum(record["probabilities"].values()) == pytest.approx(1)


def sampled(*args):
    return [json.loads(line) for line in invoke(sample, *args, "--json").stdout.splitlines()]


def test_the_best_of_several_is_the_likeliest_of_its_class(classifier, gan):
    every = [record["text"] for record in sampled(gan, "-n", 12)]
    found = sampled(gan, "-n", 3, "--best-of", 4, "--judge", classifier, "--class", "bad")
    trained = load_classifier(classifier)
    for i, record in enumerate(found):
        group = every[4 * i : 4 * i + 4]
        p = trained.probabilities(group)[:, trained.classes.index("bad")]
        assert record["text"] == group[int(p.argmax())]
        assert record["score"] == pytest.approx(float(p.max().log()), abs=1e-6)
        assert (record["index"], record["best_of"]) == (i, 4)
    assert len({record["text"] for record in found}) == 3
    options = ("--best-of", 4, "--judge", classifier, "--class", "bad")
    again = [record["text"] for record in sampled(gan, "-n", 2, *options, "--batch-size", 3)]
    assert again == [record["text"] for record in found[:2]]
    other = sampled(gan, "-n", 3, "--best-of", 4, "--judge", classifier, "--class", "good")
    assert [record["text"] for record in other] != [record["text"] for record in found]


def test_each_prompt_gets_the_best_of_its_own(classifier, gan, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("One rainy\nIt was\n")
    found = sampled(gan, "--prompts", path, "--best-of", 3, "--judge", classifier, "--class", "good")
    assert [record["prompt"] for record in found] == ["One rainy", "It was"]


def test_a_critic_judges_too(gan):
    every = [record["text"] for record in sampled(gan, "-n", 4)]
    critic, model = load_critic(gan)
    scores = score_texts(critic, model.tokenizer, every)
    (found,) = sampled(gan, "-n", 1, "--best-of", 4, "--judge", gan)
    assert found["text"] == every[int(scores.argmax())]
    for text, score in zip(every, scores, strict=True):
        ids = [*model.tokenizer.encode(text)[:95], 0]
        by_hand = critic(torch.tensor([ids]), torch.tensor([len(ids)])).sequence.double()
        torch.testing.assert_close(score, by_hand[0], atol=1e-5, rtol=1e-5)


def test_the_first_of_equals_is_taken_and_batches_do_not_matter():
    records = [{"index": i, "text": str(i)} for i in range(6)]
    judge = {"0": 1, "1": 2, "2": 2, "3": 0, "4": 5, "5": 4}
    for cuts in ([6], [1, 5], [4, 2], [2, 2, 2]):
        chosen = choose(iter(_cut(records, cuts)), 3, lambda texts: torch.tensor([judge[text] for text in texts]))
        found = [record for batch in chosen for record in batch]
        assert [(r["index"], r["text"], r["score"]) for r in found] == [(0, "1", 2.0), (1, "4", 5.0)]


def _cut(records, sizes):
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [records[end - size : end] for end, size in zip(ends, sizes, strict=True)]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--best-of", "4"], "belong together: give both"),
        (["--class", "good"], "--class good is for --judge RUN"),
        (["--best-of", "4", "--judge", "CLASSIFIER"], "give --class one of bad, good, none"),
        (["--best-of", "4", "--judge", "CLASSIFIER", "--class", "god"], "it has no class 'god'; give --class one of"),
        (["--best-of", "4", "--judge", "GAN", "--class", "good"], "which knows no classes"),
        (["--best-of", "4", "--judge", "GAN", "--temperature", "0"], "nothing is drawn at these settings"),
    ],
)
def test_options_that_lack_each_other_are_refused(classifier, gan, options, message):
    given = [{"CLASSIFIER": classifier, "GAN": gan}.get(option, option) for option in options]
    with pytest.raises(UserError, match=message):
        invoke(sample, gan, *given)


def test_neither_kind_of_run_is_taken_for_the_other(classifier, gan):
    with pytest.raises(UserError, match=r"is no classifier \(phase adversarial\)"):
        load_classifier(gan)
    with pytest.raises(UserError, match="is a classifier, which writes no texts"):
        load_for_sampling(classifier)
    with pytest.raises(UserError, match="has no discriminator"):
        text_judge(f"{gan}/checkpoints/mle", None, "cpu")

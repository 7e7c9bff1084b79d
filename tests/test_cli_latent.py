"""``textgan sample`` on a small untrained VAE: what it prints, refuses, and what must be the same text."""

import json
from functools import partial

import pytest
import torch

from tests import commands
from textgan.cli import output
from textgan.cli import sample as command
from textgan.config import Config
from textgan.data.dataset import TokenDataset
from textgan.data.tokenizer import train_tokenizer
from textgan.errors import UserError
from textgan.models.latent_gan import LatentMapper
from textgan.sampling.latent import LatentGenerator
from textgan.sampling.latent_likelihood import diagnose
from textgan.training.building import build_generator, build_vae
from textgan.training.checkpoint import point, save_checkpoint
from textgan.training.loading import load_for_sampling

TEXTS = ["Lily sees a red ball .", "Tom has a small dog .", "the dog runs to Lily .", "Tom sees the ball ."]
CHINESE = ["小猫在花园里玩", "小狗在家里睡", "小鸟在树上唱"]
BLOCK, Z = 12, 4
A, B = TEXTS[0], "Tom has a dog"
ENGLISH = ["--interpolate", A, B]


def make_config(shape="flat"):
    lstm = shape == "lstm"
    kind = {"kind": "lstm", "n_hidden": 8} if lstm else {}
    sections = {
        "generator": {"block_size": BLOCK, "n_layer": 1 if lstm else 2, "n_head": 2, "n_embd": 8, "dropout": 0.1},
        "encoder": {"n_layer": 1 if lstm else 2, "n_head": 2, "n_embd": 8, "dropout": 0.1},
        "vae": {"z_size": Z, "latents": "flat" if lstm else shape},
        "latent_gan": {},
    }
    sections["generator"] |= kind
    sections["encoder"] |= kind
    return Config.model_validate(sections)


def shaken(model, scale=0.5):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * scale
    return model


def write_run(run, shape="flat", kind="word", texts=TEXTS, *, fitted=True):
    """A run with all that a VAE run has at its end: the arms mle, vae and latent_gan."""
    tokenizer = train_tokenizer(kind, texts, min_count=1, lowercase=False)
    config = make_config(shape)
    torch.manual_seed(3)
    vae = shaken(build_vae(config, tokenizer.vocab_size))
    if fitted:
        vae.aggregate_mean.copy_(torch.arange(Z) - 1.0)
        vae.aggregate_factor.copy_(torch.tril(torch.ones(Z, Z)))
    parts = {"config": config, "tokenizer": tokenizer, "state": {}}
    root = run / "checkpoints"
    for arm, model in (("mle", shaken(build_generator(config, tokenizer.vocab_size))), ("vae", vae)):
        save_checkpoint(root / arm, generator=model, meta={"step": 40, "phase": arm}, **parts)
    shape = config.latent_gan
    vae.latent_generator = shaken(LatentMapper(Z, shape.noise_size, shape.n_layer, shape.n_hidden))
    save_checkpoint(root / "latent_gan", generator=vae, meta={"step": 60, "phase": "latent_gan"}, **parts)
    point(root / "vae", "best")
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module", params=["flat", "layerwise", "lstm"])
def each_run(request, run, tmp_path_factory):
    return run if request.param == "flat" else write_run(tmp_path_factory.mktemp("run"), request.param)


@pytest.fixture
def files(tmp_path):
    """Paths of two sets of texts, made in the folder of the test."""
    (tmp_path / "a.txt").write_text("\n".join(TEXTS[:2]) + "\n")
    (tmp_path / "b.txt").write_text("\n".join(TEXTS[2:]) + "\n")
    return tmp_path / "a.txt", tmp_path / "b.txt"


invoke = partial(commands.invoke, command.sample)


def records(*args, **kwargs):
    return [json.loads(line) for line in invoke(*args, "--json", **kwargs).stdout.splitlines()]


def texts(*args, **kwargs):
    return [record["text"] for record in records(*args, **kwargs)]


def ids_of(run, record):
    """The ids that a record's text was written with."""
    tokenizer = load_for_sampling(run).tokenizer
    vocabulary = tokenizer.tokens(range(tokenizer.vocab_size))
    return [vocabulary.index(token) for token in record["tokens"]]


def log_prob(vae, ids, z):
    """log p(x | z) of the ids of a text with its end."""
    with torch.no_grad():
        return vae.log_likelihood(torch.tensor([[0, *ids]]), torch.tensor([len(ids)]), z[None]).item()


# ------------------------------------------------------------------------------------------- drawn latents


def test_latents_of_the_prior_by_default(each_run):
    found = records(each_run, "-n", 20, "--seed", 5)
    vae = load_for_sampling(each_run / "checkpoints" / "vae").generator.vae.double()
    z = LatentGenerator(vae).latents(5, 0, 20)
    for record, own in zip(found, z, strict=True):
        assert record["latents"] == {"source": "prior", "z_temperature": 1.0}
        assert "log_prob" not in record  # it would be taken for log p(x)
        value = log_prob(vae, ids_of(each_run, record), own)
        assert record["log_prob_given_z"] == pytest.approx(value, abs=1e-9)
    assert "z from the prior, temperature 1.0" in invoke(each_run).stderr


def test_same_seed_same_text(each_run):
    ten = texts(each_run, "-n", 10)
    assert texts(each_run, "-n", 10, "--batch-size", 3) == ten
    assert texts(each_run, "-n", 5) == ten[:5] == texts(each_run)
    assert texts(each_run, "-n", 10, "--seed", 1) != ten


@pytest.mark.parametrize(
    "args, latents, told",
    [
        (["--latent", "prior"], ("prior", 1.0), "z from the prior, "),
        (["--latent", "aggregate"], ("aggregate", 1.0), "z from a Gaussian fitted to the aggregate posterior (not the"),
        (["--latent", "gan"], ("gan", 1.0), "z from the latent GAN (not the model's prior), "),
        (["--z-temperature", 0.25], ("prior", 0.25), "z from the prior, z-temperature 0.25, "),
        (["--latent", "aggregate", "--z-temperature", 2], ("aggregate", 2.0), "z-temperature 2.0"),
    ],
)
def test_sources_of_latents(run, args, latents, told):
    greedy = ["-n", 12, "--temperature", 0]
    found = records(run, *greedy, *args)
    source, heat = latents
    assert found[0]["latents"] == {"source": source, "z_temperature": heat}
    assert told in invoke(run, *args).stderr
    vae = load_for_sampling(run / "checkpoints" / "latent_gan").generator.vae.double()
    z = LatentGenerator(vae, source, heat).latents(0, 0, 12)
    for record, own in zip(found, z, strict=True):
        assert record["log_prob_given_z"] == pytest.approx(log_prob(vae, ids_of(run, record), own), abs=1e-9)


def test_a_latent_gan_uses_its_own_unless_told(run):
    trained = run / "checkpoints" / "latent_gan"
    assert records(trained)[0]["latents"]["source"] == "gan"
    assert texts(trained) == texts(run, "--latent", "gan")  # of a run: the arm, though its best is another
    assert records(run, "--latent", "gan")[0]["checkpoint"] == str(trained)
    assert texts(trained, "--latent", "prior") == texts(run)


def test_greedy_texts_differ_by_their_latents(run):
    result = invoke(run, "--temperature", 0, "-n", 12)
    assert "nothing is drawn" not in result.stderr
    assert len(set(result.stdout.split("\n\n"))) > 1
    assert len(texts(run, "--temperature", 0)) == 5


def test_prompts(run):
    assert all(text.startswith("Tom has") for text in texts(run, "--prompt", "Tom has", "-n", 6))


def test_the_arm_without_latents_is_any_generator(run):
    found = records(run / "checkpoints" / "mle", "-n", 3)
    assert "log_prob" in found[0]
    assert not {"latents", "log_prob_given_z"} & set(found[0])
    assert ": temperature 1.0" in invoke(run / "checkpoints" / "mle").stderr


# ------------------------------------------------------------------------------------------- reconstruction


def test_reconstructed_lines(each_run, files):
    found = records(each_run, "--reconstruct", files[0])
    model = load_for_sampling(each_run / "checkpoints" / "vae")
    vae, tokenizer = model.generator.vae.double(), model.tokenizer
    assert [record["input"] for record in found] == TEXTS[:2]
    for i, record in enumerate(found):
        ids = tokenizer.encode(TEXTS[i])
        with torch.no_grad():
            row = torch.tensor([[*ids, 0]])
            z = vae.infer(vae.encode(row, torch.tensor([len(ids) + 1])), torch.zeros(1, Z).double()).z[0]
        assert record["input_tokens"] == tokenizer.tokens(ids)
        assert record["input_log_prob_given_z"] == pytest.approx(log_prob(vae, [*ids, 0], z), abs=1e-9)
        written = ids_of(each_run, record)
        assert record["log_prob_given_z"] == pytest.approx(log_prob(vae, written, z), abs=1e-9)
        assert record["exact"] is (written == [*ids, 0])
        assert record["index"] == i
        assert record["settings"]["temperature"] == 0
        assert record["latents"] == {"source": "posterior mean"}
    line = texts(each_run, "--text", TEXTS[1])
    assert line == [found[1]["text"]]


def test_log_likelihood_is_the_reconstruction_term_of_a_posterior_without_spread(run):
    model = load_for_sampling(run)
    vae = model.generator.vae.double()
    with torch.no_grad():
        vae.posterior[0].weight[Z:], vae.posterior[0].bias[Z:] = 0, -60
    rows = [[0, *model.tokenizer.encode(text), 0] for text in TEXTS]
    offsets = torch.tensor([0, *map(len, rows)]).cumsum(0)
    dataset = TokenDataset(torch.tensor([token for row in rows for token in row]), offsets, 0)
    found = diagnose(vae, dataset, seed=0, batch_size=4, device="cpu")
    stdin = "\n".join(TEXTS)
    values = [r["input_log_prob_given_z"] for r in records(run, "--reconstruct", "-", stdin=stdin)]
    assert values == pytest.approx((-found.recon).tolist(), abs=1e-6)


def test_readable_reconstructions(run, files):
    result = invoke(run, "--reconstruct", files[0])
    blocks = result.stdout.split("\n\n")
    assert len(blocks) == 2
    for record, block in zip(records(run, "--reconstruct", files[0]), blocks, strict=True):
        far, total = record["edit_distance"], len(record["input_tokens"])
        told = f"log p(x|z) {record['input_log_prob_given_z']:.2f}, edit distance {far} of {total} tokens"
        lines = [f"text     {record['input']}", f"written  {record['text']}", f"         {told}"]
        assert block.rstrip("\n").split("\n") == [line.rstrip() for line in lines]
    assert "z at the posterior mean of each text, temperature 0.0" in result.stderr
    assert "2 texts compared: 0 exact (0 %), BLEU-4 0." in result.stderr
    assert invoke(run, "--reconstruct", files[0], "--batch-size", 1).stdout == result.stdout
    lines = invoke(run, "--reconstruct", files[0], "--lines").stdout
    assert lines.splitlines() == texts(run, "--reconstruct", files[0])


def test_the_last_line_sums_up(run, tmp_path):
    """What the model writes of its own texts is compared by hand."""
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS))
    found = records(run, "--reconstruct", path)
    line = invoke(run, "--reconstruct", path).stderr.splitlines()[-1]
    edits = sum(record["edit_distance"] for record in found) / 4
    log_probs = sum(record["input_log_prob_given_z"] for record in found) / 4
    length = sum(len(record["input_tokens"]) for record in found) / 4
    assert line.startswith("4 texts compared: ")
    assert line.endswith(f"edit distance {edits:.1f} of {length:.1f} tokens, log p(x|z) {log_probs:.2f} nats a text")


def test_an_exact_copy(tmp_path):
    """A decoder that writes `dog dog` from any latent, and ends where it must not go on."""
    run = write_run(tmp_path / "run")
    folder = run / "checkpoints" / "vae"
    model = load_for_sampling(folder)
    vae, dog = model.generator.vae, model.tokenizer.encode("dog")[0]
    vae.decoder.logit_bias.fill_(-100)
    vae.decoder.logit_bias[dog], vae.decoder.logit_bias[0] = 100, 0
    parts = {"config": model.config, "tokenizer": model.tokenizer, "state": {}, "meta": {"step": 40, "phase": "vae"}}
    save_checkpoint(folder, generator=vae, **parts)
    for options, exact in ((["--no-repeat-ngram-size", 2], True), (["--max-new-tokens", 2], False)):
        args = [run, "--text", "dog dog", *options]
        (record,) = records(*args)
        assert (record["text"], record["edit_distance"], record["exact"]) == ("dog dog", 0, exact)
        told = f"{int(exact)} exact ({100 * exact} %), BLEU-2 1.000, edit distance 0.0 of 2.0 tokens"
        assert told in invoke(*args).stderr
        assert (", exact\n" in invoke(*args).stdout) is exact
    (record,) = records(run, "--text", "Tom has a dog", "--no-repeat-ngram-size", 2)
    assert (record["edit_distance"], record["exact"]) == (3, False)


def test_unknown_words_are_counted(run, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("Lily met a Zebra .\nTom met <unk> .\n")
    told = invoke(run, "--reconstruct", path).stderr
    assert "note: --reconstruct: 3 of 9 words are unknown to the model and read as <unk>: `met`, `Zebra`\n" in told
    found = records(run, "--reconstruct", path)
    assert found[0]["input_tokens"] == ["Lily", "<unk>", "a", "<unk>", "."]
    assert "<unk>" not in " ".join(record["text"] for record in found)
    many = invoke(run, "--text", "one two three four five six").stderr
    assert "note: --text: 6 of 6 words" in many
    assert "`five` and 1 more" in many


def test_drawn_reconstructions(run, files):
    path = files[0]
    drawn = records(run, "--reconstruct", path, "-n", 3, "--temperature", 1)
    assert [record["input"] for record in drawn] == [TEXTS[0]] * 3 + [TEXTS[1]] * 3
    assert len({record["text"] for record in drawn[:3]}) > 1
    assert len({record["input_log_prob_given_z"] for record in drawn}) == 2
    assert texts(run, "--reconstruct", path, "-n", 3, "--temperature", 1, "--batch-size", 2) == [
        record["text"] for record in drawn
    ]
    assert texts(run, "--text", TEXTS[0], "-n", 5, "--temperature", 1)[:3] == [r["text"] for r in drawn[:3]]
    assert "the 2 versions of a text are the same" in invoke(run, "--text", TEXTS[0], "-n", 2).stderr
    assert records(run, "--text", A, "--num-beams", 3)[0]["settings"]["num_beams"] == 3


def test_checkpoint_defaults(tmp_path):
    """Its temperature is for drawing: texts are written anew greedily; its other settings count."""
    run = write_run(tmp_path / "run")
    plain = texts(run, "--text", A)
    (run / "checkpoints" / "vae" / "generation.yaml").write_text("{temperature: 0.7, top_k: 4, max_new_tokens: 2}")
    (record,) = records(run, "--text", A)
    assert record["text"] != plain[0]
    assert len(record["tokens"]) == 2
    assert (record["settings"]["temperature"], record["settings"]["top_k"]) == (0, None)
    drawn = records(run, "--text", A, "--temperature", 1)[0]["settings"]
    assert (drawn["temperature"], drawn["top_k"]) == (1, 4)


def test_output_file(run, files):
    path = files[0].with_name("out.txt")
    assert invoke(run, "--reconstruct", files[0], "--output", path).stdout == ""
    assert path.read_text() == invoke(run, "--reconstruct", files[0]).stdout


# ------------------------------------------------------------------------------------------- interpolation


@pytest.mark.parametrize("way", ["spherical", "linear"])
@pytest.mark.parametrize("steps", [2, 7])
def test_ends_are_the_reconstructions(each_run, way, steps):
    found = records(each_run, *ENGLISH, "--steps", steps, "--way", way)
    assert len(found) == steps
    for record, text in ((found[0], A), (found[-1], B)):
        (alone,) = records(each_run, "--text", text)
        for key in ("text", "tokens", "finish_reason"):
            assert record[key] == alone[key]
        assert record["log_prob_given_z"] == pytest.approx(alone["log_prob_given_z"], abs=1e-9)
    assert [record["share"] for record in found] == pytest.approx([i / (steps - 1) for i in range(steps)])
    assert {(record["from"], record["to"]) for record in found} == {(A, B)}
    assert found[0]["latents"] == {"source": "interpolation", "way": way, "steps": steps}


def test_ends_are_the_reconstructions_byte_for_byte(run, tmp_path):
    (tmp_path / "ends.txt").write_text(f"{A}\n{B}\n")
    ends = invoke(run, "--reconstruct", tmp_path / "ends.txt", "--lines").stdout.splitlines()
    way = invoke(run, *ENGLISH, "--lines").stdout.splitlines()
    assert [way[0], way[-1]] == ends
    assert len(set(way)) > 1


def test_ways_differ_in_the_middle(run):
    ways = [[r["log_prob_given_z"] for r in records(run, *ENGLISH, "--way", way)] for way in ("spherical", "linear")]
    assert ways[0] == [r["log_prob_given_z"] for r in records(run, *ENGLISH)]
    assert all(abs(a - b) > 1e-9 for a, b in zip(ways[0][1:-1], ways[1][1:-1], strict=True))


def test_readable_way(run):
    result = invoke(run, *ENGLISH, "--steps", 3)
    a, middle, b = texts(run, *ENGLISH, "--steps", 3)
    expected = f"A     {A}\n0.00  {a}\n0.50  {middle}\n1.00  {b}\nB     {B}\n"
    assert result.stdout == "\n".join(line.rstrip() for line in expected.split("\n"))
    assert "z on the spherical way from A to B, 3 steps, temperature 0.0" in result.stderr
    assert invoke(run, *ENGLISH, "--steps", 3, "--batch-size", 2).stdout == result.stdout


def test_drawn_ways_use_the_same_numbers_at_each_step(run):
    drawn = [*ENGLISH, "--steps", 5, "--temperature", 1]
    found = texts(run, *drawn, "-n", 3)
    assert texts(run, *drawn, "-n", 3, "--batch-size", 4) == found
    assert texts(run, *drawn) == found[:5]  # -n 3 begins with -n 1
    assert len({tuple(found[i : i + 5]) for i in (0, 5, 10)}) > 1
    # Between a text and itself, nothing changes but what is drawn; so nothing may.
    same = texts(run, "--interpolate", A, A, "--steps", 4, "--temperature", 1, "-n", 2)
    assert len(set(same[:4])) == len(set(same[4:])) == 1
    assert same[0] == texts(run, "--text", A, "--temperature", 1)[0]
    assert same[4] == texts(run, "--text", A, "--temperature", 1, "-n", 2)[1]
    blocks = invoke(run, *drawn, "-n", 2).stdout.split("\n\n")
    assert [block.split()[0] for block in blocks] == ["A", "A"]


# ------------------------------------------------------------------------------------------- around


def test_around_a_text(each_run):
    found = records(each_run, "--around", A, "--radius", 2)
    assert len(found) == 5
    assert {record["input"] for record in found} == {A}
    assert all(record["distance"] > 0 for record in found)
    assert len({record["log_prob_given_z"] for record in found}) == 5
    assert found[0]["latents"] == {"source": "around the posterior mean", "radius": 2.0}
    ten = texts(each_run, "--around", A, "--radius", 2, "-n", 10)
    assert ten[:5] == [record["text"] for record in found]
    assert texts(each_run, "--around", A, "--radius", 2, "-n", 10, "--batch-size", 3) == ten
    drawn = ["--around", A, "--temperature", 1, "-n", 4]
    assert texts(each_run, *drawn) == texts(each_run, *drawn, "--batch-size", 3)


def test_radius_and_seed(run):
    near, usual, twice = (
        [r["distance"] for r in records(run, "--around", A, *args)] for args in (["--radius", 0.5], [], ["--radius", 2])
    )
    assert near == pytest.approx([0.5 * distance for distance in usual])
    assert twice == pytest.approx([2 * distance for distance in usual])
    assert usual != [r["distance"] for r in records(run, "--around", A, "--seed", 1)]
    assert texts(run, "--around", A, "--radius", 1e-9) == texts(run, "--text", A) * 5


def test_readable_places(run):
    result = invoke(run, "--around", A, "-n", 3)
    found = texts(run, "--around", A, "-n", 3)
    lines = [f"text  {A}", *(f"{i}     {text}" for i, text in enumerate(found, 1))]
    assert result.stdout == "".join(line.rstrip() + "\n" for line in lines)
    assert "z 1 posterior deviations from the mean of the text, temperature 0.0" in result.stderr
    assert "nothing is drawn" not in result.stderr


# ------------------------------------------------------------------------------------------- attributes


def test_attributes(each_run, files):
    sets = ["--attribute-from", files[0], "--attribute-to", files[1]]
    found = records(each_run, "--reconstruct", files[0], *sets)
    plain = texts(each_run, "--reconstruct", files[0])
    assert [record["before"] for record in found] == plain
    assert [record["input"] for record in found] == TEXTS[:2]
    far = records(each_run, "--reconstruct", files[0], *sets, "--strength", 50)
    assert [record["before"] for record in far] == plain
    assert all(record["text"] != record["before"] for record in far)
    still = records(each_run, "--reconstruct", files[0], *sets, "--strength", 0)
    assert [record["text"] for record in still] == plain
    (single,) = records(each_run, "--text", TEXTS[1], *sets)
    assert (single["before"], single["text"]) == (found[1]["before"], found[1]["text"])
    # All the way from one text to another is that other text.
    one, two = (files[0].with_name(name) for name in ("one.txt", "two.txt"))
    one.write_text(TEXTS[3])
    two.write_text(TEXTS[0])
    there = ["--attribute-from", one, "--attribute-to", two]
    back = ["--attribute-from", two, "--attribute-to", one, "--strength", -1]
    for way in (there, back):
        assert texts(each_run, "--text", TEXTS[3], *way) == texts(each_run, "--text", TEXTS[0])


def test_direction_is_reported(run, files):
    args = [run, "--text", B, "--attribute-from", files[0], "--attribute-to", files[1], "--strength", 0.5]
    (record,) = records(*args)
    latents = record["latents"]
    assert (latents["strength"], latents["texts_from"], latents["texts_to"]) == (0.5, 2, 2)
    model = load_for_sampling(run)
    vae = model.generator.vae.double()
    means = []
    for text in TEXTS:
        ids = [*model.tokenizer.encode(text), 0]
        with torch.no_grad():
            features = vae.encode(torch.tensor([ids]), torch.tensor([len(ids)]))
            means.append(vae.infer(features, torch.zeros(1, Z).double()).mu[0])
    direction = torch.stack(means[2:]).mean(0) - torch.stack(means[:2]).mean(0)
    assert latents["length"] == pytest.approx(direction.norm().item())
    told = invoke(*args).stderr
    share = f"{100 * latents['separation']:.0f} %"
    assert (
        f"z moved by 0.5 x {latents['length']:.2f} prior deviations, the difference of 2 and 2 texts, {share}" in told
    )
    assert ("direction may mean nothing" in told) == (latents["separation"] <= 0.6)
    assert invoke(*args, "--batch-size", 1).stdout == invoke(*args).stdout


def test_readable_changes(run, files):
    args = [run, "--reconstruct", files[0], "--attribute-from", files[0], "--attribute-to", files[1]]
    blocks = invoke(*args).stdout.split("\n\n")
    for record, block in zip(records(*args), blocks, strict=True):
        lines = [f"text    {record['input']}", f"before  {record['before']}", f"after   {record['text']}"]
        assert block.rstrip("\n").split("\n") == [line.rstrip() for line in lines]


def test_sets_of_one(run, tmp_path):
    (tmp_path / "one.txt").write_text(A)
    (tmp_path / "two.txt").write_text(B)
    sets = ["--attribute-from", tmp_path / "one.txt", "--attribute-to", tmp_path / "two.txt"]
    assert "note: a set of one text" in invoke(run, "--text", A, *sets).stderr
    assert records(run, "--text", A, *sets)[0]["latents"]["separation"] is None


# ------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "args, message",
    [
        (["--text", A, "--around", A], "--text and --around are two tasks: give one"),
        (["--reconstruct", "x", *ENGLISH], "--reconstruct and --interpolate are two tasks"),
        (["--steps", 3], "--steps has no effect without --interpolate; leave it away"),
        (["--around", A, "--way", "linear"], "--way has no effect without --interpolate"),
        (["--text", A, "--radius", 2], "--radius has no effect without --around"),
        (["--text", A, "--strength", 2], "--strength has no effect without --attribute-from"),
        (["--text", A, "--attribute-from", "x"], "--attribute-from gives one of two sets of texts: add --attribute-to"),
        (["--text", A, "--attribute-to", "x"], "--attribute-to gives one of two sets of texts: add --attribute-from"),
        (["--attribute-from", "x", "--attribute-to", "y"], "name them by --reconstruct FILE or --text TEXT"),
        (["--around", A, "--attribute-from", "x", "--attribute-to", "y"], "name them by --reconstruct"),
        (["--text", A, "--prompt", "Tom"], "--text writes whole texts: --prompt and --prompts have no effect"),
        (["--text", A, "--latent", "prior"], "--text takes z from texts, none is drawn: --latent has no effect"),
        (["--around", A, "--z-temperature", 2], "--z-temperature has no effect"),
        (["--text", A, "--attribute-from", "x", "--attribute-to", "./x"], "are the same file, ./x: give two sets"),
        (["--reconstruct", "-", "--attribute-from", "-", "--attribute-to", "x"], "given more than once"),
        (["--text", A, "--attribute-from", "/no/x", "--attribute-to", "y"], "--attribute-from /no/x: No such file"),
        (["--reconstruct", "/no/x"], "--reconstruct /no/x: No such file"),
        (["--text", A, "--top-p", 0.9], r"--temperature 0 \(the default here\) is greedy .*: --top-p has no effect"),
        (["--text", " "], "--text is empty: a text is needed"),
        (["--interpolate", A, ""], "--interpolate, text B is empty"),
        (["--around", "the dog " * 6], "--around: 12 tokens, but the model reads 12 with the closing one: shorten"),
    ],
)
def test_refused_combinations(run, args, message):
    with pytest.raises(UserError, match=message) as caught:
        invoke(run, *args)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "flag, value",
    [("--radius", 0), ("--radius", "inf"), ("--steps", 1), ("--z-temperature", 0), ("--z-temperature", "nan"),
     ("--strength", "inf"), ("--way", "round"), ("--latent", "posterior")],
)  # fmt: skip
def test_values_out_of_range(run, flag, value):
    assert flag in invoke(run, "--around", A, flag, value, code=2).stderr


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty: needed is one text a line"),
        (b"Tom\n\nLily\n", "line 2 is empty: a text is needed"),
        (b"Tom\n\xff\n", "line 2: not UTF-8"),
        (b"Tom\n" + b"dog " * 12, "line 2: 12 tokens, but the model reads 12 with the closing one"),
    ],
)
@pytest.mark.parametrize("option", ["--reconstruct", "--attribute-from", "--attribute-to"])
def test_refused_files(run, files, option, content, message):
    path = files[0].with_name("bad.txt")
    path.write_bytes(content)
    sets = {"--attribute-from": files[0], "--attribute-to": files[1], "--reconstruct": files[0]} | {option: path}
    with pytest.raises(UserError, match=message):
        invoke(run, *[part for pair in sets.items() for part in pair])


def test_longest_text(run):
    assert len(records(run, "--text", " ".join(["dog"] * (BLOCK - 1)))) == 1


@pytest.mark.parametrize(
    "args", [["--text", A], ENGLISH, ["--around", A], ["--latent", "prior"], ["--z-temperature", 0.5]]
)
def test_models_without_latents(run, args):
    folder = run / "checkpoints"
    with pytest.raises(UserError, match=rf"{args[0]}: \S+/mle \(phase mle\) has no latents; give {folder}/vae"):
        invoke(folder / "mle", *args)


def test_a_vae_that_is_still_in_training_is_named(tmp_path):
    """The pointer to the best is on the generator until the weight of the KL has its last value."""
    root = write_run(tmp_path / "run") / "checkpoints"
    (root / "vae").rename(root / "step-00000040")
    point(root / "mle", "best")
    with pytest.raises(UserError, match=rf"--text: \S+/mle \(phase mle\) has no latents; give {root}/step-00000040$"):
        invoke(tmp_path / "run", "--text", A)
    assert len(records(root / "step-00000040", "--text", A)) == 1


def test_no_vae_to_name(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "checkpoints" / "mle").rename(tmp_path / "mle")
    with pytest.raises(UserError, match="has no latents; give the run of a VAE"):
        invoke(tmp_path / "mle", "--text", A)


def test_sources_that_are_not_there(run, tmp_path):
    with pytest.raises(UserError, match=r"--latent gan: .*/vae has no generator of latents; give .*/latent_gan"):
        invoke(run / "checkpoints" / "vae", "--latent", "gan")
    fresh = write_run(tmp_path / "run", fitted=False)
    with pytest.raises(UserError, match=r"--latent aggregate: .*/vae is older than the fit"):
        invoke(fresh, "--latent", "aggregate")


def test_sets_without_a_difference(run, files):
    other = files[0].with_name("same.txt")
    other.write_text(f"{TEXTS[1]}\n{TEXTS[0]}\n")
    with pytest.raises(UserError, match="have the same mean in z; give sets of different texts"):
        invoke(run, "--text", A, "--attribute-from", files[0], "--attribute-to", other)


# ------------------------------------------------------------------------------------------- Chinese, layout


def test_chinese_texts(tmp_path):
    run = write_run(tmp_path / "run", kind="char", texts=CHINESE)
    found = records(run, "--interpolate", CHINESE[0], CHINESE[2], "--steps", 4)
    assert found[0]["text"] == texts(run, "--text", CHINESE[0])[0]
    assert found[-1]["text"] == texts(run, "--text", CHINESE[2])[0]
    told = invoke(run, "--text", "小猫在海里睡").stderr
    assert "note: --text: 1 of 6 characters are unknown to the model and read as <unk>: `海`" in told


def test_labelled_lines():
    rows = [("A", "one two three four"), ("0.50", ""), ("B", "小猫在花园里玩小猫在花园里玩")]
    assert output.labelled(rows, None, 4) == "A     one two three four\n0.50\nB     小猫在花园里玩小猫在花园里玩\n"
    narrow = output.labelled(rows, 26, 4)
    assert narrow == "A     one two three four\n0.50\nB     小猫在花园里玩小猫在\n      花园里玩\n"
    assert output.labelled([("A", "one\ntwo")], None, 1) == "A  one\n   two\n"
    assert max(len(line) for line in output.labelled([("A", "word " * 20)], 5, 4).splitlines()) <= 26


def test_a_terminal_wraps_texts_behind_their_labels(run, monkeypatch):
    from contextlib import contextmanager

    @contextmanager
    def terminal(path):
        yield (lambda text: print(text, end="")), 30

    monkeypatch.setattr(command, "sink", terminal)
    lines = invoke(run, *ENGLISH).stdout.splitlines()
    assert max(map(len, lines)) <= 30
    assert " ".join(line.strip() for line in lines if not line.startswith("0")).startswith(
        "A     Lily sees a red ball ."
    )


def test_ctrl_c_keeps_what_is_done(run, files, monkeypatch):
    import textgan.sampling.decode

    expected = invoke(run, "--reconstruct", files[0]).stdout.split("\n\n")[0] + "\n"
    generate, calls = textgan.sampling.decode.generate, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(*args, **kwargs)

    monkeypatch.setattr(textgan.sampling.decode, "generate", failing)
    result = invoke(run, "--reconstruct", files[0], "--batch-size", 1, code=130)
    assert result.stdout == expected
    assert "1 text compared" in result.stderr
    assert "stopped: 1 of 2 texts are written" in result.stderr

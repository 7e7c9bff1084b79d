"""Every config in configs/ is right as a whole and says something that its defaults do not."""

import math
from pathlib import Path

import pytest

from tests.pretrained_models import as_on_the_hub, save_bert, save_gpt2
from textgan.configfile import describe_config, dump_config, load_config
from textgan.training import run

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))


def test_the_promised_configs_are_there():
    names = {str(path.relative_to(CONFIGS)) for path in FILES}
    assert {
        "quickstart.yaml",
        "smoke.yaml",
        "stories/mle.yaml",
        "stories/gan.yaml",
        "stories/titles.yaml",
        "image_coco/mle.yaml",
        "image_coco/gan.yaml",
        "image_coco/relgan.yaml",
        "image_coco/resplit_mle.yaml",
        "image_coco/resplit_gan.yaml",
        "emnlp_news/mle.yaml",
        "emnlp_news/gan.yaml",
        "vae/stories.yaml",
        "vae/image_coco.yaml",
        "vae/ptb.yaml",
        "vae/ptb_lstm.yaml",
        "vae/image_coco_small.yaml",
        "vae/ptb_small.yaml",
        "vae/yelp.yaml",
        "vae/smoke.yaml",
        "vae/latent_gan.yaml",
        "pretrained/gpt2.yaml",
        "pretrained/gpt2_lora.yaml",
        "classifier/stories.yaml",
    } <= names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_config_loads_and_round_trips(path, tmp_path):
    config = load_config(path)
    for text in (dump_config(config), describe_config(config)):
        copy = tmp_path / "copy.yaml"
        copy.write_text(text, encoding="utf-8")
        assert load_config(copy) == config
    assert path.read_text(encoding="utf-8").startswith("#"), "begin with a comment that says what it is for"


def test_names_are_all_different():
    names = [load_config(path).name for path in FILES]
    assert len(set(names)) == len(names)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Small models, for the names of a hub."""
    folder = tmp_path_factory.mktemp("models")
    save_gpt2(folder / "gpt2")
    save_bert(folder / "bert")
    return {"gpt2": folder / "gpt2", "bert-base-uncased": folder / "bert"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_config_trains_for_two_steps(path, tmp_path, models, monkeypatch):
    overrides = ["threads=1", "evaluation.samples=4", "evaluation.final_samples=4", "data.size=300"]
    overrides += ["evaluation.iw_samples=2", "evaluation.final_iw_samples=2"]
    config = load_config(path)
    for key in ("source", "dev", "test"):
        if str(getattr(config.data, key)).startswith("corpora/"):  # not shipped: texts of the same form
            texts = tmp_path / f"{key}.txt"
            texts.write_text("\n".join(f"A {key} of {i} red buses and a cat on street {i % 9} ." for i in range(150)))
            overrides.append(f"data.{key}={texts}")
    if config.generator.init_from:
        as_on_the_hub(monkeypatch, tmp_path / "hub", **models)
    phases = [phase for phase in ("mle", "adversarial", "vae", "latent_gan", "classifier") if getattr(config, phase)]
    overrides += [line for phase in phases for line in (f"{phase}.max_steps=2", f"{phase}.batch_size=8")]
    steps = 2 * len(phases)
    if config.adversarial:
        overrides.append(f"adversarial.d_pretrain_steps={min(1, config.adversarial.d_pretrain_steps)}")
    if config.vae:
        pretrain = min(1, config.vae.pretrain_steps)
        overrides += [f"vae.pretrain_steps={pretrain}", "vae.kl_ramp_steps=1"]
        if config.vae.bn_whiten:
            overrides.append(f"vae.batch_size={config.vae.z_size + 8}")
        steps += pretrain
    results = run.train(load_config(path, overrides), tmp_path / "run")
    assert results["phases"][phases[-1]]["step"] == steps
    score = {"classifier": "cross_entropy"}
    likely = [phase for phase in results["phases"] if phase != "latent_gan"]  # which has no likelihood
    assert all(math.isfinite(results["phases"][phase]["metrics"][score.get(phase, "nll")]) for phase in likely)


def test_vae_configs_train_the_model_that_they_are_compared_with():
    """Beside each: as many texts, with the same regularisation."""
    found = [load_config(path) for path in FILES if path.parent.name == "vae"]
    assert all(config.vae for config in found)
    for config in found:
        assert config.mle is not None
        assert config.mle.max_steps * config.mle.batch_size >= config.vae.max_steps * config.vae.batch_size
        same = ("weight_decay", "betas", "grad_clip", "ema", "patience", "calibrate")
        assert [getattr(config.mle, key) for key in same] == [getattr(config.vae, key) for key in same], config.name
        assert config.vae.kl_ramp_steps < config.vae.max_steps


def test_the_caption_vae_has_the_data_and_generator_of_the_resplit():
    parent, child = (
        load_config(CONFIGS / "image_coco" / "resplit_mle.yaml"),
        load_config(CONFIGS / "vae/image_coco.yaml"),
    )
    assert (parent.data, parent.tokenizer, parent.generator, parent.mle) == (
        child.data,
        child.tokenizer,
        child.generator,
        child.mle,
    )


@pytest.mark.corpora
@pytest.mark.parametrize("name", ["ptb", "ptb_lstm"])
def test_penn_treebank_is_read_as_published(corpora, name):
    """Mikolov et al. 2010: 10,000 types with the end of a sentence; no token is lost on the way to the rows."""
    splits = {"source": "train", "dev": "valid", "test": "test"}
    overrides = [f"data.{key}={corpora}/ptb/ptb.{split}.txt" for key, split in splits.items()]
    config = load_config(CONFIGS / "vae" / f"{name}.yaml", overrides)
    corpus = run.read_corpus(config)
    tokenizer = run.make_tokenizer(config, corpus)
    assert tokenizer.vocab_size == 10_000
    rows = run.encode(config, corpus, tokenizer)
    assert {split: len(rows[split]) for split in rows} == {"train": 42_068, "dev": 3_370, "test": 3_761}
    tokens = {split: int(dataset.lengths.sum()) for split, dataset in rows.items()}
    assert tokens == {"train": 929_589, "dev": 73_760, "test": 82_430}
    text = (CONFIGS / "vae" / "ptb.yaml").read_text(encoding="utf-8")
    for numbers in ([len(dataset) for dataset in rows.values()], tokens.values()):
        assert " / ".join(f"{n:,}" for n in numbers) in text


@pytest.mark.corpora
def test_the_reviews_keep_their_class(corpora):
    source = f"{corpora}/yelp_short/sentiment.test.*"
    corpus = run.read_corpus(load_config(CONFIGS / "vae" / "yelp.yaml", [f"data.source={source}"]))
    assert set(corpus.labels["dev"]) == {"sentiment.test.0", "sentiment.test.1"}
    assert len(corpus.dev) > 2000 < len(corpus.test)


def test_adversarial_configs_train_their_baseline_too():
    for path in CONFIGS.glob("*/*.yaml"):
        settings = load_config(path).adversarial
        assert settings is None or settings.continuation is not None, path


def test_the_resplit_pools_both_files_and_has_one_topic():
    """The two configs share one split by hash; nothing of it is a file of its own."""
    parent, child = (load_config(CONFIGS / "image_coco" / f"resplit_{name}.yaml") for name in ("mle", "gan"))
    assert parent.data == child.data
    assert (parent.data.dev, parent.data.test, parent.data.dedupe) == (None, None, True)
    assert parent.generator == child.generator
    assert parent.mle == child.mle


@pytest.mark.corpora
def test_the_resplit_has_the_sizes_that_it_names(corpora):
    config = load_config(CONFIGS / "image_coco" / "resplit_mle.yaml", [f"data.source={corpora}/image_coco"])
    corpus = run.read_corpus(config)
    found = [f"{len(texts):,}" for texts in (corpus.train, corpus.dev, corpus.test)]
    assert " / ".join(found) in (CONFIGS / "image_coco" / "resplit_mle.yaml").read_text(encoding="utf-8")

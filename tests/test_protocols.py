"""Protocols: whole, and the same data as they say; runs on other data are told apart."""

import hashlib
from pathlib import Path

import pytest

from textgan.analysis.protocols import check_run, find_protocol, protocols
from textgan.config import Config
from textgan.data.corpus import SPLITS, load_corpus
from textgan.data.words import split_words
from textgan.errors import UserError
from textgan.sampling.samplers import DEFAULT_SAMPLERS, parse_samplers

NAMES = ["emnlp-news", "image-coco-legacy", "image-coco-resplit", "stories", "story-grammar"]
RUN = Path("runs/x")


def config_of(protocol, **generator):
    return Config.model_validate({"data": protocol.data, "generator": {"block_size": 128, **generator}})


def at_home(data, corpora):
    paths = {k: str(corpora / v.removeprefix("corpora/")) for k, v in data.items() if str(v).startswith("corpora/")}
    return {**data, **paths}


def test_all_are_there_and_whole():
    assert [protocol.name for protocol in protocols()] == NAMES
    for protocol in protocols():
        assert protocol.version >= 1
        assert protocol.n >= 1000
        usual = [sampler for sampler in parse_samplers(DEFAULT_SAMPLERS) if sampler.family != "z_temperature"]
        assert parse_samplers(protocol.samplers) == usual  # a protocol says nothing of latents
        assert protocol.split in ("dev", "test")
        assert set(protocol.sizes) == set(SPLITS)
        assert len(protocol.fingerprint) == 64
        config_of(protocol)  # its data section is valid


def test_story_grammar_is_the_data_it_says():
    protocol = find_protocol("story-grammar")
    corpus = load_corpus(**protocol.data)
    assert corpus.fingerprint == protocol.fingerprint
    assert corpus.report.sizes == protocol.sizes
    longest = max(len(split_words(text)) for text in [*corpus.train, *corpus.dev, *corpus.test])
    assert longest < protocol.block_size


@pytest.mark.corpora
@pytest.mark.parametrize("name", [name for name in NAMES if name != "story-grammar"])
def test_real_corpora_are_the_data_they_say(name, corpora):
    protocol = find_protocol(name)
    data = at_home(protocol.data, corpora)
    corpus = load_corpus(**data)
    assert corpus.fingerprint == protocol.fingerprint
    assert corpus.report.sizes == protocol.sizes
    folder = Path(data["source"])
    folder = folder if folder.is_dir() else folder.parent
    for file, digest in protocol.files.items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest
    if name != "stories":  # some of its passages are longer than a model of stories needs to be
        longest = max(len(split_words(text)) for text in [*corpus.train, *corpus.dev, *corpus.test])
        assert protocol.block_size == longest + 1


def test_an_unknown_name_is_told():
    with pytest.raises(UserError, match="did you mean image-coco-legacy"):
        find_protocol("image_coco_legacy")
    with pytest.raises(UserError, match="there are: emnlp-news, image-coco-legacy"):
        find_protocol("x")


def test_a_run_on_the_data_passes():
    for protocol in protocols():
        check_run(protocol, RUN, config_of(protocol), protocol.fingerprint)


def test_a_run_on_other_data_is_refused_with_what_to_train_on():
    protocol = find_protocol("story-grammar")
    other = Config.model_validate({"data": {"source": "stories", "size": 400}})
    with pytest.raises(UserError) as error:
        check_run(protocol, RUN, other, "0" * 64)
    assert "data.size=400, not 50000" in str(error.value)
    assert "data.source=stories data.size=50000 data.seed=0" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="fingerprint 000000000000, not b666648c365b"):
        check_run(protocol, RUN, config_of(protocol), "0" * 64)


def test_a_source_that_is_no_file_is_named():
    other = Config.model_validate({"data": {"source": "stories", "size": 400}})
    with pytest.raises(UserError, match=r"than stories v1 fixes \(data.source=stories, not its files\)"):
        check_run(find_protocol("stories"), RUN, other, "0" * 64)


def test_a_changed_file_is_named(tmp_path):
    protocol = find_protocol("image-coco-resplit")
    (tmp_path / "train.txt").write_text("other text\n")
    other = config_of(protocol).model_dump()
    other["data"]["source"] = str(tmp_path)
    with pytest.raises(UserError, match="is none of its files: SHA-256"):
        check_run(protocol, RUN, Config.model_validate(other), "0" * 64)


def test_a_model_too_short_for_the_texts_is_refused():
    protocol = find_protocol("image-coco-resplit")
    check_run(protocol, RUN, config_of(protocol, block_size=38), protocol.fingerprint)
    with pytest.raises(UserError, match="block_size=38 or more"):
        check_run(protocol, RUN, config_of(protocol, block_size=37), protocol.fingerprint)

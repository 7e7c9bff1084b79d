"""The log of a run: what TensorBoard reads back is what was logged, once, explained, also after a resume."""

import json
import math
import re
import time
from html import unescape

import pytest
from markdown import markdown
from tensorboard.backend.event_processing import data_provider, plugin_event_accumulator, plugin_event_multiplexer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.context import RequestContext
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import backend_context, plugin_data_pb2

from textgan.config import Config
from textgan.configfields import type_of
from textgan.errors import UserError
from textgan.metrics.suite import METRICS
from textgan.training.logging import RunLogger, flatten, trial_of
from textgan.training.tags import HEADLINES, STAGES, TAGS, escape, explain_tag, glossary, layout

CONFIG = Config(name="trial", mle={"lr": 0.5, "calibrate": False})


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def read(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def points(folder, tag):
    return [(event.step, pytest.approx(event.value)) for event in read(folder).Scalars(tag)]


def texts(folder, tag):
    accumulator = plugin_event_accumulator.EventAccumulator(str(folder))  # this one takes back texts as well
    accumulator.Reload()
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in accumulator.Tensors(tag)]


def records(path):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_scalars_go_to_tensorboard_and_metrics_jsonl(folder):
    logger = RunLogger(folder, config=CONFIG)
    logger.scalars(1, {"train/nll": 2.5, "train/grad_norm": 0.1 + 0.2})
    logger.scalars(2, {"train/nll": math.nan, "train/g_loss": -math.inf, "train/d_acc": 1})
    logger.perf(2, {"tokens_per_s": 7.0})
    logger.close("finished")
    assert points(folder, "train/grad_norm") == [(1, 0.3)]
    assert [(e.step, str(e.value)) for e in read(folder).Scalars("train/nll")] == [(1, "2.5"), (2, "nan")]
    assert points(folder, "perf/tokens_per_s") == [(2, 7.0)]
    assert records(folder / "metrics.jsonl") == [
        {"step": 1, "train/nll": 2.5, "train/grad_norm": 0.30000000000000004},
        {"step": 2, "train/nll": None, "train/g_loss": None, "train/d_acc": 1},
    ]
    (timing,) = records(folder / "timing.jsonl")
    assert timing.keys() == {"step", "unix_time", "perf/tokens_per_s"}
    assert abs(timing["unix_time"] - time.time()) < 60


def test_real_text_is_drawn_into_the_same_chart(folder):
    logger = RunLogger(folder, config=CONFIG)
    logger.scalars(5, {"diversity/self_bleu_4": 0.4, "diversity/self_bleu_4_real": 0.3})
    logger.close("finished")
    assert points(folder, "diversity/self_bleu_4") == [(5, 0.4)]
    assert points(folder / "real_text", "diversity/self_bleu_4") == [(5, 0.3)]
    assert records(folder / "metrics.jsonl")[0]["diversity/self_bleu_4_real"] == 0.3


def test_no_second_run_where_nothing_real_is_logged(folder):
    RunLogger(folder, config=CONFIG).close("finished")
    assert sorted(path.name.split(".")[0] for path in folder.iterdir()) == ["events", "metrics", "timing"]


def test_a_tag_without_explanation_is_refused_before_anything_is_written(folder):
    logger = RunLogger(folder, config=CONFIG)
    with pytest.raises(ValueError, match="train/magic has no explanation"):
        logger.scalars(1, {"train/nll": 1.0, "train/magic": 1.0})
    for call in (lambda: logger.perf(1, {"magic": 1}), lambda: logger.text(1, "samples/magic", "x")):
        with pytest.raises(ValueError, match="magic has no explanation"):
            call()
    with pytest.raises(ValueError, match="magic is no metric"):
        logger.summary({"end": (1, {"magic": 1.0})})
    logger.close("failed")
    assert records(folder / "metrics.jsonl") == []
    assert read(folder).Tags()["scalars"] == []


@pytest.mark.parametrize(
    "tag, words",
    [
        ("quality/nll", "negative log-likelihood of dev text"),
        ("quality/bleu_4", "1- to 4-grams that the references hold"),
        ("diversity/self_bleu_3", "1- to 3-grams that the other texts hold"),
        ("diversity/distinct_2_real", "different 2-grams over all 2-grams"),
        ("diversity/unique_real", "of as many real texts"),
        ("summary/end_test_nll_known", "here of the test split"),
        ("summary/best_self_bleu_4", "best dev NLL"),
        ("summary/parent_valid", "grammar"),
        ("at_end/self_bleu_4_real", "at the end of each phase"),
    ],
)
def test_tags_are_explained(tag, words):
    assert words in explain_tag(tag)
    assert "\n" not in explain_tag(tag)


@pytest.mark.parametrize(
    "tag",
    [
        "",
        "nll",
        "quality/",
        "quality/nl",
        "quality/nll_real",
        "train/nll_real",
        "summary/end_x",
        "at_end/ppl",
        "x/bleu_2",
    ],
)
def test_unknown_tags_raise(tag):
    with pytest.raises(ValueError, match="TAGS"):
        explain_tag(tag)


def test_every_metric_of_texts_has_a_group_and_a_line_in_the_glossary():
    page = glossary().replace("\\", "").replace("&lt;", "<").replace("&gt;", ">").replace("&#61;", "=")
    for name in METRICS:
        group = "quality" if name.startswith("bleu") else "diversity"
        assert f"| {group}/{name} | {explain_tag(f'{group}/{name}')} |" in page.replace("&lt;", "<").replace(
            "&gt;", ">"
        )
    for tag in TAGS:
        assert f"| {tag} |" in page


def test_resume_takes_back_what_came_after_the_checkpoint(tmp_path):
    def steps(logger, first, last):
        for step in range(first, last + 1):
            values = {"train/nll": 1 / step, "quality/bleu_2": step / 7, "quality/bleu_2_real": 0.1}
            logger.scalars(step, values)
            logger.perf(step, {"steps_per_s": 1.0})
            logger.text(step, "samples/free", f"text {step}")

    straight = RunLogger(tmp_path / "straight", config=CONFIG)
    steps(straight, 1, 9)
    straight.close("finished")

    folder = tmp_path / "killed"
    killed = RunLogger(folder, config=CONFIG)
    steps(killed, 1, 4)
    position = killed.position()
    killed.scalars(4, {"train/nll": 99.0})  # of the same step, but after the checkpoint
    steps(killed, 5, 7)
    killed._writer.flush()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "trai')
    with (folder / "timing.jsonl").open("a") as file:
        file.write('{"step": 2, "unix')

    time.sleep(1.1)  # event files are read in the order of their names, which count seconds

    resumed = RunLogger(folder, config=CONFIG, resume=(4, position))
    steps(resumed, 5, 9)
    resumed.close("finished")

    assert (folder / "metrics.jsonl").read_bytes() == (tmp_path / "straight" / "metrics.jsonl").read_bytes()
    assert [record["step"] for record in records(folder / "timing.jsonl")] == list(range(1, 10))
    for tag in ("quality/bleu_2", "perf/steps_per_s"):
        assert points(folder, tag) == points(tmp_path / "straight", tag)
    assert points(folder / "real_text", "quality/bleu_2") == [(step, 0.1) for step in range(1, 10)]
    assert texts(folder, "samples/free") == [(step, f"text {step}") for step in range(1, 10)]
    for tag in ("setup/config", "setup/tags", "_hparams_/session_start_info"):
        assert len(read(folder).Tensors(tag)) == 1


def test_everything_up_to_a_position_is_on_the_disk(folder):
    logger = RunLogger(folder, config=CONFIG)
    logger.scalars(3, {"train/nll": 2.0, "quality/bleu_2_real": 0.5})
    position = logger.position()
    assert position == (folder / "metrics.jsonl").stat().st_size > 0
    assert points(folder, "train/nll") == [(3, 2.0)]
    assert points(folder / "real_text", "quality/bleu_2") == [(3, 0.5)]
    logger.close("failed")


def test_resume_refuses_a_log_that_is_too_short(folder):
    RunLogger(folder, config=CONFIG).close("interrupted")
    with pytest.raises(UserError, match=r"metrics\.jsonl has 0 bytes, but .* had 10"):
        RunLogger(folder, config=CONFIG, resume=(1, 10))


def hparams_of(folder):
    contents = read(folder).PluginTagToContent("hparams")
    return {tag: plugin_data_pb2.HParamsPluginData.FromString(content) for tag, content in contents.items()}


def test_hparams_hold_the_whole_config_and_keep_types(folder):
    logger = RunLogger(folder, config=CONFIG)
    logger.close("finished")
    found = hparams_of(folder)
    assert found.keys() == {"_hparams_/session_start_info", "_hparams_/session_end_info"}
    start = found["_hparams_/session_start_info"].session_start_info
    hparams = start.hparams
    assert set(hparams) == set(flatten(CONFIG.model_dump(mode="json")))
    assert hparams["mle.calibrate"].HasField("bool_value")
    assert hparams["mle.calibrate"].bool_value is False
    assert hparams["mle.lr"].number_value == 0.5
    assert hparams["name"].string_value == "trial"
    assert hparams["adversarial"].string_value == "none"
    assert hparams["mle.betas"].string_value == "[0.9, 0.98]"
    assert start.group_name == trial_of(CONFIG)
    assert found["_hparams_/session_end_info"].session_end_info.status == 1  # success


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_run_that_may_be_resumed_has_no_end_yet(folder, status):
    RunLogger(folder, config=CONFIG).close(status)
    assert hparams_of(folder).keys() == {"_hparams_/session_start_info"}
    RunLogger(folder, config=CONFIG, resume=(0, 0)).close("finished")
    assert "_hparams_/session_end_info" in hparams_of(folder)


def test_a_trial_is_the_config_without_seed_name_and_machine():
    same = CONFIG.model_copy(update={"seed": 7, "name": "other", "device": "cpu", "threads": 1})
    assert trial_of(same) == trial_of(CONFIG)
    assert trial_of(CONFIG.model_copy(update={"log_every": 99})) != trial_of(CONFIG)
    assert trial_of(CONFIG).startswith("stories-")


def test_the_hparams_page_lists_every_run_once_with_all_columns(tmp_path):
    """Asks TensorBoard's own back end, which drops columns where an experiment record is found."""
    configs = [
        Config(name="a"),
        Config(name="b", adversarial={"d_steps": 3}),
        Config(name="c", seed=1, adversarial={"d_steps": 3}),
    ]
    for i, config in enumerate(configs):
        logger = RunLogger(tmp_path / config.name, config=config)
        logger.scalars(1, {"quality/bleu_4": i / 10, "quality/bleu_4_real": 0.5})
        logger.summary({"end": (1, {"nll": i, "bleu_4": 0.25, "bleu_4_real": 0.5}), "best": (1, {"nll": 0.5})})
        logger.close("finished")
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(tmp_path))
    context = backend_context.Context(
        type("TBContext", (), {"data_provider": provider, "max_domain_discrete_len": 10})()
    )
    request, experiment_id = RequestContext(), "1"
    metadata = context.hparams_metadata(request, experiment_id)
    starts = [run for run, tags in metadata.items() if "_hparams_/session_start_info" in tags]
    assert sorted(starts) == ["a", "b", "c"]
    experiment = context.experiment_from_metadata(request, experiment_id, True, metadata, None)
    names = {info.name for info in experiment.hparam_infos}
    assert names == set(flatten(configs[1].model_dump(mode="json"))) | {"adversarial"}
    metrics = [info.name.tag for info in experiment.metric_infos if not info.name.group]
    assert metrics[:2] == ["at_end/bleu_4", "at_end/nll"]
    assert {"summary/end_nll", "summary/best_nll", "quality/bleu_4"} <= set(metrics)


def test_summary_shows_the_phases_as_one_line(folder):
    logger = RunLogger(folder, config=CONFIG)
    logger.summary(
        {
            "pretrained": (0, {"nll": 5.0}),
            "parent": (6, {"nll": 3.0, "self_bleu_4": 0.5, "self_bleu_4_real": 0.4, "ppl": 20.0}),
            "vae": (7, {"nll": 2.5, "kl": 4.0}),
            "end": (9, {"nll": 2.0, "self_bleu_4": 0.6, "self_bleu_4_real": 0.4, "test_nll": 2.5}),
            "best": (8, {"nll": 1.0}),
        }
    )
    logger.close("finished")
    assert points(folder, "at_end/nll") == [(0, 5.0), (6, 3.0), (7, 2.5), (9, 2.0)]
    assert points(folder, "summary/vae_kl") == [(7, 4.0)]
    assert points(folder / "real_text", "at_end/self_bleu_4") == [(6, 0.4), (9, 0.4)]
    assert points(folder, "summary/best_nll") == [(8, 1.0)]
    assert points(folder, "summary/end_test_nll") == [(9, 2.5)]
    tags = set(read(folder).Tags()["scalars"])
    assert not any(tag.endswith("_real") for tag in tags)
    assert all(explain_tag(tag) for tag in tags)
    assert {tag.split("/")[1] for tag in tags if tag.startswith("at_end")} <= set(HEADLINES)
    assert set(STAGES) == {tag.split("/")[1].split("_")[0] for tag in tags if tag.startswith("summary")}


def test_pages_show_the_config_and_explain_the_tags(folder):
    logger = RunLogger(folder, config=CONFIG)
    logger.close("finished")
    ((_, config),) = texts(folder, "setup/config")
    assert "  lr: 0.5  # changed; default: 0.001\n" in config
    ((_, page),) = texts(folder, "setup/tags")
    assert page == glossary()
    html = markdown(page, extensions=["tables"])
    assert html.count("<tr>") == page.count("\n| ") - 1
    assert "<td>diversity/self_bleu_4</td>" in html


@pytest.mark.parametrize(
    "text",
    [
        "1. Anna *wanted* _a_ <b>kite</b> & `tea` | # x",
        "# no heading\n- no list\n+ a\n1) b\n> c\n~~~\nd\n~~~",
        "a\n\nb\n    indented\n[x](http://y) ![z](w) \\* &lt; https://a.b",
        "== --- ***",
        "\tx\n===\n---",
    ],
)
def test_samples_are_shown_as_they_are(folder, text):
    html = markdown(escape(text), extensions=["tables", "fenced_code"])
    assert set(re.findall(r"<(\w+)", html)) <= {"p", "br"}
    shown = re.sub(r"<[^>]*>", " ", html)
    assert unescape(shown).split() == text.split()


def test_text_is_kept_at_every_step_and_survives_broken_unicode(folder):
    logger = RunLogger(folder, config=CONFIG)
    logger.text(1, "samples/free", "one\ntwo")
    logger.text(2, "samples/free", "half a pair: \ud800, 小狗")
    logger.close("finished")
    assert texts(folder, "samples/free") == [(1, "one  \ntwo"), (2, "half a pair: ?, 小狗")]


def test_the_layout_has_one_metric_a_chart_and_only_known_tags(folder):
    RunLogger(folder, config=CONFIG).close("finished")
    (event,) = read(folder).Tensors("custom_scalars__config__")
    found = Layout.FromString(event.tensor_proto.string_val[0])
    assert [category.title for category in found.category] == [
        "Diversity",
        "Quality",
        "VAE",
        "Classifier",
        "GAN health",
    ]
    patterns = [tag for category in found.category for chart in category.chart for tag in chart.multiline.tag]
    assert len(patterns) == sum(len(charts) for charts in layout().values())
    known = list(TAGS) + [f"{group}/{name}" for name in METRICS for group in ("quality", "diversity")]
    for pattern in patterns:
        (tag,) = [tag for tag in known if re.search(pattern, tag)]
        assert explain_tag(tag)


def test_config_sections_are_flat_in_the_table():
    flat = flatten(CONFIG.model_dump(mode="json"))
    assert flat["generator.n_embd"] == CONFIG.generator.n_embd
    assert not any(isinstance(value, dict) for value in flat.values())
    sections = [name for name, field in Config.model_fields.items() if type_of(field).section]
    off = {"adversarial", "adapter", "vae", "latent_gan", "classifier"} & set(sections)
    assert off <= set(flat)
    assert not set(flat) & set(sections) - off

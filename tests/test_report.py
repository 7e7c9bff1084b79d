"""The page of `textgan compare --html`, in headless Chromium where one is installed, and the pictures beside it."""

import json
import math
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from textgan.analysis.plots import front_image, plot_fronts
from textgan.analysis.report import report_page, write_report
from textgan.errors import UserError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
EVIL = "</script><img src=x onerror=alert(1)> & <b>你好，世界</b>\nsecond line \u2028 end"


def interval(mean, width=0.01):
    return {"mean": mean, "lower": mean - width, "upper": mean + width}


def arm(name, shift, label=None):
    points = []
    for family, settings in (("temperature", (0.8, 0.9, 1.0)), ("top_p", (0.9,))):
        for setting in settings:
            values = {
                "bleu_4": interval(0.8 - setting / 2),
                "self_bleu_4": interval(0.9 - setting / 2 - shift),
                "lm_kn": interval(2 + setting),
            }
            sampler = f"{family}={setting:g}"
            samples = [f"{name} {sampler} {i} {EVIL}" for i in range(3)]
            points.append({"sampler": sampler, "family": family, "values": values, "samples": samples})
    return {"name": name, "label": label or name, "runs": ["runs/a"], "seeds": [0, 1], "points": points}


@pytest.fixture
def comparison():
    difference = {
        "arm": "adversarial",
        "against": "mle",
        "curve": "temperature",
        "grid": [0.3, 0.35, 0.4],
        "delta": [0.02, 0.02, 0.02],
        "lower": [0.01, 0.01, -0.01],
        "upper": [0.03, 0.03, 0.05],
        "sentence": "adversarial dominates over 67 % of the overlap.",
    }
    elsewhere = {**difference, "curve": "best of all samplers", "grid": [], "sentence": "the fronts do not overlap."}
    pairs = [
        {"quality": "bleu_4", "diversity": "self_bleu_4", "quality_better": 1, "diversity_better": -1},
        {"quality": "lm_kn", "diversity": "self_bleu_4", "quality_better": -1, "diversity_better": -1},
    ]
    return {
        "format": 1,
        "textgan": "0.1.0",
        "baseline": "mle",
        "level": 0.95,
        "split": "dev",
        "n": 10000,
        "arms": [arm("mle", 0.0, "母模型"), arm("adversarial", 0.02)],
        "real": {"bleu_4": 0.42, "self_bleu_4": 0.4},
        "published": [{"label": "LeakGAN", "source": "Texygen", "values": {"bleu_4": 0.355, "self_bleu_4": 0.848}}],
        "pairs": [{**pairs[0], "comparisons": [difference, elsewhere]}, {**pairs[1], "comparisons": []}],
        "joint": [{"metric": "mmd_ngrams", "arm": "adversarial", "against": "mle", "sentence": "no joint difference"}],
        "table": [
            {"metric": m, "better": b, "real": r, "arms": {"mle": {"at_1": interval(x), "best": interval(x)}}}
            for m, b, r, x in (("bleu_4", 1, 0.42, 0.3), ("copies", 0, math.nan, 0.1), ("unique", 1, 1.0, 0.9))
        ],
        "verdict": ["adversarial dominates mle over 67 % of the overlap; copies 2.1 % of train."],
        "notes": ["two seeds"],
        "signatures": {"mle": "texts=10000"},
        "test_reads": {},
    }


def test_the_page_is_one_file_that_asks_for_nothing(comparison):
    page = report_page(comparison, "A <b> & __DATA__")
    assert "<title>A &lt;b&gt; &amp; __DATA__</title>" in page
    assert not re.search(r"""(?:src|href)\s*=|@import|url\(|fetch\(|XMLHttpRequest""", page.split('id="data"')[0])
    assert set(re.findall(r"https?://[^\"')\s]+", page)) == {"http://www.w3.org/2000/svg"}
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL).group(1)
    assert "<" not in embedded
    data = json.loads(embedded)
    assert data["arms"][0]["points"][0]["samples"][0].endswith(EVIL)
    assert data["table"][1]["real"] is None  # NaN is no JSON


def dump(path, view=""):
    """The page as Chromium leaves it after its script has run."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium or Chrome on the PATH")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    done = subprocess.run([*command, f"file://{path}{view}"], capture_output=True, timeout=120)
    return done.stdout.decode()


def body(page):
    """What stands in the page besides the embedded data and the script."""
    return page.split('<script type="application/json"')[0]


@pytest.fixture
def path(comparison, tmp_path):
    write_report(comparison, tmp_path / "new" / "report.html")
    return tmp_path / "new" / "report.html"


def test_chromium_draws_fronts_table_and_samples(path):
    page = body(dump(path))
    for name in ("mle", "adversarial"):
        assert len(re.findall(rf'class="curve" data-arm="{name}"', page)) == 1
        assert len(re.findall(rf'class="point" data-arm="{name}"', page)) == 4
    assert 'class="real"' in page
    assert "LeakGAN" in page
    assert 'class="band"' in page
    assert "adversarial dominates mle over 67 %" in page
    assert "no joint difference" in page
    assert page.count("<tr>") == 4
    assert "母模型, temperature=0.8" in page  # what the pointer reads
    assert "<img" not in page
    assert "&lt;b&gt;你好，世界&lt;/b&gt;" in page
    shown = re.findall(r"<li>(\w+) (temperature=\d[.\d]*) 0", page)
    assert shown == [("mle", "temperature=1"), ("adversarial", "temperature=1")]


def circles(page, name):
    return [
        (float(x), float(y)) for x, y in re.findall(rf'<circle cx="([\d.]+)" cy="([\d.]+)"[^>]*data-arm="{name}"', page)
    ]


def test_up_is_better_and_right_is_more_diverse_whichever_way_the_metric_runs(path):
    cold, _, hot = circles(body(dump(path)), "mle")  # BLEU: higher is better; temperature .8 to 1
    assert hot[0] > cold[0]
    assert hot[1] > cold[1]
    cold, _, hot = circles(body(dump(path, "#pair=1")), "mle")  # NLL: lower is better
    assert hot[1] > cold[1]


def test_a_view_in_the_address_is_shown(path):
    page = body(dump(path, "#pair=0&comparison=1&hide=mle,published&sampler=top_p%3D0.9"))
    assert 'data-arm="mle"' not in page
    assert 'data-arm="adversarial"' in page
    assert 'class="published"' not in page
    assert "the two fronts do not overlap" in page
    assert re.findall(r"<li>(\w+) (top_p=0\.9) 0", page) == [("adversarial", "top_p=0.9")]


def test_a_comparison_without_pairs_still_opens(comparison, tmp_path):
    write_report({**comparison, "pairs": []}, tmp_path / "report.html")
    assert "no pair of metrics was measured for all" in dump(tmp_path / "report.html")


def test_pictures_are_drawn_as_png_and_svg_and_are_the_same_each_time(comparison, tmp_path):
    pytest.importorskip("matplotlib")
    paths = plot_fronts(comparison, tmp_path / "a")
    assert [p.name for p in paths] == [
        "front-bleu_4-self_bleu_4.png",
        "front-bleu_4-self_bleu_4.svg",
        "difference-bleu_4-self_bleu_4-adversarial-against-mle-temperature.png",
        "difference-bleu_4-self_bleu_4-adversarial-against-mle-temperature.svg",
        "front-lm_kn-self_bleu_4.png",
        "front-lm_kn-self_bleu_4.svg",
    ]
    for path in paths:
        if path.suffix == ".svg":
            ET.parse(path)
        else:
            assert path.read_bytes().startswith(b"\x89PNG")
    again = plot_fronts(comparison, tmp_path / "b")
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in again]


def axes_of(comparison, number):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from textgan.analysis.plots import draw_front

    axes = Figure().add_subplot()
    draw_front(axes, comparison, comparison["pairs"][number])
    return axes


def test_a_plotted_front_has_the_values_and_turns_axes_where_lower_is_better(comparison):
    axes = axes_of(comparison, 0)
    line, _, bars = axes.containers[0]
    np.testing.assert_allclose(np.array(line.get_xdata(), float), [0.5, 0.45, 0.4])
    np.testing.assert_allclose(np.array(line.get_ydata(), float), [0.4, 0.35, 0.3])
    ends = bars[0].get_segments()  # along x
    np.testing.assert_allclose(ends[0], [[0.49, 0.4], [0.51, 0.4]])
    assert axes.xaxis_inverted()
    assert not axes.yaxis_inverted()
    assert axes_of(comparison, 1).yaxis_inverted()


def test_the_front_image_is_an_array_that_changes_with_its_points():
    pytest.importorskip("matplotlib")
    common = {"quality": "bleu_4", "diversity": "self_bleu_4", "quality_better": 1, "diversity_better": -1}
    one = front_image({"mle": [("temperature=1", 0.3, 0.4), ("temperature=0.9", 0.4, 0.5)]}, **common)
    two = front_image({"mle": [("temperature=1", 0.3, 0.4), ("temperature=0.9", 0.4, 0.45)]}, **common)
    assert one.dtype == np.uint8
    assert one.ndim == 3
    assert one.shape[2] == 3
    assert one.shape == two.shape
    assert (one != two).any()


def test_without_matplotlib_the_extra_is_named(monkeypatch, comparison, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"textgan\[plots\]"):
        plot_fronts(comparison, tmp_path)

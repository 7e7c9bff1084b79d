"""Pictures of a comparison: fronts with their intervals, and the difference of two fronts with its band.

Both axes are turned so that up is better quality and right is more diversity, whatever the metric: a front that lies
further to the upper right is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textgan.errors import UserError

# Okabe and Ito's palette: told apart by colour-blind readers too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#8c6d31")
MARKERS = {"temperature": "o", "top_p": "s", "top_k": "^", "typical_p": "D", "rejection": "x", "z_temperature": "P"}
# Whichever of these is installed draws Chinese names; DejaVu Sans comes with matplotlib.
FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "Microsoft YaHei", "PingFang SC", "SimHei")
FORMATS = ("png", "svg")


def plot_fronts(comparison: dict[str, Any], folder: Path) -> list[Path]:
    """Paths of the pictures drawn into ``folder``, PNG and SVG: one of each pair's fronts, one of each difference.

    Args:
        comparison: what ``textgan compare --json`` prints.
        folder: made where it is missing.

    Raises:
        UserError: matplotlib is not installed.
    """
    matplotlib = _matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context(_style(matplotlib)):
        for pair in comparison["pairs"]:
            name = f"{pair['quality']}-{pair['diversity']}"
            figure, axes = _figure()
            draw_front(axes, comparison, pair)
            paths += _save(figure, folder / f"front-{name}")
            for other in pair["comparisons"]:
                if len(other.get("grid") or ()) > 1:
                    figure, axes = _figure()
                    draw_difference(axes, pair, other, _colour(comparison, other["arm"]))
                    what = f"{other['arm']}-against-{other['against']}-{other['curve']}".replace(" ", "_")
                    paths += _save(figure, folder / f"difference-{name}-{_file_name(what)}")
    return paths


def draw_front(axes: Any, comparison: dict[str, Any], pair: dict[str, Any]) -> None:
    """Draw every arm's operating points of a pair into matplotlib's ``axes``, with real and published values.

    Points of temperature are joined.
    """
    quality, diversity = pair["quality"], pair["diversity"]
    for arm in comparison["arms"]:
        colour = _colour(comparison, arm["name"])
        points = [p for p in arm["points"] if quality in p["values"] and diversity in p["values"]]
        families = dict.fromkeys(p["family"] for p in points)
        for family in families:
            own = sorted((p for p in points if p["family"] == family), key=lambda p: _setting(p["sampler"]))
            x, y = ([p["values"][metric] for p in own] for metric in (diversity, quality))
            axes.errorbar(
                [v["mean"] for v in x],
                [v["mean"] for v in y],
                xerr=_bars(x),
                yerr=_bars(y),
                color=colour,
                marker=MARKERS.get(family, "o"),
                markersize=4.5,
                linewidth=1.5 if family == "temperature" else 0,
                elinewidth=0.7,
                label=arm.get("label") or arm["name"] if family == next(iter(families)) else None,
            )
    real = comparison["real"]
    if real.get(quality) is not None and real.get(diversity) is not None:
        axes.plot(real[diversity], real[quality], "*", color="black", markersize=12, label="real text")
    for mark in comparison.get("published", ()):
        values = mark["values"]
        if quality in values and diversity in values:
            axes.plot(values[diversity], values[quality], "d", color="grey", markersize=4)
            place = (values[diversity], values[quality])
            axes.annotate(mark["label"], place, (4, 4), textcoords="offset points", fontsize=7, color="grey")
    if pair["quality_better"] < 0:
        axes.invert_yaxis()
    if pair["diversity_better"] < 0:
        axes.invert_xaxis()
    axes.set_xlabel(f"{diversity}  (more diverse →)")
    axes.set_ylabel(f"{quality}  (better →)")
    axes.legend(frameon=False, fontsize=8)


def draw_difference(axes: Any, pair: dict[str, Any], comparison: dict[str, Any], colour: str) -> None:
    """Draw the difference in diversity at equal quality with its simultaneous band into matplotlib's ``axes``."""
    grid = comparison["grid"]
    axes.fill_between(grid, comparison["lower"], comparison["upper"], color=colour, alpha=0.25, linewidth=0)
    axes.plot(grid, comparison["delta"], color=colour)
    axes.axhline(0, color="black", linewidth=0.8, linestyle="--")
    axes.set_xlabel(f"{pair['quality']}")
    axes.set_ylabel(f"difference of {pair['diversity']}  (above 0: more diverse)")
    axes.set_title(f"{comparison['arm']} against {comparison['against']}: {comparison['curve']}", fontsize=9)


def front_image(
    curves: dict[str, Sequence[tuple[str, float, float]]],
    *,
    quality: str,
    diversity: str,
    quality_better: int,
    diversity_better: int,
    real: tuple[float, float] | None = None,
) -> np.ndarray:
    """A picture of fronts, (height, width, 3) uint8, for TensorBoard.

    Args:
        curves: by name the operating points ``(sampler, quality, diversity)``.
        quality, diversity: names of the metrics.
        quality_better, diversity_better: 1 where higher is better, -1 where lower is.
        real: quality and diversity of real text.

    Raises:
        UserError: matplotlib is not installed.
    """
    matplotlib = _matplotlib()
    arms = [
        {
            "name": name,
            "points": [
                {"sampler": s, "family": s.partition("=")[0], "values": {quality: {"mean": q}, diversity: {"mean": d}}}
                for s, q, d in points
            ],
        }
        for name, points in curves.items()
    ]
    marks = {} if real is None else {quality: real[0], diversity: real[1]}
    pair = {
        "quality": quality,
        "diversity": diversity,
        "quality_better": quality_better,
        "diversity_better": diversity_better,
    }
    with matplotlib.rc_context(_style(matplotlib)):
        figure, axes = _figure()
        draw_front(axes, {"arms": arms, "real": marks}, pair)
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def has_matplotlib() -> bool:
    """Whether pictures can be drawn here."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def _matplotlib():
    try:
        import matplotlib
    except ImportError:
        raise UserError("pictures need matplotlib: pip install 'textgan[plots]'") from None
    return matplotlib


def _style(matplotlib) -> dict[str, Any]:
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    fonts = [name for name in FONTS if name in installed]
    return {
        "font.family": ["DejaVu Sans", *fonts],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "axes.unicode_minus": False,
        "svg.hashsalt": "textgan",  # so that the same comparison gives the same file
    }


def _figure() -> tuple[Any, Any]:
    # Not pyplot: it keeps every figure, and may try to open a window.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Any, stem: Path) -> list[Path]:
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in FORMATS]
    for path in paths:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def _colour(comparison: dict[str, Any], arm: str) -> str:
    names = [other["name"] for other in comparison["arms"]]
    return COLOURS[names.index(arm) % len(COLOURS)]


def _bars(values: list[dict[str, float]]) -> np.ndarray | None:
    """Lengths of error bars below and above, (2, P); None where no value has an interval."""
    ends = [(v["mean"] - v["lower"], v["upper"] - v["mean"]) if v.get("lower") is not None else (0, 0) for v in values]
    bars = np.clip(np.array(ends, dtype=float).T, 0, None)
    return bars if np.nan_to_num(bars).any() else None


def _setting(sampler: str) -> float:
    return float(sampler.partition("=")[2])


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_.+" else "_" for c in text)

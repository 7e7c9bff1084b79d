"""Latent vectors of texts in TensorBoard's projector, with what there is to colour them by.

The files lie in the run's own folder, where TensorBoard looks for them: ``projector_config.pbtxt``, and the vectors
and their columns in ``projector/``. ``SummaryWriter.add_embedding`` adds an entry to that config at each call, also for
a step that a resumed run does again; here a name has one entry, whose two files are written anew.
"""

import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from textgan.training.experiment import Experiment, say

MOST_POINTS = 2000
SHOWN_CHARS = 80
CONFIG = "projector_config.pbtxt"
_VECTORS, _COLUMNS = ".vectors.tsv", ".texts.tsv"


def project_dev(run: Experiment, vectors: Tensor, *, name: str, numbers: Mapping[str, Tensor] | None = None) -> None:
    """Show the vectors (N, Z) of the run's dev rows as ``name``, those of :data:`MOST_POINTS` of them at most.

    The columns are text, tokens, label and sentiment, those that there are (see :func:`text_columns`), and
    ``numbers``, (N,) each.
    """
    dev = run.dev
    rows = torch.linspace(0, len(dev) - 1, min(len(dev), MOST_POINTS)).round().long()  # files may be sorted by class
    starts, ends = dev.offsets[rows] + 1, dev.offsets[rows + 1]
    ids = [dev.tokens[start:end].tolist() for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    known = run.corpus.labels.get("dev", [])
    labels = [known[place] for place in dev.origins[rows].tolist()] if known else None
    texts = tuple(run.tokenizer.decode(row) for row in ids)
    columns = text_columns(texts, tokens=dev.lengths[rows].tolist(), labels=labels)
    for key, values in (numbers or {}).items():
        columns[key] = [round(value, 3) for value in values[rows].tolist()]
    write_projector(run.folder, vectors[rows], columns, name=name)


def text_columns(
    texts: Sequence[str], *, tokens: Sequence[int], labels: Sequence[str | None] | None = None
) -> dict[str, list[object]]:
    """Columns that tell of texts: ``text`` (shortened), ``tokens``, ``characters``, ``label`` and ``sentiment``.

    TensorBoard colours numbers along a scale where there are more than 50 different ones, else as ten categories that
    come again, so the length is there in characters too. ``label`` is there where a text has one. ``sentiment`` is
    VADER's compound score of English (Hutto and Gilbert 2014), from -1 to 1: it is there where the library is
    installed and finds a feeling in any of the texts.
    """
    columns: dict[str, list[object]] = {"text": [_shortened(text) for text in texts], "tokens": list(tokens)}
    columns["characters"] = [len(text) for text in texts]
    if labels and any(label is not None for label in labels):
        columns["label"] = ["none" if label is None else label for label in labels]
    scores = sentiment(tuple(texts))
    if scores and any(scores):
        columns["sentiment"] = scores
    return columns


@functools.lru_cache(maxsize=1)  # a run shows the same texts at each evaluation
def sentiment(texts: tuple[str, ...]) -> list[float] | None:
    """VADER's compound score of each text, from -1 to 1; None, said once, where vaderSentiment is not installed."""
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        _say_once("no sentiment in the projector: it needs vaderSentiment (pip install 'textgan[story]')")
        return None
    scorer = SentimentIntensityAnalyzer()
    return [scorer.polarity_scores(text)["compound"] for text in texts]


def write_projector(folder: str | Path, vectors: Tensor, columns: Mapping[str, Sequence[object]], *, name: str) -> Path:
    """Write or replace the projector's entry ``name`` in a run's folder; returns the config that lists it.

    Args:
        folder: of the run, that of its event files.
        vectors: (N, Z).
        columns: at least one, N values each: more than 50 different numbers are coloured along a scale, up to 50
            different values as categories.
        name: of the entry, and of its two files.

    Raises:
        ValueError: another number of values than of vectors, or nothing to show.
    """
    lengths = {key: len(values) for key, values in columns.items()}
    if vectors.ndim != 2 or not vectors.numel() or not columns or set(lengths.values()) != {len(vectors)}:
        raise ValueError(f"vectors of shape {tuple(vectors.shape)} do not fit columns of {lengths} values")
    folder = Path(folder)
    (folder / "projector").mkdir(parents=True, exist_ok=True)
    points = ["\t".join(f"{value:.5g}" for value in row) for row in vectors.tolist()]
    _replace(folder / "projector" / f"{name}{_VECTORS}", "\n".join(points) + "\n")
    # TensorBoard takes the first line for a header only where there are two columns.
    shown = {**columns, "row": range(len(vectors))} if len(columns) == 1 else columns
    lines = ["\t".join(shown), *("\t".join(map(_cell, row)) for row in zip(*shown.values(), strict=True))]
    _replace(folder / "projector" / f"{name}{_COLUMNS}", "\n".join(lines) + "\n")

    path = folder / CONFIG
    names = sorted(file.name.removesuffix(_COLUMNS) for file in (folder / "projector").glob(f"*{_COLUMNS}"))
    _replace(path, "".join(_entry(known) for known in names))
    return path


def _entry(name: str) -> str:
    values = {
        "tensor_name": name,
        "tensor_path": f"projector/{name}{_VECTORS}",
        "metadata_path": f"projector/{name}{_COLUMNS}",
    }
    body = "".join(f"  {key}: {json.dumps(value)}\n" for key, value in values.items())
    return f"embeddings {{\n{body}}}\n"


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1].rstrip() + "…"


def _cell(value: object) -> str:
    return " ".join(str(value).split()) or "(empty)"


def _replace(path: Path, content: str) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_text(content, encoding="utf-8")
    os.replace(beside, path)


@functools.cache
def _say_once(message: str) -> None:
    say(message)

"""Self-BLEU-2..5 and BLEU-2..5 of 10,000 captions: textgan beside fast-bleu and NLTK. Memory of self-BLEU of a million.

All get the same lists of word tokens; tokenising and imports are not timed. Rounds are interleaved and medians are
given. NLTK needs about an hour, so it scores a few texts against all references and is scaled up (labelled so).
"""

import json
import os
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import click
import torch
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from textgan.data.words import split_words
from textgan.metrics.bleu import bleu, self_bleu
from textgan.ops.ngrams import Ragged, ragged

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = {n: (1 / n,) * n for n in range(2, 6)}
Rows = list[list[str]]


def load(n: int) -> tuple[str, Rows, Rows]:
    """What the texts are, ``n`` hypotheses and ``n`` references: Image COCO where it is, else made-up text."""
    folder = Path(os.environ.get("TEXTGAN_CORPORA", ROOT.parent / "shared" / "data")) / "image_coco"
    if folder.is_dir():
        sets = [(folder / name).read_text("utf-8").splitlines()[:n] for name in ("train.txt", "test.txt")]
        return "Image COCO captions", *([split_words(line.lower()) for line in lines] for lines in sets)
    rng = random.Random(0)
    words = [f"word{i}" for i in range(5000)]
    common = [1 / (i + 2) for i in range(5000)]
    patterns = [rng.choices(words, common, k=rng.randint(8, 15)) for _ in range(n // 10 + 1)]

    def caption() -> list[str]:
        new = rng.choices(words, common, k=15)
        return [new[i] if rng.random() < 0.3 else word for i, word in enumerate(rng.choice(patterns))]

    return "made-up captions", [caption() for _ in range(n)], [caption() for _ in range(n)]


def encode(*sets: Rows) -> list[Ragged]:
    ids: dict[str, int] = {}
    return [ragged([[ids.setdefault(word, len(ids)) for word in row] for row in rows]) for rows in sets]


def contestants(hypotheses: Rows, references: Rows, sample: int) -> tuple[dict[str, dict[str, Callable]], list[str]]:
    """For each task, name -> function that returns BLEU-2..5; and the peers that are not installed."""
    hyp_ids, ref_ids = encode(hypotheses, references)
    smooth = SmoothingFunction().method1
    picked = random.Random(1).sample(range(len(hypotheses)), min(sample, len(hypotheses)))
    several = list(WEIGHTS.values())

    def nltk_mean(score: Callable[[int], list[float]]) -> list[float]:
        return [statistics.fmean(column) for column in zip(*map(score, picked), strict=True)]

    def nltk_self(i: int) -> list[float]:
        return sentence_bleu(references[:i] + references[i + 1 :], references[i], several, smooth)

    tasks = {
        "self_bleu": {
            "textgan": lambda: list(self_bleu(*encode(references)).values()),
            "textgan from ids": lambda: list(self_bleu(ref_ids).values()),
            "nltk": lambda: nltk_mean(nltk_self),
        },
        "bleu": {
            "textgan": lambda: list(bleu(*encode(hypotheses, references)).values()),
            "textgan from ids": lambda: list(bleu(hyp_ids, ref_ids).values()),
            "nltk": lambda: nltk_mean(lambda i: sentence_bleu(references, hypotheses[i], several, smooth)),
        },
    }
    if find_spec("fast_bleu") is None:
        return tasks, ["fast-bleu"]
    from fast_bleu import BLEU, SelfBLEU

    def mean(scores: dict[int, list[float]]) -> list[float]:
        return [statistics.fmean(scores[n]) for n in WEIGHTS]

    tasks["self_bleu"]["fast-bleu"] = lambda: mean(SelfBLEU(references, WEIGHTS).get_score())
    tasks["bleu"]["fast-bleu"] = lambda: mean(BLEU(references, WEIGHTS).get_score(hypotheses))
    return tasks, []


def measure(functions: dict[str, Callable], rounds: int, scale: float) -> dict:
    """Median seconds and values of each, in interleaved rounds; NLTK once, times ``scale``."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    values = {}
    for turn in range(rounds):
        for name, function in functions.items():
            if name == "nltk" and turn:
                continue
            start = time.perf_counter()
            values[name] = function()
            seconds[name].append((time.perf_counter() - start) * (scale if name == "nltk" else 1))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    best_peer = min((name for name in medians if not name.startswith("textgan")), key=medians.__getitem__)
    return {
        "seconds": medians,
        "values": values,
        "best_peer": best_peer,
        "ratio": medians[best_peer] / medians["textgan"],
        "ratio_from_ids": medians[best_peer] / medians["textgan from ids"],
    }


def varied(rows: Rows, n: int) -> Ragged:
    """``n`` captions drawn from these, one word in ten exchanged for another of theirs."""
    (texts,) = encode(rows)
    generator = torch.Generator().manual_seed(0)
    drawn = texts.select(torch.randint(len(texts.lengths), (n,), generator=generator))
    exchanged = (torch.rand(len(drawn.tokens), generator=generator) < 0.1).nonzero().squeeze(1)
    others = torch.randint(len(texts.tokens), (len(exchanged),), generator=generator)
    drawn.tokens[exchanged] = texts.tokens[others]
    return drawn


def memory(n: int, captions: int = 10_000) -> dict:
    """Seconds of self-BLEU of ``n`` captions, and the most memory that this process held: a peak never falls."""
    texts = varied(load(captions)[1], n)
    self_bleu(ragged([[1], [2]]))
    before = _peak()
    start = time.perf_counter()
    values = self_bleu(texts)
    seconds = time.perf_counter() - start
    tokens = len(texts.tokens)
    return {
        "texts": n,
        "tokens": tokens,
        "seconds": seconds,
        "values": list(values.values()),
        "peak_mib": _peak() / 2**20,
        "bytes_a_token": (_peak() - before) / tokens,
    }


def _peak() -> int:
    """Most memory that this process has held so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@click.command()
@click.option("--n", default=10_000, show_default=True, help="Hypotheses, and references.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--nltk-sample", default=10, show_default=True, help="Texts that NLTK scores; its time is scaled up.")
@click.option("--memory", "texts_in_memory", type=int, metavar="N", help="Only: peak memory of self-BLEU of N texts.")
@click.option("--json", "as_json", is_flag=True)
def main(n: int, rounds: int, nltk_sample: int, texts_in_memory: int | None, as_json: bool) -> None:
    """Time self-BLEU and BLEU against fast-bleu and NLTK."""
    if texts_in_memory is not None:
        found = memory(texts_in_memory)
        if as_json:
            click.echo(json.dumps({"benchmark": "self-BLEU memory", **found}, indent=2))
        else:
            click.echo(
                f"self-BLEU of {found['texts']} texts, {found['tokens']} tokens: {found['seconds']:.1f} s, peak of the"
                f" process {found['peak_mib']:.0f} MiB, {found['bytes_a_token']:.0f} bytes a token above the texts"
            )
        return
    corpus, hypotheses, references = load(n)
    tasks, missing = contestants(hypotheses, references, nltk_sample)
    self_bleu(ragged([[1], [2]]))  # the first call of torch's operators loads them
    scale = len(references) / min(nltk_sample, len(references))
    report = {
        "benchmark": "metrics",
        "corpus": corpus,
        "texts": len(references),
        "threads": torch.get_num_threads(),
        "not_installed": missing,
        "tasks": {name: measure(functions, rounds, scale) for name, functions in tasks.items()},
    }
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    click.echo(f"{corpus}, {report['texts']} texts, {report['threads']} torch threads, median of {rounds} rounds")
    for peer in missing:
        click.echo(f"{peer} is not installed: left out")
    for task, result in report["tasks"].items():
        click.echo(f"\n{task} 2..5")
        for name, took in result["seconds"].items():
            note = f"  (scaled up from {nltk_sample} texts)" if name == "nltk" else ""
            shown = " ".join(f"{value:.6f}" for value in result["values"][name])
            click.echo(f"  {name:<17} {took:10.3f} s   {shown}{note}")
        click.echo(
            f"  {result['best_peer']} takes {result['ratio']:.0f} times as long as textgan"
            f" ({result['ratio_from_ids']:.0f} times from ids)"
        )

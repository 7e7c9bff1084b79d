"""``textgan classify``: what a trained classifier says of texts."""

from __future__ import annotations

import json

import click


@click.command(short_help="Name the class of each text with a trained classifier.")
@click.argument("source", metavar="RUN_OR_CHECKPOINT", type=click.Path())
@click.argument("file", metavar="FILE")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with the probability of each class.")
def classify(source: str, file: str, device: str, as_json: bool) -> None:
    """Name the class of each text in FILE, one text a line (UTF-8; `-` is standard input).

    Each line of the output is the likeliest class, its probability and the text, with tabs between.
    """
    from textgan.cli.output import say
    from textgan.cli.score import read_texts
    from textgan.ops.devices import pick_device
    from textgan.training.classifying import load_classifier

    texts = read_texts(file)
    trained = load_classifier(source, pick_device(device))
    say(f"{trained.path}, step {trained.step}: {', '.join(trained.classes)}")
    for text, row in zip(texts, trained.probabilities(texts).tolist(), strict=True):
        best = max(range(len(row)), key=row.__getitem__)
        if as_json:
            found = {"text": text, "label": trained.classes[best]}
            found["probabilities"] = dict(zip(trained.classes, row, strict=True))
            click.echo(json.dumps(found, ensure_ascii=False))
        else:
            click.echo(f"{trained.classes[best]}\t{row[best]:.4f}\t{text}")

"""``textgan export``: a checkpoint for other programs."""

from pathlib import Path

import click


@click.command(
    short_help="Write a model as transformers, safetensors or ONNX has it.",
    epilog="`generator.init_from: OUT` starts a run from what --format hf writes.",
)
@click.argument("source", metavar="RUN_OR_CHECKPOINT", type=click.Path())
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["hf", "safetensors", "onnx"]),
    default="hf",
    show_default=True,
    help="hf: AutoModelForCausalLM and AutoTokenizer load it; safetensors: the weights, with config and tokenizer; "
    "onnx: ids to logits.",
)
def export(source: str, out: Path, form: str) -> None:
    """Write the best checkpoint of a run, or the checkpoint named, into the new folder OUT, with a model card.

    The exported model gives the same logits for the same ids, calibration included. A model of words has a tokenizer
    that transformers runs with trust_remote_code=True; all others load without.
    """
    from textgan.analysis.export import export as write
    from textgan.cli.output import say

    model = write(source, form, out)
    say(f"{model.path}, step {model.step}: written to {out}")
    click.echo(out)

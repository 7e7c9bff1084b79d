"""`textgan data`: look at a corpus before training on it."""

import click


@click.group()
def data() -> None:
    """Look at a corpus."""


@data.command()
@click.argument("source")
@click.option("--dev", metavar="FILE", help="Held-out texts of a given split.")
@click.option("--test", metavar="FILE", help="Test texts of a given split.")
@click.option(
    "--format",
    type=click.Choice(["auto", "lines", "paragraphs", "endoftext", "jsonl", "csv"]),
    default="auto",
    show_default=True,
    help="How files are cut into texts.",
)
@click.option("--field", default="text", show_default=True, help="The field or column of JSONL, CSV and hf: data.")
@click.option("--encoding", default="utf-8", show_default=True, help="The encoding of the files.")
@click.option("--max-chars", default=100_000, show_default=True, help="The longest text allowed.")
@click.option(
    "--tokenize",
    type=click.Choice(["words", "whitespace", "chars"]),
    default="words",
    show_default=True,
    help="What is counted.",
)
@click.option("--lowercase", is_flag=True, help="Turn all text to lower case first.")
@click.option(
    "--sample",
    type=click.IntRange(min=2),
    default=10_000,
    show_default=True,
    help="Texts behind distinct-n and self-BLEU, which depend on their number.",
)
@click.option("--size", default=20_000, show_default=True, help="Texts drawn for stories, stories-zh, lstm-oracle.")
@click.option("--seed", default=0, show_default=True, help="For what is drawn.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def stats(
    source,
    dev,
    test,
    format,
    field,
    encoding,
    max_chars,
    tokenize,
    lowercase,
    sample,
    size,
    seed,
    as_json,
):
    """Say what SOURCE holds: texts, tokens, vocabulary, lengths, duplicates, overlap of splits, diversity.

    SOURCE is a file (.txt, .jsonl, .csv), a folder of such files, or a name: stories, stories-zh, lstm-oracle,
    nltk:NAME, hf:NAME[:CONFIG]. Duplicates are counted, not dropped.
    """
    from dataclasses import asdict

    from textgan.analysis.corpus_stats import split_stats
    from textgan.data.corpus import load_corpus

    corpus = load_corpus(
        source,
        dev=dev,
        test=test,
        dev_fraction=0,
        test_fraction=0,
        format=format,
        field=field,
        encoding=encoding,
        max_chars=max_chars,
        size=size,
        seed=seed,
        dedupe=False,
        lowercase=lowercase,
    )
    found, known = {}, None
    for split, texts in (("train", corpus.train), ("dev", corpus.dev), ("test", corpus.test)):
        if texts:
            options = {"tokenize": tokenize, "lowercase": lowercase, "sample": sample, "seed": seed}
            found[split], vocabulary = split_stats(texts, known=known, **options)
            known = known or vocabulary
    if as_json:
        import json

        splits = {split: asdict(values) for split, values in found.items()}
        whole = {"splits": splits, "report": corpus.report.to_dict(), "fingerprint": corpus.fingerprint}
        click.echo(json.dumps(whole, indent=2, ensure_ascii=False))
        return
    _print(corpus.report, found, tokenize)


def _print(report, found, tokenize) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False)
    console.print(report.lines()[0], markup=False)
    if len(found) > 1:
        console.print(report.lines()[-1], markup=False)
    columns = list(found) if len(found) > 1 else ["all"]
    table = Table(show_edge=False, pad_edge=False, box=None, padding=(0, 2))
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for name, cells in _rows(report, found, tokenize):
        table.add_row(name, *cells)
    console.print()
    console.print(table)
    for column, values in zip(columns, found.values(), strict=True):
        console.print(f"\ntokens a text, {column}", markup=False)
        for line in _bars(values.lengths.histogram, "█" if console.encoding.startswith("utf") else "#"):
            console.print(line, markup=False)


def _rows(report, found, tokenize):
    values = list(found.values())
    duplicates = [report.duplicates.get("source" if split == "train" else split, 0) for split in found]
    unit = {"words": "word", "whitespace": "token", "chars": "character"}[tokenize]
    yield "texts", [f"{v.texts:,}" for v in values]
    yield "  copies of an earlier text", [f"{n:,}" for n in duplicates]
    yield f"tokens ({tokenize})", [f"{v.tokens:,}" for v in values]
    yield f"vocabulary (different {unit}s)", [f"{v.vocabulary:,}" for v in values]
    yield "  that occur once", [f"{v.once:,}" for v in values]
    if len(values) > 1:
        yield "  tokens unknown to train", ["" if v.unknown is None else f"{v.unknown:.2%}" for v in values]
    yield "characters", [f"{v.characters:,}" for v in values]
    yield "tokens a text: mean ± sd", [f"{v.lengths.mean:.1f} ± {v.lengths.sd:.1f}" for v in values]
    yield "  shortest / median", [f"{v.lengths.min:,} / {v.lengths.median:,}" for v in values]
    lengths = [v.lengths for v in values]
    yield "  95 % / 99 % / longest", [f"{x.p95:,} / {x.p99:,} / {x.max:,}" for x in lengths]
    yield "diversity, measured on texts", [f"{v.measured:,}" for v in values]
    for name in dict.fromkeys(key for v in values for key in v.metrics):
        cells = [f"{v.metrics[name]:.4f}" if name in v.metrics else "" for v in values]
        yield f"  {name.replace('_bleu', '-BLEU').replace('_', '-')}", cells


def _bars(histogram, block):
    most = max(n for _, _, n in histogram)
    labels = [f"{low:,}" if low == high else f"{low:,}-{high:,}" for low, high, _ in histogram]
    width = max(map(len, labels))
    for label, (_, _, n) in zip(labels, histogram, strict=True):
        yield f"  {label:>{width}} {n:>9,} {block * round(40 * n / most)}".rstrip()

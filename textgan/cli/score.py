"""``textgan score``: quality and diversity of text files, whatever system wrote them."""

import json
import os
import sys

import click

from textgan.errors import UserError

MOST_BOOTSTRAPPED = 50_000  # texts; above it takes long, and the jackknife says the same


@click.command(short_help="Measure quality and diversity of texts, whoever wrote them.")
@click.argument("hypotheses", nargs=-1, required=True)
@click.option("--references", metavar="FILE", help="Held-out real texts: adds BLEU, MS-Jaccard, lengths.")
@click.option("--train", metavar="FILE", help="Training texts: adds novelty, copies, nearest text.")
@click.option(
    "--tokenize",
    type=click.Choice(["words", "whitespace", "chars"]),
    default="words",
    show_default=True,
    help="What the metrics count: words and punctuation (one token a CJK character), whatever stands between"
    " white space, or characters.",
)
@click.option("--lowercase", is_flag=True, help="Lower-case everything, references and training texts too.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Score only the first N texts of each file.")
@click.option(
    "--token-budget",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens that distinct_budget_n looks at. Default: half of what as many real texts have.",
)
@click.option(
    "--intervals/--no-intervals",
    default=True,
    show_default=True,
    help="95 % intervals: bootstrap for means over (up to 50,000) texts, else jackknife of 20 groups; needs 20 texts.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def score(hypotheses, references, train, tokenize, lowercase, limit, token_budget, intervals, device, as_json):
    """Score the texts in HYPOTHESES, one text a line (UTF-8; `-` is standard input).

    Several files are set side by side. Self-BLEU, distinct-n, entropy and the share of unique texts depend on
    the number of texts: compare at the same number (--limit). A blank line is an empty text; it counts, with
    a BLEU of 0.

    With --json, one file gives {"metrics": {...}, "intervals": {...}, "signature": {...}}, several
    {"files": {NAME: the same}}. A metric that lacks its input (BLEU without --references) is left out.
    """
    if [*hypotheses, references, train].count("-") > 1:
        raise UserError("`-` (standard input) was given more than once, but can be read only once")
    texts = {path: read_texts(path)[:limit] for path in hypotheses}
    reference_texts = None if references is None else read_texts(references)
    train_texts = None if train is None else read_texts(train)
    if len({len(lines) for lines in texts.values()}) > 1:
        sizes = ", ".join(f"{path} has {len(lines)}" for path, lines in texts.items())
        fewest = min(map(len, texts.values()))
        _say(f"warning: numbers of texts differ ({sizes}): diversity does not compare; try --limit {fewest}")

    from textgan.metrics.suite import Scorer
    from textgan.ops.devices import pick_device

    scorer = Scorer(
        reference_texts,
        train_texts,
        tokenize=tokenize,
        lowercase=lowercase,
        device=pick_device(device),
        full=True,
        token_budget=token_budget,
    )
    results = {path: _measure(scorer, lines, intervals) for path, lines in texts.items()}
    if as_json:
        objects = {path: _as_json(*result) for path, result in results.items()}
        whole = objects[hypotheses[0]] if len(hypotheses) == 1 else {"files": objects}
        click.echo(json.dumps(whole, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(_table(results)))


def _measure(scorer, lines: list[str], intervals: bool) -> tuple:
    """The scores of the texts, and the 95 % interval of each metric (none where there are too few texts)."""
    from textgan.metrics.jackknife import GROUPS

    if not intervals or len(lines) < GROUPS:
        return scorer.score(lines), {}
    scores = scorer.score(lines, groups=GROUPS, per_text=len(lines) <= MOST_BOOTSTRAPPED)
    return scores, scores.intervals()


def _as_json(scores, intervals: dict) -> dict:
    bounds = {name: [interval.lower, interval.upper] for name, interval in intervals.items()}
    return {"metrics": scores.values, "intervals": bounds, "signature": scores.signature}


def read_texts(path: str) -> list[str]:
    """The lines of a UTF-8 file (``-``: standard input) as texts; says on stderr how many are blank.

    Lines end with LF or CRLF and nothing else; the newline at the end of the file starts no text. A byte
    order mark is dropped.

    Raises:
        UserError: the file is missing, a folder, unreadable, empty, binary or not UTF-8.
    """
    name = "standard input" if path == "-" else path
    try:
        if path == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                data = file.read()
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{name} is a folder: give a text file with one text a line") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from None
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise UserError(f"{name}, line {line}: a NUL byte: not plain UTF-8 text (binary, or UTF-16?)")
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        byte = data[error.start]
        raise UserError(f"{name}, line {line}: byte 0x{byte:02x} is not UTF-8: convert the file") from None
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise UserError(f"{name} is empty: needed is one text a line")
    lines = [line.removesuffix("\r") for line in lines]
    if lines[0].startswith("{") and lines[0].endswith("}"):
        _say(f"{name}: line 1 looks like JSON; lines are scored as they stand (`textgan sample --lines` writes texts)")
    blank = sum(not line.strip() for line in lines)
    if blank:
        _say(f"{name}: {blank} of {len(lines)} lines are blank and count as empty texts")
    return lines


def _table(results: dict[str, tuple]) -> list[str]:
    from textgan.metrics.suite import FULL_METRICS, meaning

    alone = len(results) == 1
    heads = ["value"] if alone else _short_names(list(results))
    names = [name for name in FULL_METRICS if any(name in scores.values for scores, _ in results.values())]
    if alone and (intervals := next(iter(results.values()))[1]):
        heads.append("95 % interval")
    rows = [["metric", *heads, "meaning"]]
    for name in names:
        if alone:
            scores, intervals = next(iter(results.values()))
            cells = [f"{scores.values[name]:.4f}"]
            cells += [f"{intervals[name].lower:.4f} to {intervals[name].upper:.4f}"] if intervals else []
        else:
            cells = [_cell(scores.values.get(name), intervals.get(name)) for scores, intervals in results.values()]
        rows.append([name, *cells, meaning(name)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads) + 1)]
    lines = []
    for name, *cells, note in rows:
        cells = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *cells, note]))
    lines.append("")
    for i, (scores, _) in enumerate(results.values()):
        lines.append(("signature: " if alone else f"signature of {heads[i]}: ") + scores.signature_line())
    return lines


def _cell(value: float | None, interval) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if interval is None else f"{value:.4f} ±{(interval.upper - interval.lower) / 2:.4f}"


def _short_names(paths: list[str]) -> list[str]:
    """File names without their folders, or whole paths where two names would be the same."""
    names = [os.path.basename(path) for path in paths]
    return names if len(set(names)) == len(names) else paths


def _say(message: str) -> None:
    click.echo(message, err=True)

"""The page of ``textgan compare --html``: one file with the verdict, plots, tables and samples, and no network."""

import html
import json
from importlib import resources
from pathlib import Path
from typing import Any


def report_page(comparison: dict[str, Any], title: str = "textgan compare") -> str:
    """The page as HTML text; ``comparison`` is what ``textgan compare --json`` prints.

    Data is set into the page as JSON in which no ``<`` stands, so no text of a sample can end the script element
    that holds it. NaN and infinities, which JSON lacks, become null.
    """
    template = resources.files("textgan.analysis").joinpath("report.html").read_text(encoding="utf-8")
    data = json.dumps(_finite(comparison), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        data = data.replace(character, f"\\u{ord(character):04x}")
    # One pass: a title that holds the other placeholder must not be filled in again.
    before, _, rest = template.partition("__DATA__")
    return before.replace("__TITLE__", html.escape(title)) + data + rest


def write_report(comparison: dict[str, Any], path: Path, title: str = "textgan compare") -> None:
    """Write :func:`report_page` to ``path``; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(report_page(comparison, title), encoding="utf-8", errors="replace")
    partial.replace(path)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not float("-inf") < value < float("inf"):
        return None
    return value

"""Values that papers report, for marks in plots: only where protocol and metric agree with what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import yaml

from textgan.metrics.measure import BLEU_ORDERS

NEARLY = 0.05  # self-BLEU and distinct-n move with the number of texts: how far it may be off, as a share


def published_values() -> list[dict[str, Any]]:
    """Every reported row: ``label``, ``source``, ``protocol``, ``n`` (texts, or None) and ``values``."""
    text = (resources.files("textgan.data") / "published.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    return [{**group, **row} for group in content["groups"] for row in _rows(group)]


def _rows(group: dict[str, Any]) -> list[dict[str, Any]]:
    metrics = group.pop("metrics")
    rows = group.pop("rows")
    return [
        {"label": label, "values": {name: v for name, v in zip(metrics, values, strict=True) if v is not None}}
        for label, values in rows.items()
    ]


def published_for(signature: Mapping[str, Any], n: int) -> list[dict[str, Any]]:
    """The rows of the protocol that this signature is of, with those values that were measured as they are here.

    A protocol is told by its name, or, for text files, by its references. Self-BLEU needs about as many texts.
    """
    found = []
    for row in published_values():
        if not _same_protocol(row, signature):
            continue
        enough = row["n"] is not None and abs(n / row["n"] - 1) <= NEARLY
        values = {name: v for name, v in row["values"].items() if enough or not _moves_with_n(name)}
        if values:
            found.append({**{key: row[key] for key in ("label", "source", "protocol")}, "values": values})
    return found


def _same_protocol(row: Mapping[str, Any], signature: Mapping[str, Any]) -> bool:
    protocol = signature.get("protocol")
    if protocol is not None:
        return (protocol, signature["split"]) == (row["protocol"], row["split"])
    keys = ("references_sha256", "tokenize", "lowercase")
    return row["references_sha256"] is not None and all(signature.get(key) == row[key] for key in keys)


def _moves_with_n(name: str) -> bool:
    return name not in {f"bleu_{order}" for order in BLEU_ORDERS}

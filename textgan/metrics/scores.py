"""What a set of texts scored: values by metric, their uncertainty, and the signature that says what moves them."""

from dataclasses import dataclass, field

import numpy as np

from textgan.metrics.bootstrap import Interval, bootstrap_mean
from textgan.metrics.jackknife import jackknife_interval
from textgan.metrics.measure import BLEU_ORDERS, DISTINCT_ORDERS, NOVELTY_ORDERS, REPETITION_ORDERS

# What training logs.
METRICS = (
    *(f"bleu_{n}" for n in BLEU_ORDERS),
    *(f"self_bleu_{n}" for n in BLEU_ORDERS),
    *(f"distinct_{n}" for n in DISTINCT_ORDERS),
    *(f"entropy_{n}" for n in DISTINCT_ORDERS),
    "unique",
    *(f"repetition_{n}" for n in REPETITION_ORDERS),
    *(f"novelty_{n}" for n in NOVELTY_ORDERS),
    "copies",
    "length_mean",
    "length_sd",
)

# What ``full`` adds.
FULL_METRICS = (
    *METRICS,
    *(f"bleu_b_{n}" for n in BLEU_ORDERS),
    *(f"ms_jaccard_{n}" for n in BLEU_ORDERS),
    *(f"distinct_budget_{n}" for n in DISTINCT_ORDERS),
    *(f"opening_self_bleu_{n}" for n in BLEU_ORDERS),
    "nearest_train",
    "zipf",
    "length_w1",
    "truncated",
)

# Metrics that are means of independent values of the texts: the name of these in ``Scores.per_text``.
MEANS = {
    **{f"bleu_{n}": f"bleu_{n}" for n in BLEU_ORDERS},
    "copies": "copied",
    "length_mean": "length",
    "nearest_train": "nearest_train",
    "truncated": "truncated",
}


@dataclass(frozen=True)
class Scores:
    """Metric values by name, and the signature: two values compare only where their signatures agree.

    Attributes:
        values: metric by name.
        signature: everything that moves the values.
        groups: the metric without the texts of group g, (G,) by metric; empty unless asked for. Text i is in group
            ``i % G``. References and training texts stay whole: the spread is that of the scored texts alone.
        per_text: values text by text, (N,) by name; empty unless asked for. NaN where a text has none (too short).
    """

    values: dict[str, float]
    signature: dict[str, object]
    groups: dict[str, np.ndarray] = field(default_factory=dict)
    per_text: dict[str, np.ndarray] = field(default_factory=dict)

    def intervals(self, level: float = 0.95, seed: int = 0) -> dict[str, Interval]:
        """Interval of each metric: a bootstrap over texts where it is a mean of independent values, else jackknife.

        Metrics for which neither ``per_text`` nor ``groups`` was asked for are left out.
        """
        means = [name for name in MEANS if MEANS[name] in self.per_text and name in self.values]
        found = {}
        if means:
            columns = np.stack([self.per_text[MEANS[name]] for name in means], axis=1)
            _, lower, upper = bootstrap_mean(columns, level=level, seed=seed)
            for name, low, high in zip(means, lower, upper, strict=True):
                found[name] = Interval(self.values[name], float(low), float(high))
        for name, values in self.groups.items():
            if name not in found:
                found[name] = jackknife_interval(self.values[name], values, level)
        return {name: found[name] for name in self.values if name in found}

    def signature_line(self) -> str:
        """The signature in one line, without the definitions (they go with the version of textgan)."""
        shown = {key: value for key, value in self.signature.items() if key != "definitions"}
        return " ".join(f"{key}={_shown(value)}" for key, value in shown.items())


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)

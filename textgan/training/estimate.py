"""Seconds and bytes of a run before it runs: counted work times what a unit costs, and what has to be held at once.

A unit of work costs some multiple of what this machine takes for one of three little tasks (:func:`probe`): a product
of matrices, a pass over numbers, a call. The multiples in ``PRICES`` are fitted to measured steps over batch, length,
vocabulary, width and layers by ``python -m tests.benchmarks cost``, which also says how far off they are where nothing
was fitted. They are properties of our code and a kind of device more than of one machine, whose speed is in the probe.
"""

import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch

from textgan.ops.linear_cross_entropy import BLOCK
from textgan.training.cost import seconds_on
from textgan.training.work import KINDS, Net, Texts, Work

# By kind of device and of work: units of the probe's task that take as long as a unit of the work.
PRICES: dict[str, dict[str, float]] = {
    # 2 threads of an AMD EPYC with AVX-512, torch 2.13
    "cpu": {
        "products": 1.21,
        "activations": 0.19,
        "dropped": 48.1,
        "logits": 4.29,
        "relaxed": 0.0,
        "decoded": 1.23,
        "drawn": 4.69,
        "cached": 0.93,
        "updated": 1.44,
        "calls": 906.0,
        "decoded_calls": 377.0,
    }
}
PROBED_BY = {
    "products": "product",
    "decoded": "product",
    "calls": "call",
    "decoded_calls": "call",
}  # the others: stream
SIDE, NUMBERS, CALLS = 1024, 2**22, 1000  # of the probes: matrices, a vector, calls
ROUNDS = 7

FLOAT = 4  # bytes
# Numbers that autograd keeps of each position and layer, in widths of the residual stream; and beside, under dropout.
KEPT, KEPT_BY_DROPOUT = 15.75, 2.25
SLACK = 1.08  # measured memory over the sum of what is known to be held


class Speed(NamedTuple):
    """What the probes took on a device, each for one unit: seconds a FLOP, a number, a call."""

    product: float
    stream: float
    call: float


def probe(device: torch.device, precision: str = "float32") -> Speed:
    """Time the three tasks; takes a fraction of a second. ``precision``: of the product."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = torch.randn(2, SIDE, SIDE, device=device, dtype=dtype)
    x, one = torch.randn(NUMBERS, device=device), torch.zeros(1, device=device)

    def calls() -> None:
        for _ in range(CALLS):
            one.add_(1)

    return Speed(
        product=_median(lambda: a @ b, device) / (2 * SIDE**3),
        stream=_median(lambda: x.exp(), device) / NUMBERS,
        call=_median(calls, device) / CALLS,
    )


def _median(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(ROUNDS + 1):  # the first one warms up
        began = seconds_on(device)
        work()
        times.append(seconds_on(device) - began)
    return statistics.median(times[1:])


def features(work: Work, speed: Speed) -> list[float]:
    """Seconds that each kind of ``work`` would take at the probe's own price, in the order of ``KINDS``."""
    return [getattr(work, kind) * getattr(speed, PROBED_BY.get(kind, "stream")) for kind in KINDS]


def seconds(work: Work, speed: Speed, kind: str = "cpu") -> float | None:
    """What ``work`` takes on a device of this kind; None where no prices were fitted for it."""
    if kind not in PRICES:
        return None
    return sum(PRICES[kind][name] * feature for name, feature in zip(KINDS, features(work, speed), strict=True))


def trained_bytes(net: Net, ema: float) -> float:
    """Of weights, gradients, AdamW's two moments, and the weight average where there is one; what is frozen, once."""
    return FLOAT * (net.parameters * (5 if ema else 4) + net.frozen)


def kept_bytes(net: Net, texts: Texts, kind: str, *, dropout: bool = False) -> float:
    """What a pass through ``net`` keeps for its gradient, and the gradients of one layer on the way back."""
    dropout = dropout and net.dropout > 0
    layers = 2 if net.recomputed else net.layers + 1
    stream = texts.positions * layers * net.width
    numbers = stream * (KEPT + KEPT_BY_DROPOUT * dropout)
    if dropout and kind == "cpu":  # there attention's weights are made whole: themselves, masked, and the mask
        numbers += 3 * net.heads * layers * texts.positions * texts.columns
    if net.recomputed:  # the inputs of all
        numbers += texts.positions * net.layers * net.width
    return FLOAT * numbers


def output_bytes(net: Net, texts: Texts, kind: str) -> float:
    """What the output layer holds while its loss is taken by blocks of rows, and its gradient."""
    block = min(BLOCK.get(kind, BLOCK["cuda"]), texts.tokens * net.vocab)
    return FLOAT * (2 * block + net.vocab * net.table_width + 2 * texts.tokens * net.table_width)


def cache_bytes(net: Net, texts: Texts) -> float:
    """Keys and values of texts that are sampled, and their logits."""
    layers = 0 if net.sequential else 2 * net.layers * texts.columns
    return FLOAT * texts.number * (net.width * layers + 4 * net.vocab)

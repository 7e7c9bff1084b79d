"""Linear layers with weights laid out for a CPU's matrix kernels.

Decoding multiplies a few rows with every weight again and again, and the usual product rearranges the weight each time:
at 64 rows that is nearly half of the work. Packed once, weights serve all steps. Values are those of ``F.linear`` up to
rounding.
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DTYPES = (torch.float32, torch.bfloat16)
# Rows times weights below which one thread writes faster than several: a step of decoding is dozens of small
# operations, and waking threads for each costs more than they save. Two cores break even at about this many (V 376,
# D 128, 64 rows); at 1.5e7 one thread takes three quarters of the time.
FOR_ONE_THREAD = 4e7


def can_pack(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether this machine has kernels for packed weights like ``weight`` (N, K) in ``dtype``."""
    here = weight.device.type == "cpu" and dtype in DTYPES and torch.backends.mkldnn.is_available()
    if dtype == torch.bfloat16:
        here = here and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return here and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


class PackedLinear:
    """A weight (N, K) and a bias (N,) as they are now, packed; a function of inputs (..., K). No gradient."""

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int, dtype: torch.dtype):
        """rows: how many will be multiplied at once, for the choice of the layout; any number may be."""
        self.dtype, self.width = dtype, len(weight)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype).contiguous(), rows)
        self.bias = None if bias is None else bias.detach().to(dtype)

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        """The product, and the tanh form of GELU of it while it is in the cache."""
        flat, after = x.reshape(-1, x.size(-1)).to(self.dtype), ("gelu", [], "tanh") if gelu else ("none", [], "")
        return torch.ops.mkldnn._linear_pointwise(flat, self.weight, self.bias, *after).view(*x.shape[:-1], self.width)


class Linear(nn.Linear):
    """``nn.Linear`` that can hold a packed copy of its weight (see :func:`packed`), and a change of it.

    Attributes:
        delta: None, or a module whose value is added to the product before the GELU, and whose ``matrix()`` (out, in)
            is what it adds to the weight: a low-rank adapter (see :mod:`textgan.models.adapters`).
    """

    packed: PackedLinear | None = None

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features)
        self.register_module("delta", None)

    @property
    def whole_weight(self) -> Tensor:
        """The weight (out, in), with its change."""
        return self.weight if self.delta is None else self.weight + self.delta.matrix()

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """The layer's product; ``gelu``: the tanh form of GELU of it."""
        if self.packed is not None:
            return self.packed(x, gelu)
        y = F.linear(x, self.weight, self.bias)
        if self.delta is not None:
            y = y + self.delta(x)
        return F.gelu(y, approximate="tanh") if gelu else y


@contextlib.contextmanager
def packed(model: nn.Module, rows: int) -> Iterator[None]:
    """Within, the :class:`Linear` layers of ``model``, and output layers, work with packed weights.

    Under autocast in its type. Where there are no kernels for it, nothing changes. Weights must not change within.
    Where there is little to multiply, one thread does it.

    Args:
        model: a generator, or what holds one: modules with an attribute ``packed_output`` are asked for the weight and
            bias of their ``output_layer``.
        rows: how many rows are decoded at once.
    """
    places = []
    for module in model.modules():
        if isinstance(module, Linear):
            places.append((module, "packed", module.whole_weight, module.bias))
        elif hasattr(module, "packed_output") and module.packed_output is None:
            places.append((module, "packed_output", *module.output_layer))
    threads = torch.get_num_threads()
    try:
        if rows * sum(weight.numel() for weight in model.parameters()) < FOR_ONE_THREAD:
            torch.set_num_threads(1)
        for module, name, weight, bias in places:
            kind = weight.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
            if can_pack(weight, dtype):
                setattr(module, name, PackedLinear(weight, bias, rows, dtype))
        yield
    finally:
        torch.set_num_threads(threads)
        for module, name, *_ in places:
            setattr(module, name, None)

"""Linear layers with weights of eight bits, for cheaper inference on a CPU.

Each row of a weight is scaled to -127..127 and rounded; inputs are scaled to seven bits as they come ("dynamic"), so no
texts are needed to calibrate. A quarter of the memory of float32, and integer products.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textgan.ops.packed_linear import Linear


class Int8Linear(nn.Module):
    """A linear layer with an int8 copy of a weight (N, K) and a float32 bias (N,); no gradient."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        weight = weight.detach().float()
        scales = (weight.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny).double()
        zeros = torch.zeros(len(weight), dtype=torch.long)
        with warnings.catch_warnings():  # torch will drop its quantised tensors some day, not in the range we allow
            warnings.simplefilter("ignore")
            rounded = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        self.in_features, self.out_features = weight.shape[1], len(weight)
        self.prepacked = torch.ops.quantized.linear_prepack(rounded, None if bias is None else bias.detach().float())

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """The layer's product, in the type of ``x``; ``gelu``: the tanh form of GELU of it."""
        y = torch.ops.quantized.linear_dynamic(x.float(), self.prepacked, True)
        return (F.gelu(y, approximate="tanh") if gelu else y).to(x.dtype)


def quantize_(model: nn.Module) -> None:
    """Puts :class:`Int8Linear` in the place of all linear layers, in place, and in that of output layers.

    Embeddings stay as they are, and so does a table that is the output layer too: its int8 copy is multiplied.
    Afterwards the model is for inference alone, on a CPU.
    """
    outputs = {}
    for module in model.modules():
        if hasattr(module, "packed_output"):
            weight, bias = module.output_layer
            outputs[id(weight)] = (module, Int8Linear(weight, bias))
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                of_output = outputs.get(id(child.weight))
                weight = child.whole_weight if isinstance(child, Linear) else child.weight
                setattr(module, name, of_output[1] if of_output else Int8Linear(weight, child.bias))
    for module, layer in outputs.values():
        module.__dict__["packed_output"] = layer  # not a child: the class's attribute of this name would hide it

"""GPT-2's weights as Hugging Face's transformers names them, and ours: a rename and a transpose.

The library keeps the weights of its linear layers transposed (Conv1D), and adds no bias to logits. Ours has one, that
of calibration. It goes over exactly: a final layer norm leaves one direction of its output constant, and a head that is
untied from the embeddings reads the bias along it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

MARK = "textgan_logit_bias"  # in a config.json: the untied head is the embeddings with a bias, as `theirs` wrote it
PREFIX, HEAD = "transformer.", "lm_head.weight"
# What our generator computes, by the names of transformers' GPT2Config.
FIXED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False, None),
    "add_cross_attention": (False, None),
}
RANK_ONE = 1e-4  # how far, relative to its size, a head's difference from the embeddings may be off that direction


def difference(config: Mapping[str, Any]) -> str | None:
    """Why a model of this configuration, as ``config.json`` has it, is not of our generator's shape; None: it is."""
    if config.get("model_type") != "gpt2":
        return f"model_type is {config.get('model_type')}"
    for name, allowed in FIXED.items():
        if name in config and config[name] not in allowed:
            return f"{name} is {config[name]}, ours {allowed[0]}"
    if not config.get("tie_word_embeddings", True) and not config.get(MARK):
        return "tie_word_embeddings is false, ours true"
    inner = config.get("n_inner")
    return f"n_inner is {inner}, ours 4 * n_embd" if inner not in (None, 4 * config["n_embd"]) else None


def ours(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a :class:`textgan.models.generator.Generator` with the weights of a ``GPT2LMHeadModel``.

    Raises:
        ValueError: its head is neither the embeddings nor one that :func:`theirs` wrote.
    """
    state = {}
    for name, tensor in weights.items():
        name = name.removeprefix(PREFIX)
        if name != HEAD and not name.endswith((".attn.bias", ".attn.masked_bias")):  # masks, in older files
            state[name] = tensor.T if _is_conv1d(name) else tensor
    state["logit_bias"] = torch.zeros(len(state["wte.weight"]), dtype=state["wte.weight"].dtype)
    head = weights.get(HEAD)
    if head is not None and not torch.equal(head, state["wte.weight"]):
        extra, direction = head - state["wte.weight"], _constant_direction(state["ln_f.weight"])
        along = extra @ direction / direction.square().sum()
        if (extra - torch.outer(along, direction)).norm() > RANK_ONE * extra.norm():
            raise ValueError("its output layer is not tied to its embeddings")
        state["logit_bias"] = along * (state["ln_f.bias"] @ direction)
    return {name: tensor.contiguous() for name, tensor in state.items()}


def theirs(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """Weights of a ``GPT2LMHeadModel`` that computes the same logits, and whether its head is tied."""
    weights = {
        PREFIX + name: (tensor.T if _is_conv1d(name) else tensor).contiguous()
        for name, tensor in state.items()
        if name != "logit_bias"
    }
    table, bias = state["wte.weight"], state["logit_bias"]
    weights[HEAD] = table
    if not bias.any():
        return weights, True
    # With the norm's output y = gain * x + shift, where x sums to 0: y @ direction = shift @ direction, for any x. A
    # shift that is moved along the gain makes that constant as large as can be, and the head takes the move back.
    gain, shift = state["ln_f.weight"].double(), state["ln_f.bias"].double()
    direction = _constant_direction(gain)
    move = gain if gain.all() else direction
    shift = shift + (move if shift @ direction >= 0 else -move)
    along = (bias.double() - table.double() @ (shift - state["ln_f.bias"].double())) / (shift @ direction)
    weights[PREFIX + "ln_f.bias"] = shift.to(table.dtype)
    weights[HEAD] = (table.double() + torch.outer(along, direction)).to(table.dtype)
    return weights, False


def _constant_direction(gain: Tensor) -> Tensor:
    """The direction (D,) in which the output of a layer norm with this gain is the same whatever it reads."""
    if gain.all():
        return 1 / gain
    return (gain == 0).cumsum(0).eq(1).mul(gain == 0).to(gain.dtype)  # the first that it does not let through


def _is_conv1d(name: str) -> bool:
    return name.endswith("weight") and ".c_" in name

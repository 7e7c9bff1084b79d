"""How a latent reaches a decoder: maps from z to the condition that a generator reads.

A Transformer is told z beside its token embeddings, by an extra key and value, or both (Li et al. 2020, Optimus,
https://arxiv.org/abs/2004.04092); an LSTM beside its embeddings, by its first state, or both (He et al. 2019).
"""

import torch
from torch import Tensor, nn

from textgan.models.generator import Condition, Generator
from textgan.models.lstm import LSTMCondition, LSTMGenerator

# Where the decoder is told the latent: (beside the tokens, in what it can look back at).
INJECTIONS = {"embedding": (True, False), "memory": (False, True), "both": (True, True)}


class TransformerInjection(nn.Module):
    """Conditions of a `Generator`. One group: z is told to every layer's memory and added to the embeddings.

    With a group a layer, each layer is told its own part of z, added to its input or as its memory.
    """

    def __init__(self, decoder: Generator, z_size: int, groups: int, injection: str):
        super().__init__()
        beside, memory = INJECTIONS[injection]
        self.groups, self.n_layer, self.n_head = groups, decoder.n_layer, decoder.n_head
        size, D = z_size // groups, decoder.n_embd
        self.shift = nn.ModuleList(nn.Linear(size, D) for _ in range(groups if beside else 0))
        self.memory = nn.ModuleList(nn.Linear(size, 2 * D) for _ in range(self.n_layer if memory else 0))
        for linear in self.memory:
            nn.init.normal_(linear.weight, std=0.02)
        for linear in self.shift:  # z then weighs as much as a token's embedding; more would drown it in noise
            nn.init.normal_(linear.weight, std=0.02 * size**-0.5)
        for linear in (*self.shift, *self.memory):
            nn.init.zeros_(linear.bias)

    def forward(self, z: Tensor) -> Condition:
        """The condition of latents (B, Z)."""
        parts = z.chunk(self.groups, dim=1)
        shifts = tuple(linear(part) for linear, part in zip(self.shift, parts, strict=False))
        shifts = shifts + (None,) * (self.n_layer - len(shifts)) if shifts else None
        if not self.memory:
            return Condition(shifts, None)
        of_layer = parts if self.groups > 1 else parts * self.n_layer
        pairs = [linear(part) for linear, part in zip(self.memory, of_layer, strict=True)]
        pairs = [pair.view(len(z), 2, self.n_head, 1, -1).unbind(1) for pair in pairs]
        return Condition(shifts, tuple(pairs))


class LSTMInjection(nn.Module):
    """Conditions of an `LSTMGenerator`: z beside every embedding, the first state c = W z with h = tanh c, or both."""

    def __init__(self, decoder: LSTMGenerator, z_size: int, injection: str):
        """Raises ValueError unless the decoder's `n_extra` is what the injection needs."""
        super().__init__()
        self.beside, memory = INJECTIONS[injection]
        wanted = z_size if self.beside else 0
        if decoder.n_extra != wanted:
            raise ValueError(
                f"`injection={injection}` with `z_size={z_size}` needs an LSTM decoder of `n_extra={wanted}`, "
                f"not {decoder.n_extra}"
            )
        self.n_layer, self.n_hidden = decoder.n_layer, decoder.n_hidden
        self.state = nn.Linear(z_size, self.n_layer * self.n_hidden, bias=False) if memory else None

    def forward(self, z: Tensor) -> LSTMCondition:
        """The condition of latents (B, Z)."""
        state = None
        if self.state is not None:
            c = self.state(z).view(len(z), self.n_layer, self.n_hidden).transpose(0, 1).contiguous()
            state = (torch.tanh(c), c)
        return LSTMCondition(z if self.beside else None, state)

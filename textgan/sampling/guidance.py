"""Classifier-free guidance: texts that keep closer to their prompt than the model would by itself.

Each token is chosen by log p(x | nothing) + s (log p(x | prompt) - log p(x | nothing)): at a scale s of 1 that is the
model, above 1 what the prompt makes likelier counts more (Ho & Salimans 2022, "Classifier-Free Diffusion Guidance"; of
language models Sanchez et al. 2023, "Stay on topic with Classifier-Free Guidance"; ``guidance_scale`` of Hugging Face's
``generate``).
"""

from torch import Tensor

from textgan.sampling.context import Context
from textgan.sampling.mixture import NgramContext


class GuidedContext:
    """What was read and written, with the prompts and without; see :class:`Context` for its attributes.

    ``logits`` are the model's own, given the prompts; ``choices`` is what tokens are chosen by.
    """

    def __init__(self, told: Context | NgramContext, free: Context | NgramContext, scale: float):
        """``told`` has read the prompts, ``free`` the same rows without them."""
        self._told, self._free, self._scale = told, free, scale

    @property
    def ids(self) -> Tensor:
        return self._told.ids

    @property
    def left_pad(self) -> Tensor:
        return self._told.left_pad

    @property
    def logits(self) -> Tensor:
        return self._told.logits

    @property
    def choices(self) -> Tensor:
        """(B, V) log-probabilities up to a constant."""
        free = self._free.logits.log_softmax(-1)
        return free + self._scale * (self._told.logits.log_softmax(-1) - free)

    def append(self, tokens: Tensor) -> None:
        """Gives each row one more token (B,)."""
        self._told.append(tokens)
        self._free.append(tokens)

    def select(self, rows: Tensor) -> None:
        """Keeps the rows of these indices, in their order; an index may repeat."""
        self._told.select(rows)
        self._free.select(rows)

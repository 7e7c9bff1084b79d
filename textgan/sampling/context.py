"""What a batch of rows has read and written so far, with the model's cache."""

from collections.abc import Sequence

import torch
from torch import Tensor

from textgan.errors import UserError
from textgan.models.generator import Condition, Generator
from textgan.models.lstm import LSTMCondition, LSTMGenerator


class Context:
    """Rows of different lengths, left-padded, read by a generator as they grow. No gradient.

    What else the generator is told of the rows, their condition, is in the cache and goes with them.

    Attributes:
        ids: (B, T) long: padding, opening token, prompt, what was written.
        left_pad: (B,) padding columns at the left of each row.
        logits: (B, V), at least float32: the model's own logits of what comes next.
        states: (B, N, D) what the output layer reads of the columns that were read last, all or the new one, where
            they are kept; not carried over by :meth:`select`.
    """

    def __init__(
        self,
        generator: Generator | LSTMGenerator,
        rows: Sequence[Sequence[int]],
        *,
        room: int,
        pad_id: int,
        condition: Condition | LSTMCondition | None = None,
        keep_states: bool = False,
    ):
        """Reads the rows; ``room`` is how many tokens a row will be given at most."""
        device = generator.device
        T = max(len(row) for row in rows)
        self.generator, self.room, self.keep_states = generator, room, keep_states
        self.ids = torch.tensor([[pad_id] * (T - len(row)) + list(row) for row in rows], device=device)
        self.left_pad = torch.tensor([T - len(row) for row in rows], device=device)
        self._read_all(condition)

    @property
    def choices(self) -> Tensor:
        """What tokens are chosen by."""
        return self.logits

    def append(self, tokens: Tensor) -> None:
        """Gives each row one more token (B,) and reads it."""
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
        self.room -= 1
        if self.cache.length == self.cache.max_len:
            # A row without padding is at its end here and has been dropped: what is left moves to the left.
            free = int(self.left_pad.min())
            self.ids, self.left_pad = self.ids[:, free:], self.left_pad - free
            self._read_all(self.cache.condition)
        else:
            self._read(tokens[:, None])

    def select(self, rows: Tensor) -> None:
        """Keeps the rows of these indices, in their order; an index may repeat."""
        self.cache.select(rows)
        self.ids, self.left_pad, self.logits = self.ids[rows], self.left_pad[rows], self.logits[rows]

    def _read_all(self, condition: Condition | LSTMCondition | None) -> None:
        B, T = self.ids.shape
        self.cache = self.generator.new_cache(B, min(self.generator.block_size, T + self.room), condition)
        self.padded = bool(self.left_pad.any())
        self._read(self.ids)

    def _read(self, tokens: Tensor) -> None:
        left_pad = self.left_pad if self.padded else None
        if self.keep_states:
            self.states = self.generator.states(tokens, left_pad=left_pad, cache=self.cache)
            logits = self.generator.logits(self.states[:, -1])
        else:
            logits = self.generator(tokens, left_pad=left_pad, cache=self.cache)[:, -1]
        self.logits = logits.to(torch.promote_types(logits.dtype, torch.float32))


def check_choice(logits: Tensor, scores: Tensor) -> None:
    """Raises UserError when a row of ``scores``, the model's ``logits`` after penalties, allows no token."""
    if scores.amax(-1).isfinite().all():
        return
    if not logits.isfinite().all():
        raise UserError("the model's logits are not finite: its weights are broken (did its training diverge?)")
    raise UserError(
        "no token is left to choose from: the banned tokens and `no_repeat_ngram_size` rule out the whole "
        "vocabulary (the end of text too, before `min_new_tokens`); raise the size or lower the numbers of tokens"
    )

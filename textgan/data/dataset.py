"""Texts as packed token rows, padded batches, and an order of batches that is a function of the step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from textgan.errors import UserError

if TYPE_CHECKING:
    from textgan.data.tokenizer import Tokenizer

TOO_LONG = ("drop", "window")
# Rows are sorted by length inside windows of this many batches: little padding, and the order stays random.
WINDOW_BATCHES = 50


class Batch(NamedTuple):
    """A padded batch of full rows `[eos, w1..wn, eos]`, or of pairs `[eos, c1..cm, w1..wn, eos]`.

    ids: (B, T+1) long, padded on the right with eos.
    lengths: (B,) long, the number of real targets of each row (so T is their maximum); the opening of a pair counts.
    starts: (B,) long, the number of opening tokens c1..cm of each row, which are given and not learned; None: none.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    starts: torch.Tensor | None = None

    @property
    def inputs(self) -> torch.Tensor:
        """(B, T) what the generator reads."""
        return self.ids[:, :-1]

    @property
    def targets(self) -> torch.Tensor:
        """(B, T) what the generator predicts, and what a discriminator sees."""
        return self.ids[:, 1:]

    @property
    def mask(self) -> torch.Tensor:
        """(B, T) bool, True where the target is to be learned; padding is told by this, never by the id."""
        return span_mask(self.starts, self.lengths, self.ids.shape[1] - 1)

    @property
    def openings(self) -> torch.Tensor:
        """(B, M) what opens each row, without the first eos; M is the longest, behind others stands what follows."""
        return self.targets[:, : 0 if self.starts is None else int(self.starts.max())]

    @property
    def counted(self) -> torch.Tensor:
        """(B,) number of targets of each row that are to be learned."""
        return self.lengths if self.starts is None else self.lengths - self.starts

    def without_openings(self, rows: torch.Tensor) -> Batch:
        """The batch of pairs with the openings of these rows (B,) bool left out, no wider than it need be."""
        starts = self.starts * rows
        lengths = self.lengths - starts
        columns = torch.arange(int(lengths.max()) + 1, device=self.ids.device)
        places = (columns + starts[:, None] * (columns > 0)).clamp(max=self.ids.shape[1] - 1)
        ended = columns > lengths[:, None]
        ids = self.ids.gather(1, places).where(~ended, self.ids[:, :1])
        return Batch(ids, lengths, self.starts - starts)

    def map(self, f: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """`f` of each tensor, which chooses rows or moves them."""
        return Batch(*(part if part is None else f(part) for part in self))

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        return self.map(lambda part: part.to(device, non_blocking=True))


def span_mask(starts: torch.Tensor | None, lengths: torch.Tensor, width: int) -> torch.Tensor:
    """(B, width) bool, True from the columns `starts` (None: from the first) to before `lengths` (B,)."""
    positions = torch.arange(width, device=lengths.device)
    inside = positions < lengths[:, None]
    return inside if starts is None else inside & (positions >= starts[:, None])


class TokenDataset:
    """Rows of token ids of different lengths, kept end to end in one tensor.

    tokens: (M,) long, all rows.
    offsets: (N+1,) long, row i is `tokens[offsets[i]:offsets[i+1]]`.
    lengths: (N,) long, the number of targets of each row, which is one less than its tokens.
    starts: (N,) long, how many of them open a pair and are not learned; None: no row has such.
    origins: (N,) long, the place of each row's text among those that the data set was built from.
    """

    def __init__(
        self,
        tokens: torch.Tensor,
        offsets: torch.Tensor,
        eos_id: int,
        *,
        origins: torch.Tensor | None = None,
        starts: torch.Tensor | None = None,
    ):
        """origins: None where each row is a text of its own."""
        self.tokens = tokens
        self.offsets = offsets
        self.eos_id = eos_id
        self.lengths = offsets.diff() - 1
        self.starts = starts
        self.origins = torch.arange(len(self.lengths)) if origins is None else origins
        if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(tokens) or (self.lengths < 1).any():
            raise ValueError("offsets must rise from 0 to len(tokens) in steps of at least 2")
        if starts is not None and ((starts < 0) | (starts >= self.lengths)).any():
            raise ValueError("starts must lie in 0..length-1: a row needs a target behind its opening")

    @property
    def counted(self) -> torch.Tensor:
        """(N,) number of targets of each row that are to be learned."""
        return self.lengths if self.starts is None else self.lengths - self.starts

    def opening(self, row: int) -> list[int]:
        """Ids that open a row, without the first eos."""
        if self.starts is None:
            return []
        first = int(self.offsets[row]) + 1
        return self.tokens[first : first + int(self.starts[row])].tolist()

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, indices: torch.Tensor | Sequence[int]) -> Batch:
        """Rows `indices` (B,) as a `Batch`, as wide as the longest of them."""
        rows = torch.as_tensor(indices, dtype=torch.long)
        if rows.numel() == 0:
            raise ValueError("a batch needs at least one row")
        if int(rows.min()) < 0 or int(rows.max()) >= len(self):
            raise IndexError(f"row indices must lie in 0..{len(self) - 1}")
        lengths = self.lengths[rows]
        columns = torch.arange(int(lengths.max()) + 1)
        places = (self.offsets[rows, None] + columns).clamp(max=len(self.tokens) - 1)  # (B, T+1)
        ids = self.tokens[places].masked_fill(columns > lengths[:, None], self.eos_id)
        return Batch(ids, lengths, None if self.starts is None else self.starts[rows])

    def select(self, rows: torch.Tensor) -> TokenDataset:
        """The rows of these indices, in their order, as a data set of their own."""
        sizes = self.lengths[rows] + 1
        offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        shift = (self.offsets[rows] - offsets[:-1]).repeat_interleave(sizes)
        tokens = self.tokens[torch.arange(len(shift)) + shift]
        starts = None if self.starts is None else self.starts[rows]
        return TokenDataset(tokens, offsets, self.eos_id, origins=self.origins[rows], starts=starts)

    def rows_with(self, token: int) -> torch.Tensor:
        """(N,) bool, True for the rows that hold `token`, in their openings or elsewhere."""
        seen = torch.cat([torch.zeros(1, dtype=torch.long), (self.tokens == token).cumsum(0)])
        return seen[self.offsets[1:]] > seen[self.offsets[:-1]]


def build_dataset(
    texts: Iterable[str],
    tokenizer: Tokenizer,
    *,
    block_size: int,
    too_long: str,
    openings: Sequence[str] | None = None,
) -> tuple[TokenDataset, int]:
    """The encoded texts, and how many of them have more than `block_size` targets (tokens with their eos).

    Args:
        texts: one row (or several windows) each.
        tokenizer: encodes without special tokens; its `eos_id` opens and closes every text.
        block_size: the most targets of a row; a text of n tokens has n + 1.
        too_long: "drop" leaves longer texts out; "window" cuts them into rows of at most `block_size`
            targets. Neighbouring windows share one token, so each target occurs in exactly one of them.
        openings: of each text, what stands before it and is encoded by itself; its tokens count as targets of the row,
            but are not learned. None: nothing. A text with an opening is never cut.

    Raises:
        UserError: if every text is too long and dropped.
    """
    if too_long not in TOO_LONG:
        raise ValueError(f"too_long={too_long!r}; allowed: {', '.join(TOO_LONG)}")
    if block_size < 1:
        raise ValueError(f"block_size={block_size} must be at least 1")
    if openings is not None and too_long == "window":
        raise ValueError("a text with an opening cannot be cut into windows")
    eos_id = tokenizer.eos_id
    starts = None if openings is None else array("q")
    tokens, ends, origins, n_long, shortest = array("q"), array("q", [0]), array("q"), 0, None
    for place, text in enumerate(texts):
        opening = tokenizer.encode(openings[place]) if openings is not None else []
        row = [eos_id, *opening, *tokenizer.encode(text), eos_id]
        n_targets = len(row) - 1
        if n_targets > block_size:
            n_long += 1
            shortest = min(n_targets, shortest or n_targets)
            if too_long == "drop":
                continue
        for start in range(0, n_targets, block_size):
            tokens.extend(row[start : start + block_size + 1])
            ends.append(len(tokens))
            origins.append(place)
            if starts is not None:
                starts.append(len(opening))
    if n_long and len(ends) == 1:
        raise UserError(
            f"all {n_long} texts are longer than block_size={block_size} (the shortest has {shortest} tokens "
            "with its end); raise block_size"
            + (" or cut texts into windows (too_long: window)" if openings is None else " or shorten the pairs")
        )
    dataset = TokenDataset(
        _tensor(tokens),
        _tensor(ends),
        eos_id,
        origins=_tensor(origins),
        starts=None if starts is None else _tensor(starts),
    )
    return dataset, n_long


def _tensor(values: array) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.int64))


class _Plan(ABC):
    """The order of training batches as a pure function of (seed, step); every epoch holds each row once.

    There is no state to save: a resumed run needs its step alone. The batches of an epoch are shuffled; a kind of plan
    says how its rows are ordered first, and where they are cut.

    Attributes:
        batches_per_epoch: of all rows.
        mean_tokens: real ones of a (whole) batch on average.
    """

    def __init__(self, lengths: torch.Tensor, seed: int):
        """lengths: (N,) of the rows; seed: not negative."""
        if len(lengths) == 0:
            raise UserError("there are no texts to train on")
        self._lengths = lengths.cpu().numpy()
        self._seed = seed
        self._epoch = -1

    def _cut(self, starts: Sequence[int]) -> None:
        """``starts``: the place of each batch's first row."""
        self._cuts = [*starts, len(self._lengths)]
        self.batches_per_epoch = len(starts)

    def indices(self, step: int) -> torch.Tensor:
        """(B,) long, the rows of batch `step`; steps count on over the epochs."""
        if step < 0:
            raise ValueError(f"step={step} must not be negative")
        epoch, k = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, epoch])
            self._rows = torch.from_numpy(self._ordered(rng.permutation(len(self._lengths))))
            self._order = rng.permutation(self.batches_per_epoch)
            self._epoch = epoch
        place = int(self._order[k])
        return self._rows[self._cuts[place] : self._cuts[place + 1]].clone()

    @abstractmethod
    def _ordered(self, rows: np.ndarray) -> np.ndarray:
        """The shuffled ``rows`` as they are cut into batches."""


class BatchPlan(_Plan):
    """Batches of one size; one of an epoch is smaller where `batch_size` does not divide the rows.

    Rows are sorted by length inside windows of about fifty batches, unless `by_length` is False.
    """

    def __init__(self, lengths: torch.Tensor, batch_size: int, seed: int, *, by_length: bool = True):
        """lengths: (N,) of the rows; seed: not negative; by_length: sort inside windows (False: batches at random)."""
        super().__init__(lengths, seed)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        self._batch_size, self._by_length = batch_size, by_length
        self._cut(range(0, len(lengths), batch_size))
        self.mean_tokens = batch_size * float(self._lengths.mean())

    def _ordered(self, rows: np.ndarray) -> np.ndarray:
        if not self._by_length:
            return rows
        window = np.arange(len(rows)) // (WINDOW_BATCHES * self._batch_size)
        return rows[np.lexsort((self._lengths[rows], window))]


class TokenPlan(_Plan):
    """Batches with as many texts of like length as fit into ``tokens`` positions, padding counted.

    They hold no more than ``batch_size`` texts; a text longer than ``tokens`` is a batch by itself. Which texts of one
    length go together is random in each epoch; the sizes are the same in all.
    """

    def __init__(self, lengths: torch.Tensor, tokens: int, batch_size: int, seed: int):
        """lengths: (N,) of the rows; seed: not negative."""
        super().__init__(lengths, seed)
        if min(tokens, batch_size) < 1:
            raise ValueError(f"tokens={tokens} and batch_size={batch_size} must be at least 1")
        starts = [0]
        for row, length in enumerate(np.sort(self._lengths).tolist()):
            number = row + 1 - starts[-1]
            if number > 1 and (number > batch_size or number * length > tokens):
                starts.append(row)
        self._cut(starts)
        self.mean_tokens = float(self._lengths.sum()) / self.batches_per_epoch

    def _ordered(self, rows: np.ndarray) -> np.ndarray:
        return rows[np.argsort(self._lengths[rows], kind="stable")]


def batch_plan(lengths: torch.Tensor, batch_size: int, tokens: int | None, seed: int) -> BatchPlan | TokenPlan:
    """Batches of like length: of ``batch_size`` texts, or of so many ``tokens`` and at most that many texts."""
    if tokens is None:
        return BatchPlan(lengths, batch_size, seed)
    return TokenPlan(lengths, tokens, batch_size, seed)


def eval_batches(lengths: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """All rows once, in batches (B,) of row indices sorted by length; the same at every call."""
    if len(lengths) == 0:
        return []
    return list(torch.argsort(lengths.cpu(), stable=True).split(batch_size))

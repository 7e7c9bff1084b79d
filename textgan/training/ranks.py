"""Several processes that work on one run together, started by ``torchrun``: rank 0 to size - 1.

In training every rank holds the whole model and the same state, works on its share of each batch, and takes part in
every update. A batch is one and the same whatever the number of ranks: losses are sums over it divided by constants, so
gradients add up to those of one process; scores that a loss compares with each other are gathered first
(:meth:`Ranks.gather`). Sampling and evaluation share out whole batches and operating points, which come out the same
wherever they are made. Rank 0 alone speaks. A run of one process has the same code, and nobody to wait for.
"""

import contextlib
import datetime
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from textgan.errors import UserError

T = TypeVar("T")

# How long a rank waits for another, which may be evaluating alone. One that died is noticed at once.
PATIENCE = datetime.timedelta(minutes=60)
BUCKET = 2**23  # gradients that are sent at once, in numbers
INTERRUPTED = 130  # exit code of a process that Ctrl-C ended


class Ranks:
    """This process among those of the run; see the module.

    Attributes:
        rank, size: number of this process, and of processes.
        store: what all ranks can read and write without waiting for each other.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: dist.Store | None = None):
        self.rank, self.size = rank, size
        self.store = store or dist.HashStore()
        self._heard = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def share(self) -> tuple[int, int]:
        """(i, s): this rank's share of a list is every s-th of its entries, from the i-th on."""
        return self.rank, self.size

    @property
    def stream(self) -> tuple[int, ...]:
        """What random streams that differ between ranks are named by, beside their other names."""
        return (self.rank,) if self.size > 1 else ()

    def own(self, x: Tensor) -> Tensor:
        """This rank's rows of ``x`` (B, ...), which is the same on all ranks: every ``size``-th from ``rank`` on.

        Where there are none, the first row, so that every rank does something: it counts as often as :meth:`counted`.
        """
        if self.size == 1:
            return x
        return x[self.rank :: self.size] if self.rank < len(x) else x[:1]

    def counted(self, n: int) -> int:
        """How many of its own rows this rank really has of ``n``."""
        return len(range(self.rank, n, self.size))

    def gather(self, x: Tensor, n: int) -> Tensor:
        """All ``n`` rows of what each rank has its own rows ``x`` of, in their order, on every rank.

        Gradient flows to this rank's own rows: what every rank computes of all rows, and differentiates, makes
        gradients of parameters that :meth:`add_up` sums to those of one process.
        """
        return _Gather.apply(x, n, self) if self.size > 1 else x

    def gather_texts(self, ids: Tensor, lengths: Tensor, n: int, pad_id: int) -> tuple[Tensor, Tensor]:
        """All ``n`` texts, ids (n, T) and lengths (n,), of which each rank has its own; see :meth:`gather`."""
        if self.size == 1:
            return ids, lengths
        lengths = self.gather(lengths, n)
        wide = ids.new_full((len(ids), int(lengths.max())), pad_id)
        wide[:, : ids.size(1)] = ids[:, : wide.size(1)]
        return self.gather(wide, n), lengths

    def add_up(self, model: nn.Module | None, *values: Tensor) -> list[Tensor]:
        """Sums the model's gradients over the ranks in place; returns the sums of ``values`` (scalars)."""
        if self.size == 1:
            return list(values)
        with loss_of_a_rank():
            parts = [p.grad for p in model.parameters() if p.grad is not None] if model else []
            parts += [packed := torch.stack([v.detach().double() for v in values])] if values else []
            for bucket in _buckets(parts):
                flat = torch.cat([part.reshape(-1) for part in bucket]) if len(bucket) > 1 else bucket[0]
                dist.all_reduce(flat)
                if len(bucket) > 1:
                    pieces = flat.split([part.numel() for part in bucket])
                    torch._foreach_copy_(bucket, [f.view_as(p) for f, p in zip(pieces, bucket, strict=True)])
        return [value.to(v) for value, v in zip(packed, values, strict=True)] if values else []

    def same(self, value: T) -> T:
        """The first rank's ``value``, on all."""
        if self.size == 1:
            return value
        box = [value]
        with loss_of_a_rank():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def first_does(self, work: Callable[[], T]) -> T:
        """What ``work`` returns on the first rank, on all; the others wait. Its error ends all of them.

        Raises:
            UserError: as ``work`` does; on the others :class:`FirstFailed`.
        """
        if self.size == 1:
            return work()
        try:
            outcome, error = (work(), None) if self.first else (None, None)
        except BaseException as found:
            error = found
            outcome = None
        outcome, failed = self.same((outcome, error is not None))
        if error is not None:
            raise error
        if failed:
            raise FirstFailed("the first process stopped")
        return outcome

    def collect(self, value: T) -> list[T]:
        """The ``value`` of each rank, in order, on all."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        with loss_of_a_rank():
            dist.all_gather_object(box, value)
        return box

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any rank."""
        return flag if self.size == 1 else any(self.collect(flag))

    def add(self, x: Tensor) -> Tensor:
        """The sum of the ranks' tensors ``x``, on all; what one alone has, where the others have 0, keeps every bit."""
        return x if self.size == 1 else torch.stack(self.collect(x)).sum(0)

    def tally(self, name: str, more: int = 1) -> int:
        """Counts so many more of ``name``; returns how many all ranks have counted. None waits for another."""
        with loss_of_a_rank():
            return self.store.add(name, more)

    def take(self, name: str, n: int) -> Iterator[int]:
        """Numbers below ``n``, each on one rank alone: the next one is for whichever is free. ``name`` is used once."""
        while (number := self.tally(name) - 1) < n:
            yield number

    def tell(self, message: str) -> None:
        """Leaves a message for the first rank, which finds it in :meth:`heard`."""
        with loss_of_a_rank():
            self.store.set(f"message {self.tally('messages')}", message)

    def heard(self) -> Iterator[str]:
        """The messages of all ranks that have come since; for the first rank."""
        with loss_of_a_rank():
            while self.store.check([f"message {self._heard + 1}"]):
                self._heard += 1
                yield self.store.get(f"message {self._heard}").decode()


class FirstFailed(UserError):
    """The first rank has ended with an error that it says itself."""


class RankLost(UserError):
    """Another process is gone."""


@contextlib.contextmanager
def joined(device: torch.device, go_on: str) -> Iterator[Ranks]:
    """The ranks that torchrun started, this one among them; without torchrun this process alone.

    While they are joined, ranks but the first say nothing on stdout and stderr. The first error of all is raised where
    it was met; other ranks, whose own errors follow from it, end without a word.

    Args:
        device: that they compute on.
        go_on: how to go on when one of them is gone.

    Raises:
        UserError: the processes cannot find each other, or one of them is gone.
        SystemExit: on ranks that end because another did, or by Ctrl-C, which the first one tells.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield Ranks()
        return
    try:
        store, rank, _ = next(dist.rendezvous("env://", timeout=PATIENCE))
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the {size} processes of torchrun cannot find each other: {_first_line(error)}") from None
    with contextlib.ExitStack() as stack:
        if rank:
            silence = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stderr(silence))
            stack.enter_context(contextlib.redirect_stdout(silence))
        ranks = Ranks(rank, size, dist.PrefixStore("textgan", store))
        try:
            yield ranks
        except BaseException as error:
            ending = _ending(ranks, error, go_on)
            if ending is error:
                raise
            raise ending from error
        finally:
            dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """The GPU of this rank where torchrun started several on a machine with GPUs, else ``device``.

    Raises:
        UserError: more processes than GPUs.
    """
    if device.type != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    number, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= there:
        raise UserError(
            f"torchrun started at least {number + 1} processes here, but there are {there} GPUs; "
            f"give --nproc-per-node {there}"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def _ending(ranks: Ranks, error: BaseException, go_on: str) -> BaseException:
    """What this rank is to raise instead of its error; see :func:`joined`."""
    if isinstance(error, FirstFailed):
        return SystemExit(1)
    own = first = f"rank {ranks.rank}: {type(error).__name__}"
    with contextlib.suppress(RuntimeError):  # the store may be gone with the process that held it
        first = ranks.store.compare_set("ended", "", own).decode()
    if first.endswith(KeyboardInterrupt.__name__):
        return KeyboardInterrupt() if ranks.first else SystemExit(INTERRUPTED)
    if first != own:
        return SystemExit(1)
    return UserError(f"{error}; {go_on}") if isinstance(error, RankLost) else error


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, n: int, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        ctx.rows = len(x)
        most = -(-n // ranks.size)
        padded = x.new_zeros(most, *x.shape[1:])
        own = ranks.counted(n)
        padded[:own] = x[:own]
        parts = [torch.empty_like(padded) for _ in range(ranks.size)]
        with loss_of_a_rank():
            dist.all_gather(parts, padded)
        return torch.stack(parts, dim=1).flatten(0, 1)[:n]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        own = gradient[ctx.ranks.rank :: ctx.ranks.size]
        if len(own) < ctx.rows:  # a rank without rows has given one that nobody sees
            own = gradient.new_zeros(ctx.rows, *gradient.shape[1:])
        return own, None, None


def _buckets(parts: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in lists of one type with at most :data:`BUCKET` numbers, or a single tensor."""
    bucket: list[Tensor] = []
    for part in parts:
        if bucket and (part.dtype != bucket[0].dtype or sum(p.numel() for p in bucket) + part.numel() > BUCKET):
            yield bucket
            bucket = []
        bucket.append(part)
    if bucket:
        yield bucket


@contextlib.contextmanager
def loss_of_a_rank() -> Iterator[None]:
    """Raises :class:`RankLost`, which says in one line that another process is gone, for what torch raises then."""
    try:
        yield
    except RuntimeError as error:
        raise RankLost(f"another process of this run is gone ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

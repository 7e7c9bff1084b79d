"""Parameter-efficient fine-tuning: a few new parameters in a frozen generator.

Written here rather than taken from the library peft, which wraps a layer and adds its update to whatever the layer
gives: our layer of the MLP gives the GELU of its product (``Linear.forward(gelu=True)``), and the update belongs
inside. And names of the weights below stay those of the plain generator, which packed weights and checkpoints rely on.
Forward pass, gradients, merging, and the ranks that AdaLoRA keeps equal peft's (``tests/test_adapters.py``).
"""

import difflib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textgan.models.generator import Generator
from textgan.models.sharing import copy_of, let_train
from textgan.models.transformer import MLP, Attention, Dropout, Memory, memory_of
from textgan.ops.packed_linear import Linear


class LowRank(nn.Module):
    """LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685): adds ``alpha / rank * B A x``; B starts at zero."""

    def __init__(self, weight: Tensor, rank: int, alpha: float, dropout: float):
        """For a layer of this weight (out, in)."""
        super().__init__()
        self.scale, self.drop = alpha / rank, Dropout(dropout)
        self.lora_A = nn.Parameter(weight.new_empty(rank, weight.size(1)))
        self.lora_B = nn.Parameter(weight.new_zeros(weight.size(0), rank))
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)

    def matrix(self) -> Tensor:
        return self.scale * (self.lora_B @ self.lora_A)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.linear(self.drop(x), self.lora_A), self.lora_B)


class AdaptiveRank(nn.Module):
    """AdaLoRA (Zhang et al. 2023, https://arxiv.org/abs/2303.10512): adds ``alpha / rank * P diag(E) Q x``.

    Training takes singular values E (all zero at the start) away where they matter least; ``keep`` (rank,) bool says
    which are left for good (see :mod:`textgan.training.rank_allocation`). P is ``lora_B``, Q is ``lora_A``.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float, dropout: float):
        super().__init__()
        self.scale, self.drop = alpha / rank, Dropout(dropout)
        self.lora_A = nn.Parameter(weight.new_empty(rank, weight.size(1)))
        self.lora_E = nn.Parameter(weight.new_zeros(rank))
        self.lora_B = nn.Parameter(weight.new_empty(weight.size(0), rank))
        self.register_buffer("keep", torch.ones(rank, dtype=torch.bool, device=weight.device))
        nn.init.normal_(self.lora_A, std=0.02)
        nn.init.normal_(self.lora_B, std=0.02)

    def matrix(self) -> Tensor:
        return self.scale * (self.lora_B @ (self.lora_A * self.lora_E[:, None]))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.linear(self.drop(x), self.lora_A) * self.lora_E, self.lora_B)


class Bottleneck(nn.Module):
    """Houlsby et al. 2019 (https://arxiv.org/abs/1902.00751): y + W2 gelu(W1 y), behind a sublayer; W2 starts at zero.

    Behind each MLP alone it is the adapter of Pfeiffer et al. 2021, without that one's second norm.
    """

    def __init__(self, like: Tensor, size: int):
        """For states as wide as ``like`` (D, ...) is long."""
        super().__init__()
        self.down, self.up = Linear(len(like), size), Linear(size, len(like))
        self.to(like)
        nn.init.normal_(self.down.weight, std=0.02)
        nn.init.zeros_(self.up.weight)
        for layer in (self.down, self.up):
            nn.init.zeros_(layer.bias)

    def forward(self, y: Tensor) -> Tensor:
        return y + self.up(self.down(y, gelu=True))


class Prefix(nn.Module):
    """Prefix tuning (Li & Liang 2021, https://arxiv.org/abs/2101.00190): n learned keys and values in every layer.

    They start as what the generator makes of n tokens drawn from its vocabulary ("activations of real words", their
    section 7.4), and are learned themselves, without their MLP. Texts keep their positions, from 0 on.
    """

    def __init__(self, generator: Generator, n_tokens: int):
        super().__init__()
        with torch.no_grad():
            memory = memory_of(generator.h, _drawn(generator, n_tokens))
        self.memory = nn.Parameter(torch.stack([torch.cat(pair) for pair in memory]))  # (layers, 2, H, n, d)

    def forward(self, generator: Generator) -> tuple[Memory, ...]:
        """Keys and values (1, H, n, d), an entry a layer."""
        return tuple((k[None], v[None]) for k, v in self.memory)


class Prompt(nn.Module):
    """Prompt tuning (Lester et al. 2021, https://arxiv.org/abs/2104.08691): n learned embeddings before every text.

    They start as tokens drawn from the vocabulary, with their positions, and are read once a pass for all rows. Texts
    keep their positions, from 0 on, so that they may be as long as without.
    """

    def __init__(self, generator: Generator, n_tokens: int):
        super().__init__()
        self.vectors = nn.Parameter(_drawn(generator, n_tokens).detach().clone()[0])

    def forward(self, generator: Generator) -> tuple[Memory, ...]:
        """Keys and values (1, H, n, d) that the generator's layers make of the vectors."""
        return memory_of(generator.h, generator.drop(self.vectors[None]))


def _drawn(generator: Generator, n: int) -> Tensor:
    """Embeddings (1, n, D) of n tokens drawn from the vocabulary, by the global random state."""
    ids = torch.randint(generator.vocab_size, (1, n)).to(generator.device)
    return generator.wte(ids) + generator.wpe.weight[:n]


LOW_RANK = {"lora": LowRank, "adalora": AdaptiveRank}
BEFORE = {"prefix": Prefix, "prompt": Prompt}


def put_on(
    generator: Generator,
    kind: str,
    *,
    rank: int = 0,
    alpha: float = 0.0,
    dropout: float = 0.0,
    targets: Iterable[str] = (),
    bottleneck: int = 0,
    n_tokens: int = 0,
    train_also: Iterable[str] = (),
) -> Generator:
    """``generator`` with a fresh adapter of a kind, in place; from now on that alone trains, and ``train_also``.

    Weights that the adapter shall stand on must be there before. Reads the global random state.

    Args:
        generator: without adapter.
        kind: lora, adalora, bottleneck, prefix or prompt.
        rank, alpha, dropout: of lora and adalora.
        targets: patterns of names (as of files; what stands before the pattern may be left away): of the linear layers
            that lora and adalora change, such as ``attn.c_attn`` or ``h.0.mlp.*``; of the sublayers that bottlenecks
            stand behind: ``attn``, ``mlp``.
        bottleneck: width of a bottleneck.
        n_tokens: of prefix and prompt.
        train_also: patterns of the generator's own parameters that train beside, such as ``ln_*``.

    Raises:
        ValueError: a pattern that matches nothing, or more tokens than the generator has positions.
    """
    also = chosen(train_also, [name for name, _ in generator.named_parameters()], "adapter.train_also")
    before = {name for name, _ in generator.named_parameters()}
    training = generator.training
    generator.eval()
    modules = dict(generator.named_modules())
    if kind in LOW_RANK:
        names = [name for name, module in modules.items() if isinstance(module, Linear)]
        for name in chosen(targets, names, "adapter.targets"):
            modules[name].delta = LOW_RANK[kind](modules[name].weight.detach(), rank, alpha, dropout)
    elif kind == "bottleneck":
        names = [name for name, module in modules.items() if isinstance(module, Attention | MLP)]
        for name in chosen(targets, names, "adapter.targets"):
            modules[name].adapter = Bottleneck(generator.ln_f.weight.detach(), bottleneck)
    else:
        if n_tokens > generator.block_size:
            raise ValueError(f"adapter.n_tokens={n_tokens} is above generator.block_size={generator.block_size}")
        generator.prefix = BEFORE[kind](generator, n_tokens)
    generator.trained = frozenset(
        name for name, _ in generator.named_parameters() if name not in before or name in also
    )
    return let_train(generator.train(training))


def adapted_copy(generator: Generator, kind: str, *, train_also: Iterable[str] = (), **options) -> Generator:
    """A copy of a generator without adapter that has one; what stays frozen is no copy but that of ``generator``.

    Arguments and errors are those of :func:`put_on`.
    """
    also = set(chosen(train_also, [name for name, _ in generator.named_parameters()], "adapter.train_also"))
    return put_on(copy_of(generator, lambda name: name not in also), kind, train_also=train_also, **options)


def can_merge(generator: Generator) -> bool:
    """Whether :func:`merge` can fold the generator's adapter into its weights; True where there is none."""
    return generator.prefix is None and not any(isinstance(module, Bottleneck) for module in generator.modules())


@torch.no_grad()
def merge(generator: Generator) -> Generator:
    """``generator`` without adapter, in place, and the same function up to rounding: the update added to the weights.

    Weights that were shared with other models are replaced, not changed.

    Raises:
        ValueError: bottlenecks, a prefix and a prompt are not linear in what the layers read.
    """
    if not can_merge(generator):
        kind = type(generator.prefix).__name__.lower() if generator.prefix is not None else "bottleneck"
        why = {
            "bottleneck": "it is a network of its own behind a sublayer",
            "prefix": "its keys and values stand before every text",
            "prompt": "its vectors stand before every text",
        }
        raise ValueError(
            f"an adapter of kind {kind} cannot be folded into the weights of a plain generator: {why[kind]}; those of "
            "kind lora and adalora can"
        )
    for module in generator.modules():
        if isinstance(module, Linear) and module.delta is not None:
            module.weight = nn.Parameter(module.whole_weight, requires_grad=module.weight.requires_grad)
            module.delta = None
    generator.trained = None
    return generator


def chosen(patterns: Iterable[str], names: Iterable[str], setting: str) -> list[str]:
    """The ``names`` that a pattern matches, in their order: as a whole, from some dot on, or up to some dot.

    Raises:
        ValueError: a pattern matches none of them; it is told with near names and the ``setting`` whose it is.
    """
    names, patterns = list(names), list(patterns)
    for pattern in patterns:
        if not any(_matches(pattern, name) for name in names):
            there = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in names})
            known = {part for name in there for part in (name, name.rpartition(".")[0]) if part}  # and their modules
            ends = {end for whole in known for end in (whole, whole.rpartition("*.")[2], whole.split(".")[-1])}
            near = difflib.get_close_matches(pattern, sorted(ends), 3)
            found = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(there)}"
            raise ValueError(f"{setting}: `{pattern}` matches nothing in the generator; {found}")
    return [name for name in names if any(_matches(pattern, name) for pattern in patterns)]


def _matches(pattern: str, name: str) -> bool:
    return any(fnmatchcase(name, whole) for whole in (pattern, f"*.{pattern}", f"{pattern}.*", f"*.{pattern}.*"))

"""A step of maximum likelihood: at equal shapes beside other libraries, and on captions of uneven length."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks.metrics import load
from tests.benchmarks.models import BATCH, LENGTH, VOCAB, hugging_face, ours, x_transformers
from tests.benchmarks.race import Race
from textgan.data.dataset import Batch, BatchPlan, TokenDataset
from textgan.models.generator import Generator
from textgan.training.objectives import mle_loss
from textgan.training.optim import adamw, clip_gradients, set_lr

CAPTIONS = 10_000  # all of Image COCO
STEPS = 5  # batches of captions in a call


def races(device: str) -> Iterator[Race]:
    yield equal_shapes(device, dropout=0.0)
    yield equal_shapes(device, dropout=0.1)
    yield captions(device)


def our_step(model: Generator) -> Callable[[Batch], None]:
    """What ``textgan train`` does with a batch."""
    model.train()
    optimizer = adamw(model, betas=(0.9, 0.99), weight_decay=0.05)
    set_lr(optimizer, 1e-4)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        mle_loss(model, batch, float(batch.lengths.sum())).backward()
        clip_gradients(model, 1.0)
        optimizer.step()

    return step


def plain_step(model: nn.Module, logits: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], None]:
    """A step as nanoGPT's loop does it: logits of all positions, cross-entropy that leaves out targets of -1."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.99), weight_decay=0.05)

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        out = logits(inputs)
        F.cross_entropy(out.view(-1, out.size(-1)), targets.reshape(-1), ignore_index=-1).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def equal_shapes(device: str, dropout: float) -> Race:
    rows = torch.randint(1, VOCAB, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(0)).to(device)
    batch = Batch(rows, torch.full((BATCH,), LENGTH, device=device))
    step, model = our_step(ours(dropout, device)), hugging_face(dropout, device)
    theirs = plain_step(model, lambda ids, m=model: m(input_ids=ids).logits)
    race = Race(
        name="mle" if dropout == 0 else "mle_dropout",
        what=f"a step of MLE, {BATCH} texts of {LENGTH} tokens, vocabulary {VOCAB:,}, 4 layers of width 256, "
        f"float32, dropout {dropout:g}",
        ours=lambda: step(batch),
        peers={"transformers (GPT2LMHeadModel)": lambda: theirs(batch.inputs, batch.targets)},
        work=BATCH * LENGTH,
        unit="tokens",
        bar=1.0,
    )
    if dropout:
        return race
    other = x_transformers(device)
    if other is None:
        race.missing.append("x-transformers")
    else:
        step_x = plain_step(other, other)
        race.peers["x-transformers"] = lambda: step_x(batch.inputs, batch.targets)
    return race


def captions(device: str) -> Race:
    """Batches by length and losses of real positions, against rows padded to the longest of all."""
    corpus, texts, _ = load(CAPTIONS)
    ids: dict[str, int] = {}
    rows = [[0, *(ids.setdefault(word, len(ids) % (VOCAB - 1) + 1) for word in row), 0] for row in texts]
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    data = TokenDataset(torch.tensor([token for row in rows for token in row]), offsets, 0)
    plan, shuffled = (BatchPlan(data.lengths, BATCH, 0, by_length=by_length) for by_length in (True, False))
    width = int(data.lengths.max())
    step = our_step(ours(0.0, device))
    padded = ours(0.0, device)
    padded_step = plain_step(padded, padded)
    done = {"ours": 0, "padded": 0}

    def by_length() -> None:
        for k in range(STEPS):
            step(data.batch(plan.indices(done["ours"] + k)).to(device))
        done["ours"] += STEPS

    def fixed() -> None:
        for k in range(STEPS):
            batch = data.batch(shuffled.indices(done["padded"] + k))
            wide = F.pad(batch.ids, (0, width + 1 - batch.ids.size(1)))
            real = torch.arange(width) < batch.lengths[:, None]
            padded_step(wide[:, :-1].to(device), wide[:, 1:].masked_fill(~real, -1).to(device))
        done["padded"] += STEPS

    return Race(
        name="mle_captions",
        what=f"{STEPS} steps of MLE on {corpus} of {data.lengths.double().mean():.1f} tokens on average and {width} at "
        "most, the same model",
        ours=by_length,
        peers={"rows of fixed length (nanoGPT's loop)": fixed},
        work=STEPS * BATCH * data.lengths.double().mean().item(),
        unit="real tokens",
        bar=2.5,
    )

"""A relaxed pass and a whole adversarial iteration, in steps of maximum likelihood of the same batch and model."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.benchmarks.mle import our_step
from tests.benchmarks.models import BATCH, EOS, LENGTH, MIDDLE, VOCAB, Shape, hugging_face, ours
from tests.benchmarks.race import Race
from textgan.config import Config
from textgan.data.dataset import Batch, TokenDataset
from textgan.models.generator import Generator
from textgan.ops.relaxation import gumbel_noise, soft
from textgan.sampling.rollout import rollout, sample_ids
from textgan.training.adversarial_steps import discriminator_step, draw_texts, generator_step
from textgan.training.players import Players, set_rates, set_up
from textgan.training.ranks import Ranks

READ = 256  # width of what reads the relaxed tokens in the race of a pass alone


def races(device: str) -> Iterator[Race]:
    yield relaxed_pass(device)
    yield iteration(device, shared=False)
    yield iteration(device, shared=True)


def full_batch(device: str, shape: Shape = MIDDLE) -> Batch:
    size = (shape.batch, shape.length + 1)
    rows = torch.randint(1, shape.vocab, size, generator=torch.Generator().manual_seed(0)).to(device)
    return Batch(rows, torch.full((shape.batch,), shape.length, device=device))


def relaxed_pass(device: str) -> Race:
    """Sample, go forward with relaxed tokens, go back; a table and a fixed gradient stand for the critic."""
    model, theirs, batch = ours(device=device).eval(), hugging_face(device=device).eval(), full_batch(device)
    step = our_step(ours(device=device))
    table = torch.randn(VOCAB, READ, device=device) * 0.02
    gradient = torch.randn(BATCH, LENGTH, READ, device=device)
    rng = torch.Generator(device).manual_seed(0)

    def two_pass() -> None:
        model.zero_grad()
        ids, lengths = sample_ids(model, BATCH, LENGTH, eos_id=EOS, rng=rng)
        fake = rollout(model, ids, lengths, eos_id=EOS, estimator="straight_through", tau=1.0, rng=rng)
        fake.tokens.embed(table).backward(gradient)

    def step_by_step() -> None:
        """The same with gradient all the way: a cache that grows by concatenation, the hard token read back."""
        theirs.zero_grad()
        noise = gumbel_noise((BATCH, LENGTH, VOCAB), generator=rng, device=device)
        last, cache, tokens = torch.full((BATCH, 1), EOS, device=device), None, []
        for t in range(LENGTH):
            out = theirs(input_ids=last, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            relaxed = soft(out.logits[:, -1], None, tau=1.0, noise=noise[:, t])
            last = relaxed.argmax(-1, keepdim=True)
            tokens.append(_straight_through(relaxed, last))
        (torch.stack(tokens, 1) @ table).backward(gradient)

    return Race(
        name="relaxed_pass",
        what=f"{BATCH} texts of {LENGTH} tokens sampled, relaxed (straight-through), read, and gone back",
        ours=two_pass,
        peers={"transformers, step by step with a cache": step_by_step},
        yardsticks={"a step of MLE": lambda: step(batch)},
        limits={"a step of MLE": 1.6},
    )


def _straight_through(relaxed: Tensor, chosen: Tensor) -> Tensor:
    return F.one_hot(chosen[:, 0], VOCAB) + relaxed - relaxed.detach()


def config_of(shape: Shape, dropout: float = 0.0, **settings: object) -> Config:
    """Generator and critic of a shape, both phases, and other ``settings`` of the adversarial one."""
    size = {"n_layer": shape.layers, "n_head": shape.heads, "n_embd": shape.width, "dropout": dropout}
    return Config.model_validate(
        {
            "generator": {"block_size": shape.length, **size},
            "discriminator": size,
            "mle": {"batch_size": shape.batch, "ema": 0.0, "calibrate": False},
            "adversarial": {"batch_size": shape.batch, "loss": "rsgan", "calibrate": False, **settings},
        }
    )


def rows_of(shape: Shape) -> TokenDataset:
    """A batch of texts as a training split."""
    return TokenDataset(full_batch("cpu", shape).ids.flatten(), torch.arange(shape.batch + 1) * (shape.length + 1), EOS)


def players(
    device: str, shape: Shape = MIDDLE, dropout: float = 0.0, **settings: object
) -> tuple[SimpleNamespace, Players, Generator]:
    """What the steps of the adversarial phase need of a run, the players, and their parent."""
    run = SimpleNamespace(
        config=config_of(shape, dropout, **settings),
        device=torch.device(device),
        tokenizer=SimpleNamespace(vocab_size=shape.vocab, eos_id=EOS),
        train=rows_of(shape),
        autocast=contextlib.nullcontext,
        ranks=Ranks(),
        shards=None,
    )
    parent = ours(dropout, device, shape)
    found = set_up(run, parent)
    set_rates(found, run.config.adversarial, 0)
    return run, found, parent


def one_iteration(run: SimpleNamespace, both: Players, parent: Generator, batch: Batch) -> Callable[[], None]:
    """Does one step of the critic and one of the generator at each call, with what :func:`players` gives."""
    done = itertools.count()

    def one() -> None:
        k = next(done)
        judged, own = draw_texts(run, both, k)
        discriminator_step(run, both, batch, judged[0], ("d", k), k)
        generator_step(run, both, parent, batch, own, 1.0, k, logged=False)

    return one


def iteration(device: str, shared: bool) -> Race:
    """One step of the critic and one of the generator by the adversarial gradient alone."""
    step, batch = our_step(ours(device=device)), full_batch(device)
    game = players(device, mle_weight=0.0, kl_weight=0.0, adv_ratio=None, share_fakes=shared)
    return Race(
        name="adversarial_shared" if shared else "adversarial",
        what="an adversarial iteration: a step of the critic, which has the generator's size, and one of the generator"
        + (", with the same fakes (share_fakes)" if shared else ""),
        ours=one_iteration(*game, batch),
        yardsticks={"a step of MLE": lambda: step(batch)},
        limits={"a step of MLE": 3.5},
    )

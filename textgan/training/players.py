"""Who plays the adversarial game: both networks with what trains them, from the start of the phase or after a kill."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from textgan.configphases import Adversarial
from textgan.models.generator import Generator
from textgan.models.sharing import load_own_state, own_state
from textgan.training.adapting import pupil
from textgan.training.building import compile_blocks
from textgan.training.cost import Spent
from textgan.training.critic import new_discriminator
from textgan.training.experiment import Experiment, Selection
from textgan.training.finetune import tuned_adamw
from textgan.training.optim import WeightAverage, adamw, lr_at, set_lr
from textgan.training.penalties import Penalties
from textgan.training.rank_allocation import RankAllocator
from textgan.training.replay import Replay
from textgan.training.seeding import seed_dropout


@dataclass
class Players:
    """Everything that the phase trains, and what it needs to go on after a kill."""

    generator: Generator
    average: WeightAverage
    discriminator: nn.Module
    optimizer: torch.optim.Optimizer
    optimizer_d: torch.optim.Optimizer
    replay: Replay
    selection: Selection
    spent: Spent
    allocator: RankAllocator
    penalties: Penalties

    def state_dict(self) -> dict[str, Any]:
        """What is not frozen under an adapter."""
        return {
            name: own_state(part) if name == "generator" else part.state_dict() for name, part in vars(self).items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_own_state(self.generator, state["generator"])
        for name, part in vars(self).items():
            if name in state and name != "generator":  # checkpoints from before costs were counted can be gone on with
                part.load_state_dict(state[name])


def set_up(run: Experiment, parent: Generator) -> Players:
    """Generator (see :func:`textgan.training.adapting.pupil`), critic, optimisers and stores at their start."""
    config, settings = run.config, run.config.adversarial
    generator = pupil(config, parent)
    seed_dropout(config.seed, "init-d")
    discriminator = new_discriminator(config, run.tokenizer).to(run.device)
    average = WeightAverage(generator, settings.ema)
    compile_blocks(config, generator)
    if not (settings.r1 or settings.r2 or settings.gradient_penalty):  # which differentiate twice
        compile_blocks(config, discriminator)
    return Players(
        generator=generator,
        average=average,
        discriminator=discriminator,
        optimizer=tuned_adamw(config, generator, settings, run.shards),
        optimizer_d=adamw(
            discriminator, betas=settings.betas_d, weight_decay=settings.weight_decay_d, shards=run.shards
        ),
        replay=Replay(settings.replay_batches, settings.replay_share),
        selection=Selection(settings.patience),
        spent=Spent(settings.continuation == "seconds", run.device),
        allocator=RankAllocator(generator, average.module, config.adapter, settings.max_steps),
        penalties=Penalties(config.finetune, generator),
    )


def set_rates(players: Players, settings: Adversarial, done: int) -> dict[str, float]:
    """Set both learning rates for the phase's update ``done``; returns them under their tags."""
    shape = {
        "total_steps": settings.max_steps,
        "warmup_steps": settings.warmup_steps,
        "final_ratio": settings.final_lr_ratio,
    }
    rates = {
        "schedule/lr": lr_at(done, peak=settings.lr, **shape),
        "schedule/lr_d": lr_at(done, peak=settings.lr_d, **shape),
    }
    set_lr(players.optimizer, rates["schedule/lr"])
    set_lr(players.optimizer_d, rates["schedule/lr_d"])
    return rates

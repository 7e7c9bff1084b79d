"""The discriminator of a run: made as the config says, and read back for whoever asks what it knows."""

from pathlib import Path

import torch
from torch import nn

from textgan.config import Config
from textgan.errors import UserError
from textgan.models.discriminator import CNNCritic, TransformerCritic
from textgan.training.checkpoint import SamplingModel, arms, load_for_sampling, load_state


def build_discriminator(config: Config, vocab_size: int) -> nn.Module:
    """A fresh critic of the config's shape; it reads up to ``generator.block_size`` tokens."""
    shape, length = config.discriminator, config.generator.block_size
    common = {"dropout": shape.dropout, "spectral_norm": shape.spectral_norm}
    if shape.kind == "transformer":
        return TransformerCritic(vocab_size, length, shape.n_layer, shape.n_head, shape.n_embd, **common)
    return CNNCritic(vocab_size, length, shape.n_embd, shape.n_representations, shape.channels, **common)


def load_critic(path: str | Path, device: str | torch.device = "cpu") -> tuple[nn.Module, SamplingModel]:
    """The trained critic (eval mode, on ``device``, without gradient) and the generator beside which it is kept.

    A run means its arm ``adversarial``. ``critic(ids (B, T), lengths (B,)).sequence`` is (B,): the score of each row of
    targets ``[w1..wn, eos]``, larger where the text looks real. Under ``rsgan`` and ``ragan`` only differences of
    scores mean something, under ``non_saturating`` the score itself is the log-odds.

    Raises:
        UserError: as :func:`load_for_sampling`, or the checkpoint is of no adversarial phase.
    """
    path = Path(path)
    if (path / "checkpoints").is_dir() or path.name == "checkpoints":
        run = path.parent if path.name == "checkpoints" else path
        found = arms(run)
        if "adversarial" not in found:
            raise UserError(
                f"{run} has no discriminator: its arms are {', '.join(found)}; train one with an `adversarial` section"
            )
        path = found["adversarial"]
    model = load_for_sampling(path, device)
    state = load_state(model.path)
    weights = state.get("discriminator") or state.get("players", {}).get("discriminator")
    if weights is None:
        raise UserError(f"{model.path} has no discriminator (phase {model.meta.get('phase')}); give an adversarial one")
    critic = build_discriminator(model.config, model.tokenizer.vocab_size)
    critic.load_state_dict(weights)
    return critic.to(device).eval().requires_grad_(False), model

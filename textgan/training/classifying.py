"""Trained classifiers and critics, read back to judge texts: probabilities of classes, and scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from textgan.configfile import load_config
from textgan.data.dataset import eval_batches
from textgan.data.tokenizer import Tokenizer, load_tokenizer
from textgan.errors import UserError
from textgan.models.classifier import Classifier
from textgan.training.building import fill
from textgan.training.checkpoint import check_checkpoint, find_checkpoint, load_weights
from textgan.training.classes import build_classifier
from textgan.training.classifier import logits_of
from textgan.training.critic import load_critic
from textgan.training.inputs import cut_rows

BATCH = 64  # texts judged at once


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier in evaluation mode with what it needs to read texts."""

    model: Classifier
    tokenizer: Tokenizer
    classes: list[str]
    block_size: int
    path: Path
    step: int

    def probabilities(self, texts: Sequence[str]) -> Tensor:
        """Probabilities (N, K) float64 of the classes; a text longer than ``block_size`` tokens is cut."""
        if not texts:
            return torch.zeros(0, len(self.classes), dtype=torch.float64)
        rows, _ = cut_rows(texts, self.tokenizer, self.block_size)
        device = next(self.model.parameters()).device
        return logits_of(self.model, rows, batch_size=BATCH, device=device).softmax(1)


def load_classifier(path: str | Path, device: str | torch.device = "cpu") -> TrainedClassifier:
    """The best classifier of a run, or that of a checkpoint.

    Raises:
        UserError: there is none, or it is not whole.
    """
    folder = find_checkpoint(path)
    meta = check_checkpoint(folder)
    if meta.get("phase") != "classifier":
        raise UserError(
            f"{folder} is no classifier (phase {meta.get('phase')}); train one with a `classifier` section: `textgan "
            "train configs/classifier/stories.yaml`"
        )
    config, tokenizer = load_config(folder / "config.yaml"), load_tokenizer(folder / "tokenizer.json")
    model = build_classifier(config, tokenizer.vocab_size, len(meta["classes"]), meta["architecture"])
    fill(model, load_weights(folder), folder)
    model.to(device).eval().requires_grad_(False)
    return TrainedClassifier(model, tokenizer, meta["classes"], config.block_size, folder, meta["step"])


@torch.no_grad()
def score_texts(critic: nn.Module, tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """What a critic of the tokens of ``tokenizer`` says of each text, (N,) float64: larger where it looks real.

    A text longer than the critic reads is cut there, and has an end all the same.
    """
    scores = torch.zeros(len(texts), dtype=torch.float64)
    if not texts:
        return scores
    rows, _ = cut_rows(texts, tokenizer, critic.block_size)
    device = next(critic.parameters()).device
    critic.eval()
    for some in eval_batches(rows.lengths, BATCH):
        batch = rows.batch(some).to(device)
        scores[some] = critic(batch.targets, batch.lengths).sequence.double().cpu()
    return scores


def text_judge(path: str, wanted: str | None, device: str | torch.device) -> Callable[[Sequence[str]], Tensor]:
    """A function from texts to scores (N,): a classifier's log-probability of the class ``wanted``, or a critic's.

    Raises:
        UserError: there is neither in ``path``, a classifier without a class of that name, or a class for a critic,
            or a critic of pairs.
    """
    folder = find_checkpoint(path)
    if check_checkpoint(folder).get("phase") == "classifier":
        trained = load_classifier(folder, device)
        if wanted not in trained.classes:
            given = "give --class" if wanted is None else f"it has no class {wanted!r}; give --class"
            raise UserError(f"{path} is a classifier: {given} one of {', '.join(trained.classes)}")
        column = trained.classes.index(wanted)
        return lambda texts: trained.probabilities(texts)[:, column].log()
    if wanted is not None:
        raise UserError(f"{path} has a critic, which knows no classes: leave --class {wanted} away")
    critic, model = load_critic(path, device)
    if model.writes_for_conditions:
        raise UserError(
            f"{path} learned pairs: its critic reads a text behind its {model.config.data.condition}, and would judge "
            "texts alone wrongly; give the run of a classifier, or one of free texts"
        )
    return lambda texts: score_texts(critic, model.tokenizer, texts)

"""How good a classifier is, from its probabilities and the true classes."""

import torch
from torch import Tensor

BINS = 15  # of the calibration error, as in Guo et al. 2017


def confusion_matrix(labels: Tensor, predicted: Tensor, n_classes: int) -> Tensor:
    """Counts (K, K) long: row the true class, column the predicted one, of labels (N,) and predictions (N,)."""
    return torch.bincount(labels * n_classes + predicted, minlength=n_classes**2).view(n_classes, n_classes)


def macro_f1(confusion: Tensor) -> float:
    """The mean over classes of F1, 2 TP / (2 TP + FP + FN); 0 for a class that neither occurs nor is predicted."""
    hits, wanted, given = confusion.diag().double(), confusion.sum(1), confusion.sum(0)
    return float((2 * hits / (wanted + given).clamp(min=1)).mean())


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Expected calibration error in 0..1: the mean gap between confidence and accuracy in bins of like confidence.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3: bins of equal width, each open
    below, weighted by their number of texts.
    """
    confidence, predicted = probabilities.double().max(1)
    gap = (predicted == labels).double() - confidence
    place = (confidence * bins).ceil().clamp(1, bins).long() - 1
    sums = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, gap)
    return float(sums.abs().sum() / len(labels))


def classification_scores(logits: Tensor, labels: Tensor) -> tuple[dict[str, float], Tensor]:
    """Scores of logits (N, K) against the true classes (N,), and the confusion matrix (K, K).

    ``accuracy``, ``macro_f1``, ``cross_entropy`` (nats a text), ``ece`` (:func:`calibration_error`), and ``majority``:
    the accuracy of always naming the most frequent of these texts' classes.
    """
    logits = logits.double()
    confusion = confusion_matrix(labels, logits.argmax(1), logits.shape[1])
    scores = {
        "accuracy": int(confusion.diag().sum()) / len(labels),
        "macro_f1": macro_f1(confusion),
        "cross_entropy": float(torch.nn.functional.cross_entropy(logits, labels)),
        "ece": calibration_error(logits.softmax(1), labels),
        "majority": int(confusion.sum(1).max()) / len(labels),
    }
    return scores, confusion

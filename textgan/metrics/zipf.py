"""How fast the frequency of words falls with their rank."""

import torch
from torch import Tensor

RANKS = 1000


def zipf_exponent(occurrences: Tensor, ranks: int = RANKS) -> float:
    """The s of frequency ~ rank^-s: least squares of log frequency on log rank over the first ``ranks`` words.

    About 1 for English; higher where few words make up most of the text. Each rank counts the same; words that are
    equally frequent have ranks one after the other. 0 where fewer than two different words occur.

    Args:
        occurrences: of each word, (U,); zeros are left out.
        ranks: the most words that are looked at.

    Source: Zipf 1949; as a metric of generated text, Holtzman et al. 2020, "The Curious Case of Neural Text
    Degeneration", who leave the range of ranks open.
    """
    frequent = occurrences[occurrences > 0].sort(descending=True).values[:ranks]
    if len(frequent) < 2:
        return 0.0
    x = torch.arange(1, len(frequent) + 1, device=frequent.device).double().log()
    y = frequent.double().log()
    x = x - x.mean()
    return float(-(x * y).sum() / (x * x).sum())

"""Uncertainty of any number computed from a set of texts: the delete-a-group jackknife.

Text i is in group ``i % G``. The number is computed again without the texts of each group; the spread of these G
values is the sampling error of the number itself, whatever it is made of (self-BLEU compares texts with each
other, so no bootstrap over its per-text values would do: resampled texts would meet themselves). Because every
operating point draws its text i with the same random numbers, the groups of two points pair up.

For smooth numbers it is about right; for those in which texts meet each other it errs to the safe side (Efron and
Stein 1981, "The Jackknife Estimate of Variance"). Over the spread of 80 independent sets of 10,000 captions drawn from
a 4-gram model, its standard error is .99 for BLEU-4, 1.09 for self-BLEU-4, .93 for distinct-2, 1.09 for MS-Jaccard-3;
for 500 short texts of 60 words it is 1.4 for self-BLEU-2, which is near its ceiling there.

Source: Kott 2001, "The Delete-a-Group Jackknife"; Efron and Tibshirani 1993, "An Introduction to the Bootstrap",
chapter 11.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from textgan.errors import UserError
from textgan.metrics.bootstrap import Interval
from textgan.ops.ngrams import Ragged

GROUPS = 20


def group_of_text(n: int, groups: int = GROUPS) -> Tensor:
    """The group of each of ``n`` texts, (n,) long.

    Raises:
        UserError: fewer than two groups, or groups without texts, or a group without which fewer than two texts
            are left.
    """
    if groups < 2 or n < groups or n - math.ceil(n / groups) < 2:
        raise UserError(
            f"{n} texts in {groups} groups: the jackknife needs at least 2 groups, a text in each, and 2 texts left"
            " without any of them: give more texts, or choose fewer groups"
        )
    return torch.arange(n) % groups


def jackknife(statistic: Callable[[Ragged], float], texts: Ragged, groups: int = GROUPS) -> tuple[float, np.ndarray]:
    """The statistic of all texts, and of all but those of group g at ``[g]``, (groups,) float64.

    It calls ``statistic`` ``groups + 1`` times; :class:`textgan.metrics.suite.Scorer` finds the same values of its
    own metrics in one pass.
    """
    group = group_of_text(len(texts.lengths), groups).to(texts.lengths.device)
    without = [statistic(texts.select((group != g).nonzero().squeeze(1))) for g in range(groups)]
    return statistic(texts), np.array(without, dtype=np.float64)


def jackknife_sd(groups: np.ndarray) -> float:
    """Standard error of a number from its leave-group-out values (G,): sqrt((G-1)/G * sum of squared deviations)."""
    groups = np.asarray(groups, dtype=np.float64)
    count = len(groups)
    return math.sqrt((count - 1) / count * float(((groups - groups.mean()) ** 2).sum()))


def jackknife_interval(value: float, groups: np.ndarray, level: float = 0.95) -> Interval:
    """``value`` plus and minus its standard error times the Student-t quantile of G - 1 degrees.

    The value is not corrected for bias: numbers that move with the size of the set (self-BLEU, distinct-n) are
    compared at one size.
    """
    half = t_quantile(level, len(groups) - 1) * jackknife_sd(groups)
    return Interval(value, value - half, value + half)


def t_quantile(level: float, degrees: int) -> float:
    """The t with P(-t < T < t) = ``level`` for Student's T of ``degrees`` degrees of freedom.

    By bisection of the closed form of the probability for whole degrees (Abramowitz and Stegun 1964, 26.7.3 and
    26.7.4).

    Raises:
        ValueError: ``level`` not between 0 and 1, or no degree of freedom.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1")
    if degrees < 1:
        raise ValueError(f"degrees={degrees} must be at least 1")
    low, high = 0.0, math.pi / 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if _central_t(middle, degrees) < level else (low, middle)
    return math.tan(middle) * math.sqrt(degrees)


def _central_t(angle: float, degrees: int) -> float:
    """P(-t < T < t) for t = tan(angle) * sqrt(degrees)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees, 2):
        term *= (k - 1) / k * cosine * cosine
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total

"""What an evaluation is asked for: arms, samplers, numbers of texts, measures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from textgan.analysis.judged import DERIVED, REFERENCES, Judged
from textgan.analysis.points import IW_SAMPLES
from textgan.analysis.protocols import Protocol
from textgan.errors import UserError
from textgan.sampling.samplers import PLAIN, Sampler
from textgan.training.experiment import say


@dataclass(frozen=True)
class Sweep:
    """What is to be evaluated.

    Attributes:
        samplers: operating points of each arm; temperatures of latents are for arms that have some.
        n, seed: texts at each point, and the seed of their random numbers.
        split: ``dev`` or ``test``: where references and held-out text come from.
        arms: names, of the run's arms and of ``judged.REFERENCES`` and ``DERIVED``; None for all of them. The latter
            two are drawn from as they are (temperature 1), unless they are named here.
        tokenize: what n-gram metrics count; None for what the run's config says.
        embedders, lm: of :func:`textgan.analysis.all_measures.make_measures`.
        protocol: the benchmark that fixes all this, where there is one.
        iw_samples: latents a text that the likelihood of a VAE is bounded with.
    """

    samplers: tuple[Sampler, ...]
    n: int = 10_000
    seed: int = 0
    split: str = "dev"
    arms: tuple[str, ...] | None = None
    tokenize: str | None = None
    embedders: tuple[str, ...] = ("ngrams",)
    lm: tuple[str, ...] = ("kn",)
    protocol: Protocol | None = None
    iw_samples: int = IW_SAMPLES

    @property
    def setting(self) -> str:
        """The name of the folder of its records."""
        return f"{self.split}-n{self.n}-s{self.seed}"

    def samplers_of(self, arm: Judged) -> tuple[Sampler, ...]:
        """Where this arm is drawn from."""
        if self.arms is None and arm.name in (*REFERENCES, *DERIVED):
            return (PLAIN,)
        return tuple(sampler for sampler in self.samplers if sampler.fits(arm.generator))


def check_samplers(sweep: Sweep, judged: Sequence[Judged]) -> None:
    """Tell of samplers that do not fit some arms; UserError where nothing is left to draw."""
    names = [arm.name for arm in judged if not all(sampler.fits(arm.generator) for sampler in sweep.samplers)]
    skipped = ", ".join(name for name in names if sweep.arms is not None or name not in REFERENCES)
    if not any(sweep.samplers_of(arm) for arm in judged):
        raise UserError(f"z_temperature is for arms with latents, unlike {skipped}; give other samplers")
    if skipped:
        say(f"note: z_temperature skipped for {skipped}: no latents")


def shared_out(todo: Iterable[tuple[Judged, Sampler]], size: int) -> list[tuple[Judged, list[Sampler]]]:
    """The points in parts that a rank does in a row, arm by arm.

    Samplers that choose among the same texts, which are drawn once, are one part, the first of its arm as it is the
    longest; where that makes fewer parts than there are ranks, they part.
    """
    together: dict[tuple[str, Sampler | None], tuple[Judged, list[Sampler]]] = {}
    alone = []
    for arm, sampler in todo:
        key = (arm.name, None if sampler.of_plain_texts else sampler)
        together.setdefault(key, (arm, []))[1].append(sampler)
        alone.append((arm, [sampler]))
    if len(together) < size:
        return alone
    order = list(dict.fromkeys(name for name, _ in together))
    return sorted(together.values(), key=lambda part: (order.index(part[0].name), -len(part[1])))

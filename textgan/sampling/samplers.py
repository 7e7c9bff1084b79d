"""Samplers: the ways in which texts are drawn from a generator to be judged, named by specs such as ``top_p=0.9``.

A generator is not one point of quality and diversity but a curve, and these are the knobs that move along it. The
baseline of any claim is the best of all of them (Caccia et al. 2020, "Language GANs Falling Short", for temperature and
for rejection by the model's own likelihood).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from textgan.errors import UserError
from textgan.models.generator import Generator
from textgan.models.lstm import LSTMGenerator
from textgan.sampling.decode import Sample, generate
from textgan.sampling.latent import LatentGenerator
from textgan.sampling.mixture import Mixture, NgramGenerator
from textgan.sampling.streams import row_uniforms

# Open interval of the values that each family allows. What lies at an end is plain sampling or no sampling at all, so
# one distribution has one name. top_k: whole numbers. z_temperature: for models with latents only.
FAMILIES = {
    "temperature": (0, math.inf),
    "top_p": (0, 1),
    "top_k": (0, math.inf),
    "typical_p": (0, 1),
    "rejection": (0, math.inf),
    "z_temperature": (0, math.inf),
}
LATENT_FAMILY = "z_temperature"
LATENT_SAMPLERS = "z_temperature=0.5,0.75,1.25"
DEFAULT_SAMPLERS = (
    "temperature=0.5:1.3:0.1,0.95,1.05",
    "top_p=0.8,0.9,0.95",
    "top_k=10,40,100",
    "typical_p=0.2,0.5,0.9,0.95",
    "rejection=0.5,1,2",
    LATENT_SAMPLERS,
)
MOST_IN_RANGE = 1000
# Rejection: candidates that each text is chosen from.
CANDIDATES = 8
# Random streams are numbered by row. Those of further candidates, and of the choices, lie beyond all rows.
_STREAM_STRIDE = 2**40


@dataclass(frozen=True, order=True)
class Sampler:
    """How texts are drawn: a family of :data:`FAMILIES`, and the value of its knob."""

    family: str
    value: float

    def __str__(self) -> str:
        """The canonical spec, such as ``temperature=0.8``."""
        return f"{self.family}={self.value:g}"

    @property
    def plain(self) -> bool:
        """Whether it changes nothing: ancestral sampling from the model itself."""
        return self == PLAIN

    @property
    def of_plain_texts(self) -> bool:
        """Whether it gives plain texts, all or chosen ones: those are drawn once for all such samplers."""
        return self.plain or self.family == "rejection"

    def fits(self, generator: object) -> bool:
        """Whether this model can be drawn from so: temperatures of latents are for models that have some."""
        return self.family != LATENT_FAMILY or isinstance(generator, LatentGenerator)


PLAIN = Sampler("temperature", 1.0)


def parse_samplers(specs: str | Iterable[str]) -> list[Sampler]:
    """The samplers of one or several lists such as ``temperature=0.5:1.3:0.1,0.95,top_k=10,40``.

    A name holds until the next one; ``a:b:step`` is a range with both ends. Each sampler comes once: families in the
    order of :data:`FAMILIES`, values ascending. ``z_temperature=1`` is plain sampling, ``temperature=1``.

    Raises:
        UserError: an unknown family, or a value that is none or out of range.
    """
    found: set[Sampler] = set()
    for spec in [specs] if isinstance(specs, str) else specs:
        family = None
        for part in spec.split(","):
            name, equals, values = part.strip().rpartition("=")
            family = name.strip() if equals else family
            if family not in FAMILIES:
                given = f"a sampler named {family!r}" if family else f"{part.strip()!r} without a sampler's name"
                raise UserError(f"samplers {spec!r}: {given}; give {' or '.join(f'{f}=VALUE' for f in FAMILIES)}")
            found |= {_checked(family, value, spec) for value in _values(values.strip(), spec)}
    order = list(FAMILIES)
    return sorted(found, key=lambda sampler: (order.index(sampler.family), sampler.value))


def _values(text: str, spec: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        return numbers
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise UserError(f"samplers {spec!r}: {text!r} is neither a number nor a range FROM:TO:STEP")
    first, last, step = numbers
    if step <= 0 or last < first:
        raise UserError(f"samplers {spec!r}: the range {text!r} is empty; FROM <= TO and STEP > 0 are needed")
    count = math.floor((last - first) / step + 1e-6) + 1
    if count > MOST_IN_RANGE:
        raise UserError(f"samplers {spec!r}: the range {text!r} has {count} values; give at most {MOST_IN_RANGE}")
    return [first + i * step for i in range(count)]


def _checked(family: str, value: float, spec: str) -> Sampler:
    low, high = FAMILIES[family]
    value = float(f"{value:g}")  # so that the spec says exactly what is drawn
    whole = family != "top_k" or value.is_integer()
    if not (low < value < high and whole):  # false for NaN too
        what = "a whole number" if family == "top_k" else "a number"
        top = "" if high == math.inf else f" and below {high:g}"
        plain = f" (plain sampling is {PLAIN})" if "temperature" not in family else ""
        raise UserError(f"samplers {spec!r}: {family}={value:g}: give {what} above {low:g}{top}{plain}")
    return PLAIN if (family, value) == (LATENT_FAMILY, 1) else Sampler(family, value)


class Drawn(NamedTuple):
    """N texts as they were drawn.

    Attributes:
        ids: what was written, the closing token included where there is one.
        log_probs: (N,) float64, nats, end token counted: of the model itself at temperature 1, nothing banned,
            however the texts were drawn. Of a VAE given the texts' own latents, log p(x|z).
        truncated: (N,) bool, True where a text was cut at its longest length.
    """

    ids: list[list[int]]
    log_probs: np.ndarray
    truncated: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens of each text, the closing token included."""
        return np.array([len(ids) for ids in self.ids])


class Drawer:
    """Draws the same ``n`` texts' worth of randomness from a generator by any sampler.

    Text i of every sampler follows from random stream i of ``seed``, so sets drawn by different samplers, or from
    different generators, are paired text by text, and what they differ by is known better than each of them. What
    several samplers need is drawn once: plain texts, and the candidates of rejection.

    ``rejection=b`` chooses each text from :data:`CANDIDATES` plain ones of its own slot, the first of which is the
    plain text of that slot, with probabilities proportional to exp(b z); z is the log-probability a token under the
    model, standardised over all candidates. One uniform number a slot decides, for all b, along the candidates in the
    order of z: so a higher b never exchanges a text for a less likely one. Unlike temperature, it sharpens the
    distribution of whole texts. Of a VAE each candidate has a latent of its own, and as its log p(x) is not known, the
    log-probability is log p(x|z): chosen are texts that their latent is sure of.

    ``z_temperature=t`` scales the noise that the latents of a VAE are made of; tokens are drawn at temperature 1.
    """

    def __init__(
        self,
        generator: Generator | LSTMGenerator | LatentGenerator | Mixture | NgramGenerator,
        n: int,
        *,
        eos_id: int,
        max_new_tokens: int,
        banned_ids: Sequence[int] = (),
        seed: int = 0,
        batch_size: int = 256,
        openings: Sequence[Sequence[int]] | None = None,
        **options: Any,
    ):
        """``openings``: ids that stand before each of the ``n`` texts; None: nothing does.

        ``options``: further settings of :func:`textgan.sampling.decode.generate`.
        """
        if seed < 0 or n < 1:
            raise ValueError(f"`seed={seed}` must not be negative and `n={n}` must be at least 1")
        self.generator, self.n, self.seed, self.batch_size = generator, n, seed, batch_size
        self._options = {
            "eos_id": eos_id,
            "max_new_tokens": max_new_tokens,
            "banned_ids": banned_ids,
            "seed": seed,
            **options,
        }
        self._openings = [[]] * n if openings is None else list(openings)
        if len(self._openings) != n:
            raise ValueError(f"{len(self._openings)} openings for n={n} texts; give one for each")
        self._plain: list[Drawn] = []  # candidate j of every slot; the first is the plain texts

    def signature(self) -> dict[str, Any]:
        """What moves the texts beside the generator, the sampler and ``n``; the same for all samplers."""
        return sampling_signature(seed=self.seed, max_new_tokens=self._options["max_new_tokens"])

    def batches(self, sampler: Sampler, *, after: Iterable[Sampler] = ()) -> int:
        """How many batches :meth:`__call__` will write, when it has been called for ``after``."""
        drawn = max([len(self._plain), *(_candidates(other) for other in after)])
        return max(0, _candidates(sampler) - drawn) * self._per_set if _candidates(sampler) else self._per_set

    def __call__(self, sampler: Sampler, between: Callable[[], None] | None = None) -> Drawn:
        """The texts of ``sampler``; ``between`` is called before each batch, and what it raises ends the drawing.

        Raises:
            ValueError: a temperature of latents, and the generator has none.
        """
        if not sampler.fits(self.generator):
            raise ValueError(f"{sampler} is for models with latents")
        for j in range(len(self._plain), _candidates(sampler)):
            self._plain.append(self._draw({}, j * _STREAM_STRIDE, between))
        if sampler.plain:
            return self._plain[0]
        if sampler.family == "rejection":
            return self._choose(sampler.value)
        if sampler.family == LATENT_FAMILY:
            return self._draw({}, 0, between, self.generator.at(z_temperature=sampler.value))
        value = int(sampler.value) if sampler.family == "top_k" else sampler.value
        return self._draw({sampler.family: value}, 0, between)

    @property
    def _per_set(self) -> int:
        return -(-self.n // self.batch_size)

    def _draw(
        self,
        settings: dict[str, float],
        first_row: int,
        between: Callable[[], None] | None,
        generator: LatentGenerator | None = None,
    ) -> Drawn:
        samples: list[Sample] = []
        for start in range(0, self.n, self.batch_size):
            if between is not None:
                between()
            prompts = self._openings[start : start + self.batch_size]
            samples += generate(
                generator or self.generator,
                prompts,
                batch_size=len(prompts),
                first_index=first_row + start,
                **self._options,
                **settings,
            )
        return Drawn(
            [sample.ids for sample in samples],
            np.array([sample.log_prob for sample in samples]),
            np.array([sample.finish_reason == "length" for sample in samples]),
        )

    def _choose(self, b: float) -> Drawn:
        pool = self._plain[:CANDIDATES]
        log_probs = np.stack([drawn.log_probs for drawn in pool], 1)  # (n, K)
        uniforms = row_uniforms(self.seed, CANDIDATES * _STREAM_STRIDE, self.n, 1)[:, 0]
        chosen = choose_by_likelihood(log_probs / np.stack([drawn.lengths for drawn in pool], 1), uniforms, b)
        return Drawn(
            [pool[j].ids[i] for i, j in enumerate(chosen)],
            log_probs[np.arange(self.n), chosen],
            np.array([pool[j].truncated[i] for i, j in enumerate(chosen)]),
        )


def choose_by_likelihood(rates: np.ndarray, uniforms: np.ndarray, b: float) -> np.ndarray:
    """Index (N,) of the candidate of each slot, drawn with probabilities proportional to exp(b z).

    Args:
        rates: (N, K) log-probability a token; z is this, standardised over all N K values.
        uniforms: (N,) in [0, 1), inverted along the candidates of a slot in ascending order of z.
        b: 0 draws all alike; towards infinity the likeliest wins.
    """
    z = (rates - rates.mean()) / max(rates.std(), np.finfo(float).tiny)
    order = np.argsort(z, axis=1, kind="stable")
    ascending = np.take_along_axis(z, order, 1)
    cumulative = np.exp(b * (ascending - ascending[:, -1:])).cumsum(1)
    place = (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(1)
    return order[np.arange(len(rates)), place]


def sampling_signature(*, seed: int, max_new_tokens: int) -> dict[str, Any]:
    """What moves the texts of any sampler beside the generator and their number."""
    return {"seed": seed, "max_new_tokens": max_new_tokens, "unk": "never drawn", "rejection_candidates": CANDIDATES}


def _candidates(sampler: Sampler) -> int:
    """How many sets of plain texts a sampler needs."""
    return CANDIDATES if sampler.family == "rejection" else int(sampler.plain)

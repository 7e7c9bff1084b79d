"""Settings of decoding: which of them work together, and what values they may have."""

from collections.abc import Sequence

from textgan.models.generator import Generator
from textgan.sampling.latent import LatentGenerator
from textgan.sampling.mixture import Mixture, NgramGenerator

# Values of the filters that change nothing; None is another.
NEUTRAL = {"top_k": 0, "top_p": 1, "min_p": 0, "typical_p": 1}


def without_effect(
    *,
    num_beams: int,
    temperature: float,
    penalty_alpha: float | None = None,
    guidance_scale: float | None = None,
    **filters: float | None,
) -> tuple[str | None, list[str]]:
    """How ids are chosen when not by sampling, and the sampling settings that this would ignore."""
    active = ["temperature"] if temperature != 1 else []
    guided = [] if guidance_scale in (None, 1) else ["guidance_scale"]
    active += [name for name, value in filters.items() if value is not None and value != NEUTRAL[name]]
    if num_beams > 1:
        return "beam search", [*active, *guided, *(["penalty_alpha"] if penalty_alpha else [])]
    if penalty_alpha:
        return "contrastive search", [*(name for name in active if name != "top_k"), *guided]
    active = [name for name in active if name != "temperature"]
    return ("greedy decoding", active) if temperature == 0 else (None, [])


def wrong_groups(num_beams: int, num_beam_groups: int, diversity_penalty: float | None) -> str | None:
    """What is wrong with these settings of diverse beam search; None: nothing, or it is off."""
    given = f"num_beam_groups {num_beam_groups}"
    if diversity_penalty and num_beam_groups == 1:
        return f"diversity_penalty {diversity_penalty} has no effect without num_beam_groups above 1"
    if num_beam_groups > 1 and num_beams == 1:
        return f"{given} has no effect without beams: give num_beams, a multiple of it"
    if num_beams % num_beam_groups:
        return f"{given} must divide num_beams {num_beams}, so that groups are alike"
    if num_beam_groups > 1 and not (diversity_penalty or 0) > 0:
        return f"{given} needs a diversity_penalty above 0, such as 1: else all groups find the same"
    return None


def check_settings(
    generator: Generator | Mixture | NgramGenerator,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | None,
    min_new_tokens: int | None,
    penalty_alpha: float | None,
    guidance_scale: float | None,
    num_beams: int,
    num_beam_groups: int,
    diversity_penalty: float | None,
    num_return_sequences: int,
    batch_size: int,
    warp: dict[str, float | None],
) -> None:
    """ValueError for a setting out of range or without effect, or a prompt that leaves no room; see ``generate``."""
    for name, value in (
        ("max_new_tokens", max_new_tokens),
        ("num_beams", num_beams),
        ("num_beam_groups", num_beam_groups),
        ("num_return_sequences", num_return_sequences),
        ("batch_size", batch_size),
    ):
        if value is not None and value < 1:
            raise ValueError(f"`{name}={value}` must be at least 1")
    if (min_new_tokens or 0) < 0:
        raise ValueError(f"`min_new_tokens={min_new_tokens}` must not be negative")
    if max_new_tokens is not None and (min_new_tokens or 0) > max_new_tokens:
        raise ValueError(f"`min_new_tokens={min_new_tokens}` is above `max_new_tokens={max_new_tokens}`")
    if wrong := wrong_groups(num_beams, num_beam_groups, diversity_penalty):
        raise ValueError(wrong)
    if num_return_sequences > num_beams:
        raise ValueError(
            f"`num_return_sequences={num_return_sequences}` must be at most `num_beams={num_beams}`: a prompt has "
            "no more beams; for several drawn texts of a prompt give it several times"
        )
    if warp["temperature"] < 0:
        raise ValueError(f"`temperature={warp['temperature']}` must not be negative")
    for name in ("top_p", "min_p", "typical_p"):
        if warp[name] is not None and not 0 <= warp[name] <= 1:
            raise ValueError(f"`{name}={warp[name]}` must be between 0 and 1")
    if penalty_alpha is not None and not 0 <= penalty_alpha <= 1:
        raise ValueError(f"`penalty_alpha={penalty_alpha}` must be between 0 and 1")
    if guidance_scale is not None and guidance_scale < 0:
        raise ValueError(f"`guidance_scale={guidance_scale}` must not be negative")
    if guidance_scale not in (None, 1):
        if not all(map(len, prompts)):
            raise ValueError(f"`guidance_scale={guidance_scale}` needs a prompt of each text to keep it to")
        if isinstance(generator, LatentGenerator):
            raise ValueError(f"`guidance_scale={guidance_scale}` is not for a VAE")
    way, ignored = without_effect(
        num_beams=num_beams, penalty_alpha=penalty_alpha, guidance_scale=guidance_scale, **warp
    )
    if ignored:
        raise ValueError(f"{way} does not sample: `{ignored[0]}` has no effect on it")
    if penalty_alpha and (warp["top_k"] or 0) < 2:
        raise ValueError(f"`penalty_alpha={penalty_alpha}` needs `top_k` of at least 2, to choose from")
    if penalty_alpha and isinstance(generator, NgramGenerator):
        raise ValueError("contrastive search compares states, and an n-gram model has none")
    longest = max((len(prompt) for prompt in prompts), default=0)
    if longest >= generator.block_size:
        raise ValueError(
            f"a prompt of {longest} tokens cannot be continued: with the opening token the model reads "
            f"{generator.block_size}"
        )

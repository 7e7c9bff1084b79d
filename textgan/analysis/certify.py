"""``textgan certify``: what critics know of a run's generator, as a certified gain in divergence from real text.

Three sets of texts on each side, none of which meets another: training texts of the run and fresh samples, on which
the wide critic is fitted; held-out texts and samples, on which penalty and scales are chosen (calibration); others, on
which the gain is taken (value). With ``split="dev"`` the last two are halves of dev, with ``"test"`` dev and test.
The run's calibration and checkpoints were chosen on dev too, which makes its value there a little too modest.

Samples are drawn from the model itself: temperature 1, unknown words allowed (and hidden from the critics on both
sides, see critics.py). What is certified is a gain in likelihood, and no other distribution has that.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from textgan.analysis.critics import Pool, fit_wide, neural_scores, only, texts_that_fit, visible_tokens
from textgan.analysis.crossfit import check_folds, fold_pools
from textgan.analysis.drawing import draw, encode_targets
from textgan.analysis.judged import check_is_run, check_same_data, say_what_stands_in
from textgan.analysis.ledger import begin_test_read, end_test_read, read_json
from textgan.configfile import load_config
from textgan.data.corpus import Corpus
from textgan.data.tokenizer import Tokenizer
from textgan.errors import UserError
from textgan.metrics.certificate import CLIP, Gain, calibrate, gain, permuted_gains
from textgan.ops.ngrams import Ragged
from textgan.training.building import VAE_PHASES
from textgan.training.checkpoint import arms, check_checkpoint, write_atomically
from textgan.training.critic import load_critic
from textgan.training.experiment import say
from textgan.training.inputs import read_corpus
from textgan.training.loading import SamplingModel, load_for_sampling

FORMAT = 1
CRITICS = ("own", "wide", "both")
MANY_CLIPPED = 0.05
FEWEST = 20  # texts of a side on which anything is fitted or measured

Pair = tuple[Ragged, Ragged]  # real texts and samples
Scores = dict[str, tuple[Tensor, Tensor]]  # of real texts and samples, by use


@dataclass(frozen=True)
class Study:
    """What is to be certified.

    Attributes:
        arm: name of the generator in the run; None for ``adversarial`` where it is there, else the first there is.
        critics: of :data:`CRITICS`; None for all that the run allows.
        split: ``dev`` or ``test``: where the texts of the value come from.
        n: samples for the calibration, and as many for the value.
        seed: of the samples, of the halves of dev, and of the bootstrap.
        cross_fit: 0, or the number of folds of the training text, see crossfit.py.
        most_train: training texts (and samples) of the wide critic at most; fewer where features would fill memory.
        level: of the intervals.
        permutations: of the control.
    """

    arm: str | None = None
    critics: tuple[str, ...] | None = None
    split: str = "dev"
    n: int = 10_000
    seed: int = 0
    cross_fit: int = 0
    most_train: int = 20_000
    level: float = 0.95
    permutations: int = 200

    @property
    def wants_wide(self) -> bool:
        return bool({"wide", "both"} & set(self.critics))

    @property
    def wants_own(self) -> bool:
        return bool({"own", "both"} & set(self.critics))


def certify(run: Path, study: Study, *, device: torch.device, command: str = "") -> dict[str, Any]:
    """Certify an arm of a run; the record is returned, and entered into ``RUN/certificate.json``.

    Args:
        run: the run's folder.
        study: what is to be certified.
        device: of the networks; the wide critic is fitted on the CPU.
        command: entered in the run's ledger where the test split is read.

    Returns:
        ``arm``, ``step``, ``weights``, ``data``, and the study's settings; ``texts``: real ones by use;
        ``tokens_per_text``: of real text, end counted; ``critics``: for each its ``gain`` and ``gain_per_token``
        (value, lower, upper; nats), ``ess``, ``auc``, ``scales`` (of the scores it is made of), ``clipped`` (share of
        texts), ``control`` (the same with permuted scores), ``certified`` and ``sentence``.

    Raises:
        UserError: no run, arm, critic or split of that name, other data than the run was trained on, or too few texts.
    """
    check_is_run(run)
    folders = arms(run)
    study = _filled_in(study, run, folders)
    config = load_config(run / "config.yaml")
    if config.data.condition is not None:
        raise UserError(
            f"{run} learned pairs (data.condition={config.data.condition}): a certificate compares free texts "
            "with real ones, of which it has none; see condition_gain and relevance of `textgan evaluate`"
        )
    corpus = read_corpus(config)
    folder = folders[study.arm]
    check_same_data({study.arm: folder}, {study.arm: check_checkpoint(folder)}, corpus.fingerprint)
    say_what_stands_in({study.arm: folder})
    if study.cross_fit:
        check_folds(study.cross_fit, corpus)
    model = load_for_sampling(folder, device)
    tokenizer = model.tokenizer
    real = _real_texts(corpus, study, model)
    if study.split == "test":
        reads = begin_test_read(run, command, 1)
        say(f"this is look number {reads} at the test split of {run}")

    fresh = len(real["train"].lengths) if study.wants_wide and not study.cross_fit else 0
    uses = {"calibration": study.n, "value": study.n, "train": fresh}
    drawn = draw(model, sum(uses.values()), seed=study.seed)
    fake = dict(zip(uses, _cut(drawn, list(uses.values())), strict=True))
    sets: dict[str, Pair] = {use: (real[use], fake[use]) for use in ("calibration", "value")}
    scores, about = {}, {}
    if study.wants_wide:
        if study.cross_fit:
            most = len(real["train"].lengths)
            pools = fold_pools(
                run, config, corpus, tokenizer, study.cross_fit, most=most, seed=study.seed, device=str(device)
            )
        else:
            words = visible_tokens(tokenizer.vocab_size, tokenizer.unk_id, tokenizer.eos_id)
            pools = [Pool(real["train"], fake["train"], words)]
        scores["wide"], about["wide"] = _wide_scores(pools, sets)
    if study.wants_own:
        scores["own"], about["own"] = _own_scores(run, tokenizer, sets, device)
    if "both" in study.critics:
        scores["both"] = {
            use: tuple(torch.stack(pair, 1) for pair in zip(scores["own"][use], scores["wide"][use], strict=True))
            for use in sets
        }

    tokens = real["value"].lengths.double().mean().item()
    record = {
        **{name: getattr(study, name) for name in ("arm", "split", "n", "seed", "cross_fit", "level")},
        "step": model.step,
        "weights": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16],
        "data": corpus.fingerprint,
        "texts": {use: len(texts.lengths) for use, texts in real.items()},
        "tokens_per_text": tokens,
        "critics": {
            name: certificate(name, scores[name], study, tokens) | about.get(name, {}) for name in study.critics
        },
    }
    _enter(run, record)
    if study.split == "test":
        end_test_read(run)
    return record


def _wide_scores(pools: list[Pool], sets: dict[str, Pair]) -> tuple[Scores, dict[str, Any]]:
    """Scores of a wide critic fitted on ``pools``, and what it is."""
    wide = fit_wide(pools, *sets["calibration"], clip=CLIP)
    scores = {use: (wide(texts), wide(samples)) for use, (texts, samples) in sets.items()}
    return scores, {"l2": wide.l2, "fitted_on": [len(pool.real.lengths) for pool in pools]}


def _own_scores(
    run: Path, tokenizer: Tokenizer, sets: dict[str, Pair], device: torch.device
) -> tuple[Scores, dict[str, Any]]:
    """Scores of the run's discriminator, and where it stands."""
    critic, beside = load_critic(run, device)
    known = visible_tokens(tokenizer.vocab_size, tokenizer.unk_id)
    scores = {
        use: tuple(neural_scores(critic, only(texts, known), eos_id=tokenizer.eos_id) for texts in pair)
        for use, pair in sets.items()
    }
    return scores, {"checkpoint": beside.path.name}


def certificate(critic: str, scores: Scores, study: Study, tokens: float) -> dict[str, Any]:
    """What :func:`certify` says of one critic, from its scores (N,) or (N, K) of the texts of both uses."""
    f = calibrate(*scores["calibration"], clip=CLIP)
    on_real, on_fake = (f(side) for side in scores["value"])
    found = gain(on_real, on_fake, level=study.level, seed=study.seed)
    null = permuted_gains(
        scores["calibration"], scores["value"], permutations=study.permutations, clip=CLIP, seed=study.seed
    )
    whole = {"value": found.value, "lower": found.lower, "upper": found.upper}
    largest = null.max().item()
    clipped = (torch.cat([on_real, on_fake]).abs() >= f.clip).double().mean().item()
    certified = found.lower > 0 and found.value > largest
    return {
        "gain": whole,
        "gain_per_token": {name: value / tokens for name, value in whole.items()},
        "ess": found.ess,
        "auc": found.auc,
        "scales": f.scales.tolist(),
        "clip": f.clip,
        "clipped": clipped,
        "control": {"mean": null.mean().item(), "largest": largest, "permutations": study.permutations},
        "certified": certified,
        "sentence": sentence(critic, study.arm, found, tokens, certified=certified, clipped=clipped),
    }


def sentence(critic: str, arm: str, found: Gain, tokens: float, *, certified: bool, clipped: float) -> str:
    """The certificate in words; ``tokens`` a text, and ``clipped``: share of the texts at the clip."""
    who = {"own": "the run's own critic", "wide": "a wide critic", "both": "both critics together"}[critic]
    interval = f"[{found.lower:.3f}, {found.upper:.3f}]"
    if certified:
        return (
            f"Re-weighting {arm} by {who} brings it {found.value:.3f} nats a text {interval} closer to real text "
            f"({found.value / tokens:.4f} a token); effective sample size {found.ess:.1%}."
        ) + (
            f" {clipped:.0%} of the texts are at the clip: real text and samples hardly overlap, and the gain is a"
            " bound from below."
            if clipped > MANY_CLIPPED
            else ""
        )
    if found.upper < 0:
        return f"Re-weighting {arm} by {who} takes it away from real text: {found.value:.3f} nats a text {interval}."
    return (
        f"No gain is certified for {arm} by {who}: {found.value:.3f} nats a text {interval}; what it knows is worth "
        f"less than {found.upper:.3f}."
    )


def _filled_in(study: Study, run: Path, folders: dict[str, Path]) -> Study:
    """The study with its arm and critics named."""
    arm = study.arm or next(name for name in ("adversarial", *folders) if name in folders)
    if arm not in folders:
        raise UserError(f"{run} has no arm `{arm}`; it has {', '.join(folders)}")
    possible = CRITICS if "adversarial" in folders else ("wide",)
    critics = study.critics or possible
    for name in critics:
        if name not in possible:
            raise UserError(f"{run} has no critic of its own (no adversarial phase): give --critic wide")
    study = replace(study, arm=arm, critics=tuple(name for name in CRITICS if name in critics))
    if study.cross_fit and arm in VAE_PHASES:
        raise UserError(
            f"--cross-fit trains generators by maximum likelihood, from which nothing follows for the arm `{arm}`; "
            "leave it away"
        )
    if study.cross_fit and not study.wants_wide:
        raise UserError("--cross-fit is for the wide critic: give --critic wide, both or all with it")
    return study


def _real_texts(corpus: Corpus, study: Study, model: SamplingModel) -> dict[str, Ragged]:
    """Real texts for ``train``, ``calibration`` and ``value``, each in a seeded order."""
    if study.split == "test" and not corpus.test:
        raise UserError(f"the corpus {corpus.name} has no test texts; give --split dev")
    block_size = model.generator.block_size
    rng = torch.Generator().manual_seed(study.seed)
    found = {}
    for split in ("train", "dev", *(["test"] if study.split == "test" else [])):
        texts, long = encode_targets(getattr(corpus, split), model.tokenizer, block_size)
        if long:
            say(f"{split}: {long} texts longer than generator.block_size={block_size} tokens are left out")
        found[split] = texts.select(torch.randperm(len(texts.lengths), generator=rng))
    train = found["train"].lengths[: study.most_train]
    fits = texts_that_fit(train) if study.wants_wide else len(train)
    real = {"train": _cut(found["train"], [fits])[0]}
    if study.split == "test":
        real |= {"calibration": found["dev"], "value": found["test"]}
    else:
        half = len(found["dev"].lengths) // 2
        real |= dict(zip(("calibration", "value"), _cut(found["dev"], [half, half]), strict=True))
    for use, texts in real.items():
        if len(texts.lengths) < FEWEST:
            raise UserError(
                f"only {len(texts.lengths)} real texts for the {use} of a certificate; at least {FEWEST} are needed"
            )
    return real


def _cut(texts: Ragged, sizes: Sequence[int]) -> list[Ragged]:
    """The first ``sizes[0]`` texts, the next ``sizes[1]``, and so on."""
    return [texts.select(rows) for rows in torch.arange(sum(sizes)).split(list(sizes))]


def _enter(run: Path, record: dict[str, Any]) -> None:
    """Put the record into the run's ``certificate.json``, in the place of an earlier one of that arm and split.

    Where nothing differs but the critics that were asked for, those of the earlier one stay beside the new.
    """
    path = run / "certificate.json"
    kept = read_json(path).get("certificates", {})
    folds = f"/cross-fit-{record['cross_fit']}" if record["cross_fit"] else ""
    key = f"{record['arm']}/{record['split']}{folds}"
    old = kept.get(key, {})
    if all(old.get(name) == value for name, value in record.items() if name not in ("critics", "texts")):
        record = {**record, "critics": {**old["critics"], **record["critics"]}}
    kept[key] = record
    write_atomically(path, json.dumps({"format": FORMAT, "certificates": kept}, indent=1, ensure_ascii=False))

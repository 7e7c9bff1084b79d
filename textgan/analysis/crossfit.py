"""Cross-fitting: wide classifiers that learn from samples of generators which have not seen the real texts beside.

A generator knows its training text by heart in part, so a critic trained on that text against its samples learns the
difference between P and a generator better than the one on held-out text. With K folds, a generator is trained on all
but one of them, its samples stand against the texts of the fold left out, and the scores of the K classifiers are
averaged. It costs K trainings; a strong penalty and a scale fitted on held-out text often make up for it.
"""

import json
from pathlib import Path

import torch

from textgan.analysis.critics import Pool, visible_tokens
from textgan.analysis.drawing import draw, encode_targets
from textgan.config import Config
from textgan.configfile import dump_config, load_config
from textgan.data.corpus import Corpus
from textgan.data.tokenizer import Tokenizer
from textgan.errors import UserError
from textgan.ops.ngrams import Ragged, ragged
from textgan.training.checkpoint import arms, write_atomically
from textgan.training.experiment import say
from textgan.training.loading import SamplingModel, load_for_sampling
from textgan.training.run import is_run, train

EVALUATED = 100  # samples in the evaluations of a fold's training, which nobody reads


def check_folds(folds: int, corpus: Corpus) -> None:
    """UserError for fewer than 2 folds, or too few training texts for them."""
    if folds < 2:
        raise UserError(f"--cross-fit {folds}: give at least 2 folds, or 0 for none")
    if len(corpus.train) < 2 * folds:
        raise UserError(f"--cross-fit {folds}: {len(corpus.train)} training texts are too few for so many folds")


def fold_pools(
    run: Path, config: Config, corpus: Corpus, tokenizer: Tokenizer, folds: int, *, most: int, seed: int, device: str
) -> list[Pool]:
    """A :class:`Pool` for each fold: its texts against as many samples of a generator trained on the others.

    Generators are trained as the run's MLE phase was (as many epochs, its calibration), in
    ``RUN/certificate/fold-K-of-N``; what is finished there is used again, what was stopped goes on.

    Args:
        run: the run's folder.
        config, corpus, tokenizer: of the run; pools hold ids of this tokenizer. Words that a fold's tokenizer does not
            know are hidden from its classifier.
        folds: their number.
        most: texts of a fold that are used, at most.
        seed: of the samples.
        device: where generators are trained and drawn from.

    Raises:
        UserError: as :func:`check_folds` and :func:`textgan.training.run.train`.
    """
    check_folds(folds, corpus)
    while config.adversarial is not None and config.adversarial.init_from is not None:
        config = load_for_sampling(config.adversarial.init_from).config
    order = torch.randperm(len(corpus.train), generator=torch.Generator().manual_seed(0)).tolist()
    pools = []
    for k in range(folds):
        own = [corpus.train[i] for i in sorted(order[k::folds])]
        others = [corpus.train[i] for j in range(folds) if j != k for i in sorted(order[j::folds])]
        folder = run / "certificate" / f"fold-{k + 1}-of-{folds}"
        say(f"fold {k + 1} of {folds}: a generator of the other {len(others)} texts, in {folder}")
        model = _fold_model(config, folder, others, corpus.dev, 1 - 1 / folds, device)
        real, _ = encode_targets(own, tokenizer, config.generator.block_size)
        rows = torch.randperm(len(real.lengths), generator=torch.Generator().manual_seed(seed))[:most]
        samples = draw(model, len(rows), seed=seed, label=f"samples of fold {k + 1}")
        fake, visible = _in_ids_of(tokenizer, model.tokenizer, samples)
        pools.append(Pool(real.select(rows), fake, visible))
    return pools


def _fold_model(
    config: Config, folder: Path, texts: list[str], dev: list[str], share: float, device: str
) -> SamplingModel:
    """The generator that ``share`` of the steps of the MLE phase of ``config`` makes of these texts."""
    folder.parent.mkdir(exist_ok=True)
    files = {}
    for name, split in ((f"{folder.name}.jsonl", texts), ("dev.jsonl", dev)):
        files[name] = folder.parent / name
        write_atomically(files[name], "".join(json.dumps({"text": text}) + "\n" for text in split))
    source, dev_file = map(str, files.values())
    data = {"source": source, "dev": dev_file, "test": None, "test_fraction": 0.0, "format": "jsonl", "field": "text"}
    own = config.model_copy(
        update={
            "name": folder.name,
            "device": device,
            "data": config.data.model_copy(update={**data, "encoding": "utf-8", "dedupe": False}),
            "mle": config.mle.model_copy(update={"max_steps": max(1, round(share * config.mle.max_steps))}),
            "adversarial": None,
            "vae": None,
            "latent_gan": None,
            "evaluation": config.evaluation.model_copy(
                update={"samples": EVALUATED, "final_samples": EVALUATED, "prompts": []}
            ),
        }
    )
    if is_run(folder):  # the run may have been moved, or be named from elsewhere: the files are those beside
        kept = load_config(folder / "config.yaml")
        data = kept.data.model_copy(update={"source": source, "dev": dev_file})
        write_atomically(folder / "config.yaml", dump_config(kept.model_copy(update={"data": data})))
    train(own, folder, resume=is_run(folder))
    return load_for_sampling(arms(folder)["mle"], device)


def _in_ids_of(tokenizer: Tokenizer, theirs: Tokenizer, samples: Ragged) -> tuple[Ragged, torch.Tensor]:
    """Texts in the ids of ``theirs`` as texts in those of ``tokenizer``, and the mask (V,) of what both know."""
    visible = visible_tokens(tokenizer.vocab_size, tokenizer.unk_id, tokenizer.eos_id)
    if tokenizer.unk_id is None:  # pieces of words, where nothing is unknown and texts say it all
        rows = [part.tolist() for part in samples.tokens.split(samples.lengths.tolist())]
        return ragged([tokenizer.encode(theirs.decode(row)) for row in rows]), visible
    ids = {piece: i for i, piece in enumerate(tokenizer.tokens(range(tokenizer.vocab_size)))}
    known = theirs.tokens(range(theirs.vocab_size))
    table = torch.tensor([ids.get(piece, tokenizer.unk_id) for piece in known])
    both = torch.zeros_like(visible)
    both[table] = True
    return Ragged(table[samples.tokens], samples.lengths), visible & both

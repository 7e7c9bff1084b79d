"""Checkpoints: folders that can be sampled from alone, written whole or not at all.

    checkpoints/step-00000200/   model.safetensors   the weights that are evaluated and sampled (the average)
                                 adapter.safetensors where the generator has an adapter: all that is not frozen, and
                                                     the model has the rest: one file on the disk, to which all
                                                     checkpoints of a run are links, so that each is whole by itself
                                 config.yaml         the whole resolved config
                                 tokenizer.json
                                 generation.yaml     decoding defaults
                                 state.pt            what resuming needs beside: raw weights, optimisers, ...
                                 meta.json           format version, step, phase, metrics, data fingerprint
    checkpoints/pretrained/      the pretrained model that the MLE phase started from, calibrated
    checkpoints/mle/             the end of the MLE phase (the parent of an adversarial phase), calibrated
    checkpoints/adversarial/     the end of the adversarial phase, calibrated; its state holds the discriminator
    checkpoints/continued/       the end of maximum likelihood gone on with at equal cost, calibrated
    checkpoints/vae/             the end of the VAE phase, calibrated: encoder and decoder
    checkpoints/latent_gan/      the same VAE with a generator of latents
    checkpoints/classifier/      the best step of a classifier; meta.json has its classes
    checkpoints/...-best/        of one of these two phases, where another step had the best dev NLL; calibrated
    checkpoints/continued-step-00000200/             a step of the continuation
    checkpoints/last, best       one line: the name of a folder (best-continued: the same for the continuation)

A folder is written beside, flushed to disk, and renamed; a pointer likewise. No pickle is executed: weights
are safetensors, ``state.pt`` is read with ``weights_only=True``.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from textgan import __version__
from textgan.config import Config
from textgan.configadapter import Adapter
from textgan.configfile import dump_config, load_config
from textgan.data.tokenizer import Tokenizer, save_tokenizer
from textgan.errors import UserError
from textgan.models.sharing import frozen, own_state
from textgan.training.building import build_model, fill, fit_adapter

FORMAT = 1
POINTERS = ("best", "last")  # what a run may mean when its name is given
ALL_POINTERS = (*POINTERS, "best-continued")
ARMS = ("pretrained", "mle", "adversarial", "continued", "vae", "latent_gan")
WEIGHTS, ADAPTER = "model.safetensors", "adapter.safetensors"
FILES = ("model.safetensors", "config.yaml", "tokenizer.json", "generation.yaml", "meta.json")


# ---------------------------------------------------------------------------------------------- writing


def save_checkpoint(
    folder: Path,
    *,
    generator: nn.Module,
    config: Config,
    tokenizer: Tokenizer,
    state: dict[str, Any],
    meta: dict[str, Any],
) -> Path:
    """Write checkpoint ``folder`` (replacing one of that name) so that a kill leaves the old, the new or none.

    Raises:
        UserError: it cannot be written (a full disk); what was written of it is removed.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(partial, generator=generator, config=config, tokenizer=tokenizer, state=state, meta=meta)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save tells of a full disk by a RuntimeError
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"checkpoint {folder} cannot be written: {_reason(error)}{_newest_good(folder)}") from error
    if folder.exists():  # rename onto a full folder fails; step folders repeat only after a resume
        stale = folder.with_name(f".{folder.name}.stale")
        shutil.rmtree(stale, ignore_errors=True)
        folder.rename(stale)
        partial.rename(folder)
        shutil.rmtree(stale)
    else:
        partial.rename(folder)
    _flush(folder.parent)
    return folder


def _write(
    partial: Path,
    *,
    generator: nn.Module,
    config: Config,
    tokenizer: Tokenizer,
    state: dict[str, Any],
    meta: dict[str, Any],
) -> None:
    """Write the files of a checkpoint into the new folder ``partial`` and flush them to disk."""
    partial.mkdir(parents=True)
    base = frozen(generator)
    _save(own_state(generator), partial / (ADAPTER if base else WEIGHTS))
    if base and not _link_base(partial):
        _save(base, partial / WEIGHTS)
    (partial / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    save_tokenizer(tokenizer, partial / "tokenizer.json")
    generation = {} if config.classifier else {"temperature": 1.0, "max_new_tokens": config.generator.block_size}
    (partial / "generation.yaml").write_text(yaml.safe_dump(generation), encoding="utf-8")
    with open(partial / "state.pt", "wb") as file:  # so that a full disk is an OSError; torch's own writer hides it
        torch.save(state, file)
    meta = {"format": FORMAT, "textgan": __version__, "torch": torch.__version__, **meta}
    if base:
        meta["adapter"] = config.adapter.kind
    (partial / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False), encoding="utf-8")
    for path in [*partial.iterdir(), partial]:
        _flush(path)


def _save(weights: dict[str, torch.Tensor], path: Path) -> None:
    save_file({name: t.detach().cpu().contiguous() for name, t in weights.items()}, path, metadata={"format": "pt"})


def _link_base(partial: Path) -> bool:
    """Links the frozen weights of the checkpoint ``partial`` to those of one before; False where that cannot be."""
    root = partial.parent
    for name in filter(None, (read_pointer(root, pointer) for pointer in ALL_POINTERS)):
        if (root / name / ADAPTER).is_file():
            try:
                os.link(root / name / WEIGHTS, partial / WEIGHTS)
            except OSError:  # a file system without links
                return False
            return True
    return False


def _reason(error: Exception) -> str:
    """What the system said, where an error of torch or safetensors hides it behind its own."""
    cause = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__context__
    return str(error).splitlines()[0].removeprefix("Error while serializing: I/O error: ")


def point(folder: Path, name: str) -> None:
    """Let the pointer ``name`` (``last`` or ``best``) beside checkpoint ``folder`` name that folder."""
    write_atomically(folder.parent / name, folder.name + "\n")


def prune(root: Path, keep_last: int) -> None:
    """Delete all but the newest ``keep_last`` step folders of each kind; what a pointer names and the arms stay.

    What kills left half written or half deleted goes too.
    """
    pointed = {read_pointer(root, name) for name in ALL_POINTERS}
    for kind in ("step-*", "continued-step-*"):
        steps = sorted(path for path in root.glob(kind) if path.is_dir())
        for path in steps[:-keep_last]:
            if path.name not in pointed:
                shutil.rmtree(path)
    for path in root.glob(".*"):
        if path.is_dir():
            shutil.rmtree(path)


def write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---------------------------------------------------------------------------------------------- reading


def read_pointer(root: Path, name: str) -> str | None:
    path = root / name
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def find_checkpoint(path: str | Path, *, prefer: str = "best") -> Path:
    """The checkpoint folder that ``path`` means: itself, or the ``prefer``-red (else last) one of a run.

    Raises:
        UserError: nothing there, or not a whole checkpoint; names the newest good one where there is one.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a run folder (runs/NAME) or a checkpoint folder in it")
    root = path if path.name == "checkpoints" else path / "checkpoints"
    if root.is_dir() or (path / "metrics.jsonl").is_file():
        names = [read_pointer(root, prefer), *(read_pointer(root, p) for p in POINTERS)]
        name = next((n for n in names if n), None)
        if name is None:
            raise UserError(f"{path} holds no checkpoint yet; train longer, or give another run")
        path = root / name
    if not path.is_dir():
        raise UserError(f"{path} is not a checkpoint folder; give runs/NAME or one in it{_newest_good(path)}")
    if not any((path / name).exists() for name in FILES):
        runs = sorted(str(p.parent) for p in path.glob("*/checkpoints"))[:5]
        hint = f"give one of the runs in it: {', '.join(runs)}" if runs else "give runs/NAME or one in it"
        raise UserError(f"{path} is neither a run nor a checkpoint; {hint}")
    check_checkpoint(path)
    return path


def arms(run: str | Path) -> dict[str, Path]:
    """The generators of a run that are to be judged beside each other: name of the arm -> checkpoint folder.

    ``pretrained`` (what the run started from), ``mle`` (the parent), ``adversarial`` (the end of that phase),
    ``continued`` (maximum likelihood gone on with instead), ``vae`` and ``latent_gan``, as far as the run has them, in
    this order. Where an adversarial phase or that of a VAE is under way, or was made before this checkpoint had a name,
    its newest step stands in.

    Raises:
        UserError: no run there, none of these is finished yet, or one is not whole.
    """
    run = Path(run)
    if not run.exists():
        raise UserError(f"{run} does not exist; give a run folder (runs/NAME)")
    root = run / "checkpoints"
    if (root / "classifier").is_dir():
        raise UserError(no_generator(run))
    found = {name: root / name for name in ARMS if (root / name).is_dir()}
    phases = {path: check_checkpoint(path).get("phase") for path in sorted(root.glob("step-*"))}
    for arm in ("adversarial", "vae", "latent_gan"):
        steps = [path for path, phase in phases.items() if phase == arm]
        if arm not in found and steps:
            found[arm] = steps[-1]
    if not found:
        raise UserError(f"{run} holds no finished phase yet; train longer, or give another run")
    for path in found.values():
        check_checkpoint(path)
    return {name: found[name] for name in ARMS if name in found}


def check_checkpoint(path: Path) -> dict[str, Any]:
    """The checked ``meta.json`` of checkpoint ``path``; UserError when it is foreign, cut short or too new."""
    missing = [name for name in FILES if not (path / name).is_file()]
    if missing:
        raise UserError(f"{path} is not a whole checkpoint: no {', '.join(missing)}{_newest_good(path)}")
    try:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        version, step = int(meta["format"]), int(meta["step"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}/meta.json is not a textgan checkpoint's{_newest_good(path)}") from None
    if "adapter" in meta and not (path / ADAPTER).is_file():
        raise UserError(f"{path} is not a whole checkpoint: no {ADAPTER}{_newest_good(path)}")
    if version > FORMAT or step < 0:
        raise UserError(
            f"{path} was written in checkpoint format {version} by textgan {meta.get('textgan')}; this is "
            f"{__version__}, which reads up to format {FORMAT}: upgrade textgan"
        )
    return meta


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """All weights of checkpoint ``path``, those of its adapter among them, on the CPU; UserError for a broken file."""
    weights = {}
    for name in (WEIGHTS, ADAPTER) if (path / ADAPTER).is_file() else (WEIGHTS,):
        try:
            weights |= load_file(path / name)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}/{name} cannot be read ({error}){_newest_good(path)}") from None
    return weights


def adapter_of(folder: Path) -> Adapter | None:
    """What the adapter in checkpoint ``folder`` is, None where there is none."""
    return load_config(folder / "config.yaml").adapter if (folder / ADAPTER).is_file() else None


def load_model(folder: Path, config: Config, vocab_size: int, phase: str = "mle") -> nn.Module:
    """The model of a checkpoint, of the config's shape and dropout; with its own adapter, where it has one.

    Raises:
        UserError: the weights do not fit.
    """
    model = build_model(config, vocab_size, phase)
    if (adapter := adapter_of(folder)) is not None:
        fit_adapter(model, adapter)
    fill(model, load_weights(folder), folder)
    return model


def load_state(path: Path) -> dict[str, Any]:
    """The resume state of checkpoint ``path``, on the CPU; no pickled object is ever executed."""
    try:
        return torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken or foreign archive
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}/state.pt cannot be read ({reason}){_newest_good(path)}") from None


def no_generator(path: Path) -> str:
    return f"{path} is a classifier, which writes no texts; it reads them: `textgan classify {path} FILE`"


def _newest_good(path: Path) -> str:
    """ "; the newest good one is ..." for an error message, or nothing where there is none."""
    if not path.parent.is_dir():
        return ""
    good = []
    for other in path.parent.iterdir():
        if other == path or other.name.startswith("."):  # a dot: never finished
            continue
        if all((other / name).is_file() for name in FILES):
            try:
                load_file(other / "model.safetensors")
                good.append((json.loads((other / "meta.json").read_text())["step"], str(other)))
            except (SafetensorError, OSError, ValueError, KeyError):
                continue
    return f"; the newest good one is {max(good)[1]}" if good else ""

"""Checkpoints for other programs: folders that transformers loads, plain weights, or ONNX; each with a model card."""

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from textgan.analysis.export_tokenizer import save_tokenizer
from textgan.analysis.model_card import model_card
from textgan.errors import UserError
from textgan.models import gpt2
from textgan.models.adapters import merge
from textgan.models.causal_lm import CausalLM
from textgan.models.generator import Generator
from textgan.sampling.latent import LatentGenerator
from textgan.training.building import causal_lm_config
from textgan.training.checkpoint import ADAPTER, FILES
from textgan.training.hub import library
from textgan.training.loading import SamplingModel, load_for_sampling

OPSET = 18


def export(source: str | Path, form: str, out: Path) -> SamplingModel:
    """Write the best checkpoint of a run, or a checkpoint, into the new folder ``out`` in one of :data:`FORMATS`.

    All or nothing: the folder appears when everything is in it.

    Raises:
        UserError: no checkpoint there, ``out`` exists, a library is missing, or the format cannot hold such a model.
    """
    if out.exists():
        raise UserError(f"{out} exists; give a folder that does not, or move it away")
    model = load_for_sampling(source)
    write = FORMATS[form]
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write(model, partial)
        (partial / "README.md").write_text(model_card(model, form, out.name), encoding="utf-8")
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return model


def export_hf(model: SamplingModel, folder: Path) -> None:
    """What ``AutoModelForCausalLM`` and ``AutoTokenizer`` load: same logits, same ids, ``bos_token`` in front."""
    check_plain(model)
    if isinstance(model.generator, Generator):
        tied, shape, weights = _of_gpt2(model.generator)
        opening = model.tokenizer.eos_id
        kind = "GPT2LMHeadModel"
    elif isinstance(model.generator, CausalLM):
        shape, weights, opening, kind = _of_causal_lm(model)
        tied = False
    else:
        what = "a VAE" if isinstance(model.generator, LatentGenerator) else "an LSTM"
        raise UserError(f"{model.path} is {what}, which transformers has no model for; give --format safetensors")
    transformers = library("--format hf")
    ends = {"bos_token_id": opening, "eos_token_id": model.tokenizer.eos_id}
    config = transformers.AutoConfig.for_model(**shape | ends | {"tie_word_embeddings": tied, "dtype": "float32"})
    config.architectures = [kind]
    config.save_pretrained(folder)
    if tied:
        del weights[gpt2.HEAD]  # the library makes it of the embeddings
    save_file(_apart(weights), folder / "model.safetensors", metadata={"format": "pt"})
    block_size = model.generator.block_size
    transformers.GenerationConfig(**ends, do_sample=True, max_length=block_size).save_pretrained(folder)
    save_tokenizer(model.tokenizer, folder, opening=opening, block_size=block_size)


def check_plain(model: SamplingModel) -> None:
    """UserError where an adapter stands in the way that could not be folded into the weights."""
    if isinstance(model.generator, Generator) and model.generator.trained is not None:
        try:
            merge(model.generator)
        except ValueError as error:
            raise UserError(f"{model.path}: {error}; give --format safetensors") from None


def _of_gpt2(generator: Generator) -> tuple[bool, dict, dict[str, Tensor]]:
    """Whether the head is tied, the configuration, and the weights, of the same model as a ``GPT2LMHeadModel``."""
    weights, tied = gpt2.theirs(generator.state_dict())
    dropout = dict.fromkeys(("embd_pdrop", "resid_pdrop"), generator.dropout)
    dropout["attn_pdrop"] = generator.attention_dropout
    shape = {name: getattr(generator, name) for name in ("vocab_size", "n_layer", "n_head", "n_embd")}
    marked = {} if tied else {gpt2.MARK: True}
    return tied, {"model_type": "gpt2", "n_positions": generator.block_size, **shape, **dropout, **marked}, weights


def _of_causal_lm(model: SamplingModel) -> tuple[dict, dict[str, Tensor], int, str]:
    """Configuration, weights and opening token of the same model in the library's own class, and its name.

    What the adapter adds to the logits, and to the embedding of the first place, goes into a head of its own and into
    the embedding of the token that opens texts there.
    """
    generator, transformers = model.generator, library("--format hf")
    if generator.logit_bias.any():
        raise UserError(
            f"{model.path}: calibration fitted a bias of <unk>, which transformers' model has no place for; train with "
            "mle.calibrate=false (and adversarial.calibrate=false), or give --format safetensors"
        )
    config = causal_lm_config(model.config.generator, generator.vocab_size)
    config.tie_word_embeddings = False
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(config)
    names = {id(module): name for name, module in theirs.named_modules()}
    prefix = names[id(theirs.base_model)]
    weights = {f"{prefix}.{name}": tensor for name, tensor in generator.base.state_dict().items()}
    weight, bias = generator.output_layer
    head = names[id(theirs.get_output_embeddings())]
    weights[f"{head}.weight"] = weight * generator.logit_scale
    if generator.head is not None and generator.head.bias is not None:
        weights[f"{head}.bias"] = bias
    eos_id, opening = model.tokenizer.eos_id, json.loads(model.config.generator.causal_lm).get("bos_token_id")
    if not generator.opening.any() or opening is None or opening >= generator.vocab_size:
        opening = eos_id
    key = next(key for key, tensor in weights.items() if tensor.data_ptr() == generator.wte.weight.data_ptr())
    table = weights[key].clone()
    table[opening] = table[eos_id] + generator.opening / getattr(generator.wte, "embed_scale", 1.0)
    weights[key] = table
    return config.to_dict(), weights, opening, type(theirs).__name__


def export_safetensors(model: SamplingModel, folder: Path) -> None:
    """The checkpoint without what training needs: ``textgan sample`` reads it, and so does whoever knows the shapes."""
    for name in (*FILES, ADAPTER):
        if (model.path / name).is_file():
            shutil.copyfile(model.path / name, folder / name)


def export_onnx(model: SamplingModel, folder: Path) -> None:
    """``model.onnx``: ``input_ids`` (B, T) int64, the opening token first, to ``logits`` (B, T, V) float32."""
    try:
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError:
        raise UserError("--format onnx needs onnx and onnxscript; run: pip install 'textgan[onnx]'") from None
    if not isinstance(model.generator, Generator):  # torch exports an LSTM for batches of the example's size alone
        kind = type(model.generator).__name__
        raise UserError(f"{model.path} is a {kind}; --format onnx is for Transformers made here; give safetensors")
    sizes = {"input_ids": {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}}
    example = torch.full((2, min(7, model.generator.block_size)), model.tokenizer.eos_id)
    with _quiet():
        program = torch.onnx.export(
            _Logits(model.generator),
            (example,),
            input_names=["input_ids"],
            output_names=["logits"],
            dynamic_shapes=sizes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    program.save(folder / "model.onnx")
    shutil.copyfile(model.path / "tokenizer.json", folder / "tokenizer.json")


class _Logits(nn.Module):
    """A generator as a function of ids alone; told of no padding, it shows its mask, whatever the number of columns."""

    def __init__(self, generator: nn.Module):
        super().__init__()
        self.generator = generator

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.generator(input_ids, left_pad=input_ids.new_zeros(input_ids.shape[:1]))


FORMATS: dict[str, Callable[[SamplingModel, Path], None]] = {
    "hf": export_hf,
    "safetensors": export_safetensors,
    "onnx": export_onnx,
}


def _apart(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor in memory of its own, as safetensors needs it."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter warns of what it does itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

"""Ways to turn texts into vectors for the metrics of embedded texts.

`ngrams` needs nothing and sees words and their neighbours; `minilm` (extra `story`) sees meaning; `hf:NAME` is any
Hugging Face encoder (extra `hf`); `lm` is the state of a small language model. Values of two embedders never compare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from textgan.analysis.bert import BertEncoder
from textgan.errors import UserError
from textgan.metrics.tokenize import TOKENIZE
from textgan.training.hub import from_pretrained, minilm_folder

if TYPE_CHECKING:
    from textgan.data.tokenizer import Tokenizer
    from textgan.models.generator import Generator

EMBEDDERS = ("ngrams", "minilm", "hf:NAME", "lm")
NGRAM_SIZE = 256
NGRAM_ORDER = 2
MINILM_TOKENS = 256
BATCH_TOKENS = 4096
CHUNK = 20_000  # texts whose n-grams are counted at once


@dataclass(frozen=True)
class Embedder:
    """Texts to vectors.

    Attributes:
        name: what the metrics' names end with: ``ngrams``, ``minilm``, ``hf`` or ``lm``.
        signature: everything that moves the vectors, in one line.
        size: D.
        embed: the function behind the call.
    """

    name: str
    signature: str
    size: int
    embed: Callable[[Sequence[str]], Tensor]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (N, D) float32, one row a text, on the embedder's device."""
        if not len(texts):
            return torch.empty(0, self.size)
        return self.embed(texts)


def load_embedder(
    name: str,
    *,
    tokenize: str = "words",
    lowercase: bool = False,
    device: torch.device | str = "cpu",
    texts: Sequence[str] | None = None,
    seed: int = 0,
) -> Embedder:
    """The embedder of this name.

    Args:
        name: ``ngrams``, ``minilm``, ``hf:NAME_OR_FOLDER`` or ``lm``.
        tokenize, lowercase: what is a word for ``ngrams``, as in :class:`textgan.metrics.suite.Scorer`.
        device: where it computes and where the embeddings are.
        texts, seed: what ``lm`` is trained on (:func:`train_lm`), and the seed of that.

    Raises:
        UserError: an unknown name, an extra that is not installed, a model that is not there, or ``lm`` without texts.
    """
    if name == "ngrams":
        return ngram_embedder(tokenize=tokenize, lowercase=lowercase, device=device)
    if name == "minilm":
        return minilm_embedder(device)
    if name == "lm":
        if not texts:
            raise UserError("the embedder lm is trained on real texts; hand them in, or take ngrams")
        return lm_embedder(*train_lm(texts, lowercase=lowercase, seed=seed, device=device), device=device)
    if name.startswith("hf:") and len(name) > 3:
        return hf_embedder(name[3:], device)
    raise UserError(f"unknown embedder {name!r}; choose one of {', '.join(EMBEDDERS)}")


def ngram_embedder(
    size: int = NGRAM_SIZE,
    max_n: int = NGRAM_ORDER,
    *,
    tokenize: str = "words",
    lowercase: bool = False,
    device: torch.device | str = "cpu",
) -> Embedder:
    """Counts of words and n-grams, hashed with signs into ``size`` numbers and scaled to length 1.

    Inner products are, up to the hash's noise of about ``1 / sqrt(size)``, those of the scaled counts themselves. An
    empty text is the zero vector. Source: Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning".
    """
    split = TOKENIZE[tokenize]

    def embed(texts: Sequence[str]) -> Tensor:
        hashes: dict[str, int] = {}
        parts = []
        for start in range(0, len(texts), CHUNK):
            rows = [split(t.lower() if lowercase else t) for t in texts[start : start + CHUNK]]
            parts.append(_hashed_counts(rows, hashes, size, max_n))
        vectors = torch.from_numpy(np.concatenate(parts))
        return torch.nn.functional.normalize(vectors, dim=1).to(device)

    signature = (
        f"ngrams size={size} orders=1-{max_n} tokenize={tokenize} lowercase={'yes' if lowercase else 'no'} norm=l2"
    )
    return Embedder("ngrams", signature, size, embed)


def _hashed_counts(rows: Sequence[Sequence[str]], hashes: dict[str, int], size: int, max_n: int) -> np.ndarray:
    """Signed counts (N, size) float32 of all n-grams of each row; ``hashes`` keeps those of words already seen."""
    for word in {word for row in rows for word in row} - hashes.keys():
        hashes[word] = int.from_bytes(
            hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
        )
    words = np.array([hashes[word] for row in rows for word in row], dtype=np.uint64)
    owner = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    counts = np.zeros(len(rows) * size)
    gram = _mix(words)
    for n in range(1, max_n + 1):
        if n > 1:
            gram = _mix(gram[:-1] * np.uint64(31) + words[n - 1 :])
        inside = owner[: len(gram)] == owner[n - 1 :]
        kept, of = gram[inside], owner[n - 1 :][inside]
        sign = 1.0 - 2.0 * (kept >> np.uint64(63)).astype(float)
        place = (kept % np.uint64(size)).astype(np.int64)
        counts += np.bincount(of * size + place, weights=sign, minlength=len(counts))
    return counts.reshape(len(rows), size).astype(np.float32)


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al. 2014): every input bit moves every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def minilm_embedder(device: torch.device | str = "cpu") -> Embedder:
    """all-MiniLM-L6-v2: mean of the last layer over the tokens, scaled to length 1; texts cut at 256 tokens.

    Source: Wang et al. 2020, "MiniLM"; the fine-tuned sentence encoder of the sentence-transformers project.

    Raises:
        UserError: the package that carries the model is not installed.
    """
    from tokenizers import Tokenizer as HFTokenizer

    folder = minilm_folder("the embedder")
    encoder = BertEncoder(folder, device)
    tokenizer = HFTokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MINILM_TOKENS)

    def embed(texts: Sequence[str]) -> Tensor:
        rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
        return torch.nn.functional.normalize(_mean_states(encoder, rows, device), dim=1)

    digest = _digest(encoder.weights.values())
    signature = f"minilm all-MiniLM-L6-v2 sha256={digest} pooling=mean norm=l2 max_tokens={MINILM_TOKENS}"
    return Embedder("minilm", signature, encoder.size, embed)


def hf_embedder(name: str, device: torch.device | str = "cpu") -> Embedder:
    """Mean of the last layer of any Hugging Face encoder over the tokens of a text, not scaled; cut at 512 tokens.

    Args:
        name: of a model on the hub (or in the local cache), or a folder.

    Raises:
        UserError: the extra is not installed, or there is no such model.
    """
    tokenizer = from_pretrained("AutoTokenizer", name, "embedder hf")
    model = from_pretrained("AutoModel", name, "embedder hf", dtype=torch.float32).eval().to(device)
    limit = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512), 512)
    if model.config.is_encoder_decoder:
        model = model.get_encoder()

    @torch.no_grad()
    def states(ids: Tensor, mask: Tensor) -> Tensor:
        return model(input_ids=ids, attention_mask=mask.long()).last_hidden_state

    def embed(texts: Sequence[str]) -> Tensor:
        rows = tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
        return _mean_states(states, rows, device)

    digest = _digest(model.state_dict().values())
    signature = f"hf {name} sha256={digest} pooling=mean norm=none max_tokens={limit}"
    return Embedder("hf", signature, model.config.hidden_size, embed)


def lm_embedder(generator: Generator, tokenizer: Tokenizer, *, device: torch.device | str = "cpu") -> Embedder:
    """Mean over the tokens of a text of a language model's last hidden state (after the final layer norm).

    Texts are cut at the model's block size; an empty text has the state after the opening token alone. It must not
    be a generator that is judged, nor one that was trained on its samples.
    """
    generator = generator.to(device).eval()
    limit = generator.block_size - 1

    @torch.no_grad()
    def states(ids: Tensor, mask: Tensor) -> Tensor:
        seen = []
        hook = generator.ln_f.register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            generator(ids)  # causal: padding on the right is never looked at
        finally:
            hook.remove()
        mask[:, 0] &= mask.sum(1) == 1  # the state after the opening token says nothing of the text
        return seen[0]

    def embed(texts: Sequence[str]) -> Tensor:
        return _mean_states(states, [[tokenizer.eos_id, *tokenizer.encode(t)[:limit]] for t in texts], device)

    digest = _digest(generator.state_dict().values())
    signature = f"lm sha256={digest} tokenizer={tokenizer.kind} pooling=mean norm=none max_tokens={limit}"
    return Embedder("lm", signature, generator.n_embd, embed)


def _mean_states(states: Callable[[Tensor, Tensor], Tensor], rows: Sequence[Sequence[int]], device: Any) -> Tensor:
    """Mean over its tokens of the states of each row of ids, (N, D) float32; rows of similar length go together.

    ``states`` maps ids (B, T) and mask (B, T) to (B, T, D); a row without ids has the zero vector.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    parts, start = [], 0
    while start < len(order):
        end, width = start, 1
        while end < len(order) and (end == start or len(rows[order[end]]) * (end + 1 - start) <= BATCH_TOKENS):
            width = max(width, len(rows[order[end]]))
            end += 1
        lengths = torch.tensor([len(rows[i]) for i in order[start:end]])
        ids = torch.zeros(end - start, width, dtype=torch.long)
        mask = torch.arange(width) < lengths[:, None]
        ids[mask] = torch.tensor([token for i in order[start:end] for token in rows[i]], dtype=torch.long)
        ids, mask = ids.to(device), mask.to(device)
        hidden = states(ids, mask).float()
        hidden = hidden.masked_fill(~mask[..., None], 0)
        parts.append(hidden.sum(1) / mask.sum(1, keepdim=True).clamp(min=1))
        start = end
    pooled = torch.cat(parts)
    result = torch.empty_like(pooled)
    result[torch.tensor(order, device=pooled.device)] = pooled
    return result


def _digest(weights: Iterable[Tensor]) -> str:
    sha = hashlib.sha256()
    for weight in weights:
        sha.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return sha.hexdigest()[:12]


def train_lm(
    texts: Sequence[str],
    *,
    lowercase: bool = False,
    steps: int = 300,
    batch_size: int = 64,
    n_layer: int = 2,
    n_embd: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Generator, Tokenizer]:
    """A small GPT over the words of these texts, and its tokenizer; the same arguments give the same one on a device.

    A plain loop: AdamW with a learning rate that falls to 0 over ``steps`` batches of random texts. Words that occur
    once are unknown; texts are cut at 128 words.
    """
    from textgan.data.dataset import build_dataset
    from textgan.data.tokenizer import train_tokenizer
    from textgan.models.generator import Generator
    from textgan.training.objectives import mle_loss

    tokenizer = train_tokenizer("word", texts, min_count=2, lowercase=lowercase)
    data, _ = build_dataset(texts, tokenizer, block_size=128, too_long="window")
    # Its own random state for weights and dropout: who trains beside is not disturbed.
    with torch.random.fork_rng(devices=[torch.device(device)] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(seed)
        generator = Generator(tokenizer.vocab_size, 129, n_layer, 4, n_embd).to(device)
        optimizer = torch.optim.AdamW(generator.parameters(), lr=lr, weight_decay=0.1)
        rows = torch.Generator().manual_seed(seed)
        for step in range(steps):
            batch = data.batch(torch.randint(len(data), (batch_size,), generator=rows)).to(device)
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 - step / steps)
            optimizer.zero_grad()
            mle_loss(generator, batch, float(batch.lengths.sum())).backward()
            torch.nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
            optimizer.step()
    return generator.eval(), tokenizer

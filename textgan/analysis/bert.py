"""BERT as an encoder of texts, read straight from its files: `config.json`, `model.safetensors`, `tokenizer.json`.

Source: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers"; the mean of the last layer as the
embedding of a text is Reimers and Gurevych 2019, "Sentence-BERT".
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from textgan.models.transformer import attend


class BertEncoder:
    """A BERT of the Hugging Face layout, for inference only.

    Raises:
        OSError: a file is missing.
        ValueError: the folder holds another kind of model.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        known = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
        for key, value in known.items():
            if config.get(key, value) != value:
                raise ValueError(f"{folder} has {key}={config[key]!r}; {value!r} can be read")
        self.heads = config["num_attention_heads"]
        self.layers = config["num_hidden_layers"]
        self.size = config["hidden_size"]
        self.epsilon = config["layer_norm_eps"]
        self.max_tokens = config["max_position_embeddings"]
        weights = load_file(folder / "model.safetensors", device=str(device))
        self.weights = {name.removeprefix("bert."): weight for name, weight in weights.items()}

    @torch.no_grad()
    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Last layer (B, T, D) of token ids (B, T); ``mask`` (B, T) is True at tokens, False at padding."""
        tables = {kind: self.weights[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "position")}
        kind = self.weights["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(tables["word"][ids] + tables["position"][: ids.shape[1]] + kind, "embeddings")
        seen = mask[:, None, None]
        for layer in range(self.layers):
            x = self._layer(x, seen, f"encoder.layer.{layer}")
        return x

    def _layer(self, x: Tensor, seen: Tensor, name: str) -> Tensor:
        B, T, D = x.shape
        heads = (
            self._linear(x, f"{name}.attention.self.{part}").view(B, T, self.heads, D // self.heads).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        mixed = attend(*heads, mask=seen, causal=False).transpose(1, 2).reshape(B, T, D)
        output = f"{name}.attention.output"
        x = self._norm(x + self._linear(mixed, f"{output}.dense"), output)
        wide = F.gelu(self._linear(x, f"{name}.intermediate.dense"))
        return self._norm(x + self._linear(wide, f"{name}.output.dense"), f"{name}.output")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.LayerNorm.weight"], self.weights[f"{name}.LayerNorm.bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias, self.epsilon)

"""Pretrained encoders (BERT and its kin) that read ids or probability vectors, and pool a text to one vector.

Sources: Devlin et al. 2019, "BERT"; the mean of the last states as a text's vector is Reimers and Gurevych 2019,
"Sentence-BERT".
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textgan.models.transformer import check_dropout, embed_tokens
from textgan.ops.relaxed_tokens import RelaxedTokens


class PretrainedEncoder(nn.Module):
    """An encoder of the library transformers behind a table of embeddings of its own.

    What the encoder puts before a text is put there; a text's end is a token like others, whose row is that of what the
    encoder expects there (`[CLS]` and `[SEP]` in BERT). Positions and types of tokens are embedded as the library does.

    Features are the mean of the last states over the text, its opening and its end. Unlike the state of `[CLS]` alone
    it means something in encoders that were never trained on that state (RoBERTa, DistilBERT), it is what MiniLM and
    its kin were trained for, and every position gets gradient from the first step on.

    Attributes:
        architecture: the encoder's `config.json`, from which it can be built again.
        n_features: width of the features.
    """

    def __init__(self, body: nn.Module, table: Tensor, opening: Tensor, block_size: int, dropout: float = 0.1):
        """
        Args:
            body: a model of the library with `last_hidden_state` in its output and `inputs_embeds` among its inputs;
                its own table of words and its pooler, which nothing reads here, are taken out.
            table: (V, E) rows of the tokens that are read.
            opening: (E,) what stands before each text.
            block_size: most columns of a text, the opening not counted.
            dropout: share dropped everywhere that the encoder drops at all.

        Raises:
            ValueError: for a bad dropout.
        """
        super().__init__()
        check_dropout(dropout)
        self.vocab_size, self.block_size = len(table), block_size
        self.architecture = body.config.to_json_string(use_diff=False)
        self.n_features = body.config.hidden_size
        self.wte = nn.Embedding(*table.shape, _weight=table)
        self.opening = nn.Parameter(opening)
        body.set_input_embeddings(nn.Identity())
        if getattr(body, "pooler", None) is not None:
            body.pooler = None
        _set_dropout(body, dropout)
        self.body = body

    def embed(self, tokens: Tensor | RelaxedTokens) -> Tensor:
        """Vectors (B, T, E) of ids (B, T) or probability vectors (B, T, V)."""
        return embed_tokens(tokens, self.wte.weight)

    def states(self, embeddings: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The last states (B, 1 + T, D) of embedded texts (B, T, E) behind their opening, and the mask of real ones.

        The first `lengths` (B,) columns are real; what follows never matters.

        Raises:
            ValueError: above `block_size` columns.
        """
        B, columns, E = embeddings.shape
        if columns > self.block_size:
            raise ValueError(f"{columns} columns, but `block_size={self.block_size}`")
        mask = torch.arange(columns, device=embeddings.device) < lengths[:, None]
        x = torch.where(mask[..., None], embeddings, 0.0)
        x = torch.cat([self.opening.to(x.dtype).expand(B, 1, E), x], dim=1)
        mask = F.pad(mask, (1, 0), value=True)
        return self.body(inputs_embeds=x, attention_mask=mask.long()).last_hidden_state, mask

    def forward(self, tokens: Tensor | RelaxedTokens, lengths: Tensor) -> Tensor:
        """Features (B, n_features) of texts whose first `lengths` (B,) columns are real."""
        return mean_state(*self.states(self.embed(tokens), lengths))


def mean_state(states: Tensor, mask: Tensor) -> Tensor:
    """The mean (B, D) of states (B, T, D) where the mask (B, T) is True."""
    return states.masked_fill(~mask[..., None], 0.0).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def _set_dropout(body: nn.Module, share: float) -> None:
    for module in body.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        if isinstance(getattr(module, "attention_dropout", None), float):  # of models that keep it as a number
            module.attention_dropout = share

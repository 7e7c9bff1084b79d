"""A classifier of texts: an encoder and a linear layer over its features."""

from torch import Tensor, nn

from textgan.models.bert import PretrainedEncoder
from textgan.models.encoder import LSTMEncoder, TransformerEncoder
from textgan.models.transformer import Dropout, check_dropout, check_sizes
from textgan.ops.relaxed_tokens import RelaxedTokens


class Classifier(nn.Module):
    """Logits of classes from the pooled states of an encoder, pretrained or not."""

    def __init__(self, encoder: PretrainedEncoder | TransformerEncoder | LSTMEncoder, n_classes: int, dropout: float):
        """`dropout` is between encoder and linear layer.

        Raises:
            ValueError: for fewer than one class or a bad dropout.
        """
        super().__init__()
        check_sizes(n_classes=n_classes)
        check_dropout(dropout)
        self.encoder = encoder
        self.drop = Dropout(dropout)
        self.head = nn.Linear(encoder.n_features, n_classes)

    def forward(self, tokens: Tensor | RelaxedTokens, lengths: Tensor) -> Tensor:
        """Logits (B, K) of texts, ids (B, T) or probability vectors; the first `lengths` (B,) columns are real."""
        return self.head(self.drop(self.encoder(tokens, lengths)))

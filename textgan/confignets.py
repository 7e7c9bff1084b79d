"""The sections of the config that are about networks and their vocabulary."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from textgan.configbase import Beta, Positive, Section, check_divisible, refuse_changed


class Tokenizer(Section):
    kind: Literal["word", "char", "bpe", "pretrained"] = Field(
        "word", description="unit of the model's vocabulary; pretrained: that of a pretrained model"
    )
    init_from: str | None = Field(
        None,
        description="the pretrained model whose tokenizer it is (pretrained): a name on the hub, a folder, or minilm; "
        "so a BERT as discriminator reads the same tokens. none: generator.init_from",
    )
    vocab_size: Positive | None = Field(
        None, description="largest vocabulary, special tokens included; none: all (bpe: 8192)"
    )
    min_count: Positive = Field(1, description="words or characters seen less often become <unk>")
    split: Literal["words", "whitespace"] = Field(
        "words",
        description="how text is cut into words (kind word): by the rules of the Penn Treebank, or, for corpora that "
        "are already tokenised, at white space alone",
    )

    @model_validator(mode="after")
    def _splits_words(self):
        if self.kind != "word" and self.split != "words":
            raise ValueError(f"tokenizer.split={self.split} is for tokenizer.kind=word, not {self.kind}; leave it away")
        if self.kind == "pretrained":
            refuse_changed(self, "tokenizer", "kind=pretrained, which comes as it is", ("vocab_size", "min_count"))
        if self.init_from is not None and self.kind != "pretrained":
            raise ValueError(
                f"tokenizer.init_from={self.init_from} needs tokenizer.kind=pretrained, not {self.kind}; give that too"
            )
        return self


class Generator(Section):
    kind: Literal["transformer", "lstm", "causal_lm"] = Field(
        "transformer",
        description="architecture, of the decoder of a VAE too (lstm: the classical one of text VAEs; causal_lm: one "
        "of transformers, set by init_from)",
    )
    init_from: str | None = Field(
        None,
        description="pretrained language model to start from: a name on the Hugging Face hub (gpt2) or a folder that "
        "save_pretrained or `textgan export` wrote; its shape and tokenizer are taken over",
    )
    causal_lm: str | None = Field(
        None, description="the configuration of a causal_lm, the JSON of its config.json; set by init_from"
    )
    block_size: Annotated[int, Field(ge=2)] = Field(64, description="longest input in tokens (text + 1)")
    n_layer: Positive = Field(4, description="Transformer blocks, or layers of the LSTM")
    n_head: Positive = Field(4, description="attention heads (transformer)")
    n_embd: Positive = Field(256, description="width (lstm: of the embedding)")
    n_hidden: Positive = Field(1024, description="units of the LSTM's state (lstm)")
    dropout: Beta = Field(
        0.1, description="dropout of embeddings, attention and residual branches (lstm: of input and output)"
    )
    attention_dropout: Beta | None = Field(
        None, description="dropout of attention weights alone (transformer, causal_lm); none: as dropout"
    )
    gradient_checkpointing: bool = Field(
        False,
        description="keep only the inputs of each block for the way back, and compute it again there: less memory, a "
        "third more arithmetic, the same results (transformer, causal_lm)",
    )

    @model_validator(mode="after")
    def _divisible(self):
        if self.kind == "transformer":
            check_divisible("generator", self.n_embd, self.n_head)
        if self.kind == "lstm" and self.init_from is not None:
            raise ValueError(
                f"generator.init_from={self.init_from} is of Transformers; leave generator.kind=lstm or it away"
            )
        if self.kind == "lstm" and self.attention_dropout is not None:
            raise ValueError(
                f"generator.attention_dropout={self.attention_dropout} is of Transformers, and generator.kind=lstm has "
                "no attention; leave it away"
            )
        if self.kind == "lstm" and self.gradient_checkpointing:
            raise ValueError(
                "generator.gradient_checkpointing=true is of Transformers' blocks, which generator.kind=lstm has not; "
                "leave it away"
            )
        if self.kind == "causal_lm" and self.init_from is None and self.causal_lm is None:
            raise ValueError("generator.kind=causal_lm needs generator.init_from, the model that it is")
        return self


class Discriminator(Section):
    kind: Literal["transformer", "cnn", "bert"] = Field(
        "transformer", description="architecture of the critic (bert: any pretrained encoder)"
    )
    init_from: str | None = Field(
        None,
        description="pretrained encoder to fine-tune: a name on the hub such as bert-base-uncased, a folder, or "
        "minilm, the one of the extra `story` (bert)",
    )
    bridge: bool = Field(
        False,
        description="read a token that is not one piece of the encoder's vocabulary as the mean of its pieces' "
        "embeddings, trained on with the critic; otherwise such tokens are refused (bert)",
    )
    n_embd: Positive = Field(128, description="width of the embedding (cnn: all representations together)")
    dropout: Beta = Field(0.1, description="dropout")
    spectral_norm: bool = Field(False, description="spectral normalisation of the critic's weights (transformer, cnn)")
    n_layer: Positive = Field(2, description="Transformer blocks (transformer)")
    n_head: Positive = Field(4, description="attention heads (transformer)")
    n_representations: Positive = Field(1, description="embedded representations (cnn; RelGAN: 64)")
    channels: Positive = Field(128, description="filters of each width (cnn)")

    @model_validator(mode="after")
    def _pretrained(self):
        if self.kind == "bert":
            if self.init_from is None:
                raise ValueError("discriminator.kind=bert needs discriminator.init_from, such as bert-base-uncased")
            fixed = ("n_embd", "n_layer", "n_head", "n_representations", "channels", "spectral_norm")
            refuse_changed(self, "discriminator", "kind=bert, whose shape is that of its encoder", fixed)
        else:
            refuse_changed(self, "discriminator", f"kind={self.kind}, which starts at random", ("init_from", "bridge"))
        return self

    @model_validator(mode="after")
    def _divisible(self):
        if self.kind == "bert":
            return self
        if self.kind == "transformer":
            check_divisible("discriminator", self.n_embd, self.n_head)
        elif self.n_embd % self.n_representations:
            raise ValueError(
                f"discriminator.n_embd={self.n_embd} is not divisible by "
                f"discriminator.n_representations={self.n_representations}"
            )
        return self

"""The section of the config that is about training a classifier of texts."""

from typing import Literal

from pydantic import Field, model_validator

from textgan.configbase import Beta, NotNegative, Positive, Rate, Section, Share, Weight


class Classifier(Section):
    init_from: str | None = Field(
        None,
        description="pretrained encoder to fine-tune, with its tokenizer: a name on the hub such as bert-base-uncased, "
        "a folder, or minilm, the one of the extra `story`; none: the section `encoder`, from scratch",
    )
    block_size: Positive = Field(128, description="longest text in tokens, its end counted; longer ones are cut")
    max_steps: Positive = Field(1000, description="updates")
    batch_size: Positive = Field(32, description="texts an update")
    accumulate: Positive = Field(1, description="micro-batches that a batch is split into, to save memory")
    lr: Rate = Field(5e-4, description="peak learning rate (AdamW); of a pretrained encoder rather 2e-5 to 5e-5")
    final_lr_ratio: Share = Field(0.1, description="learning rate at the end of the cosine, as a share of lr")
    warmup_steps: NotNegative = Field(50, description="steps of linear warm-up")
    betas: tuple[Beta, Beta] = Field((0.9, 0.98), description="AdamW's betas")
    weight_decay: Weight = Field(0.01, description="AdamW's weight decay, on matrices only")
    grad_clip: Weight = Field(1.0, description="largest gradient norm; 0: no clipping")
    dropout: Beta = Field(0.1, description="dropout before the output layer, and inside a pretrained encoder")
    freeze: list[str] = Field(
        [],
        description="patterns of parameters that stay as they are, such as encoder.wte* or encoder.body.*layer.[0-3].*",
    )
    select: Literal["cross_entropy", "accuracy", "macro_f1"] = Field(
        "cross_entropy", description="what is best on dev decides which step is kept"
    )
    patience: NotNegative = Field(0, description="stop after this many evaluations without a better one; 0: never")

    @model_validator(mode="after")
    def _splits_evenly(self):
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"classifier.batch_size={self.batch_size} is not divisible by classifier.accumulate={self.accumulate}"
            )
        return self

"""The sections of the config that are about VAEs: the encoder, and the phase that trains it with the decoder."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from textgan.configbase import Beta, NotNegative, Positive, Rate, Section, Share, Weight, check_divisible


class Encoder(Section):
    kind: Literal["transformer", "lstm"] = Field(
        "transformer", description="architecture of the encoder of a VAE or classifier"
    )
    n_embd: Positive = Field(256, description="width (lstm: of the embedding)")
    dropout: Beta = Field(0.1, description="dropout (lstm: of the embedding)")
    n_layer: Positive = Field(2, description="Transformer blocks, or layers of the LSTM")
    n_head: Positive = Field(4, description="attention heads (transformer)")
    pooling: Literal["cls", "mean", "max", "attention"] = Field(
        "mean", description="how the columns of a text become one vector (transformer)"
    )
    n_hidden: Positive = Field(1024, description="units of the LSTM's state, the last of which is read (lstm)")

    @model_validator(mode="after")
    def _divisible(self):
        if self.kind == "transformer":
            check_divisible("encoder", self.n_embd, self.n_head)
        return self


class VAE(Section):
    z_size: Positive = Field(32, description="latent dimensions")
    latents: Literal["flat", "layerwise"] = Field(
        "flat", description="one z for the whole decoder, or a group of dimensions for each of its layers (DELLA)"
    )
    injection: Literal["embedding", "memory", "both"] = Field(
        "both",
        description="how z enters the decoder: added to the input embeddings (lstm: beside them), as one more key and "
        "value in each layer (lstm: as first state), or both",
    )
    init_from: str | None = Field(
        None,
        description="run or checkpoint whose generator the decoder starts from, and anew after pretraining; mle: that "
        "of this run's own phase; none: from scratch",
    )
    max_steps: Positive = Field(5000, description="updates of encoder and decoder, pretraining not counted")
    batch_size: Positive = Field(64, description="texts an update")
    accumulate: Positive = Field(
        1,
        description="micro-batches that a batch is split into, to save memory; free bits and bn_gamma then look at "
        "one micro-batch at a time",
    )
    lr: Rate = Field(1e-3, description="peak learning rate (AdamW)")
    final_lr_ratio: Share = Field(0.1, description="learning rate at the end of the cosine, as a share of lr")
    warmup_steps: NotNegative = Field(100, description="steps of linear warm-up")
    betas: tuple[Beta, Beta] = Field((0.9, 0.98), description="AdamW's betas")
    weight_decay: Weight = Field(0.1, description="AdamW's weight decay, on matrices only")
    grad_clip: Weight = Field(1.0, description="largest gradient norm; 0: no clipping")
    ema: Beta = Field(0.995, description="decay of the weight average that is evaluated and sampled; 0: none")
    patience: NotNegative = Field(
        0,
        description="stop after this many evaluations without a better dev NLL (bound), counted from where kl_weight "
        "has its last value; 0: never",
    )
    calibrate: bool = Field(
        True,
        description="at the end, fit the softmax temperature and the <unk> bias on dev, z from the posterior, and fold "
        "both into the decoder",
    )
    kl_weight: Weight = Field(1.0, description="weight of the KL (beta); 0: an autoencoder")
    kl_schedule: Literal["constant", "linear", "cyclical"] = Field(
        "linear", description="how the weight gets there (linear: Bowman 2016; cyclical: Fu 2019)"
    )
    kl_start: Weight = Field(0.0, description="weight at the start of a ramp")
    kl_ramp_steps: NotNegative = Field(1000, description="steps of the ramp (linear)")
    kl_cycles: Positive = Field(4, description="cycles in max_steps (cyclical)")
    kl_ramp_share: Rate = Field(0.5, description="share of a cycle that is ramp (cyclical)")
    free_bits: Weight = Field(
        0.0, description="nats of KL that cost nothing, of the mean text of a batch; 0: off (see free_bits_mode)"
    )
    free_bits_mode: Literal["dimension", "total"] = Field(
        "dimension", description="free_bits are of each latent dimension (FBP: 0.25 of 32), or of their sum"
    )
    word_dropout: Share = Field(
        0.0, description="share of the words that the decoder reads as <unk> in training (Bowman 2016: 0.2 to 0.4)"
    )
    bn_gamma: Annotated[float, Field(gt=0, le=10)] | None = Field(
        None, description="batch norm of the posterior means with this fixed scale (BN-VAE: 0.5 to 0.7); none: off"
    )
    bn_whiten: bool = Field(
        False, description="that batch norm takes out correlations too, so that no two dimensions tell the same"
    )
    pretrain_steps: NotNegative = Field(
        0, description="updates as an autoencoder first, with kl_weight 0, no free bits and no aggregate (FBP); 0: none"
    )
    reset_decoder: bool = Field(True, description="start the decoder anew after pretraining, as FBP does")
    aggressive: bool = Field(
        False,
        description="update the encoder alone until it lags no more before each update of the decoder (He 2019), until "
        "the mutual information on dev stops rising",
    )
    aggressive_max_updates: Positive = Field(100, description="most encoder updates before one of the decoder")
    aggressive_window: Positive = Field(
        10, description="encoder updates whose mean loss must be below that of the ones before to go on"
    )
    aggregate: Literal["none", "mmd", "adversarial"] = Field(
        "none",
        description="pull the codes of all texts together to the prior: by a kernel (WAE) or a critic of latents (AAE)",
    )
    aggregate_weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None,
        description="weight of that pull, beside the KL's, in nats a text; too much makes every posterior the prior. "
        "none: 10 for mmd, 1 for adversarial",
    )
    aggregate_lr: Rate = Field(5e-4, description="learning rate of the critic of latents (adversarial)")

    @model_validator(mode="after")
    def _together(self):
        problems = []
        if self.batch_size % self.accumulate:
            problems.append(f"batch_size={self.batch_size} is not divisible by accumulate={self.accumulate}")
        if self.free_bits and not self.kl_weight:
            problems.append(f"free_bits={self.free_bits} has no effect with kl_weight=0; drop one of them")
        if self.kl_schedule != "constant" and self.kl_start > self.kl_weight:
            problems.append(f"kl_start={self.kl_start} is above kl_weight={self.kl_weight}; the ramp goes up")
        if self.kl_schedule == "linear" and self.kl_weight and self.kl_ramp_steps > self.max_steps:
            problems.append(
                f"kl_ramp_steps={self.kl_ramp_steps} is above max_steps={self.max_steps}: the weight would never reach "
                f"kl_weight={self.kl_weight}"
            )
        if self.bn_gamma is not None and self.batch_size // self.accumulate < 2:
            problems.append("bn_gamma needs at least 2 texts in each micro-batch; raise batch_size or lower accumulate")
        if self.bn_whiten and self.bn_gamma is None:
            problems.append("bn_whiten=true has no effect without bn_gamma; give it a scale, such as bn_gamma=0.5")
        elif self.bn_whiten and self.batch_size // self.accumulate <= self.z_size:
            problems.append(
                f"bn_whiten needs more texts in each micro-batch than z_size={self.z_size}, there are "
                f"{self.batch_size // self.accumulate}; raise batch_size, or lower accumulate or z_size"
            )
        if self.aggressive and not self.kl_weight:
            problems.append("aggressive=true has no effect on an autoencoder (kl_weight=0), whose encoder cannot lag")
        if self.aggregate == "none" and self.aggregate_weight is not None:
            problems.append(f"aggregate_weight={self.aggregate_weight} has no effect with aggregate=none")
        if problems:
            raise ValueError("\n".join(problems))
        return self

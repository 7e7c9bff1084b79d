"""The sections of the config that are about training a generator: by maximum likelihood, and against a critic."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from textgan.configbase import Beta, NotNegative, Positive, Rate, Section, Share, Weight


class MLE(Section):
    max_steps: Positive = Field(2000, description="generator updates")
    batch_size: Positive = Field(64, description="texts an update; with batch_tokens: at most")
    batch_tokens: Positive | None = Field(
        None,
        description="positions an update: as many texts of like length as fit, padding counted; none: batch_size texts",
    )
    accumulate: Positive = Field(1, description="micro-batches that a batch is split into, to save memory")
    lr: Rate = Field(1e-3, description="peak learning rate (AdamW)")
    final_lr_ratio: Share = Field(0.1, description="learning rate at the end of the cosine, as a share of lr")
    warmup_steps: NotNegative = Field(100, description="steps of linear warm-up")
    betas: tuple[Beta, Beta] = Field((0.9, 0.98), description="AdamW's betas")
    weight_decay: Weight = Field(0.1, description="AdamW's weight decay, on matrices only")
    grad_clip: Weight = Field(1.0, description="largest gradient norm; 0: no clipping")
    ema: Beta = Field(0.995, description="decay of the weight average that is evaluated and sampled; 0: none")
    patience: NotNegative = Field(0, description="stop after this many evaluations without a better dev NLL; 0: never")
    calibrate: bool = Field(
        True,
        description="at the end, fit the softmax temperature and the <unk> bias on dev and fold both in",
    )


class Adversarial(Section):
    max_steps: Positive = Field(500, description="generator updates")
    init_from: str | None = Field(
        None, description="run or checkpoint to start from, instead of a MLE phase in this run"
    )
    loss: Literal["non_saturating", "hinge", "least_squares", "wasserstein", "rsgan", "ragan"] = Field(
        "rsgan", description="GAN loss"
    )
    estimator: Literal["soft", "relgan", "straight_through", "gapped", "gumbel_rao", "reinmax"] = Field(
        "straight_through", description="gradient estimator through the sampled tokens"
    )
    hops: NotNegative = Field(0, description="hops of gradient through the fed-back tokens (soft feedback only)")
    tau_schedule: Literal["constant", "linear", "exponential", "cosine"] = Field(
        "constant", description="how tau goes from tau_start to tau_end over the phase"
    )
    tau_start: Annotated[float, Field(gt=0, le=100)] = Field(
        1.0, description="relaxation temperature at the start (divides the logits)"
    )
    tau_end: Annotated[float, Field(gt=0, le=100)] = Field(1.0, description="relaxation temperature at the end")
    batch_size: Positive = Field(64, description="real texts, and fakes, an update")
    accumulate: Positive = Field(1, description="micro-batches that a batch is split into, to save memory")
    d_steps: Positive = Field(1, description="discriminator updates before each generator update")
    share_fakes: bool = Field(
        False, description="draw fakes once an iteration, for all its d_steps and for the generator's step"
    )
    d_pretrain_steps: NotNegative = Field(100, description="discriminator updates before the first generator update")
    lr: Rate = Field(5e-5, description="learning rate of the generator")
    lr_d: Rate = Field(2e-4, description="learning rate of the discriminator (TTUR: larger than lr)")
    final_lr_ratio: Share = Field(0.1, description="learning rates at the end of the cosine, as a share of the peak")
    warmup_steps: NotNegative = Field(20, description="steps of linear warm-up")
    betas: tuple[Beta, Beta] = Field((0.9, 0.98), description="AdamW's betas, generator")
    betas_d: tuple[Beta, Beta] = Field((0.5, 0.98), description="AdamW's betas, discriminator")
    weight_decay: Weight = Field(0.1, description="AdamW's weight decay, generator, on matrices only")
    weight_decay_d: Weight = Field(0.1, description="AdamW's weight decay, discriminator, on matrices only")
    grad_clip: Weight = Field(1.0, description="largest gradient norm of either network; 0: no clipping")
    ema: Beta = Field(0.99, description="decay of the weight average that is evaluated and sampled; 0: none")
    mle_weight: Weight = Field(1.0, description="weight of the MLE loss that is kept beside")
    kl_weight: Weight = Field(0.0, description="weight of KL(parent || generator) on real text, nats a token")
    adv_weight: Weight = Field(1.0, description="weight of the adversarial loss where adv_ratio is none")
    adv_ratio: Annotated[float, Field(gt=0)] | None = Field(
        0.2, description="hold the adversarial gradient at this fraction of the MLE gradient norm; none: off"
    )
    token_weight: Weight = Field(
        0.0, description="weight of the critic's scores token by token beside its score of the whole text"
    )
    r1: Weight = Field(0.0, description="R1 penalty: gradient of D on real embeddings")
    r2: Weight = Field(0.0, description="R2 penalty: gradient of D on fake embeddings")
    gradient_penalty: Weight = Field(0.0, description="WGAN-GP penalty between real and fake embeddings")
    penalty_every: Positive = Field(1, description="compute the penalties every so many D updates (weights scale up)")
    replay_batches: NotNegative = Field(0, description="past fake batches kept for the discriminator; 0: off")
    replay_share: Share = Field(0.5, description="share of a D batch drawn from them")
    calibrate: bool = Field(
        True,
        description="at the end, fit the softmax temperature and the <unk> bias on dev and fold both in; also of the "
        "continuation and of a parent that was not calibrated yet",
    )
    continuation: Literal["steps", "tokens", "seconds"] | None = Field(
        None,
        description="train a baseline of equal cost beside: from the same parent by MLE alone, for as many updates, "
        "tokens through the generator (real ones learned from, and sampled ones), or seconds; none: off",
    )
    patience: NotNegative = Field(0, description="stop after this many evaluations without a better dev NLL; 0: never")
    max_nll_rise: Weight | None = Field(
        0.5, description="stop when dev NLL is this far above the parent's, nats a token; none: never"
    )

    @model_validator(mode="after")
    def _together(self):
        problems = []
        if self.adv_ratio is not None and self.mle_weight == 0:
            problems.append("adv_ratio needs mle_weight above 0 (set adv_ratio: none to use adv_weight)")
        if self.share_fakes and self.replay_batches:
            problems.append("share_fakes=true shows the fakes of this iteration alone; set replay_batches=0")
        if self.share_fakes and self.estimator == "soft":
            problems.append(
                "share_fakes=true needs hard tokens; estimator=soft samples with soft ones, so leave it away"
            )
        if self.adv_ratio is None and self.adv_weight == 0:
            problems.append("adv_weight=0 leaves no adversarial loss; raise it or drop the section")
        if self.tau_end > self.tau_start:
            problems.append(f"tau_end={self.tau_end} is above tau_start={self.tau_start}; tau divides and goes down")
        if self.tau_schedule == "constant" and self.tau_end != self.tau_start:
            problems.append("tau_schedule=constant needs tau_end equal to tau_start")
        if self.estimator == "reinmax" and self.tau_end < 1:
            problems.append(f"estimator=reinmax needs tau of at least 1, tau_end is {self.tau_end}")
        if self.hops and self.estimator != "soft":
            problems.append(f"hops={self.hops} needs estimator=soft; {self.estimator} feeds back hard tokens")
        if self.batch_size % self.accumulate:
            problems.append(f"batch_size={self.batch_size} is not divisible by accumulate={self.accumulate}")
        if problems:
            raise ValueError("\n".join(problems))
        return self

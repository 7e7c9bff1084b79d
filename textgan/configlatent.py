"""The section of the config about a GAN in the latent space of a VAE."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from textgan.configbase import Beta, NotNegative, Positive, Rate, Section, Share, Weight


class LatentGan(Section):
    max_steps: Positive = Field(5000, description="updates of the generator of latents")
    batch_size: Annotated[int, Field(ge=2)] = Field(
        256, description="codes of real texts, and generated ones, an update"
    )
    d_steps: Positive = Field(1, description="updates of the critic before each of the generator")
    loss: Literal["non_saturating", "hinge", "least_squares", "wasserstein", "rsgan", "ragan"] = Field(
        "rsgan", description="GAN loss"
    )
    posterior: Literal["sample", "mean"] = Field(
        "sample",
        description="what the code of a text is: a draw of its posterior, as the decoder knows them, or the mean",
    )
    noise_size: Positive | None = Field(None, description="numbers that a latent is made of; none: vae.z_size")
    n_layer: Positive = Field(2, description="hidden layers of generator and critic")
    n_hidden: Positive = Field(256, description="units of each of them")
    spectral_norm: bool = Field(False, description="bound the critic's linear maps by their largest singular value")
    lr: Rate = Field(1e-3, description="peak learning rate of the generator (AdamW, no weight decay)")
    lr_d: Rate = Field(2e-3, description="peak learning rate of the critic")
    final_lr_ratio: Share = Field(0.1, description="learning rates at the end of the cosine, as a share of the peak")
    warmup_steps: NotNegative = Field(20, description="steps of linear warm-up")
    betas: tuple[Beta, Beta] = Field((0.5, 0.99), description="AdamW's betas, of both")
    grad_clip: Weight = Field(0.0, description="largest gradient norm of either; 0: no clipping")
    r1: Weight = Field(0.05, description="R1 penalty: gradient of the critic at codes of real texts (whitened)")
    r2: Weight = Field(0.05, description="R2 penalty: gradient of the critic at generated codes (whitened)")
    gradient_penalty: Weight = Field(0.0, description="WGAN-GP penalty between both")
    ema: Beta = Field(0.995, description="decay of the weight average that is evaluated and sampled; 0: none")
    encoder_weight: Weight = Field(
        0.0,
        description="weight of the critic's gradient in the encoder, in nats a text; encoder and decoder then go on "
        "learning by the loss of the vae section without its aggregate (ARAE). 0: the autoencoder stays as it is",
    )
    lr_vae: Rate = Field(1e-4, description="peak learning rate of encoder and decoder (encoder_weight above 0)")
    patience: NotNegative = Field(
        0, description="stop after this many evaluations whose generated codes are no nearer to dev's; 0: never"
    )

    @model_validator(mode="after")
    def _together(self):
        if self.loss == "wasserstein" and not (self.gradient_penalty or self.spectral_norm or self.r1 or self.r2):
            raise ValueError(
                "loss=wasserstein needs a critic of bounded slope: set gradient_penalty (10), spectral_norm, r1 or r2"
            )
        return self

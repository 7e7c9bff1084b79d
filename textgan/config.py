"""The whole experiment as typed, validated values.

Every field has a description (``textgan config show`` prints it) and a default that can be trained as it is.
Checks of one field stand in its type, checks across fields in the validators below; checks that need the
corpus (vocabulary, lengths) are made where the corpus is read. Reading and writing files is in
``configfile.py``. Models never see these classes: the training code hands them plain values.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from textgan.configbase import Beta, NotNegative, Positive, Rate, Section, Share, Weight, check_divisible
from textgan.configlatent import LatentGan
from textgan.configvae import VAE, Encoder


class Data(Section):
    source: str = Field(
        "stories",
        description="what to learn from: a .txt, .jsonl or .csv file, a folder of them, a pattern such as reviews.*, "
        "or a name: stories, stories-zh (embedded grammars), lstm-oracle (SeqGAN's), nltk:CORPUS, hf:DATASET[:CONFIG]",
    )
    dev: str | None = Field(None, description="file of the dev split; none: split off by content hash")
    test: str | None = Field(None, description="file of the test split; none: split off by content hash")
    dev_fraction: Rate = Field(0.05, description="share of texts split off as dev where no dev file is given")
    test_fraction: Share = Field(0.05, description="share of texts split off as test where no test file is given")
    format: Literal["auto", "lines", "paragraphs", "endoftext", "jsonl", "csv"] = Field(
        "auto", description="how texts stand in the files"
    )
    field: str = Field("text", description="name of the field that holds the text, for jsonl and csv")
    label: str | None = Field(
        None,
        description="name of the field (jsonl, csv, hf) that holds a text's class or source, by which pictures of "
        "latent vectors are coloured; none: the file's name where there are several. Training never sees it",
    )
    encoding: str = Field("utf-8", description="character encoding of the files")
    size: Positive = Field(20000, description="number of texts drawn from an embedded grammar or oracle")
    seed: NotNegative = Field(0, description="seed of that draw (apart from the training seed, so seeds share data)")
    oracle_length: Positive = Field(20, description="tokens in each text of lstm-oracle (papers: 20 and 40)")
    dedupe: bool = Field(True, description="drop exact duplicates inside a split")
    lowercase: bool = Field(False, description="lower-case all texts")
    max_chars: Positive = Field(100_000, description="refuse a text longer than this many characters")
    too_long: Literal["drop", "window"] = Field(
        "drop", description="texts longer than generator.block_size: leave out, or cut into windows"
    )

    @model_validator(mode="after")
    def _fractions(self):
        if self.dev_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"dev_fraction={self.dev_fraction} and test_fraction={self.test_fraction} leave nothing to "
                "train on; their sum must be below 1"
            )
        return self


class Tokenizer(Section):
    kind: Literal["word", "char", "bpe"] = Field("word", description="unit of the model's vocabulary")
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
        return self


class Generator(Section):
    kind: Literal["transformer", "lstm"] = Field(
        "transformer", description="architecture, of the decoder of a VAE too (lstm: the classical one of text VAEs)"
    )
    block_size: Annotated[int, Field(ge=2)] = Field(64, description="longest input in tokens (text + 1)")
    n_layer: Positive = Field(4, description="Transformer blocks, or layers of the LSTM")
    n_head: Positive = Field(4, description="attention heads (transformer)")
    n_embd: Positive = Field(256, description="width (lstm: of the embedding)")
    n_hidden: Positive = Field(1024, description="units of the LSTM's state (lstm)")
    dropout: Beta = Field(
        0.1, description="dropout of embeddings, attention and residual branches (lstm: of input and output)"
    )

    @model_validator(mode="after")
    def _divisible(self):
        if self.kind == "transformer":
            check_divisible("generator", self.n_embd, self.n_head)
        return self


class Discriminator(Section):
    kind: Literal["transformer", "cnn"] = Field("transformer", description="architecture of the critic")
    n_embd: Positive = Field(128, description="width of the embedding (cnn: all representations together)")
    dropout: Beta = Field(0.1, description="dropout")
    spectral_norm: bool = Field(False, description="spectral normalisation of the critic's weights")
    n_layer: Positive = Field(2, description="Transformer blocks (transformer)")
    n_head: Positive = Field(4, description="attention heads (transformer)")
    n_representations: Positive = Field(1, description="embedded representations (cnn; RelGAN: 64)")
    channels: Positive = Field(128, description="filters of each width (cnn)")

    @model_validator(mode="after")
    def _divisible(self):
        if self.kind == "transformer":
            check_divisible("discriminator", self.n_embd, self.n_head)
        elif self.n_embd % self.n_representations:
            raise ValueError(
                f"discriminator.n_embd={self.n_embd} is not divisible by "
                f"discriminator.n_representations={self.n_representations}"
            )
        return self


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


class Evaluation(Section):
    every: Positive = Field(200, description="steps between two evaluations")
    samples: Annotated[int, Field(ge=2)] = Field(1000, description="texts generated and scored at each of them")
    final_samples: Annotated[int, Field(ge=2)] = Field(
        2000, description="texts generated and scored at the end of each phase"
    )
    seed: NotNegative = Field(1234, description="seed of the generated texts: the same noise at each evaluation")
    tokenize: Literal["words", "whitespace", "chars"] = Field(
        "words", description="units that BLEU, distinct-n and their kin count, whatever the model's tokenizer"
    )
    max_references: Positive = Field(
        10_000, description="at most this many dev texts as references of BLEU (the first in file order)"
    )
    batch_size: Positive = Field(128, description="texts in a batch of sampling and of held-out NLL")
    iw_samples: Positive = Field(
        20, description="VAEs: draws of z a text for the bound that stands for their NLL; more: slower and tighter"
    )
    final_iw_samples: Positive = Field(
        100, description="VAEs: the same at the end of the phase, for dev and test (papers: 500)"
    )
    prompts: list[str] = Field([], description="openings continued at each evaluation, at fixed seeds")
    show: Positive = Field(5, description="free samples written to TensorBoard at each evaluation")


class Checkpoint(Section):
    every: Positive = Field(200, description="steps between two checkpoints")
    keep_last: Positive = Field(2, description="how many of them to keep, beside the best and the parent")


class Config(Section):
    """One experiment: what is trained on what, and how it is watched."""

    name: str = Field(
        "run",
        pattern=r"^[\w.-]+$",
        description="name of the run's folder under runs/ (letters, digits, . _ -)",
    )
    seed: NotNegative = Field(0, description="seed of weights, batches, dropout and training samples")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to train; auto: GPU if there is one")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16: autocast of the networks; losses and noise stay float32"
    )
    compile: bool = Field(
        False,
        description="torch.compile of Transformer blocks, but not while sampling: for GPUs and wide networks (a small "
        "one on a CPU gains nothing); a resumed run may then differ in the last bits",
    )
    shard_optimizer: bool = Field(
        False,
        description="divide AdamW's moments among the processes of torchrun (ZeRO-1), for models too big to keep them "
        "whole on each; results stay the same, and one process keeps them whole",
    )
    threads: NotNegative = Field(0, description="CPU threads; 0: all cores. A resumed run needs the same number")
    log_every: Positive = Field(20, description="steps between two records of the training losses")
    data: Data = Data()
    tokenizer: Tokenizer = Tokenizer()
    generator: Generator = Generator()
    discriminator: Discriminator = Discriminator()
    encoder: Encoder = Encoder()
    mle: MLE | None = Field(
        MLE(),
        description="the phase of maximum likelihood; none: skip. Beside a `vae` it trains the model of the same size "
        "that the VAE is to be compared with, so it is skipped there only if this says so",
    )
    adversarial: Adversarial | None = Field(None, description="the adversarial phase; none: skip")
    vae: VAE | None = Field(
        None, description="the phase that trains a VAE: `encoder`, and a `generator` as decoder; none: skip"
    )
    latent_gan: LatentGan | None = Field(
        None, description="the phase that trains a GAN on the codes of the VAE of this run; none: skip"
    )
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()

    @model_validator(mode="after")
    def _phases(self):
        if self.mle is None and self.adversarial is None and self.vae is None:
            raise ValueError("nothing to train: give a `mle`, an `adversarial` or a `vae` section")
        if self.latent_gan is not None and self.vae is None:
            raise ValueError(
                "latent_gan learns from the codes of a VAE: give a `vae` section too, or drop `latent_gan`"
            )
        if self.vae is not None:
            self._check_vae()
        if self.adversarial is not None:
            if self.mle is None and self.adversarial.init_from is None:
                raise ValueError("the adversarial phase has no parent: give a `mle` section or `adversarial.init_from`")
            if self.mle is not None and self.adversarial.init_from is not None:
                raise ValueError("give either a `mle` section or `adversarial.init_from`, not both")
            if self.adversarial.token_weight and self.discriminator.kind == "cnn":
                raise ValueError(
                    f"adversarial.token_weight={self.adversarial.token_weight} needs scores token by token, "
                    "which discriminator.kind=cnn has not; set it to 0 or take kind: transformer"
                )
            if self.mle is not None and self.mle.calibrate != self.adversarial.calibrate:
                raise ValueError(
                    f"mle.calibrate={self.mle.calibrate} but adversarial.calibrate={self.adversarial.calibrate}: one "
                    "would win by being calibrated alone; set both alike"
                )
        if self.mle is not None and self.mle.batch_size % self.mle.accumulate:
            raise ValueError(
                f"mle.batch_size={self.mle.batch_size} is not divisible by mle.accumulate={self.mle.accumulate}"
            )
        return self

    def _check_vae(self) -> None:
        vae, shape = self.vae, self.generator
        problems = []
        if self.adversarial is not None:
            problems.append(
                "give either a `vae` section or an `adversarial` one: a run trains one of them beside its `mle` phase"
            )
        if vae.latents == "layerwise" and shape.kind != "transformer":
            problems.append(f"vae.latents=layerwise needs generator.kind=transformer, not {shape.kind}")
        elif vae.latents == "layerwise" and vae.z_size % shape.n_layer:
            problems.append(
                f"vae.z_size={vae.z_size} is not divisible by generator.n_layer={shape.n_layer}, as vae.latents="
                "layerwise needs"
            )
        if self.mle is not None and self.mle.calibrate != vae.calibrate:
            problems.append(
                f"mle.calibrate={self.mle.calibrate} but vae.calibrate={vae.calibrate}: one would win by being "
                "calibrated alone; set both alike"
            )
        if vae.init_from == "mle" and self.mle is None:
            problems.append("vae.init_from=mle needs a `mle` section, or give the run or checkpoint to start from")
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def parent(self) -> tuple[str, str] | None:
        """Key and value of the setting that names another run whose generator this one starts from, if any."""
        if self.adversarial is not None and self.adversarial.init_from is not None:
            return "adversarial.init_from", self.adversarial.init_from
        if self.vae is not None and self.vae.init_from not in (None, "mle"):
            return "vae.init_from", self.vae.init_from
        return None

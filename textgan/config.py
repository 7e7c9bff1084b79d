"""The whole experiment as typed, validated values.

Every field has a description (``textgan config show`` prints it) and a default that can be trained as it is.
Checks of one field stand in its type, checks across fields in the validators below; checks that need the
corpus (vocabulary, lengths) are made where the corpus is read. Reading and writing files is in
``configfile.py``. Models never see these classes: the training code hands them plain values.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from textgan.configadapter import Adapter
from textgan.configbase import NotNegative, Positive, Section
from textgan.configclassifier import Classifier
from textgan.configdata import Data
from textgan.configfinetune import Finetune
from textgan.configlatent import LatentGan
from textgan.confignets import Discriminator, Generator, Tokenizer
from textgan.configphases import MLE, Adversarial
from textgan.configvae import VAE, Encoder


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
    adapter: Adapter | None = Field(
        None,
        description="what alone is trained of the generator, in the phases `mle` and `adversarial`, while its other "
        "weights stay frozen; none: all of it is trained",
    )
    finetune: Finetune = Field(
        Finetune(), description="how the generator's weights move in the phases `mle` and `adversarial`"
    )
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
    classifier: Classifier | None = Field(
        None,
        description="train a classifier of texts by data.label instead: `encoder`, or a pretrained one, with a linear "
        "layer; needs mle: none; none: off",
    )
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()

    @model_validator(mode="before")
    @classmethod
    def _pretrained_tokenizer(cls, values):
        """A pretrained generator brings its tokenizer along, where no kind is given."""
        generator, tokenizer = (values.get(name) or {} for name in ("generator", "tokenizer"))
        if isinstance(generator, dict) and isinstance(tokenizer, dict) and generator.get("init_from"):
            values = values | {"tokenizer": {"kind": "pretrained"} | tokenizer}
        return values

    @model_validator(mode="after")
    def _phases(self):
        if self.classifier is not None:
            self._check_classifier()
            return self
        if self.mle is None and self.adversarial is None and self.vae is None:
            raise ValueError("nothing to train: give a `mle`, an `adversarial`, a `vae` or a `classifier` section")
        if self.latent_gan is not None and self.vae is None:
            raise ValueError(
                "latent_gan learns from the codes of a VAE: give a `vae` section too, or drop `latent_gan`"
            )
        self._check_pretrained()
        if self.data.condition is not None:
            self._check_pairs()
        self._check_finetune()
        if self.vae is not None:
            self._check_vae()
        if self.adapter is not None:
            self._check_adapter()
        if self.adversarial is not None:
            if self.mle is None and self.adversarial.init_from is None and self.generator.init_from is None:
                raise ValueError(
                    "the adversarial phase has no parent: give a `mle` section, `adversarial.init_from` or "
                    "`generator.init_from`"
                )
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

    def _check_pairs(self) -> None:
        given, game = f"data.condition={self.data.condition}", self.adversarial
        if self.vae is not None:
            raise ValueError(f"{given}: a VAE writes from its latent alone; drop the `vae` section, or give none")
        if game is None:
            return
        if game.estimator == "soft":
            raise ValueError(
                f"{given} needs an estimator that reads hard tokens back; adversarial.estimator=soft does not: take "
                "straight_through or another"
            )
        if game.share_fakes:
            raise ValueError(
                f"{given}: fakes continue the conditions of their own batch, so adversarial.share_fakes=true has none "
                "to share; leave it away"
            )
        if game.replay_batches:
            raise ValueError(
                f"{given}: fakes continue the conditions of their own batch, so old ones fit none; set "
                f"adversarial.replay_batches=0, not {game.replay_batches}"
            )

    def _check_classifier(self) -> None:
        others = [name for name in ("mle", "adversarial", "vae", "latent_gan") if getattr(self, name) is not None]
        if others:
            off = ", ".join(f"{name}=none" for name in others)
            raise ValueError(f"a run with a `classifier` section trains that alone: set {off}")
        if self.adapter is not None:
            raise ValueError("a classifier trains all its weights: drop the `adapter` section, or give none")
        if self.data.condition is not None:
            raise ValueError(
                f"data.condition={self.data.condition}: a classifier reads texts alone; leave it away, or name the "
                "field that it shall learn by data.label"
            )
        idle = [
            "generator",
            "finetune",
            "discriminator",
            *(["tokenizer", "encoder"] if self.classifier.init_from else []),
        ]
        changed = [name for name in idle if getattr(self, name) != type(getattr(self, name))()]
        if changed:
            why = "which brings its encoder and tokenizer" if self.classifier.init_from else "which reads texts alone"
            raise ValueError(f"{', '.join(changed)}: without effect beside this `classifier`, {why}; leave it away")
        if self.data.too_long != "drop":
            raise ValueError(
                f"data.too_long={self.data.too_long}: without effect for a classifier, which cuts texts at "
                "classifier.block_size; leave it away"
            )

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

    def _check_pretrained(self) -> None:
        if self.tokenizer.kind == "pretrained" and (self.tokenizer.init_from or self.generator.init_from) is None:
            raise ValueError(
                "tokenizer.kind=pretrained needs the model whose it is: give tokenizer.init_from or generator.init_from"
            )
        if self.generator.init_from is None:
            return
        if self.tokenizer.init_from is not None:
            raise ValueError(
                f"tokenizer.init_from={self.tokenizer.init_from} beside generator.init_from="
                f"{self.generator.init_from}: a pretrained generator reads its own vocabulary; leave the former away"
            )
        if self.tokenizer.kind != "pretrained":
            raise ValueError(
                f"tokenizer.kind={self.tokenizer.kind} makes a vocabulary that generator.init_from="
                f"{self.generator.init_from} has not learned; leave tokenizer.kind away"
            )
        if self.vae is not None and self.vae.init_from is None:
            raise ValueError(
                f"generator.init_from={self.generator.init_from} beside a `vae` section that starts anew; give a `mle` "
                "section and vae.init_from=mle, or leave generator.init_from away"
            )

    def _check_finetune(self) -> None:
        if self.finetune != Finetune() and self.mle is None and self.adversarial is None:
            raise ValueError(
                "finetune is of the phases `mle` and `adversarial`, and there is neither: leave `finetune` away, or "
                "give one of them"
            )
        if self.finetune.label_smoothing and self.mle is None and not self.adversarial.mle_weight:
            raise ValueError(
                f"finetune.label_smoothing={self.finetune.label_smoothing} is of the MLE loss, of which "
                "adversarial.mle_weight=0 leaves nothing: leave the former away, or raise the latter"
            )
        if (self.finetune.l1 or self.finetune.l2 or self.finetune.l2_sp) and self.adapter is not None:
            raise ValueError(
                "finetune.l1, l2 and l2_sp hold the generator's own matrices, which an adapter freezes: leave them "
                "away, or `adapter`"
            )
        if self.finetune.unfreeze_every and self.adversarial and self.adversarial.continuation == "seconds":
            raise ValueError(
                "adversarial.continuation=seconds times an update, and finetune.unfreeze_every makes updates dearer as "
                "they go: give adversarial.continuation=steps or tokens"
            )
        if self.finetune.unfreeze_every and self.adapter is not None and self.adapter.kind == "adalora":
            raise ValueError(
                "adapter.kind=adalora weighs the updates of all layers against each other, which finetune."
                "unfreeze_every lets begin one after the other: leave the latter away, or take kind: lora"
            )
        if self.finetune.freeze and self.adapter is not None:
            raise ValueError(
                "finetune.freeze beside an adapter, which freezes all but itself: leave finetune.freeze away, and say "
                "by adapter.targets and adapter.train_also what trains"
            )

    def _check_adapter(self) -> None:
        if self.generator.kind == "lstm":
            raise ValueError(
                f"adapter.kind={self.adapter.kind} is for Transformers, not generator.kind=lstm; leave it away"
            )
        if self.vae is not None:
            raise ValueError("a `vae` section trains the whole of its networks: leave `adapter` away, or `vae`")
        if self.adapter.kind == "adalora":
            phase = "mle" if self.mle is not None else "adversarial"
            steps, options = getattr(self, phase).max_steps, self.adapter.options
            if options["tinit"] + options["tfinal"] >= steps:
                raise ValueError(
                    f"adapter.tinit={options['tinit']} and adapter.tfinal={options['tfinal']} leave no step of "
                    f"{phase}.max_steps={steps} for ranks to fall in; lower them"
                )

    @property
    def block_size(self) -> int:
        """The longest row of tokens that the run's model reads."""
        return self.classifier.block_size if self.classifier else self.generator.block_size

    @property
    def parent(self) -> tuple[str, str] | None:
        """Key and value of the setting that names another run whose generator this one starts from, if any."""
        if self.adversarial is not None and self.adversarial.init_from is not None:
            return "adversarial.init_from", self.adversarial.init_from
        if self.vae is not None and self.vae.init_from not in (None, "mle"):
            return "vae.init_from", self.vae.init_from
        return None

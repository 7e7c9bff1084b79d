"""The section of the config that is about parameter-efficient fine-tuning."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from textgan.configbase import Beta, NotNegative, Positive, Section, Weight

# Of each kind, its options and what stands for none. AdaLoRA's are those of the library peft.
OPTIONS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": ["attn.c_attn"]},
    "adalora": {
        "alpha": 16.0,
        "dropout": 0.0,
        "targets": ["attn.c_attn"],
        "init_r": 12,
        "target_r": 8,
        "tinit": 0,
        "tfinal": 0,
        "deltaT": 1,
        "beta1": 0.85,
        "beta2": 0.85,
        "orth_reg_weight": 0.5,
    },
    "bottleneck": {"targets": ["attn", "mlp"], "bottleneck": 64},
    "prefix": {"n_tokens": 10},
    "prompt": {"n_tokens": 10},
}
SCHEDULE = ("target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight")  # not of the network's shape


class Adapter(Section):
    kind: Literal["lora", "adalora", "bottleneck", "prefix", "prompt"] = Field(
        "lora",
        description="what is added to the frozen generator: low-rank updates of weights (with AdaLoRA: of ranks that "
        "training finds), small networks behind sublayers, or learned keys and values, or embeddings, before the text",
    )
    rank: Positive | None = Field(None, description="lora: rank of each update; none: 8")
    alpha: Annotated[float, Field(gt=0)] | None = Field(
        None, description="lora, adalora: updates are multiplied by alpha / rank (alpha / init_r); none: 16"
    )
    dropout: Beta | None = Field(None, description="lora, adalora: dropout of what the updates read; none: 0")
    targets: list[str] | None = Field(
        None,
        description="lora, adalora: patterns of the linear layers to update, among attn.c_attn, attn.c_proj, mlp.c_fc, "
        "mlp.c_proj of the blocks h.0, h.1, ..., or those of a causal_lm, such as q_proj; none: attn.c_attn "
        "(causal_lm: all of attention). bottleneck: of the sublayers to stand behind; none: attn and mlp "
        "(Houlsby et al. 2019; Pfeiffer et al. 2021: mlp)",
    )
    init_r: Positive | None = Field(None, description="adalora: rank of each update at the start; none: 12")
    target_r: Positive | None = Field(None, description="adalora: their mean rank at the end; none: 8")
    tinit: NotNegative | None = Field(None, description="adalora: updates before ranks begin to fall; none: 0")
    tfinal: NotNegative | None = Field(None, description="adalora: updates behind which they have fallen; none: 0")
    deltaT: Positive | None = Field(None, description="adalora: updates between two choices of ranks; none: 1")
    beta1: Beta | None = Field(None, description="adalora: smoothing of the importance of weights; none: 0.85")
    beta2: Beta | None = Field(None, description="adalora: smoothing of its uncertainty; none: 0.85")
    orth_reg_weight: Weight | None = Field(
        None, description="adalora: weight of the penalty that keeps singular vectors orthogonal; none: 0.5"
    )
    bottleneck: Positive | None = Field(None, description="bottleneck: width of each network's hidden layer; none: 64")
    n_tokens: Positive | None = Field(
        None, description="prefix: keys and values in each layer, prompt: embeddings, before the text; none: 10"
    )
    train_also: list[str] = Field(
        [], description="patterns of the generator's own parameters that train beside the adapter, such as ln_* or wpe"
    )

    @model_validator(mode="after")
    def _fits_kind(self):
        own = OPTIONS[self.kind]
        named = dict.fromkeys(name for options in OPTIONS.values() for name in options)
        odd = [name for name in named if name not in own and getattr(self, name) is not None]
        if odd:
            raise ValueError(
                f"adapter.{odd[0]}={getattr(self, odd[0])} is not of adapter.kind={self.kind}, whose options are "
                f"{', '.join(own)}; leave it away"
            )
        if self.targets == []:
            raise ValueError(f"adapter.targets is empty: name layers for adapter.kind={self.kind}, or leave it away")
        options = self.options
        if self.kind == "adalora" and options["target_r"] >= options["init_r"]:
            raise ValueError(
                f"adapter.target_r={options['target_r']} must be below adapter.init_r={options['init_r']}; for ranks "
                "that stay take kind: lora"
            )
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The kind's options, with what stands for none."""
        given = {name: getattr(self, name) for name in OPTIONS[self.kind]}
        return {name: OPTIONS[self.kind][name] if value is None else value for name, value in given.items()}

    @property
    def shape(self) -> dict[str, Any]:
        """What the network of the adapter is made of, as :func:`textgan.models.adapters.put_on` takes it."""
        options = {name: value for name, value in self.options.items() if name not in SCHEDULE}
        if self.kind == "adalora":
            options["rank"] = options.pop("init_r")
        return {"kind": self.kind, "train_also": self.train_also, **options}

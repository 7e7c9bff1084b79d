"""The section of the config that is about how a generator's weights move: what trains, how fast, held back by what."""

from pydantic import Field

from textgan.configbase import Beta, NotNegative, Rate, Section, Weight


class Finetune(Section):
    freeze: list[str] = Field(
        [],
        description="parameters of the generator that stay as they are: patterns of their names, as of files (wte, "
        "h.0, h.*.attn, *.bias); the name of a module stands for all in it",
    )
    layer_lr_decay: Rate = Field(
        1.0,
        description="learning rate of each layer as a share of that of the layer above: the last norm (and an output "
        "layer of its own) learns at lr, block i of 0 to n - 1 at lr * decay^(n - i), embeddings at lr * decay^(n + 1)",
    )
    unfreeze_every: NotNegative = Field(
        0,
        description="gradual unfreezing: a phase begins with the topmost block and what stands above it, and one more "
        "block downwards trains every so many updates, the embeddings last; 0: all train from the start",
    )
    label_smoothing: Beta = Field(
        0.0,
        description="share of each target that the MLE loss spreads evenly over the vocabulary; the likelihoods that "
        "are reported, and dev NLL, know nothing of it",
    )
    l1: Weight = Field(
        0.0,
        description="weight of the sum of absolute values of the matrices that train, added to a phase's loss (and not "
        "to what is reported of it)",
    )
    l2: Weight = Field(
        0.0,
        description="weight of half the sum of their squares, likewise: classical L2, part of the gradient, which "
        "AdamW scales with it; weight_decay of the phases is AdamW's own, apart from the gradient",
    )
    l2_sp: Weight = Field(
        0.0, description="weight of half their squared distance from where the phase began, likewise (L2-SP)"
    )

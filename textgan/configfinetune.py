"""The section of the config that is about how a generator's weights move: what trains, how fast, held back by what."""

from pydantic import Field

from textgan.configbase import NotNegative, Rate, Section


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

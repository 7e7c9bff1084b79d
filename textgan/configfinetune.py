"""The section of the config that is about how a generator's weights move: what trains, how fast, held back by what."""

from pydantic import Field

from textgan.configbase import Section


class Finetune(Section):
    freeze: list[str] = Field(
        [],
        description="parameters of the generator that stay as they are: patterns of their names, as of files (wte, "
        "h.0, h.*.attn, *.bias); the name of a module stands for all in it",
    )

"""What every section of the config is made of: its base class and the types of its fields."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of the config: unknown keys are refused, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def check_divisible(section: str, n_embd: int, n_head: int) -> None:
    """Raise ValueError, with the nearest widths that work, unless ``n_head`` divides ``n_embd``."""
    if n_embd % n_head:
        below = n_embd // n_head * n_head
        choices = f"{below} or {below + n_head}" if below else f"{n_head}"
        raise ValueError(f"{section}.n_embd={n_embd} is not divisible by {section}.n_head={n_head}; try {choices}")


def refuse_changed(section: Section, name: str, why: str, keys: Sequence[str]) -> None:
    """Raise ValueError for those ``keys`` of section ``name`` that are set but have no effect because of ``why``."""
    fields = type(section).model_fields
    changed = [key for key in keys if getattr(section, key) != fields[key].default]
    if changed:
        told = ", ".join(f"{name}.{key}={getattr(section, key)}" for key in changed)
        raise ValueError(f"{told}: without effect for {name}.{why}; leave {'it' if len(changed) == 1 else 'them'} away")

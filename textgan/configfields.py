"""The fields of the config in plain terms: types, choices, limits; and the config printed with all of it."""

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_LIMITS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


class FieldType(NamedTuple):
    """A field's type taken apart: ``int | None`` has kinds (int,) and allows none."""

    kinds: tuple[type, ...]
    choices: tuple[Any, ...]
    limits: tuple[str, ...]
    allows_none: bool
    section: type[BaseModel] | None
    item: "FieldType | None"

    def accepts(self, value: Any) -> bool:
        """Return False where a plain scalar should rather be taken as the text that was written."""
        if value is None:
            return self.allows_none
        if isinstance(value, bool):
            return bool in self.kinds
        if isinstance(value, (int, float)):
            return not (str in self.kinds and int not in self.kinds and float not in self.kinds)
        return True


def type_of(field: FieldInfo) -> FieldType:
    """Return the parts of a field's type."""
    return _take_apart(field.annotation, tuple(field.metadata))


def field_at(model: type[BaseModel], keys: list[str]) -> FieldInfo | None:
    """Return the field at a path of keys, None where there is none."""
    field = None
    for key in keys:
        if model is None or key not in model.model_fields:
            return None
        field = model.model_fields[key]
        model = type_of(field).section
    return field


def _take_apart(annotation: Any, metadata: tuple = ()) -> FieldType:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return _take_apart(inner, (*metadata, *_flat(more)))
    if origin in (Union, UnionType):
        parts = [_take_apart(arg, metadata) for arg in get_args(annotation) if arg is not NoneType]
        return FieldType(
            kinds=tuple(kind for part in parts for kind in part.kinds),
            choices=tuple(choice for part in parts for choice in part.choices),
            limits=tuple(dict.fromkeys(limit for part in parts for limit in part.limits)),
            allows_none=NoneType in get_args(annotation),
            section=next((part.section for part in parts if part.section is not None), None),
            item=next((part.item for part in parts if part.item is not None), None),
        )
    limits = tuple(
        f"{word} {getattr(constraint, name)}"
        for constraint in _flat(metadata)
        for name, word in _LIMITS.items()
        if hasattr(constraint, name)
    )
    if origin is Literal:
        choices = get_args(annotation)
        return FieldType(tuple({type(c) for c in choices}), choices, limits, False, None, None)
    if origin in (list, tuple):
        return FieldType((origin,), (), limits, False, None, _take_apart(get_args(annotation)[0]))
    section = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    return FieldType((annotation,), (), limits, False, section, None)


def _flat(metadata) -> list:
    """Return single constraints; pydantic groups those of a type alias in a FieldInfo."""
    result = []
    for entry in metadata:
        result.extend(_flat(entry.metadata) if isinstance(entry, FieldInfo) else [entry])
    return result

"""Configs in YAML files: reading with overrides, all problems at once, and writing them back.

``extends: FILE`` names one parent, relative to the file that says so; its values are read first and the
child's replace them key by key. Paths inside a config (corpora, checkpoints) are taken as typed, relative to
the folder in which the command is run. The YAML dialect is that of ``configyaml.py``.
"""

import difflib
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from textgan.config import Config
from textgan.configfields import FieldType, field_at, type_of
from textgan.configyaml import Key, Source, Written, parse_yaml, to_yaml
from textgan.errors import UserError


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Return the validated config of a YAML file, its parent (``extends:``) and ``key.path=value`` overrides.

    Overrides are YAML too: ``mle.betas=[0.9, 0.99]``; ``adversarial=none`` leaves an optional section out.

    Raises:
        UserError: the file cannot be read, or something in it or in an override is wrong. The message has one
            line for each problem, with the file and line or the override it stands in.
    """
    path = Path(path)
    problems: list[str] = []
    values, sources = _read_with_parent(path, problems)
    for override in overrides:
        written = _read_override(override, problems)
        _merge(values, written.values)
        sources.update(written.sources)
    _fit(values, (), Config, sources, problems)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        for item in error.errors():
            problems.extend(_explain(item, sources, str(path)))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return config


def dump_config(config: BaseModel) -> str:
    """Return the config as YAML that ``load_config`` reads back to an equal config."""
    return to_yaml(config.model_dump(mode="json"))


def describe_config(config: BaseModel) -> str:
    """Return the config as YAML with each field's meaning, choices and limits as comments.

    Values that differ from the default say so. A section that is off stands there in comments.
    """
    return "\n".join(_describe(config)) + "\n"


def _describe(config: BaseModel) -> Iterator[str]:
    for name, field in type(config).model_fields.items():
        value, type_ = getattr(config, name), type_of(field)
        default = field.get_default(call_default_factory=True)
        if type_.section is None:
            yield from _comment(field.description, type_)
            changed = "" if value == default else f"  # changed; default: {_inline(default)}"
            yield f"{name}: {_inline(value)}{changed}"
            continue
        yield ""
        yield from _comment(field.description or type_.section.__doc__, type_)
        if value is not None:
            yield f"{name}:" + ("  # changed; default: none" if default is None else "")
            yield from (f"  {line}" if line else "" for line in _describe(value))
        else:
            yield f"{name}: none" + ("" if default is None else "  # changed; on by default")
            yield f"# to switch it on, give `{name}:` with any of these keys; their defaults:"
            yield from (f"#   {line}".rstrip() for line in _describe(default or type_.section()))


def _comment(meaning: str | None, type_: FieldType) -> Iterator[str]:
    limits = [f"one of: {', '.join(map(str, type_.choices))}"] if type_.choices else []
    limits += [" and ".join(type_.limits)] if type_.limits else []
    text = f"{meaning or ''} [{'; '.join(limits)}]" if limits else meaning or ""
    for line in textwrap.wrap(text, 96, break_on_hyphens=False):
        yield f"# {line}"


def _inline(value: Any) -> str:
    """Return a leaf value as YAML on one line."""
    if value is None:
        return "none"
    plain = list(value) if isinstance(value, tuple) else value
    return to_yaml([plain])[1:-2]


def _read_with_parent(path: Path, problems: list[str]) -> Written:
    child = _read_file(path, problems)
    if "extends" not in child.values:
        return child
    name = child.values.pop("extends")
    where = child.sources.pop(("extends",)).where
    if not isinstance(name, str):
        raise UserError(f"{where}: `extends` must be the name of one config file")
    parent_path = path.parent / name
    if not parent_path.is_file():
        raise UserError(f"{where}: `extends: {name}`: there is no file {parent_path}")
    parent = _read_file(parent_path, problems)
    if "extends" in parent.values:
        raise UserError(
            f"{where}: `extends: {name}`: {parent_path} extends {parent.values['extends']} itself; "
            "only one level is allowed, so extend a file that stands alone"
        )
    _merge(parent.values, child.values)
    return Written(parent.values, {**parent.sources, **child.sources})


def _read_file(path: Path, problems: list[str]) -> Written:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], 1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise UserError(f"config file {path} does not exist{hint}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"config file {path} is not UTF-8 text (byte {error.start})") from None
    except IsADirectoryError:
        found = ", ".join(str(p) for p in sorted(path.glob("*.yaml"))[:5])
        raise UserError(f"{path} is a folder; give a config file" + (f", such as {found}" if found else "")) from None
    except OSError as error:
        raise UserError(f"config file {path} cannot be read: {error.strerror}") from None
    written = parse_yaml(text, lambda line: f"{path}:{line}", problems)
    if not isinstance(written.values, dict):
        found = "nothing" if written.values is None else f"a {_kind(written.values)}"
        raise UserError(f"{path}: a config has keys like `name: my-run`; found {found}")
    return written


def _read_override(override: str, problems: list[str]) -> Written:
    where = f"override `{override}`"
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"{where}: write it as key.path=value, like mle.max_steps=100")
    try:
        written = parse_yaml(text, lambda line: where, problems)
    except UserError as error:
        raise UserError(f"{error}; put text with such signs in quotes: '{dotted}=\"...\"'") from None
    values = written.values
    for key in reversed(keys):
        values = {key: values}
    sources = {tuple(keys[:i]): Source(where, None) for i in range(1, len(keys))}
    sources.update({(*keys, *rest): source for rest, source in written.sources.items()})
    return Written(values, sources)


def _merge(base: dict, top: dict) -> None:
    """Lay ``top`` over ``base`` in place, key by key where both hold a section."""
    for key, value in top.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _fit(values: dict, key: Key, model: type[BaseModel], sources: dict[Key, Source], problems: list[str]):
    """Take plain scalars as the field means them: ``name: 2024`` is text, ``lr: true`` is no number."""
    for name, value in values.items():
        inner = (*key, name)
        source = sources.get(inner)
        if name not in model.model_fields or source is None:
            continue
        type_ = type_of(model.model_fields[name])
        if type_.section is not None:
            if value is None and source.raw == "":
                hint = f", or `{name}: none` to leave it out" if type_.allows_none else ""
                told = f"`{_dotted(inner)}` is empty; write `{name}: {{}}` for its defaults{hint}"
                problems.append(f"{source.where}: {told}")
                values[name] = {}
            elif isinstance(value, dict):
                _fit(value, inner, type_.section, sources, problems)
        elif source.raw is not None and not type_.accepts(value):
            values[name] = source.raw
        elif isinstance(value, list) and type_.item is not None:
            for i, item in enumerate(value):
                raw = sources[(*inner, i)].raw
                if raw is not None and not type_.item.accepts(item):
                    value[i] = raw


def _explain(item: dict, sources: dict[Key, Source], path: str) -> Iterator[str]:
    """Yield the lines of one of pydantic's errors in the words of this project."""
    key: Key = item["loc"]
    where = _where(key, sources, path)
    name, kind, given, context = _dotted(key), item["type"], item["input"], item.get("ctx", {})
    if kind == "extra_forbidden":
        yield f"{where}: unknown key `{name}`{_nearest(key)}"
        return
    if kind == "value_error":
        for line in str(context["error"]).split("\n"):
            told = _where(_mentioned(line, key, sources), sources, path)
            yield f"{told}: {line if not key or f'{name}.' in line else f'`{name}`: {line}'}"
        return
    if kind == "missing":
        few = isinstance(key[-1], int)
        yield f"{where}: " + (f"`{_dotted(key[:-1])}` has too few values" if few else f"`{name}` is missing")
        return
    shown = f"{name}={_short(given)}" if not isinstance(given, (dict, list)) else name
    yield f"{where}: `{shown}` {_complaint(kind, context, given, item['msg'])}{_meaning(key)}"


_MUST = {
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be finite",
    "too_short": "must have at least {min_length} values",
    "too_long": "must have at most {max_length} values",
}
_MUST_BE = {
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "string": "must be text",
    "list": "must be a list, like [a, b]",
    "tuple": "must be a list, like [a, b]",
    "model": "must be a section: keys with values, indented below it",
}


def _complaint(kind: str, context: dict, given: Any, message: str) -> str:
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        near = _closest(str(given), choices)
        hint = f"; did you mean {near}?" if near else ""
        return f"must be one of {', '.join(choices)}{hint}"
    if kind in _MUST:
        return _MUST[kind].format(**context)
    if kind == "string_pattern_mismatch":
        return "has a character that is not allowed here"
    general = kind.split("_")[0]
    return _MUST_BE.get(general, message[:1].lower() + message[1:])


def _meaning(key: Key) -> str:
    field = field_at(Config, [part for part in key if isinstance(part, str)])
    return f" ({field.description})" if field is not None and field.description else ""


def _nearest(key: Key) -> str:
    """Return the advice for an unknown key: the nearest one of its section, else of the whole config."""
    *parents, name = key
    section = Config
    for parent in parents:
        section = type_of(section.model_fields[parent]).section
    beside = list(section.model_fields)
    if not parents:
        beside.append("extends")
    near = _closest(str(name), beside)
    if near:
        return f"; did you mean `{_dotted((*parents, near))}`?"
    elsewhere = [dotted for dotted in _all_keys(Config) if dotted.split(".")[-1] == name]
    if elsewhere:
        *others, last = [f"`{dotted}`" for dotted in elsewhere]
        return f"; did you mean {', '.join(others)}{' or ' if others else ''}{last}?"
    inside = f" in `{_dotted(parents)}`" if parents else ""
    return f"; allowed{inside}: {', '.join(section.model_fields)}"


def _closest(name: str, names: Sequence[str]) -> str | None:
    """Return the name most like ``name``, or like its beginning (``warmpu``: ``warmup_steps``), if any is."""

    def likeness(other: str) -> float:
        whole = difflib.SequenceMatcher(None, name, other).ratio()
        start = difflib.SequenceMatcher(None, name, other[: len(name)]).ratio() if len(name) > 2 else 0
        return max(whole, 0.95 * start)

    best = max(names, key=likeness)
    return best if likeness(best) >= 0.6 else None


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        section = type_of(field).section
        if section is None:
            yield prefix + name
        else:
            yield from _all_keys(section, f"{prefix}{name}.")


def _mentioned(line: str, key: Key, sources: dict[Key, Source]) -> Key:
    """Return the first key that a message names and that was written somewhere, else ``key``."""
    for word in re.findall(r"[a-z_]\w*(?:\.[a-z_]\w*)*", line):
        parts = tuple(word.split("."))
        for candidate in (key + parts, parts):
            if candidate in sources:
                return candidate
    return key


def _where(key: Key, sources: dict[Key, Source], path: str) -> str:
    """Return where a key, or the nearest thing around it, was written."""
    while key:
        if key in sources:
            return sources[key].where
        key = key[:-1]
    return path


def _dotted(key: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in key)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else _inline(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _kind(value: Any) -> str:
    return {list: "list", dict: "section"}.get(type(value), "single value")

"""YAML as the configs speak it, every value with the line it was written on.

Departures from YAML 1.1, whose traps are well known: ``1e-4`` is a number, only ``true`` and ``false`` are
booleans (``off`` stays a word unless the field wants a boolean), ``010`` is ten, and ``none`` means ``null``.
A key given twice in one section is a problem, not a silent choice of the last.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import yaml

from textgan.errors import UserError

Key = tuple[str | int, ...]

_INT = re.compile(r"[-+]?\d+(_\d+)*$")
_FLOAT = re.compile(r"[-+]?(\d+(_\d+)*\.?\d*|\.\d+)([eE][-+]?\d+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")
_BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)$")
_NULL = re.compile(r"(~|null|Null|NULL|none|None|NONE|)$")
_RESOLVERS = {
    "int": (_INT, "-+0123456789"),
    "float": (_FLOAT, "-+.0123456789"),
    "bool": (_BOOL, "tTfF"),
    "null": (_NULL, ["~", "n", "N", ""]),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own class attribute)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or this module would read as something else."""

    def ignore_aliases(self, data):
        return True

    def represent_str(self, data):
        broken = any(character in data for character in "\n\r\x85\u2028\u2029")
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if broken else None)

    def represent_list(self, data):
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)


_Dumper.add_representer(str, _Dumper.represent_str)
_Dumper.add_representer(list, _Dumper.represent_list)

for _name, (_pattern, _first) in _RESOLVERS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, list(_first))
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, list(_first))


class Source(NamedTuple):
    where: str  # "configs/x.yaml:12" or "override `mle.lr=1`"
    raw: str | None  # the text of a plain scalar; None for what is quoted, a list or a section


class Written(NamedTuple):
    """What stands in a file or an override: nested plain values, and where each was written."""

    values: dict[str, Any]
    sources: dict[Key, Source]


def to_yaml(value: Any) -> str:
    """Return plain values (dicts, lists, scalars) as YAML in this module's dialect, in their given order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=10**6)


def parse_yaml(text: str, where: Callable[[int], str], problems: list[str]) -> Written:
    """Return what a YAML text holds; ``values`` may be of any type, ``sources`` has () for the whole.

    ``where`` turns a line number (from 1) into the words that messages begin with; lesser problems are added
    to ``problems``, what cannot be read at all raises UserError.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        tab = " (indent with spaces)" if "'\\t'" in str(error.problem) else ""
        raise UserError(f"{where(mark.line + 1 if mark else 1)}: not valid YAML: {error.problem}{tab}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{where(1)}: not valid YAML: {' '.join(str(error).split())}") from None
    sources: dict[Key, Source] = {}
    if node is None:
        return Written(None, {(): Source(where(1), "")})
    value = _value(node, (), where, sources, problems, ())
    return Written(value, sources)


def _value(node, key: Key, where, sources: dict[Key, Source], problems: list[str], above: tuple) -> Any:
    place = where(node.start_mark.line + 1)
    sources[key] = Source(place, None)
    if any(node is other for other in above):
        raise UserError(f"{place}: an alias (*name) may not stand inside what it names")
    if isinstance(node, yaml.MappingNode):
        result = {}
        for name_node, value_node in node.value:
            line = where(name_node.start_mark.line + 1)
            if not isinstance(name_node, yaml.ScalarNode):
                raise UserError(f"{line}: a key must be a plain word")
            name = name_node.value
            inner = (*key, name)
            if name in result:
                dotted = ".".join(str(part) for part in inner)
                problems.append(f"{line}: `{dotted}` is given twice; first at {sources[inner].where}")
            result[name] = _value(value_node, inner, where, sources, problems, (*above, node))
            sources[inner] = Source(line, sources[inner].raw)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*key, i), where, sources, problems, (*above, node)) for i, item in enumerate(node.value)]
    sources[key] = Source(place, node.value if node.style is None else None)
    return _scalar(node, place)


def _scalar(node, place: str) -> str | int | float | bool | None:
    kind, text = node.tag.removeprefix("tag:yaml.org,2002:"), node.value
    if kind == "int":
        return int(text) if len(text) < 1000 else text  # int() refuses thousands of digits
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if kind == "bool":
        return text.lower() == "true"
    if kind == "null":
        return None
    if kind == "str":
        return text
    raise UserError(f"{place}: the YAML tag {node.tag} is not supported here")

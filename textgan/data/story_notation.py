"""The notation of story grammars, and its compiler.

A grammar is two literal texts. The lexicon holds tables: an indented row has a text and named features. The rules hold
weighted alternatives, one an indented line. A story is told from left to right under a *context*, a dict from feature
to string that remembers what was said:

    {+hero}                   pick a row of table `hero`, say its text, remember its features
    {+home:place}             the same for a variable `home` with rows of table `place`
    {+tool.a fits=$trouble}   say its feature `a`; only rows whose `fits` shares a value with what `trouble` is
    {+b:pet text!=$a}         only rows whose own text is not what `a` is
    {hero}  {hero.his}        say again what is remembered (`{Hero.his}` with a capital letter)
    {luck=bad}                remember without a word
    <ending>                  tell a rule
    (ran|walked|)             choose on the spot, all alike; may nest
    [wish luck=bad]           before an alternative: only if a wish is remembered and luck is bad; also `!wish`, `!=`

A leading number is the weight of a row or an alternative (else 1). A value such as `morning,noon` is a set, and `=`
asks whether two sets meet. The weights of what the context allows are normalised to one.

`compile_grammar` turns this into an acyclic graph of `Say` and `Choose` nodes: a rule is laid out once for every node
that can follow it, so that no stack is needed to walk the graph.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

Context = dict[str, str]


class Mention(NamedTuple):
    """Says what the context remembers under `feature`."""

    feature: str
    capital: bool


class Condition(NamedTuple):
    """Whether two sets meet (`$name`: what is remembered), or with `right` None whether `left` is remembered."""

    left: str
    right: str | None
    wanted: bool


class Branch(NamedTuple):
    weight: float
    tests: tuple[Condition, ...]
    binds: Context
    next: Node


@dataclass(eq=False, slots=True)
class Say:
    """Adds its parts to the story. `tested`, `said`: the features that nodes from here on may test, may say."""

    parts: tuple[str | Mention, ...]
    next: Node
    tested: frozenset[str]
    said: frozenset[str]


@dataclass(eq=False, slots=True)
class Choose:
    """Takes one of the branches that the context allows. `reads`: what its tests read; `odds`: a walker's cache."""

    branches: tuple[Branch, ...]
    reads: tuple[str, ...]
    tested: frozenset[str]
    said: frozenset[str]
    odds: dict = field(default_factory=dict)


Node = Say | Choose | None
Row = tuple[float, Context]


class _Alternative(NamedTuple):
    weight: float
    tests: tuple[Condition, ...]
    items: tuple


class _Pick(NamedTuple):
    variable: str
    table: str
    feature: str
    capital: bool
    tests: tuple[tuple[str, str, bool], ...]


class _Set(NamedTuple):
    feature: str
    value: str


class _Call(NamedTuple):
    rule: str


def compile_grammar(lexicon: str, rules: str) -> Node:
    """The first node of the compiled grammar; None stands for the end of the story.

    Raises:
        ValueError: the notation is broken or names something that is not there; says which line or name.
    """
    tables = {}
    for header, lines in _blocks(lexicon):
        name, *features = (cell.strip() for cell in header.split("|"))
        tables[name] = [_row(line, features) for line in lines]
    alternatives = {header: tuple(_alternative(line) for line in lines) for header, lines in _blocks(rules)}
    if "story" not in alternatives:
        raise ValueError("a grammar needs a rule `story`")
    return _Layout(tables, alternatives).rule("story", None)


def _blocks(text: str) -> list[tuple[str, list[str]]]:
    """Headers at the margin with the indented lines below each."""
    blocks: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        if not line[0].isspace():
            blocks.append((line.strip(), []))
        elif blocks:
            blocks[-1][1].append(line.strip())
        else:
            raise ValueError(f"a line before the first header: {line.strip()}")
    names = [header.split("|")[0].strip() for header, _ in blocks]
    if len(set(names)) < len(names):
        raise ValueError(f"a header stands twice among {', '.join(names)}")
    return blocks


def _weight(line: str) -> tuple[float, str]:
    match = re.match(r"(\d+(?:\.\d+)?)\s+(?=\S)", line)
    return (float(match[1]), line[match.end() :]) if match else (1.0, line)


def _row(line: str, features: list[str]) -> Row:
    weight, line = _weight(line)
    cells = [cell.strip() for cell in line.split("|")]
    if len(cells) != len(features) + 1:
        raise ValueError(f"{len(features) + 1} cells expected, {len(cells)} found: {line}")
    return weight, dict(zip(["", *features], cells, strict=True))


def _alternative(line: str) -> _Alternative:
    weight, rest = _weight(line)
    tests: tuple[Condition, ...] = ()
    if match := re.match(r"\[([^]]*)\]\s*", rest):
        tests = tuple(_test(word) for word in match[1].split())
        rest = rest[match.end() :]
    pieces = re.findall(r"\{[^{}]*\}|<[^<>]*>|[()|]|[^{}<>()|]+|.", rest)
    items, end = _items(pieces, 0)
    if end < len(pieces):
        raise ValueError(f"`{pieces[end]}` out of place: {line}")
    return _Alternative(weight, tests, items)


def _test(word: str) -> Condition:
    if match := re.fullmatch(r"([\w.]+)(!?=)(\S+)", word):
        return Condition("$" + match[1], match[3], match[2] == "=")
    if match := re.fullmatch(r"(!?)([\w.]+)", word):
        return Condition("$" + match[2], None, not match[1])
    raise ValueError(f"not a condition: [{word}]")


def _items(pieces: list[str], at: int) -> tuple[tuple, int]:
    """The items from `pieces[at]` up to a `|`, a `)` or the end, and where that is."""
    items: list = []
    while at < len(pieces) and pieces[at] not in "|)":
        piece = pieces[at]
        at += 1
        if piece == "(":
            options = []
            while not options or (at < len(pieces) and pieces[at] == "|"):
                option, at = _items(pieces, at + bool(options))
                options.append(_Alternative(1.0, (), option))
            if at == len(pieces):
                raise ValueError(f"`(` is never closed: {''.join(pieces)}")
            items.append(tuple(options))
            at += 1
        elif piece[0] == "<":
            items.append(_Call(piece[1:-1]))
        elif piece[0] == "{":
            items.append(_slot(piece))
        else:
            items.append(piece)
    return tuple(items), at


def _slot(piece: str) -> Mention | _Pick | _Set:
    head, *words = piece[1:-1].split()
    if match := re.fullmatch(r"\+(\w+)(?::(\w+))?(?:\.(\w+))?", head):
        tests = [re.fullmatch(r"(\w+)(!?=)(\S+)", word) for word in words]
        if None not in tests:
            name = match[1][0].lower() + match[1][1:]
            conditions = tuple((t[1], t[3], t[2] == "=") for t in tests)
            return _Pick(name, match[2] or name, match[3] or "", match[1] != name, conditions)
    elif match := re.fullmatch(r"(\w+)=(\w+)", head):
        return _Set(match[1], match[2])
    elif re.fullmatch(r"\w+(\.\w+)?", head) and not words:
        return Mention(head[0].lower() + head[1:], head[0].isupper())
    raise ValueError(f"not a slot: {piece}")


class _Layout:
    """Lays rules out as nodes, from the end of the story to its beginning."""

    def __init__(self, tables: dict[str, list[Row]], alternatives: dict[str, tuple[_Alternative, ...]]):
        self.tables = tables
        self.alternatives = alternatives
        self.done: dict[tuple[str, Node], Node] = {}
        self.open: list[str] = []

    def rule(self, name: str, then: Node) -> Node:
        if name not in self.alternatives:
            raise ValueError(f"no rule <{name}>; there are {', '.join(self.alternatives)}")
        if name in self.open:
            raise ValueError(f"rule <{name}> tells itself: {' > '.join([*self.open, name])}")
        if (name, then) not in self.done:
            self.open.append(name)
            self.done[name, then] = self.choice(self.alternatives[name], then)
            self.open.pop()
        return self.done[name, then]

    def choice(self, alternatives: tuple[_Alternative, ...], then: Node) -> Node:
        return _choose([Branch(a.weight, a.tests, {}, self.sequence(a.items, then)) for a in alternatives])

    def sequence(self, items: tuple, then: Node) -> Node:
        for item in reversed(items):
            if isinstance(item, str | Mention):
                then = _say(item, then)
            elif isinstance(item, _Call):
                then = self.rule(item.rule, then)
            elif isinstance(item, _Set):
                then = _choose([Branch(1.0, (), {item.feature: item.value}, then)])
            elif isinstance(item, _Pick):
                then = self.pick(item, then)
            else:
                then = self.choice(item, then)
        return then

    def pick(self, item: _Pick, then: Node) -> Node:
        if item.table not in self.tables:
            raise ValueError(f"no table `{item.table}`; there are {', '.join(self.tables)}")
        then = _say(Mention(_name(item.variable, item.feature), item.capital), then)
        branches = []
        for weight, row in self.tables[item.table]:
            if missing := {item.feature, *(test[0] for test in item.tests)} - row.keys() - {"text"}:
                raise ValueError(f"table `{item.table}` has no feature `{missing.pop()}`")
            tests = tuple(
                Condition(row["" if left == "text" else left], right, wanted) for left, right, wanted in item.tests
            )
            binds = {_name(item.variable, feature): value for feature, value in row.items()}
            branches.append(Branch(weight, tests, binds, then))
        return _choose(branches)


def _name(variable: str, feature: str) -> str:
    return f"{variable}.{feature}" if feature else variable


def _say(part: str | Mention, then: Node) -> Say:
    """A node that says `part`; joined to a following `Say`, so that there are few nodes."""
    own = {part.feature} if isinstance(part, Mention) else set()
    tested, said = (then.tested, then.said | own) if then else (frozenset(), frozenset(own))
    if isinstance(then, Say):
        return Say((part, *then.parts), then.next, tested, said)
    return Say((part,), then, tested, said)


def _choose(branches: list[Branch]) -> Choose:
    reads = {x[1:] for b in branches for t in b.tests for x in (t.left, t.right) if x and x[0] == "$"}
    tested, said = set(reads), set()
    for branch in branches:
        if branch.next:
            tested |= branch.next.tested - branch.binds.keys()
            said |= branch.next.said - branch.binds.keys()
    return Choose(tuple(branches), tuple(sorted(reads)), frozenset(tested), frozenset(said))

"""The embedded corpus and its oracle: short stories drawn from a probabilistic grammar that remembers.

A story is a sequence of weighted choices under a context that holds what was said before (who the hero is, what is
wanted, the time of day), so pronouns, names, objects and tools agree over the whole text: what a language model can
get wrong. The notation stands in `story_notation`, the editions in `story_english` and `story_chinese`.
Sampling, exact probability, explanation, count and entropy are walks on the compiled graph.
"""

from __future__ import annotations

import math
import random
import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from textgan.data.story_notation import Branch, Choose, Condition, Context, Mention, Node, Say, compile_grammar
from textgan.errors import UserError


class StoryGrammar:
    """A compiled grammar: draws stories, and knows the exact probability of each.

    Args:
        lexicon, rules: the grammar in the notation of `story_notation`.

    Raises:
        ValueError: the notation is broken.
    """

    def __init__(self, lexicon: str, rules: str):
        self.root = compile_grammar(lexicon, rules)
        self._measured: tuple[int, float] | None = None

    def sample(self, rng: random.Random) -> str:
        """A story drawn from the grammar; one `rng.random()` a choice."""
        node, context, said = self.root, {}, []
        while node is not None:
            if isinstance(node, Say):
                said += [_text(part, context) for part in node.parts]
                node = node.next
            else:
                odds = _odds(node, context)
                branch = odds.branches[bisect_right(odds.cumulative, rng.random())]
                context = {**context, **branch.binds}
                node = branch.next
        return "".join(said)

    def sample_many(self, n: int, seed: int) -> list[str]:
        """`n` stories, the same for the same seed everywhere."""
        rng = random.Random(seed)
        return [self.sample(rng) for _ in range(n)]

    def log_prob(self, text: str) -> float:
        """Log-probability of `text` in nats, exact; -inf for a text that is no story of the grammar."""
        found = self.derivations(text)
        if not found:
            return -math.inf
        top = max(found)
        return top + math.log(sum(math.exp(value - top) for value in found))

    def derivations(self, text: str) -> list[float]:
        """Log-probability in nats of each way to tell exactly `text`. A story of the embedded grammars has one."""
        return [value for value, _ in self._ways(text)]

    def features(self, text: str) -> Context:
        """What is remembered at the end of a story: `luck` -> "good", `hero` -> "Mia"; empty for what is none."""
        return next((dict(context) for _, context in self._ways(text)), {})

    def feature_names(self) -> list[str]:
        """The names that `features` can have, sorted."""
        names, pending, seen = set(), [self.root], set()
        while pending:
            node = pending.pop()
            if node is None or id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, Say):
                pending.append(node.next)
            else:
                names |= {name for branch in node.branches for name in branch.binds}
                pending += [branch.next for branch in node.branches]
        return sorted(names)

    def _ways(self, text: str) -> list[tuple[float, Context]]:
        found: list[tuple[float, Context]] = []
        _match(self.root, {}, text, 0, 0.0, found)
        return found

    def explain(self, text: str) -> str | None:
        """None for a story of the grammar; else one line: where it leaves the grammar, what was expected, why."""
        return None if self.derivations(text) else _explain(self.root, text)

    def entropy(self) -> tuple[float, float]:
        """Entropy of a story in nats and its standard error, 0: the chain rule over all contexts is exact.

        It is the entropy of the derivation, which is that of the story where every story has a single derivation.
        """
        return self._measure()[1], 0.0

    def count(self) -> int:
        """The exact number of derivations, which is that of distinct stories where each has a single one."""
        return self._measure()[0]

    def stories(self) -> Iterator[tuple[str, float]]:
        """Text and log-probability in nats of every derivation, for grammars small enough to list."""

        def tell(node: Node, context: Context, told: str, log_prob: float) -> Iterator[tuple[str, float]]:
            if node is None:
                yield told, log_prob
            elif isinstance(node, Say):
                told += "".join(_text(part, context) for part in node.parts)
                yield from tell(node.next, context, told, log_prob)
            else:
                odds = _odds(node, context)
                for branch, value in zip(odds.branches, odds.log_probs, strict=True):
                    yield from tell(branch.next, {**context, **branch.binds}, told, log_prob + value)

        return tell(self.root, {}, "", 0.0)

    def _measure(self) -> tuple[int, float]:
        if self._measured is None:
            self._measured = _measure(self.root, {}, {})
        return self._measured


@lru_cache
def load_grammar(language: str) -> StoryGrammar:
    """The embedded story grammar of a language, "en" or "zh".

    Raises:
        UserError: another language.
    """
    if language == "en":
        from textgan.data import story_english as edition
    elif language == "zh":
        from textgan.data import story_chinese as edition
    else:
        raise UserError(f"no story grammar for language `{language}`; there are `en` and `zh`")
    return StoryGrammar(edition.LEXICON, edition.RULES)


class _Odds(NamedTuple):
    branches: tuple[Branch, ...]
    log_probs: tuple[float, ...]
    cumulative: tuple[float, ...]


def _odds(node: Choose, context: Context) -> _Odds:
    """The branches that the context allows, with their probabilities."""
    key = tuple([context.get(feature) for feature in node.reads])
    odds = node.odds.get(key)
    if odds is None:
        allowed = tuple(b for b in node.branches if all(_holds(test, context) for test in b.tests))
        if not allowed:
            raise ValueError(f"no way on where {dict(zip(node.reads, key, strict=True))}")
        total = sum(b.weight for b in allowed)
        cumulative = [*accumulate(b.weight / total for b in allowed)]
        cumulative[-1] = 1.0
        odds = _Odds(allowed, tuple(math.log(b.weight / total) for b in allowed), tuple(cumulative))
        node.odds[key] = odds
    return odds


def _holds(test: Condition, context: Context) -> bool:
    """Whether `test` holds. What is not remembered meets nothing."""
    if test.right is None:
        return (test.left[1:] in context) == test.wanted
    left, right = (context.get(side[1:], "") if side[0] == "$" else side for side in (test.left, test.right))
    return bool(set(left.split(",")) & set(right.split(",")) - {""}) == test.wanted


def _text(part: str | Mention, context: Context) -> str:
    if isinstance(part, str):
        return part
    if part.feature not in context:
        raise ValueError(f"the grammar says `{part.feature}` where nothing introduced it: {context}")
    text = context[part.feature]
    return text[:1].upper() + text[1:] if part.capital else text


def _match(
    node: Node, context: Context, text: str, at: int, log_prob: float, found: list[tuple[float, Context]]
) -> None:
    """Appends to `found` every way from `node` to the end that says exactly `text[at:]`: log-probability, context."""
    while isinstance(node, Say):
        for part in node.parts:
            expected = _text(part, context)
            if not text.startswith(expected, at):
                return
            at += len(expected)
        node = node.next
    if node is None:
        if at == len(text):
            found.append((log_prob, context))
        return
    odds = _odds(node, context)
    for branch, value in zip(odds.branches, odds.log_probs, strict=True):
        _match(branch.next, {**context, **branch.binds}, text, at, log_prob + value, found)


def _measure(node: Node, context: Context, memo: dict) -> tuple[int, float]:
    """Number of ways from `node` to the end, and their entropy in nats.

    Both depend on the context only through the features that later choices test, so the memo stays small. Which of the
    features that may be said are there is in its key too: the walk then meets every mention of what was not introduced.
    """
    while isinstance(node, Say):
        for part in node.parts:
            _text(part, context)
        node = node.next
    if node is None:
        return 1, 0.0
    key = (node, *[context.get(f) for f in node.tested], *[f in context for f in node.said])
    if key not in memo:
        count, entropy = 0, 0.0
        odds = _odds(node, context)
        for branch, log_prob in zip(odds.branches, odds.log_probs, strict=True):
            ways, nats = _measure(branch.next, {**context, **branch.binds}, memo)
            count += ways
            entropy += math.exp(log_prob) * (nats - log_prob)
        memo[key] = count, entropy
    return memo[key]


class _Dead(NamedTuple):
    """A way that stops before the text does: it says `expected` from `start` on and agrees with the text up to `at`."""

    at: int
    start: int
    expected: str
    why: str
    allowed: bool


def _explain(root: Node, text: str) -> str:
    ways: list[_Dead] = []
    _dead_ends(root, {}, {}, text, 0, ways)
    at = max(way.at for way in ways if way.allowed)
    here = [way for way in ways if way.allowed and way.at == at]
    expected = sorted({_glimpse(way.expected[at - way.start :], "the end of the story") for way in here})
    if len(expected) > 5:
        expected[4:] = [f"{len(expected) - 4} more"]
    reasons = {way.why for way in ways if not way.allowed and way.at > at} or {way.why for way in here if way.why}
    after = f'after "{"... " if at > 40 else ""}{text[max(0, at - 40) : at].strip()}"' if at else "at the beginning"
    found = re.match(r"[A-Za-z]+|[^A-Za-z]{0,4}", text[at:].strip())[0]
    line = f"character {at}, {after}: found {_glimpse(found, 'the end of the text')}, expected {' or '.join(expected)}"
    return f"{line} ({'; '.join(sorted(reasons)[:3])})" if reasons else line


def _dead_ends(node: Node, context: Context, fresh: Context, text: str, at: int, ways: list[_Dead]) -> None:
    """Appends to `ways` every way that does not reach the end, and those that the context rules out.

    `fresh` is what the last choice has just introduced: no reason yet for what must be said.
    """
    while isinstance(node, Say):
        for i, part in enumerate(node.parts):
            expected = _text(part, context)
            if not text.startswith(expected, at):
                rest = "".join(_text(later, context) for later in node.parts[i:])
                why = _variable(part.feature, context) if _feature(part) not in {None, *fresh} else ""
                ways.append(_Dead(_agreed(expected, text, at), at, rest, why, True))
                return
            at += len(expected)
        node = node.next
    if node is None:
        ways.append(_Dead(at, at, "", "", True))
        return
    allowed = _odds(node, context).branches
    for branch in node.branches:
        inner = {**context, **branch.binds}
        if branch in allowed:
            _dead_ends(branch.next, inner, branch.binds, text, at, ways)
        elif isinstance(branch.next, Say) and _feature(part := branch.next.parts[0]) in {None, *inner}:
            expected = _text(part, inner)
            test = next(test for test in branch.tests if not _holds(test, context))
            feature = next(side[1:] for side in (test.left, test.right) if side and side[0] == "$")
            why = f"no {_glimpse(expected, '')} where {_variable(feature, context)}"
            ways.append(_Dead(_agreed(expected, text, at), at, expected, why, False))


def _feature(part: str | Mention) -> str | None:
    return part.feature if isinstance(part, Mention) else None


def _agreed(expected: str, text: str, start: int) -> int:
    """Where `text` stops to say `expected` from `start` on; at the beginning of a word where words are spaced."""
    at = start
    while at - start < len(expected) and text[at : at + 1] == expected[at - start]:
        at += 1
    if re.search("[A-Za-z]", text[at : at + 1] + expected[at - start : at - start + 1]):
        while at > start and re.match("[A-Za-z]", text[at - 1]):
            at -= 1
    return at


def _variable(feature: str, context: Context) -> str:
    name = feature.split(".")[0]
    return f'the {name} is "{context[name]}"' if name in context else f"there is no {name}"


def _glimpse(text: str, nothing: str) -> str:
    text = text.strip()
    short = text if len(text) <= 24 else text[:24].rsplit(" ", 1)[0] + " ..."
    return f'"{short}"' if text else nothing

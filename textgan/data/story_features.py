"""What an embedded story tells: labels that a classifier learns, and conditions that stories are written for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from textgan.data.story_grammar import StoryGrammar
from textgan.errors import UserError

NO_VALUE = "none"  # the label of a story that has none
MADE = ("title", "keywords")  # conditions made of several features
# What a story is about beside its hero; each tells of one of the first four.
SUBJECTS = ("foundling", "thing", "dish", "trouble")
KEYWORDS = ("hero", *SUBJECTS, "helper", "tool", "gift", "weather")
AND = {"en": " and the ", "zh": "和"}


def story_label(grammar: StoryGrammar, text: str, name: str) -> str:
    """What a story remembers as ``name``, such as ``luck``; "none" where it does not."""
    return grammar.features(text).get(name, NO_VALUE)


def story_condition(grammar: StoryGrammar, text: str, name: str) -> str | None:
    """What a story could have been asked for as, a function of its text; None for a text that is no story.

    ``title``: its hero and what it is about, "Mia and the river". ``keywords``: who and what occurs in it, joined by
    commas. Otherwise a feature, as in :func:`story_label`.
    """
    found = grammar.features(text)
    if not found:
        return None
    if name == "title":
        return _title(found, "en" if found["hero"].isascii() else "zh")
    if name == "keywords":
        return ", ".join(found[key] for key in KEYWORDS if key in found)
    return found.get(name, NO_VALUE)


def _title(found: Mapping[str, str], language: str) -> str:
    subject = next((found[key] for key in SUBJECTS if key in found), None)
    return found["hero"] if subject is None else found["hero"] + AND[language] + subject


def check_feature(grammar: StoryGrammar, setting: str, name: str, made: tuple[str, ...] = ()) -> None:
    """UserError unless stories remember ``name``, or it is one of ``made``; ``setting`` is what names it."""
    names = grammar.feature_names()
    if name in names or name in made:
        return
    near = difflib.get_close_matches(name, [*made, *names], 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    plain = ", ".join([*made, *(name for name in names if "." not in name)])
    raise UserError(f"{setting}={name}: stories have no such feature{hint} They have: {plain}")

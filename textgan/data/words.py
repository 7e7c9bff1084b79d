"""Text to words and back: Treebank words, one token per Chinese or Japanese character, normal spacing again.

What `join_words(split_words(text))` normalises:

- runs of white space (line breaks too) become one space, and there is none beside a CJK character;
- the space around punctuation becomes the usual one: `a ,b` is `a, b`, `( a )` is `(a)`, `50 %` is `50%`,
  `a--b`, `a—b` and `1–2` are closed up, other en dashes stand between spaces;
- two apostrophes or two backticks are a straight double quote, `can not` is `cannot`;
- `*`, `&` and `@` inside a word (`AT&T`, `a@b.org`) get space around them or before them;
- a single quotation mark without its partner is taken for an apostrophe.

Plain prose with commas, contractions, quoted speech and numbers comes back unchanged.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from nltk.tokenize import NLTKWordTokenizer

# Han, Kana, Bopomofo, CJK and full-width punctuation. Not Hangul: Korean has spaces between its words.
_CJK = (
    "\u2e80-\u2fdf\u3001-\u312f\u3190-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\ufe30-\ufe4f"
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff9f\U0001f200-\U0001f2ff\U00020000-\U0003ffff"
)
_CJK_CHARACTER = re.compile(f"([{_CJK}])")
_SENTENCE_END = re.compile(r"""[.!?]["'”’»)\]]*\s+""")
_TITLES = re.compile("mr|mrs|ms|messrs|dr|prof|st|sr|jr|rev|hon|gen|col|maj|capt|lt|sgt|gov|sen|vs|cf", re.IGNORECASE)
# Every character that NLTK's tokenizer treats in any way but "," and ".", and the words that it cuts in two.
# A sentence without them needs none of its thirty substitutions.
_NEEDS_NLTK = re.compile(
    r"""["'`«“‘„»”’:;@#$%&\u2012-\u2015?!*\[\](){}<>]|--|\.\.|,,|(?i:cannot|gimme|gonna|gotta|lemme|wanna)"""
)
_COMMA = re.compile(r",(?!\d)")
_nltk = NLTKWordTokenizer()

_CLOSING = frozenset([*".,:;!?%)]}>”»…"])
_OPENING = frozenset([*"([{<$#@“‘«„"])
_SENTENCE_MARKS = frozenset([".", "!", "?"])
_TIGHT = frozenset(["--", "\u2012", "—", "―"])
_SUFFIXES = frozenset(["'s", "'m", "'d", "'ll", "'re", "'ve", "n't", "'ye", "'n"])
_CLITICS = frozenset(["s", "m", "d", "t", "ll", "re", "ve"])
_CUT_WORDS = frozenset([("can", "not"), ("gim", "me"), ("gon", "na"), ("got", "ta"), ("lem", "me"), ("wan", "na")])
_ELISIONS = frozenset(["tis", "twas", "twere", "twill", "em", "til", "cause", "bout", "neath"])


def split_words(text: str) -> list[str]:
    """The words and punctuation marks of `text`, in order.

    Each sentence is split as by NLTK's `NLTKWordTokenizer` (Penn Treebank words; straight double quotes
    become `` and ''), so a line of one sentence gives exactly what that gives. CJK characters are one token
    each.
    """
    if not text.isascii():
        text = _CJK_CHARACTER.sub(r" \1 ", text)
    words: list[str] = []
    for sentence in split_sentences(text):
        if _NEEDS_NLTK.search(sentence):
            words.extend(_by_nltk(sentence))
        else:
            words.extend(_split_plain(sentence))
    return words


@functools.lru_cache(2**14)  # sentences of templates and captions come again and again
def _by_nltk(sentence: str) -> tuple[str, ...]:
    return tuple(_nltk.tokenize(sentence))


def split_sentences(text: str) -> list[str]:
    """`text` cut after `.`, `!` or `?` (and closing quotes) before white space, without the space between.

    A full stop after a title or abbreviation (`Mr.`), or a single letter other than `I` (`J. Smith`, `a.m.`)
    ends nothing. Upper case is not asked for, since many corpora have none.
    """
    sentences, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        if text[end.start()] == "." and _is_abbreviation(text, start, end.start()):
            continue
        sentences.append(text[start : end.end()].strip())
        start = end.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _is_abbreviation(text: str, start: int, stop: int) -> bool:
    before = text[max(start, stop - 12) : stop].split()
    word = before[-1].lstrip("\"'“‘(«[") if before and not text[stop - 1].isspace() else ""
    single_letter = word[-1:].isalpha() and (len(word) == 1 or word[-2] == ".")
    return (single_letter and word != "I") or _TITLES.fullmatch(word) is not None


def _split_plain(sentence: str) -> list[str]:
    if sentence.endswith("."):
        sentence = sentence[:-1] + " ."
    if "," in sentence:
        sentence = _COMMA.sub(" , ", sentence)
    return sentence.split()


def join_words(words: Sequence[str]) -> str:
    """Words as running text with normal spacing: the inverse of `split_words` up to what the module lists."""
    quotes = {**_glue_double_quotes(words), **_glue_single_quotes(words)}
    pieces: list[str] = []
    previous, tight = "", True  # tight: the next token stands directly after the previous one
    for i, word in enumerate(words):
        following = words[i + 1] if i + 1 < len(words) else ""
        glue_left = glue_right = False
        if i in quotes:
            glue_left, glue_right = quotes[i]
        elif word in _CLOSING or not word.strip("."):
            glue_left = True
        elif word in _OPENING:
            glue_right = True
        elif word in _TIGHT or (word == "–" and previous[-1:].isdigit() and following[:1].isdigit()):
            glue_left = glue_right = True
        elif word.lower() in _SUFFIXES:
            glue_left = previous[-1:].isalnum()
        elif (previous.lower(), word.lower()) in _CUT_WORDS:
            glue_left = True
        if not (tight or glue_left or _is_cjk(word[0]) or _is_cjk(previous[-1])):
            pieces.append(" ")
        pieces.append('"' if word in ("``", "''") else word)
        previous, tight = word, glue_right
    return "".join(pieces)


def settled_words(words: Sequence[str]) -> int:
    """How many of `words`, from the first on, `join_words` writes in the same way whatever words follow them all.

    The spacing at dashes and quotation marks may hang on words to come; all after such a place waits with it.
    """
    double_open = single_open = False
    for i, word in enumerate(words):
        last, previous = i + 1 == len(words), words[i - 1] if i else ""
        if word == "–" and last:
            return i
        if word in ("``", "''"):
            spaceless = bool(previous) and (_is_cjk(previous[-1]) or previous in _TIGHT)
            if double_open and word == "``" and not spaceless:  # closes if the marks turn out to open and close in turn
                return i
            double_open = not double_open and (word == "``" or spaceless)
        elif word in ("'", "’"):
            if last:
                return i
            after_word, following = previous[-1:].isalnum(), words[i + 1].lower()
            if (after_word and following in _CLITICS) or word == "’":
                continue
            if following in _ELISIONS:
                if single_open:
                    return i
            elif not single_open and (after_word or previous in _SENTENCE_MARKS):  # as many marks follow
                return i
            else:
                single_open = not single_open
    return len(words)


def _glue_double_quotes(words: Sequence[str]) -> dict[int, tuple[bool, bool]]:
    """By place: whether the mark stands directly after the token before it, and before the one after it."""
    # NLTK tells an opening from a closing mark by the space before it, so where the marks stand alone (text
    # that was tokenized before) it finds openings only: then they open and close in turn.
    in_turn = sum((word == "``") - (word == "''") for word in words) >= 2
    glue, is_open = {}, False
    for i, word in enumerate(words):
        if word not in ("``", "''"):
            continue
        previous = words[i - 1] if i else ""
        spaceless = bool(previous) and (_is_cjk(previous[-1]) or previous in _TIGHT)
        if is_open:
            closes = word == "''" or spaceless or in_turn
        else:
            closes = word == "''" and not spaceless
        glue[i] = (closes, not closes)
        is_open = not closes
    return glue


def _glue_single_quotes(words: Sequence[str]) -> dict[int, tuple[bool, bool]]:
    """As `_glue_double_quotes`, for apostrophes and quotes that stand alone, which look the same."""
    places = [i for i, word in enumerate(words) if word in ("'", "’")]
    following = {i: words[i + 1].lower() if i + 1 < len(words) else "" for i in places}
    left = sum(words[i] == "'" and following[i] not in _ELISIONS for i in places)
    glue, is_open = {}, False
    for i in places:
        previous = words[i - 1] if i else ""
        after_word = previous[-1:].isalnum()
        if after_word and following[i] in _CLITICS:  # it ' s
            left -= words[i] == "'"
            glue[i] = (True, True)
            continue
        if words[i] == "’":
            glue[i] = (True, False)
            continue
        if following[i] in _ELISIONS and not (is_open and left % 2):  # ' tis
            glue[i] = (False, True)
            continue
        left -= 1
        if is_open:
            opens = False
        elif after_word:  # after an s it is the genitive, unless the marks after it need a partner
            opens = left % 2 == 1 or (left > 0 and not previous.endswith("s"))
        else:
            opens = left > 0 or previous not in _SENTENCE_MARKS
        glue[i] = (not opens, opens)
        is_open = opens
    return glue


def _is_cjk(character: str) -> bool:
    return character >= "\u2e80" and _CJK_CHARACTER.match(character) is not None

"""The openings of texts: what a reader sees first, and where collapse shows first."""

import re

from textgan.data.words import split_sentences

# Chinese and Japanese sentences end without a space behind.
_CJK_END = re.compile("[。！？][”’」』）】》]*")


def first_sentence(text: str) -> str:
    """The first sentence of the text (all of it where there is one only), without white space around it."""
    sentences = split_sentences(text)
    if not sentences:
        return ""
    end = _CJK_END.search(sentences[0])
    return sentences[0][: end.end()] if end else sentences[0]

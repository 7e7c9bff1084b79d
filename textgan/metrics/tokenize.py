"""Ways to cut a text into the tokens that n-gram metrics count."""

from collections.abc import Callable

from textgan.data.words import split_words


def split_characters(text: str) -> list[str]:
    """Every character but white space."""
    return [character for character in text if not character.isspace()]


TOKENIZE: dict[str, Callable[[str], list[str]]] = {
    "words": split_words,
    "whitespace": str.split,
    "chars": split_characters,
}

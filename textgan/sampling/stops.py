"""Stop strings: a text ends before the first of them that is written, wherever the tokens' boundaries lie."""

from collections.abc import Callable, Sequence
from typing import NamedTuple


class StopStrings(NamedTuple):
    """Strings that end texts, looked for in the text so far, so that a string may lie across tokens.

    What stands in the prompt ends nothing: a string must begin behind it. Of several strings that one counts which is
    complete first, character by character, and of those that end together the longest; so where a text is the texts
    of its tokens one behind the other, how these cut it makes no difference. A called instance says whether a string
    is there, as ``stop`` of :func:`textgan.sampling.decode.generate` wants it.

    Attributes:
        strings: none of them empty.
        decode: ids -> text.
    """

    strings: Sequence[str]
    decode: Callable[[Sequence[int]], str]

    def __call__(self, prompt: Sequence[int], ids: Sequence[int]) -> bool:
        return self.find(prompt, ids)[1] is not None

    def text(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """The text of the prompt and what was written, up to the string that ended it, without the string itself."""
        text, end = self.find(prompt, ids)
        return text[:end]

    def find(self, prompt: Sequence[int], ids: Sequence[int]) -> tuple[str, int | None]:
        """The whole text, and where in it the string begins that ends it; None: there is none."""
        text = self.decode([*prompt, *ids])
        start = _end_of_prompt(self.decode(prompt), text)
        places = ((string, text.find(string, start)) for string in self.strings)
        found = [(at + len(string), at) for string, at in places if at >= 0]
        return text, min(found)[1] if found else None


def _end_of_prompt(prompt: str, text: str) -> int:
    """Where in ``text`` ends ``prompt``, whose spacing may have changed with what follows it (words in quotes)."""
    if text.startswith(prompt):
        return len(prompt)
    visible = sum(not c.isspace() for c in prompt)
    for end, c in enumerate(text):
        if not visible:
            return end
        visible -= not c.isspace()
    return len(text)

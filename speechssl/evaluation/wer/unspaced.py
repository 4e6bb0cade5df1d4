"""Scripts without spaces between words, where CER is the rate to report: Chinese, Japanese, Thai, Khmer, Burmese.

In: texts. Out: whether most of their letters are of such a script, in which a "word" between spaces is a phrase or the
whole sentence. Also a text without the spaces beside such letters, which are optional and not counted as errors.
"""

import re
from collections.abc import Iterable

__all__ = ["is_unspaced", "without_spaces"]

_CLASS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_UNSPACED = re.compile(f"[{_CLASS}]")
_SPACE = re.compile(f"(?<=[{_CLASS}]) | (?=[{_CLASS}])")
_LETTER = re.compile(r"[^\W\d_]")


def is_unspaced(texts: Iterable[str]) -> bool:
    """Return whether most letters of the texts are of scripts that write no spaces between words."""
    letters = unspaced = 0
    for text in texts:
        letters += len(_LETTER.findall(text))
        unspaced += 0 if text.isascii() else sum(map(str.isalpha, _UNSPACED.findall(text)))
    return 2 * unspaced > letters


def without_spaces(text: str) -> str:
    """Return a text without the spaces beside letters of scripts that write none."""
    return text if text.isascii() else _SPACE.sub("", text)

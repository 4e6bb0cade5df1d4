"""Invisible characters: which are removed from a transcript, which are spaces, and which belong to the spelling.

In: a text. Out: the text without invisible characters. Unicode calls them format characters, variation selectors and
fillers; none of them separates words. The zero-width space does in scripts without other spaces (UAX 29, UAX 14).
"""

import unicodedata

__all__ = ["JOINERS", "is_joining", "visible"]

JOINERS = "\u200c\u200d"
"""Zero-width (non-)joiner: part of the spelling between letters of Arabic, Indic and some other scripts."""
_JOINING = (
    (0x0600, 0x08FF), (0x0900, 0x0DFF), (0x0F00, 0x109F), (0x1780, 0x18AF), (0x1900, 0x1CFF), (0xA800, 0xABFF),
    (0xFB50, 0xFDFF), (0xFE70, 0xFEFC), (0x11000, 0x11FFF),
)  # fmt: skip
_SPACED_BY_NOTHING = ((0x0E00, 0x0EFF), (0x0F00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x1ADF))
"""Thai, Lao, Tibetan, Myanmar, Khmer and their neighbours: a zero-width space stands between words there."""
_ZERO_WIDTH_SPACE = "\u200b"
_VIRAMA = 9
"""Combining class; a joiner after a virama is spelling at the end of a word, too (Malayalam chillu, Sinhala)."""
_DROPPED = frozenset("\u034f\u115f\u1160\u17b4\u17b5")
_BLANKS = frozenset("\u3164\uffa0\u2800")
_SELECTORS = ((0xFE00, 0xFE0F), (0xE0100, 0xE01EF))


def _within(char: str, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= ord(char) <= last for first, last in ranges)


def is_joining(char: str) -> bool:
    """Tell a letter or mark of a script in which a joiner changes the spelling."""
    return char != "" and unicodedata.category(char)[0] in "LM" and _within(char, _JOINING)


def visible(text: str) -> str:
    """Return a text without invisible characters; controls and blank letters become spaces.

    Kept are joiners between letters of scripts that need them. A zero-width space is a space beside a script that
    writes no other, and nothing elsewhere. Applying it twice changes nothing.
    """
    if text.isascii() and text.isprintable():
        return text
    kept = [char for char in text if not _unseen(char)]
    return "".join(_in_place(kept, place) for place in range(len(kept)))


def _unseen(char: str) -> bool:
    """Return whether a character is dropped in any context."""
    if char in JOINERS or char == _ZERO_WIDTH_SPACE:
        return False
    return unicodedata.category(char) == "Cf" or char in _DROPPED or _within(char, _SELECTORS)


def _in_place(chars: list[str], place: int) -> str:
    """Return what a character becomes, given its neighbours."""
    char = chars[place]
    if char == _ZERO_WIDTH_SPACE:
        beside = (_beside(chars, place, -1), _beside(chars, place, 1))
        return " " if any(other and _within(other, _SPACED_BY_NOTHING) for other in beside) else ""
    if char in JOINERS:
        if place and chars[place - 1] in (*JOINERS, _ZERO_WIDTH_SPACE):
            return ""
        before, after = _beside(chars, place, -1), _beside(chars, place, 1)
        chillu = char == "\u200d" and before != "" and unicodedata.combining(before) == _VIRAMA
        return char if is_joining(before) and (is_joining(after) or chillu) else ""
    if char in _BLANKS or unicodedata.category(char) in ("Cc", "Zl", "Zp"):
        return " "
    return char


def _beside(chars: list[str], place: int, step: int) -> str:
    """Return the nearest character in one direction that is neither a joiner nor a zero-width space."""
    place += step
    while 0 <= place < len(chars) and (chars[place] in JOINERS or chars[place] == _ZERO_WIDTH_SPACE):
        place += step
    return chars[place] if 0 <= place < len(chars) else ""

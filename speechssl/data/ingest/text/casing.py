"""Lower case by language, and letters that capitals do not distinguish: Turkish dotless i, German ß, Greek accents.

In: a text and its language (a code, a locale or an English name; empty for most languages). Out: lower case. Rules:
Unicode SpecialCasing; an i has one dot, whatever capital it came from; sigma has its final form at the end of a word.
"""

import re
import unicodedata
from collections.abc import Callable

__all__ = ["capitals_fold", "dotless_i", "final_sigmas", "language_code", "lower_case"]

_NAMES = {
    "turkish": "tr", "tur": "tr", "azerbaijani": "az", "azeri": "az", "aze": "az", "azj": "az", "azb": "az",
    "crimean tatar": "crh", "gagauz": "gag", "german": "de", "deu": "de", "ger": "de", "greek": "el", "ell": "el",
    "gre": "el", "english": "en", "eng": "en",
}  # fmt: skip
_DOTLESS = frozenset({"tr", "az", "crh", "gag"})
_SECOND_DOT = re.compile("(?<=[ijįɨ])\u0307+")
_LETTER = r"[^\W\d_]"
_FINAL = re.compile(f"(?<={_LETTER})[σς](?!{_LETTER})")
_INNER = re.compile(f"ς(?={_LETTER})")


def language_code(name: str | None) -> str:
    """Return the code of a language: ``tr`` of ``tr-TR``, ``tr_TR.UTF-8``, ``tur`` and ``Turkish``; empty for none."""
    plain = (name or "").strip().lower()
    return _NAMES.get(plain) or _NAMES.get(code := re.split(r"[-_.@]", plain)[0], code)


def dotless_i(language: str) -> bool:
    """Return whether I is the capital of ı in a language (Turkish, Azerbaijani, Crimean Tatar, Gagauz)."""
    return language_code(language) in _DOTLESS


def lower_case(text: str, language: str = "") -> str:
    """Return an NFC text in lower case.

    In Turkish and its like I becomes ı, and İ becomes i. Elsewhere İ becomes i without a combining dot above, which
    would be a separate letter. The same holds for the dotted letters of Lithuanian dictionaries (i + U+0307 + accent).
    """
    if dotless_i(language):
        text = text.replace("I", "ı").replace("İ", "i")
    return _SECOND_DOT.sub("", text.lower())


def final_sigmas(text: str) -> str:
    """Return a lower-case text with the final form of sigma at the end of words."""
    return _INNER.sub("σ", _FINAL.sub("ς", text)) if "σ" in text or "ς" in text else text


def capitals_fold(ref: str, hyp: str, language: str) -> Callable[[str], str] | None:
    """Return the function that makes lower-case text comparable with capitals, if only one text is in capitals.

    Capitals have no ß in German (it is SS) and no accents in Greek: comparing with them, the other text has none
    either. None where both or none are in capitals, or the language has no such rule.
    """
    fold = {"de": _without_sharp_s, "el": _without_accents}.get(language_code(language))
    return fold if fold is not None and _in_capitals(ref) != _in_capitals(hyp) else None


def _in_capitals(text: str) -> bool:
    plain = text.replace("ß", "")
    return any(char.isupper() for char in plain) and not any(char.islower() for char in plain)


def _without_sharp_s(text: str) -> str:
    return text.replace("ß", "ss")


def _without_accents(text: str) -> str:
    """Return Greek without the accents of stress; the dieresis stays, capitals have it."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text) if c not in "\u0300\u0301\u0342\u0313\u0314\u0345")
    return unicodedata.normalize("NFC", plain)

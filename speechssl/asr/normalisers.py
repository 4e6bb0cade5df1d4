"""Text normalisation before scoring, by name: it decides which words count as equal.

In: a rule. Out: a function of a text, and the description of the rule in a report.
"""

import unicodedata
from collections.abc import Callable
from typing import Literal

from speechssl.asr.tokens import normalise_text
from speechssl.core.errors import ConfigError
from speechssl.data.ingest.text.casing import dotless_i, language_code, lower_case

__all__ = ["NormaliseRule", "normaliser"]

NormaliseRule = Literal["own", "whisper", "lower", "none"]


def normaliser(rule: NormaliseRule, language: str = "en") -> tuple[Callable[[str], str], str]:
    """Return (function, description) of a rule.

    Parameters
    ----------
    rule
        ``own``: `normalise_text` with the rule ``basic``. ``whisper``: the normaliser published with Whisper (Radford
        et al. 2022, appendix C), from the package whisper_normalizer. For ``language`` en it is the English one
        (spelling, numbers, contractions, fillers left out), else the basic one. ``lower``, ``none``: NFC with and
        without lower case.
    language
        Code or name; ``own`` and ``lower`` follow its rules of case.

    Raises
    ------
    ConfigError
        The package for ``whisper`` is not installed.
    """
    of = f" by the rules of {language_code(language)}" if dotless_i(language) else ""
    if rule == "own":
        said = f"own: NFC, lower case{of}, no corpus tags, only letters, marks, numbers and '"
        return lambda text: normalise_text(text, "basic", language), said
    if rule == "lower":
        said = f"lower: NFC, lower case{of}"
        return lambda text: lower_case(unicodedata.normalize("NFC", text), language), said
    if rule == "none":
        return lambda text: unicodedata.normalize("NFC", text), "none: NFC only"
    from importlib.metadata import version

    try:
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError:
        raise ConfigError(
            "--normalise whisper needs the package whisper_normalizer: pip install 'speechssl[score]'"
        ) from None
    english = language_code(language) in ("", "en")
    change = EnglishTextNormalizer() if english else BasicTextNormalizer()
    kind = "English" if english else "basic"
    return lambda text: str(change(text)), f"whisper: {kind}, whisper_normalizer {version('whisper_normalizer')}"

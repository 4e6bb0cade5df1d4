import sys

import pytest

from speechssl.asr.normalisers import normaliser
from speechssl.core.errors import ConfigError


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("none", "Mr. Caf\u00e9 said \u201cOK\u201d \u2014 colour, 1,000 %"),
        ("lower", "mr. caf\u00e9 said \u201cok\u201d \u2014 colour, 1,000 %"),
        ("own", "mr caf\u00e9 said ok colour 1 000"),
        ("whisper", "mister cafe said ok color 1000"),
    ],
)
def test_rules(rule, expected):
    change, words = normaliser(rule)
    assert change("Mr. Cafe\u0301 said \u201cOK\u201d \u2014 colour, 1,000 %").strip() == expected
    assert words.startswith(rule)


def test_whisper_has_two_rules():
    english, basic = normaliser("whisper", "en-GB"), normaliser("whisper", "fr")
    assert (english[0]("colour").strip(), basic[0]("Colour!").strip()) == ("color", "colour")
    assert "English, whisper_normalizer 0." in english[1] and "basic" in basic[1]


def test_the_package_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "whisper_normalizer.basic", None)
    with pytest.raises(ConfigError, match=r"speechssl\[score\]"):
        normaliser("whisper")

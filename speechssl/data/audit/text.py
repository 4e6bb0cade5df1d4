"""Faults of transcripts that can be read off the text: characters, scripts, encodings, loops, habits of the corpus.

In: utterances with transcripts. Out: findings, and the alphabet with its counts. The habit of the majority is taken for
the rule of the corpus: what a small minority does otherwise is an inconsistency.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from speechssl.config.audit import AuditConfig
from speechssl.data.audit.checks import Finding
from speechssl.data.ingest.utterance import Utterance

__all__ = ["alphabet", "check_wording", "labels", "scripts"]

_MARKUP = re.compile(r"</?[A-Za-z][^<>]{0,40}>|&(?:[a-z]{2,8}|#\d{1,6});|\[[^\[\]]{1,40}\]|\{[^{}]{1,40}\}|\(\(.*?\)\)")
_MOJIBAKE = re.compile("[ÃÂ][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|â€|\ufffd|Ð[\u0080-\u00bf]|ï»¿|[\u0080-\u009f]")
_LOOK_ALIKES = frozenset("аеорсухіјѕαεικορυχν")
"""Cyrillic and Greek letters that look like Latin ones: a whole word of them is no word of another language."""
_INNER = "'\u2019\u02bc-"
_FEWEST_CHARACTERS = 1_000
_FEWEST_TEXTS = 20
_SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "HEBREW", "ARABIC", "DEVANAGARI", "BENGALI", "TAMIL", "TELUGU",
            "THAI", "GEORGIAN", "HANGUL", "ETHIOPIC", "KHMER", "HIRAGANA", "KATAKANA", "CJK")  # fmt: skip
_TOGETHER = frozenset({"HIRAGANA", "KATAKANA", "CJK"})  # one writing system: Japanese


def alphabet(utterances: Sequence[Utterance]) -> Counter[str]:
    """Return how often each character occurs in the transcripts."""
    counts: Counter[str] = Counter()
    for utterance in utterances:
        counts.update(utterance.text or "")
    return counts


def labels(text: str) -> str:
    """Return the characters that a CTC model would learn: lower case, punctuation a word boundary, single spaces."""
    kept = (c if unicodedata.category(c)[0] in "LMN" or c in _INNER[:3] else " " for c in text.lower())
    return " ".join("".join(kept).split())


@functools.lru_cache(maxsize=65_536)
def _script(char: str) -> str:
    if unicodedata.category(char)[0] != "L":
        return ""
    name = unicodedata.name(char, "")
    found = next((script for script in _SCRIPTS if name.startswith(script)), "")
    return "JAPANESE OR CHINESE" if found in _TOGETHER else found


def scripts(text: str) -> Counter[str]:
    """Return the number of letters of each script (Latin, Cyrillic, Greek ...)."""
    counts = Counter(map(_script, text))
    counts.pop("", None)
    return counts


def check_wording(utterances: Sequence[Utterance], cfg: AuditConfig) -> Iterator[Finding]:
    """Yield what is wrong with the transcripts themselves; utterances without any text are passed over."""
    written = [u for u in utterances if u.text]
    for utterance in written:
        yield from _single(utterance, cfg)
    yield from _rare(written, cfg)
    yield from _habits(written, cfg)
    by_language: dict[str | None, list[Utterance]] = defaultdict(list)
    for utterance in written:
        by_language[utterance.language].append(utterance)
    for language in sorted(by_language, key=str):
        yield from _foreign(by_language[language])
    yield from _repeated(written, cfg)


def _single(utterance: Utterance, cfg: AuditConfig) -> Iterator[Finding]:
    text = utterance.text or ""
    if match := _MARKUP.search(text):
        yield Finding("markup", utterance.id, utterance.path, match.group(), None, f"{match.group()} in the text")
    if match := _MOJIBAKE.search(text):
        detail = f"{match.group()!a} is the trace of a wrong encoding"
        yield Finding("mojibake", utterance.id, utterance.path, match.group(), None, detail)
    usual = scripts(text)
    for word in text.split():
        mixed = scripts(word)
        alike = set(word.lower()) <= _LOOK_ALIKES and 2 * mixed.total() < usual.total() and len(usual) > 1
        if len(mixed) > 1 or (alike and next(iter(mixed)) != usual.most_common(1)[0][0]):
            mixed = mixed if len(mixed) > 1 else usual
            detail = f"{word!r} mixes {' and '.join(sorted(mixed))}"
            yield Finding("mixed_script", utterance.id, utterance.path, word, None, detail)
            break
    words = labels(text).split()
    loops = max((_loops(words, at, size) for size in (1, 2, 3, 4) for at in range(size, len(words))), default=1)
    if loops >= cfg.looped_words:
        yield Finding(
            "looped_text", utterance.id, utterance.path, loops, cfg.looped_words, f"in a loop: {_short(text)}"
        )


def _loops(words: Sequence[str], at: int, size: int) -> int:
    """Return how often the ``size`` words before ``at`` stand in a row, ending there or going on."""
    unit, count = words[at - size : at], 1
    while words[at : at + size] == unit:
        count, at = count + 1, at + size
    return count


def _rare(written: Sequence[Utterance], cfg: AuditConfig) -> Iterator[Finding]:
    counts = alphabet(written)
    if counts.total() < _FEWEST_CHARACTERS:
        return
    holders: dict[str, list[Utterance]] = defaultdict(list)
    rare = {char for char, count in counts.items() if count <= cfg.rare_count and not char.isspace()}
    for utterance in written:
        for char in sorted(rare & set(utterance.text or "")):
            holders[char].append(utterance)
    for char in sorted(rare):
        first, *rest = holders[char]
        name = unicodedata.name(char, f"U+{ord(char):04X}").lower()
        detail = f"{char!r} ({name}) occurs {counts[char]} times in {counts.total():,} characters"
        yield Finding("rare_character", first.id, first.path, char, cfg.rare_count, detail, tuple(u.id for u in rest))


def _habits(written: Sequence[Utterance], cfg: AuditConfig) -> Iterator[Finding]:
    if len(written) < _FEWEST_TEXTS:
        return
    cases = {u.id: _case(u.text or "") for u in written}
    common = Counter(case for case in cases.values() if case).most_common(1)
    tests = (
        ("digits", "digits", [u for u in written if any(c.isdigit() for c in u.text or "")]),
        ("punctuation", "punctuation", [u for u in written if any(map(_is_punctuation, u.text or ""))]),
        ("odd_case", "another case", [u for u in written if common and cases[u.id] not in ("", common[0][0])]),
    )
    for check, what, some in tests:
        share = len(some) / len(written)
        if share <= cfg.minority_share:
            for u in some:
                detail = f"{what} in {100 * share:.1f} % of the transcripts only: {_short(u.text or '')}"
                yield Finding(check, u.id, u.path, round(share, 4), cfg.minority_share, detail)


def _case(text: str) -> str:
    """Return ``lower``, ``upper`` or ``mixed``; empty without cased letters."""
    upper, lower = any(c.isupper() for c in text), any(c.islower() for c in text)
    return "mixed" if upper and lower else "upper" if upper else "lower" if lower else ""


def _is_punctuation(char: str) -> bool:
    return unicodedata.category(char)[0] in "PS" and char not in _INNER


def _foreign(written: Sequence[Utterance]) -> Iterator[Finding]:
    """Yield transcripts mostly in a script that is rare among those of their language."""
    main = [(u, found.most_common(1)[0][0]) for u in written if (found := scripts(u.text or ""))]
    counts = Counter(script for _, script in main)
    if len(main) < _FEWEST_TEXTS:
        return
    for u, script in main:
        if counts[script] <= 0.05 * len(main):
            detail = f"in {script.lower()} letters, as {counts[script]} of {len(main)} transcripts of its language"
            yield Finding("foreign_script", u.id, u.path, script.lower(), None, detail)


def _repeated(written: Sequence[Utterance], cfg: AuditConfig) -> Iterator[Finding]:
    by_text: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in written:
        text = labels(utterance.text or "")
        if len(text.split()) >= 3:
            by_text[text].append(utterance)
    for text, same in sorted(by_text.items()):
        others = tuple(u.id for u in same[1:])
        if len(same) >= cfg.repeated_transcripts:
            detail = f"{len(same)} times: {_short(text)}"
            yield Finding("repeated_transcript", same[0].id, same[0].path, len(same), cfg.repeated_transcripts, detail,
                          others)  # fmt: skip
        splits = sorted({u.split for u in same if u.split})
        if len(splits) > 1:
            detail = f"in {', '.join(splits)}: {_short(text)}"
            yield Finding("shared_transcript", same[0].id, same[0].path, len(splits), 1, detail, others)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")

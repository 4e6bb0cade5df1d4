"""Marks in transcripts that are not spoken words: noises, punctuation tags, unknown words, fragments.

In: a transcript. Out: the words, and the tags, each kept or dropped. Conventions of GigaSpeech, Switchboard, Fisher,
CallHome, TED-LIUM, AMI, BABEL, CMU Sphinx, Kaldi and NIST. Sounds and tags are dropped; where a mark surrounds a spoken
word (``[laughter-yes]``, ``((maybe))``, ``th[at]-``, ``{ a / b }``), the word is kept.
"""

import html
import re
from collections.abc import Callable, Iterable

from speechssl.core.ledger import Entry

__all__ = ["find_tags", "only_tags", "tag_entries", "untag"]

_SOUND_WORDS = """
laugh laughs laughter laughing chuckle chuckles chuckling giggle giggles giggling noise noises breath breaths breathe
breathes breathing inhale inhales exhale exhales cough coughs coughing sneeze sneezes sniff sniffs sniffing sigh sighs
sighing lipsmack smack smacks click clicks music applause applauds clap claps clapping cheer cheers cheering silence sil
inaudible unintelligible indiscernible indistinct crosstalk blank_audio hesitation hes clears yawn yawns gasp gasps
gasping groan groans grunt grunts screams whistles whistling beep beeps rings ringing dtmf unk oov spoken_noise
vocalized vocalsound nonvocalsound spn nsn mumbles mumbling hums humming sings singing nonspeech cries crying sobs
sobbing questionmark exclamationpoint chatter sta
"""
_BESIDE_SOUNDS = """
background lip throat phone blank audio pause pauses overlap overlapping static foreign unknown vocal garbage int mn
speech speaking non other period comma language voc human skip ring cry scream whistle mumble hum sob
"""
_SOUNDS = frozenset(_SOUND_WORDS.split())
_ALSO = frozenset(_BESIDE_SOUNDS.split())
_FILLERS = frozenset(["uh", "um", "er", "eh", "ah", "mm", "hm", "hmm", "uhm", "erm", "mhm", "huh", "oh"])
_SPOKEN_WHILE = "laughter|laugh|laughing|singing|sing|whispering|whisper|crying|cry|coughing|cough"
_ENTITY = re.compile(r"&(?:[A-Za-z]{2,8}|#\d{1,7}|#[xX][0-9A-Fa-f]{1,6});")
_TAG = re.compile(
    rf"""
    (?P<begun> (?<!\S) [\w'’]+ ) \[ [^\[\]\s]{{1,30}} \] - (?!\S)
    | (?<!\S) - \[ [^\[\]\s]{{1,30}} \] (?P<ended> [\w'’]+ ) (?!\S)
    | \[ (?:{_SPOKEN_WHILE}) - (?P<spoken> [^\[\]\s]+ ) \]
    | \[ (?P<said> [^\[\]\s/]+ ) / (?P<meant> [^\[\]\s/]+ ) \]
    | \(\( (?P<unsure> [^()]* ) \)\)
    | (?P<angle> </?[^<>\s\d=][^<>]{{0,40}}> )
    | \[ (?P<square> [^\[\]]{{1,60}} ) \]
    | \{{ (?P<first> [^{{}}/]* ) / [^{{}}]* \}}
    | \{{ (?P<curly> [^{{}}]{{1,60}} ) \}}
    | (?P<variant> (?<=\w) \( \d{{1,2}} \) )
    | \( (?P<round> [^()]{{1,40}} ) \)
    | (?P<plus> \+\+ [^+\s]+ \+\+ )
    | \* (?P<star> [^*]{{1,40}} ) \*
    | (?P<bare> (?<!\S) (?: !SIL | !NULL | NSN | SPN | %(?i:hes\w*|unk|noise|sil)
                          | (?i:ignore_?time_?segment_?in_?scoring) ) (?!\S) )
    | (?P<pronounced> (?<=[^\W\d_]) _\d (?!\w) )
    """,
    re.VERBOSE,
)
_FRAGMENT = re.compile(r"(?<!\S)(?:-[^\W\d_]{1,30}|[^\W\d_]{1,30}-)(?!\S)")
_MARKS = frozenset("<>[]{}()*+!%_N&-")
Note = Callable[[str, bool], object]


def untag(text: str) -> str:
    """Return a transcript without tags; HTML entities (``&amp;``) become the characters they stand for."""
    return _rewritten(text, lambda _tag, _kept: None)


def find_tags(text: str) -> list[tuple[str, bool]]:
    """Return each tag as it is written, and whether the word within it was kept; word fragments (``th-``) last."""
    found: list[tuple[str, bool]] = []
    rest = _rewritten(text, lambda tag, kept: found.append((tag, kept)))
    return [*found, *((match.group(), True) for match in _FRAGMENT.finditer(rest))]


def only_tags(text: str) -> bool:
    """Return whether a transcript holds tags but no word: it then does not say what was spoken."""
    return any(not kept for _, kept in find_tags(text)) and not any(char.isalnum() for char in untag(text))


def tag_entries(texts: Iterable[tuple[str, str]], *, stage: str, dropped: bool = True) -> list[Entry]:
    """Return a ledger entry for each tag in (id, transcript) pairs: its count, first place, and whether it was kept.

    ``dropped`` says whether tags are taken out; without normalisation they are labels like any other text.
    """
    counts: dict[tuple[str, bool], list[str]] = {}
    for name, text in texts:
        for tag, kept in find_tags(text):
            fragment = tag.startswith("-") or tag.endswith("-")
            key = ("a word fragment" if fragment else tag.casefold(), kept)
            counts.setdefault(key, []).append(f"{name} ({tag})" if fragment else name)
    entries = []
    for (tag, kept), names in sorted(counts.items()):
        fate = "its word is kept" if kept else "dropped" if dropped else "kept: tokens.normalise is none"
        detail = f"{len(names)} times, first in {names[0]}; {fate}"
        entries.append(Entry(stage, tag, "corpus_tag", detail, "dropped" if dropped and not kept else "kept"))
    return entries


def _rewritten(text: str, note: Note) -> str:
    if not _MARKS.intersection(text):
        return text
    if "&" in text:
        text = _ENTITY.sub(lambda match: html.unescape(match.group()), text)
    return _TAG.sub(lambda match: _replaced(match, note), text)


def _replaced(match: re.Match[str], note: Note) -> str:
    """Return the replacement of one tag."""
    whole, kind = match.group(), match.lastgroup
    inner = match[kind] if kind else ""
    if kind in ("variant", "pronounced"):
        return ""
    if kind in ("round", "star") and not _is_sound(inner):
        return whole
    kept = _is_spoken(kind, inner)
    shown = {"unsure": "((…))" if kept else "(())", "first": "{…/…}"}.get(kind or "", whole)
    note(shown, kept)
    return f" {inner} " if kept else " "


def _is_spoken(kind: str | None, inner: str) -> bool:
    """Return whether the text inside a tag is a spoken word."""
    if kind in ("begun", "ended", "spoken", "first"):
        return True
    if kind == "square":
        return inner.casefold() in _FILLERS
    return kind in ("unsure", "meant", "curly") and bool(inner.strip()) and not _is_sound(inner)


def _is_sound(text: str) -> bool:
    words = re.findall(r"[^\W\d]+", text.casefold())
    return any(word in _SOUNDS for word in words) and all(word in _SOUNDS or word in _ALSO for word in words)

"""Settings of ``score``: the transcripts of any system against references."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["ScoreConfig"]


@dataclass(frozen=True)
class ScoreConfig:
    """Score the hypotheses of one or more systems against one reference."""

    ref: str = ""
    """Reference file: text (a line an utterance), Kaldi text (``id words``), NIST trn or stm, manifest.jsonl,
    hypotheses.jsonl, csv or tsv with a header."""
    hyp: tuple[str, ...] = ()
    """A file for each system: text, Kaldi text, trn, ctm (against an stm reference), hypotheses.jsonl or its folder."""
    names: tuple[str, ...] = ()
    """A name for each system; empty for the names of the files."""
    output: str = ""
    """Folder for the comparison and each system's ``hypotheses.jsonl``, ``wer.json`` and ``wer.txt``; empty to print
    the tables only."""
    ref_format: Literal["auto", "text", "kaldi", "trn", "stm", "jsonl", "table"] = "auto"
    """auto: by the ending of the name, else by the first lines; the table says what was taken."""
    hyp_format: Literal["auto", "text", "kaldi", "trn", "ctm", "jsonl", "table"] = "auto"
    normalise: Literal["own", "whisper", "lower", "none"] = "own"
    """own: this project's rule ``basic`` (NFC, lower case, only letters, marks, numbers and apostrophes within words).
    whisper: the published normaliser of Whisper (package whisper_normalizer). lower: NFC and lower case. none: NFC. The
    rates of the raw text (none) are always given beside it."""
    language: str = ""
    """For ``own`` and ``lower``: whose rules of case (tr: I is the capital of ı; de, el: ß and accents are not missed
    against capitals); empty: that of the reference, where a manifest gives it. For ``whisper``: its English normaliser
    for en or nothing, its basic one for any other."""
    cost: Literal["levenshtein", "sclite"] = "levenshtein"
    """levenshtein: the fewest errors, which is how the word error rate is defined and what jiwer and this project's
    ``evaluate`` count. sclite: the weights 4, 3, 3 and the ties of NIST sclite, for its very counts."""
    optional_words: bool = True
    """In trn, stm and ctm, a word in parentheses may be left out (the option -D of sclite)."""
    allow_extra: bool = False
    """Leave out hypotheses of utterances that the reference does not have, instead of refusing them."""
    speakers: str = ""
    """Who speaks, where the files do not say: a file of ``id speaker`` lines (Kaldi's utt2spk), or ``prefix`` for the
    part of the id before the first -, or else _ (sclite -i rm)."""
    bootstrap: int = 2_000
    """Resamples for the 95 % intervals."""
    seed: int = 1

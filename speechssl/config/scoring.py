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
    """auto: detected from the end of the name or from the first lines. The printed table says which it is."""
    hyp_format: Literal["auto", "text", "kaldi", "trn", "ctm", "jsonl", "table"] = "auto"
    normalise: Literal["own", "whisper", "lower", "none"] = "own"
    """own: NFC, lower case, only letters, marks, numbers and apostrophes within words. whisper: the published
    normaliser of Whisper (package whisper_normalizer). lower: NFC and lower case. none: NFC, whose rates are always
    given as well."""
    language: str = ""
    """Language whose rules of lower case apply (tr: I becomes ı; de, el: ß and accents match capitals). Empty: that of
    the reference, where a manifest gives it. whisper: its English normaliser for en or nothing, else its basic one."""
    cost: Literal["levenshtein", "sclite"] = "levenshtein"
    """levenshtein: fewest errors, the definition of the word error rate, as in jiwer and ``evaluate``. sclite: the
    weights 4, 3, 3 and the ties of NIST sclite, which give its counts."""
    optional_words: bool = True
    """In trn, stm and ctm, a word in parentheses may be left out (the option -D of sclite)."""
    allow_extra: bool = False
    """Leave out hypotheses of utterances that the reference does not have, instead of refusing them."""
    speakers: str = ""
    """Speakers, where the files do not name them: a file of ``id speaker`` lines (Kaldi's utt2spk), or ``prefix`` for
    the part of the id before the first - or else _ (sclite -i rm)."""
    bootstrap: int = 2_000
    """Resamples for the 95 % intervals."""
    seed: int = 1
    """Seed of the resampling."""

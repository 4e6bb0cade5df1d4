"""Verbs that recognise: ``evaluate``, ``transcribe``."""

import sys
from pathlib import Path

from speechssl.errors import ConfigError
from speechssl.verbs.arguments import load

__all__ = ["evaluate", "transcribe"]


def evaluate(words: list[str], overrides: list[str]) -> None:
    """Decode and score a split."""
    from speechssl.config import EvaluateConfig

    _, cfg = load(EvaluateConfig, "evaluate", words, overrides, [])
    from speechssl.asr.score import evaluate as score

    print(score(cfg))


def transcribe(words: list[str], overrides: list[str]) -> int:
    """Transcribe files."""
    from speechssl.config import TranscribeConfig
    from speechssl.settings import load_config

    cfg = load_config(TranscribeConfig, None, overrides, prog="speechssl transcribe FILE...")
    if not words:
        raise ConfigError("usage: speechssl transcribe FILE... --model FOLDER")
    from speechssl.asr.transcribe import transcribe as transcripts

    failed = 0
    for transcript in transcripts([Path(word) for word in words], cfg):
        failed += transcript.error is not None
        if transcript.error is not None:
            print(f"error: {transcript.error}", file=sys.stderr)
        elif not cfg.output:
            print(f"{transcript.path}\t{transcript.text}", flush=True)
    return 1 if failed else 0

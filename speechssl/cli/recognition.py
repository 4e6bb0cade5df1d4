"""Verbs that recognise, and what they need or give away: ``evaluate``, ``tune``, ``lm``, ``export``."""

from pathlib import Path

from speechssl.cli.arguments import load

__all__ = ["evaluate", "export", "lm", "tune"]


def evaluate(words: list[str], overrides: list[str]) -> None:
    """Decode and score a split."""
    from speechssl.config import EvaluateConfig

    _, cfg = load(EvaluateConfig, "evaluate", words, overrides)
    from speechssl.asr.evaluate import evaluate as score

    print(score(cfg))


def tune(words: list[str], overrides: list[str]) -> None:
    """Choose a decoder's weights on dev."""
    from speechssl.config import TuneConfig

    _, cfg = load(TuneConfig, "tune", words, overrides)
    from speechssl.asr.decoding.tune import tune as choose

    print(choose(cfg))


def lm(words: list[str], overrides: list[str]) -> None:
    """Estimate a language model."""
    from speechssl.config import LmConfig

    (source, output), cfg = load(LmConfig, "lm", words, overrides, 2)
    from speechssl.asr.lm.text import estimate_lm

    print(estimate_lm(Path(source), Path(output), cfg))


def export(words: list[str], overrides: list[str]) -> None:
    """Write a model for another program."""
    from speechssl.config import ExportConfig

    (source, output), cfg = load(ExportConfig, "export", words, overrides, 2)
    from speechssl.asr.export import export as write

    print(write(Path(source), Path(output), cfg))

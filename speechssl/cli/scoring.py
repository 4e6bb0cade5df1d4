"""Verbs that read results: ``report``, ``compare``, and ``score`` for transcripts of any system."""

from dataclasses import replace
from pathlib import Path

from speechssl.cli.arguments import configure, positional, wants_help
from speechssl.cli.help import usage, verb_help
from speechssl.core.errors import ConfigError

__all__ = ["compare", "report", "score"]


def report(words: list[str], overrides: list[str]) -> int:
    """Write the report of a run."""
    if wants_help(overrides):
        print(verb_help("report"), end="")
        return 0
    if overrides:
        raise ConfigError(f"report takes no settings (got {' '.join(overrides)})")
    (folder,) = positional(words, "report", 1)
    from speechssl.reports.run.build import build_report

    print(build_report(Path(str(folder))))
    return 0


def compare(words: list[str], overrides: list[str]) -> None:
    """Compare systems that were scored on the same utterances."""
    from speechssl.config import CompareConfig

    cfg = configure(CompareConfig, "compare", None, overrides)
    if not words:
        raise ConfigError(f"usage: {usage('compare')} [--output FOLDER]   (RUN: PATH or NAME=PATH)")
    from speechssl.reports.comparison.compare import build_comparison

    page = build_comparison([str(word) for word in words], cfg)
    print(page.with_name("compare.txt").read_text(encoding="utf-8").split("\n\n", 1)[0])
    print(page)


def score(words: list[str], overrides: list[str]) -> None:
    """Score the transcripts of any systems against a reference."""
    from speechssl.config import ScoreConfig
    from speechssl.config.load import write_toml

    cfg = configure(ScoreConfig, "score", None, overrides)
    if words:
        if cfg.ref or cfg.hyp:
            raise ConfigError("name the files either as REF HYP... or with --ref and --hyp, not both")
        cfg = replace(cfg, ref=words[0], hyp=tuple(words[1:]))
    from speechssl.asr.normalisers import normaliser
    from speechssl.evaluation.nist.score import score_files
    from speechssl.evaluation.nist.score_report import report_scoring

    scoring = score_files(
        cfg, *normaliser(cfg.normalise, cfg.language), for_language=lambda code: normaliser(cfg.normalise, code)[0]
    )
    print(report_scoring(scoring, cfg), end="")
    if cfg.output:
        write_toml(cfg, Path(cfg.output) / "config.toml")

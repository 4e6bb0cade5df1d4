"""Verbs that read what runs and evaluations left: ``report``."""

from pathlib import Path

from speechssl.errors import ConfigError
from speechssl.verbs.arguments import positional, wants_help

__all__ = ["report"]


def report(words: list[str], overrides: list[str]) -> int:
    """Write the report of a run."""
    if wants_help(overrides):
        print("usage: speechssl report RUN\n\nWrites RUN/report.html, report.json and report.txt.")
        return 0
    if overrides:
        raise ConfigError(f"report takes no settings (got {' '.join(overrides)})")
    (folder,) = positional(words, ["RUN"], "report")
    from speechssl.reports.build import build_report

    print(build_report(Path(str(folder))))
    return 0

"""Verbs that train: ``pretrain``, ``finetune``, and the whole way: ``run``, ``demo``."""

from dataclasses import replace
from pathlib import Path

from speechssl.verbs.arguments import load, wants_help

__all__ = ["demo", "finetune", "pretrain", "run"]


def pretrain(words: list[str], overrides: list[str]) -> None:
    """Pretrain an encoder."""
    from speechssl.config import PretrainConfig

    _, cfg = load(PretrainConfig, "pretrain", words, overrides, [])
    from speechssl.training.pretrain import pretrain as train

    print(train(cfg))


def finetune(words: list[str], overrides: list[str]) -> None:
    """Fine-tune a recogniser."""
    from speechssl.config import FinetuneConfig

    _, cfg = load(FinetuneConfig, "finetune", words, overrides, [])
    from speechssl.asr.finetune import finetune as train

    print(train(cfg))


def run(words: list[str], overrides: list[str]) -> None:
    """Go the whole way, from a folder to a report."""
    from speechssl.config import RunConfig
    from speechssl.pipeline import default_preset
    from speechssl.pipeline import run as go

    if len(words) == 1 and not wants_help(overrides):
        words = [*words, default_preset()]
    (folder,), cfg = load(RunConfig, "run", words, overrides, ["FOLDER"])
    go(Path(folder), cfg)


def demo(words: list[str], overrides: list[str]) -> None:
    """Show on a corpus of its own what pretraining is worth."""
    from speechssl.demo import DemoConfig
    from speechssl.demo import demo as go

    smoke = "--smoke" in overrides
    overrides = [word for word in overrides if word != "--smoke"]
    words = words or (["demo-smoke"] if smoke else ["demo"])
    _, cfg = load(DemoConfig, "demo", words, overrides, [])
    go(replace(cfg, smoke=True) if smoke else cfg)

"""Verbs that train: ``pretrain``, ``finetune``, and the whole way: ``run``, ``demo``."""

from dataclasses import replace
from pathlib import Path

from speechssl.verbs.arguments import load, wants_help

__all__ = ["demo", "finetune", "pretrain", "run"]


PROFILED_STEPS = 5


def _profiled(overrides: list[str]) -> list[str]:
    """Spell the flag ``--profile`` out: ``--training.profile 5``."""
    if "--profile" not in overrides:
        return overrides
    return [word for word in overrides if word != "--profile"] + ["--training.profile", str(PROFILED_STEPS)]


def pretrain(words: list[str], overrides: list[str]) -> None:
    """Pretrain an encoder."""
    from speechssl.config import PretrainConfig

    _, cfg = load(PretrainConfig, "pretrain", words, _profiled(overrides), [])
    from speechssl.training.pretrain import pretrain as train

    print(train(cfg))


def finetune(words: list[str], overrides: list[str]) -> None:
    """Fine-tune a recogniser."""
    from speechssl.config import FinetuneConfig

    _, cfg = load(FinetuneConfig, "finetune", words, _profiled(overrides), [])
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

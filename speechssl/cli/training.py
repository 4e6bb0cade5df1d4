"""Verbs that train or make models: ``pretrain``, ``finetune``, ``selftrain``, ``import``, ``run``, ``demo`` ..."""

import shlex
from dataclasses import replace
from pathlib import Path

from speechssl.cli.arguments import configure, load, positional, wants_help
from speechssl.cli.help import VERB_HELP, usage, verb_help
from speechssl.core.errors import ConfigError

__all__ = [
    "compare_objectives",
    "demo",
    "estimate",
    "finetune",
    "import_model",
    "launch",
    "pretrain",
    "run",
    "selftrain",
]


PROFILED_STEPS = 5


def _profiled(overrides: list[str]) -> list[str]:
    """Replace the flag ``--profile`` by ``--training.profile 5``, and ``--log`` by ``--training.log``."""
    overrides = ["--training.log" if word == "--log" else word for word in overrides]
    if "--profile" not in overrides:
        return overrides
    return [word for word in overrides if word != "--profile"] + ["--training.profile", str(PROFILED_STEPS)]


def _flag(name: str, overrides: list[str]) -> tuple[list[str], bool]:
    """Return the overrides without a flag that is no setting, and whether it was there."""
    return [word for word in overrides if word != name], name in overrides


def pretrain(words: list[str], overrides: list[str]) -> None:
    """Pretrain an encoder."""
    from speechssl.config import PretrainConfig

    overrides, allow_changes = _flag("--allow-changes", overrides)
    _, cfg = load(PretrainConfig, "pretrain", words, _profiled(overrides))
    from speechssl.training.pretrain import pretrain as train

    print(train(cfg, allow_changes=allow_changes))


def finetune(words: list[str], overrides: list[str]) -> None:
    """Fine-tune a recogniser."""
    from speechssl.config import FinetuneConfig

    overrides, allow_changes = _flag("--allow-changes", overrides)
    _, cfg = load(FinetuneConfig, "finetune", words, _profiled(overrides))
    from speechssl.asr.finetune import finetune as train

    print(train(cfg, allow_changes=allow_changes))


def selftrain(words: list[str], overrides: list[str]) -> None:
    """Fine-tune on pseudo-labels, too."""
    from speechssl.config import SelftrainConfig

    _, cfg = load(SelftrainConfig, "selftrain", words, overrides)
    from speechssl.workflows.selftrain import selftrain as go

    print(go(cfg))


def import_model(words: list[str], overrides: list[str]) -> None:
    """Write a model of another library as a model folder."""
    from speechssl.config import ImportConfig

    (source, output), cfg = load(ImportConfig, "import", words, overrides, 2)
    from speechssl.interop.importing import import_model as convert

    convert(source, Path(output), cfg)


def estimate(words: list[str], overrides: list[str]) -> None:
    """Estimate the memory and time of a configuration on this machine."""
    if wants_help(overrides):
        print(verb_help("estimate"), end="")
        return
    import tomllib

    from speechssl.config import FinetuneConfig, PretrainConfig
    from speechssl.config.load import load_config
    from speechssl.core.presets import find_config
    from speechssl.workflows.estimate import estimate as measure
    from speechssl.workflows.estimate import estimate_json, estimate_text

    (name,) = positional(words, "estimate", 1)
    overrides, as_json = [word for word in overrides if word != "--json"], "--json" in overrides
    world = 1
    if "--world" in overrides:
        place = overrides.index("--world")
        if not overrides[place + 1 : place + 2] or not overrides[place + 1].isdigit():
            raise ConfigError("--world needs a number of devices")
        world = int(overrides[place + 1])
        overrides = overrides[:place] + overrides[place + 2 :]
    try:
        keys = tomllib.loads(find_config(str(name)).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from error
    if "pretrain" in keys or "finetune" in keys:
        raise ConfigError(f"{name} is a configuration of `run`; estimate one for `pretrain` or `finetune`")
    finetuned = keys.keys() & {"ctc", "tokens", "dev", "augment"}
    cls: type[PretrainConfig | FinetuneConfig] = FinetuneConfig if finetuned else PretrainConfig
    cost = measure(load_config(cls, str(name), overrides, prog="speechssl estimate CONFIG"), world=world)
    print(estimate_json(cost) if as_json else estimate_text(cost))


def run(words: list[str], overrides: list[str]) -> None:
    """Run every stage, from a folder to a report."""
    from speechssl.config import RunConfig
    from speechssl.workflows.pipeline import default_preset
    from speechssl.workflows.pipeline import run as go

    if len(words) < 2 and (words or wants_help(overrides)):
        words = [*(words or ["FOLDER"]), default_preset()]
    (folder,), cfg = load(RunConfig, "run", words, overrides, 1)
    go(Path(folder), cfg)


def demo(words: list[str], overrides: list[str]) -> None:
    """Show what pretraining is worth, on synthetic speech."""
    from speechssl.workflows.demo import DemoConfig
    from speechssl.workflows.demo import demo as go

    smoke = "--smoke" in overrides
    overrides = [word for word in overrides if word != "--smoke"]
    words = words or (["demo-smoke"] if smoke else ["demo"])
    _, cfg = load(DemoConfig, "demo", words, overrides)
    go(replace(cfg, smoke=True) if smoke else cfg)


def compare_objectives(words: list[str], overrides: list[str]) -> None:
    """Train every objective on equal terms and compare."""
    from speechssl.config import CompareObjectivesConfig

    _, cfg = load(CompareObjectivesConfig, "compare-objectives", words or ["compare-cpu"], overrides)
    from speechssl.workflows.comparison.compare_objectives import compare_objectives as go

    go(cfg)


def launch(words: list[str], overrides: list[str]) -> None:
    """Write the script of a cluster's job."""
    from speechssl.config import LaunchConfig

    cut = overrides.index("--") if "--" in overrides else len(overrides)
    cfg, command = configure(LaunchConfig, "launch", None, overrides[:cut]), overrides[cut + 1 :]
    if words or not command or command[0] not in VERB_HELP or command[0] == "launch":
        raise ConfigError(f"usage: {usage('launch')}   (after -- a command of speechssl, from its verb on)")
    from speechssl.core.files import write_atomic
    from speechssl.workflows.slurm import sbatch_script

    script = sbatch_script(command, cfg)
    if not cfg.slurm:
        print(script, end="")
        return
    write_atomic(Path(cfg.slurm), script.encode())
    print(f"sbatch {shlex.quote(cfg.slurm)}")
    if cfg.parts:
        print(f"when all its tasks have ended: speechssl {shlex.join(command)}")

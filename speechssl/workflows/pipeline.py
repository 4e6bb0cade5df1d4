"""``speechssl run``: folder of audio -> manifest -> shards -> pretraining -> fine-tuning -> evaluation -> report.

With ``rounds`` above 1 pretraining and fine-tuning are repeated (workflows/rounds.py). With ``selftrain.rounds`` the
last recogniser is self-trained on the speech that has no transcript (workflows/selftrain.py).

In: a folder and a configuration. Out: the run's folder, with one folder a stage. workflows/stages.py skips what is
complete; a training stage resumes from its checkpoints.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from speechssl.asr.evaluate import evaluate
from speechssl.config import DataConfig, FinetuneConfig, RunConfig, SelftrainConfig
from speechssl.config.load import from_dict, read_toml, to_dict, write_toml
from speechssl.core.environment import write_environment
from speechssl.core.errors import ConfigError
from speechssl.core.files import find_json, remove_leftovers, write_json
from speechssl.core.progress import progress
from speechssl.data.ingest.foreign.manifest import manifest_of
from speechssl.data.ingest.ids import read_ids
from speechssl.data.ingest.manifest import read_manifest
from speechssl.data.store.writer import shard_manifest
from speechssl.interop.model_folder import is_model
from speechssl.reports.run.build import build_report
from speechssl.training.initialisation import with_initial_sizes
from speechssl.training.precision import settled_run
from speechssl.training.pretrain import pretrain
from speechssl.training.run_folder import decisive
from speechssl.workflows.budget import Lengths, hours_of, lengths_for, with_lengths
from speechssl.workflows.outlook import measure_speed
from speechssl.workflows.rounds import check_rounds, of_round, pretraining_of
from speechssl.workflows.selftrain import selftrain
from speechssl.workflows.stages import Stage, check_stages, run_stages
from speechssl.workflows.sweep import Ahead, tune

__all__ = ["corpus_stages", "default_preset", "run"]


def default_preset() -> str:
    """Return the preset of ``run`` for this machine."""
    return "run-gpu" if torch.cuda.is_available() else "run-cpu"


def _listing(folder: Path) -> str:
    """Return a hash of the names, sizes and times of all files under a folder."""
    digest = hashlib.blake2b(digest_size=16)
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(root) / name
            if path.is_symlink() and not path.exists():
                continue
            status = path.stat()
            digest.update(
                f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="replace")
            )
    return digest.hexdigest()


def _labels(shards: Path, cfg: RunConfig) -> dict[str, int]:
    """Return the number of transcribed utterances that each phase (train, dev, test) can use.

    ``untranscribed`` is the number of utterances for self-training.
    """
    every = read_manifest(shards / "manifest.jsonl")
    utterances = [utterance for utterance in every if utterance.text]
    counts = {}
    for phase, data in (("train", cfg.finetune.data), ("dev", cfg.finetune.dev), ("test", cfg.evaluate.data)):
        wanted = read_ids(data.ids) if data.ids else None
        counts[phase] = sum(u.id in wanted if wanted is not None else u.split in data.splits for u in utterances)
    counts["untranscribed"] = sum(u.text is None and (u.split or "train") == "train" for u in every)
    return counts


def _arms(cfg: RunConfig, output: Path) -> dict[str, FinetuneConfig]:
    """Return the fine-tuning of each arm: from the model of each round and, on request, from random weights."""
    shards = str(output / "shards")
    base = replace(
        cfg.finetune,
        data=replace(cfg.finetune.data, shards=shards),
        dev=replace(cfg.finetune.dev, shards=shards),
        model=cfg.pretrain.model,
    )
    arms = {
        name: replace(base, init=str(output / of_round("pretrain", number) / "model"), output=str(output / name))
        for number in range(1, cfg.rounds + 1)
        for name in [of_round("finetune", number)]
    }
    if cfg.scratch:
        arms["finetune-scratch"] = replace(base, init="", output=str(output / "finetune-scratch"))
    return arms


def corpus_stages(folder: Path, cfg: RunConfig, output: Path) -> list[Stage]:
    """Return the stages from a folder of audio to shards."""

    def make_manifest() -> None:
        with progress("manifest", unit="files") as advance:
            print(manifest_of(folder, output / "manifest", cfg.manifest, advance), flush=True)

    def make_shards() -> None:
        with progress("shard", unit="utterances") as advance:
            manifest = output / "manifest" / "manifest.jsonl"
            print(shard_manifest(manifest, output / "shards", cfg.shard, advance), flush=True)

    worker_free = replace(cfg.shard, workers=0)
    return [
        Stage(
            "manifest",
            {"folder": str(folder), "files": _listing(folder), **to_dict(replace(cfg.manifest, workers=0))},
            output / "manifest" / "manifest.jsonl",
            make_manifest,
        ),
        Stage("shard", to_dict(worker_free), output / "shards" / "manifest.jsonl", make_shards),
    ]


def _first_stages(folder: Path, cfg: RunConfig, output: Path) -> list[Stage]:
    """Return the stages before training: with a budget the last of them settles how long to train."""
    stages = corpus_stages(folder, cfg, output)
    return [*stages, _budget_stage(cfg, output)] if cfg.budget_hours else stages


def _budget_stage(cfg: RunConfig, output: Path) -> Stage:
    """Return the stage that settles the lengths of training, for the run's whole life."""
    path = output / "budget" / "lengths.json"

    def make() -> None:
        lengths = lengths_for(cfg, hours_of(output / "shards", cfg), measure_speed(cfg))
        print("\n".join(lengths.why), flush=True)
        path.parent.mkdir(exist_ok=True)
        write_json(path, to_dict(lengths))

    pretrain = pretraining_of(cfg, output, 1)
    key = {
        "budget_hours": cfg.budget_hours,
        "pretrain": decisive(pretrain),
        "finetune": decisive(cfg.finetune),
        "learning_rates": _rates(cfg),
        "scratch": cfg.scratch,
        "rounds": cfg.rounds,
        "jobs": cfg.jobs,
    }
    return Stage("budget", key, path, make)


def _with_budget(cfg: RunConfig, output: Path) -> RunConfig:
    """Return the configuration with the lengths that the budget stage has settled, if it has."""
    found = find_json(output / "budget" / "lengths.json") if cfg.budget_hours else None
    return with_lengths(cfg, from_dict(Lengths, found)) if found else cfg


def _pretrain_stage(cfg: RunConfig, output: Path, number: int) -> Stage:
    """Return the pretraining of a round."""
    name, pretraining = of_round("pretrain", number), pretraining_of(cfg, output, number)
    return Stage(
        name,
        decisive(pretraining),
        output / name / "model" / "config.json",
        lambda: print(pretrain(pretraining), flush=True),
    )


def _score_stages(cfg: RunConfig, output: Path, labels: dict[str, int], ahead: Ahead | None) -> list[Stage]:
    """Return fine-tuning and evaluation of every arm, and the pretraining of each round after the first.

    ``ahead`` is already fine-tuning the scratch arm.
    """
    split = "test" if labels["test"] else "dev"
    if split == "dev":
        print("no transcribed test utterances: the score below is on dev, where the model was selected", flush=True)
    scored = cfg.evaluate.data if split == "test" else cfg.finetune.dev
    tuning, scoring = [], []
    for number, (name, arm) in enumerate(_arms(cfg, output).items(), 1):
        if 1 < number <= cfg.rounds:
            tuning.append(_pretrain_stage(cfg, output, number))

        def make(name: str = name, arm: FinetuneConfig = arm) -> None:
            if ahead is not None and not arm.init:
                ahead.wait()
            tune(name, arm, _rates(cfg), output / "sweep", jobs=cfg.jobs, halve_at=cfg.halve_at)

        key = {**decisive(arm), "learning_rates": _rates(cfg)}
        if cfg.halve_at:
            key["halve_at"] = list(cfg.halve_at)
        tuning.append(Stage(name, key, output / name / "model" / "config.json", make, work=(output / "sweep",)))
        scoring.append(_score_stage(cfg, output, name, scored))
    if cfg.selftrain.rounds and labels["dev"] and labels["untranscribed"]:
        tuning.append(_selftrain_stage(cfg, output))
        scoring.append(_score_stage(cfg, output, "selftrain", scored))
    return tuning + scoring


def _score_stage(cfg: RunConfig, output: Path, name: str, scored: DataConfig) -> Stage:
    """Return the evaluation of the model in the folder ``name``."""
    place = output / (name.replace("finetune", "evaluate") if name != "selftrain" else "evaluate-selftrain")
    data = replace(scored, shards=str(output / "shards"))
    request = replace(cfg.evaluate, model=str(output / name / "model"), output=str(place), data=data)
    return Stage(
        place.name, to_dict(request), place / "wer.json", lambda: print(evaluate(request), flush=True), cheap=True
    )


def _selftrain_stage(cfg: RunConfig, output: Path) -> Stage:
    """Return self-training of the last round's recogniser, with the learning rate that dev chose for it."""
    name = of_round("finetune", cfg.rounds)
    student = _arms(cfg, output)[name]
    place = output / "selftrain"
    request = SelftrainConfig(
        output=str(place),
        model=str(output / name / "model"),
        labelling=cfg.selftrain,
        unlabelled=replace(student.data, splits=("train",), ids=()),
        test=replace(cfg.evaluate.data, shards=""),
        finetune=student,
    )

    def make() -> None:
        lr = read_toml(FinetuneConfig, output / name / "config.toml").optim.lr
        selftrain(replace(request, finetune=replace(student, optim=replace(student.optim, lr=lr))))

    key = {"labelling": to_dict(cfg.selftrain), "finetune": decisive(student)}
    return Stage("selftrain", key, place / "model" / "config.json", make)


def _rates(cfg: RunConfig) -> tuple[float, ...]:
    return cfg.learning_rates or (cfg.finetune.optim.lr,)


def _scratch_ahead(cfg: RunConfig, output: Path, labels: dict[str, int]) -> Ahead | None:
    """Return the fine-tuning from random weights, to go on while pretraining runs (it does not depend on it).

    Only with several jobs, and only until the arm is complete.
    """
    arm = _arms(cfg, output).get("finetune-scratch")
    if arm is None or cfg.jobs < 2 or not labels["train"] or is_model(output / "finetune-scratch" / "model"):
        return None
    work = partial(tune, "finetune-scratch", arm, _rates(cfg), output / "sweep", jobs=cfg.jobs - 1)
    return Ahead(lambda stop: work(halve_at=cfg.halve_at, stop=stop))


def run(folder: Path, cfg: RunConfig, begin: Callable[[str], object] = len) -> Path:
    """Go all the way from a folder of audio to a report; return the report's path.

    ``begin`` is called with the name of each stage that is run.

    Raises
    ------
    ConfigError
        The folder does not exist, the rounds contradict the objective, or a finished stage was made with other
        settings.
    DataError, RunError, InterruptedRun
        From the stages.
    """
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; give the folder that holds your audio")
    name = cfg.name or re.sub(r"[^A-Za-z0-9_-]+", "-", folder.name).strip("-") or "run"
    output = Path(cfg.output or f"runs/{name}").resolve()
    if output == folder or output in folder.parents:
        raise ConfigError(f"the output {output} must not hold the audio folder {folder}; give another --output")
    if cfg.init:
        cfg = replace(cfg, pretrain=replace(cfg.pretrain, init=cfg.init, model_from_init=True))
    if cfg.pretrain.model_from_init:  # the scratch arm has the same sizes
        cfg = replace(cfg, pretrain=with_initial_sizes(cfg.pretrain))
    check_rounds(cfg)
    output.mkdir(parents=True, exist_ok=True)
    remove_leftovers(output)
    cfg = settled_run(cfg, output / "config.toml")
    first, given = _first_stages(folder, cfg, output), cfg
    cfg = _with_budget(cfg, output)
    # A refused run leaves the configuration of the accepted one as it was.
    check_stages(output, [*first, _pretrain_stage(cfg, output, 1)])
    if not (output / "config.toml").exists():
        write_toml(cfg, output / "config.toml")
    run_stages(output, first, begin)
    cfg = _with_budget(given, output)
    labels = _labels(output / "shards", cfg)
    scored = bool(labels["train"] and (labels["dev"] or labels["test"]))
    if not scored:
        print(f"utterances: {labels}; nothing to fine-tune or score: pretraining only", flush=True)
    elif cfg.selftrain.rounds and not (labels["dev"] and labels["untranscribed"]):
        print(
            f"utterances: {labels}; self-training needs transcribed dev and untranscribed train: left out", flush=True
        )
    report = output / "report.html"
    last = Stage("report", time.time(), report, lambda: build_report(output), cheap=True)
    ahead = _scratch_ahead(cfg, output, labels) if scored else None
    trained = _pretrain_stage(cfg, output, 1)
    stages = [*first, trained, *(_score_stages(cfg, output, labels, ahead) if scored else []), last]
    check_stages(output, stages)
    write_toml(cfg, output / "config.toml")
    write_environment(output)
    with ahead or nullcontext():
        run_stages(output, stages, begin)
    print(f"report: {report}", flush=True)
    return report

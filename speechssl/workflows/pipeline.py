"""``speechssl run``: folder of audio -> manifest -> shards -> pretraining -> fine-tuning -> evaluation -> report.

Each stage is a name, the key of everything it depends on, the file that proves it is done, and a function. A stage
whose stamp holds the same key, and whose file is there, is skipped; a training stage resumes from its checkpoints.
"""

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from speechssl.config import EvaluateConfig, FinetuneConfig, RunConfig
from speechssl.config.load import to_dict, write_toml
from speechssl.core.environment import write_environment
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.files import find_json, remove_leftovers, write_json
from speechssl.core.progress import duration, progress
from speechssl.workflows.sweep import Ahead, tune

__all__ = ["Stage", "check_stages", "default_preset", "run", "run_stages"]

logger = logging.getLogger("speechssl.run")


@dataclass(frozen=True)
class Stage:
    """One step of the way."""

    name: str
    key: Any
    """Everything, besides the stages before it, that the result depends on (JSON-able)."""
    output: Path
    """The file whose presence says that the stage is complete."""
    make: Callable[[], object]
    work: tuple[Path, ...] = ()
    """Other folders in which it keeps work."""
    cheap: bool = False
    """Made again when its key has changed; any other stage then stops the run rather than throw work away."""

    @property
    def folders(self) -> list[Path]:
        """What to delete to make the stage again: the folder of the output (the run folder, of a model), and others."""
        folder = self.output.parent
        return [folder.parent if folder.name == "model" else folder, *self.work]


def default_preset() -> str:
    """Return the preset of ``run`` for this machine."""
    import torch

    return "run-gpu" if torch.cuda.is_available() else "run-cpu"


def check_stages(folder: Path, stages: list[Stage]) -> list[tuple[Stage, str, bool]]:
    """Return each stage with the key of all it depends on, and whether it is complete; nothing is run.

    Raises
    ------
    ConfigError
        A stage was completed with other settings, and making it again would throw work away.
    """
    found = []
    chain = ""
    for number, stage in enumerate(stages):
        text = json.dumps([chain, stage.name, stage.key], sort_keys=True, default=str)
        chain = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        stored = _stored(folder, stage)
        same = stored is not None and stored.get("key") == chain
        if stored is not None and not same and not stage.cheap:
            later = [path for each in stages[number:] if not each.cheap for path in each.folders if path.exists()]
            changes = _differences(stored.get("of"), json.loads(json.dumps(stage.key, default=str)))
            raise ConfigError(
                f"stage {stage.name!r} in {folder} was completed with other settings or from other files:\n  "
                + ("\n  ".join(changes) or "a stage before it has changed")
                + "\nGive a new --output, or rebuild this stage and all later ones: delete "
                + ", ".join(map(str, dict.fromkeys(later)))
            )
        found.append((stage, chain, same))
    return found


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Return ``name: old -> new`` for every value that differs between two JSON-able keys."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(each for each in new if each not in old)]
        return [x for each in names for x in _differences(old.get(each), new.get(each), f"{name}.{each}".strip("."))]
    if isinstance(old, list) and isinstance(new, list) and any(isinstance(x, list | dict) for x in old + new):
        return [x for a, b in zip_longest(old, new) for x in _differences(a, b, name)]
    return [] if old == new else [f"{name}: {json.dumps(old)} -> {json.dumps(new)}".removeprefix(": ")]


def _stamp(folder: Path, stage: Stage) -> Path:
    return folder / "stages" / f"{stage.name}.json"


def _stored(folder: Path, stage: Stage) -> dict[str, Any] | None:
    """Return the stamp of a stage, or None where the stage is to be made (again): what is torn counts as missing."""
    stamp = find_json(_stamp(folder, stage))
    if not isinstance(stamp, dict) or not stage.output.exists():
        return None
    now, then = _sizes(stage.output), stamp.get("files") or {}
    changed = [name for name, size in then.items() if now.get(name) != size]
    for name in changed:
        found = f"{now[name]:,} bytes, {then[name]:,} when it was finished" if name in now else "missing"
        logger.warning("%s: %s; stage %r is made again", stage.output.parent / name, found, stage.name)
    return None if changed else stamp


def _sizes(output: Path) -> dict[str, int]:
    """Return the size of each file beside the output of a stage: none may be cut later without being noticed."""
    found = (path for path in output.parent.iterdir() if path.is_file() and path.suffix not in (".lock", ".tmp"))
    return {path.name: path.stat().st_size for path in sorted(found)}


def run_stages(folder: Path, stages: list[Stage], begin: Callable[[str], object] = len) -> None:
    """Run stages in order, skipping those that are complete; ``begin`` is called with the name of each that is run.

    Raises
    ------
    ConfigError
        A stage was completed with other settings, and making it again would throw work away.
    DataError
        A stage ended without its output.
    """
    for number, (stage, chain, done) in enumerate(check_stages(folder, stages), 1):
        title = f"[{number}/{len(stages)}] {stage.name}"
        if done:
            print(f"{title}: done before", flush=True)
            continue
        print(title, flush=True)
        begin(stage.name)
        start = time.monotonic()
        stage.make()
        seconds = time.monotonic() - start
        if not stage.output.exists():
            raise DataError(f"stage {stage.name!r} ended without writing {stage.output}")
        record = {"key": chain, "of": stage.key, "seconds": seconds, "finished": time.time()}
        files = {} if stage.output.parent == folder else _sizes(stage.output)
        write_json(_stamp(folder, stage), {**record, "files": files}, default=str, indent=None)
        print(f"{title}: {duration(seconds)}", flush=True)


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
    """Return the number of transcribed utterances that each phase (train, dev, test) can use."""
    from speechssl.data.ingest.ids import read_ids
    from speechssl.data.ingest.manifest import read_manifest

    utterances = [utterance for utterance in read_manifest(shards / "manifest.jsonl") if utterance.text]
    counts = {}
    for phase, data in (("train", cfg.finetune.data), ("dev", cfg.finetune.dev), ("test", cfg.evaluate.data)):
        wanted = read_ids(data.ids) if data.ids else None
        counts[phase] = sum(u.id in wanted if wanted is not None else u.split in data.splits for u in utterances)
    return counts


def _arms(cfg: RunConfig, output: Path) -> dict[str, FinetuneConfig]:
    """Return the fine-tuning of each arm: from the pretrained model and, on request, from random weights."""
    shards = str(output / "shards")
    base = replace(
        cfg.finetune,
        data=replace(cfg.finetune.data, shards=shards),
        dev=replace(cfg.finetune.dev, shards=shards),
        model=cfg.pretrain.model,
    )
    arms = {"finetune": replace(base, init=str(output / "pretrain" / "model"), output=str(output / "finetune"))}
    if cfg.scratch:
        arms["finetune-scratch"] = replace(base, init="", output=str(output / "finetune-scratch"))
    return arms


def _train_stages(folder: Path, cfg: RunConfig, output: Path) -> list[Stage]:
    from speechssl.data.ingest.foreign.manifest import manifest_of
    from speechssl.data.store.writer import shard_manifest
    from speechssl.training.pretrain import pretrain
    from speechssl.training.run_folder import decisive

    pretraining = replace(
        cfg.pretrain, output=str(output / "pretrain"), data=replace(cfg.pretrain.data, shards=str(output / "shards"))
    )

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
        Stage(
            "pretrain",
            decisive(pretraining),
            output / "pretrain" / "model" / "config.json",
            lambda: print(pretrain(pretraining), flush=True),
        ),
    ]


def _score_stages(cfg: RunConfig, output: Path, labels: dict[str, int], ahead: Ahead | None) -> list[Stage]:
    """Return fine-tuning and evaluation of every arm; ``ahead`` is already fine-tuning the scratch arm."""
    from speechssl.asr.evaluate import evaluate
    from speechssl.training.run_folder import decisive

    split = "test" if labels["test"] else "dev"
    if split == "dev":
        print("no transcribed test utterances: the score below is on dev, where the model was selected", flush=True)
    scored = cfg.evaluate.data if split == "test" else cfg.finetune.dev
    tuning, scoring = [], []
    for name, arm in _arms(cfg, output).items():

        def make(name: str = name, arm: FinetuneConfig = arm) -> None:
            if ahead is not None and not arm.init:
                ahead.wait()
            tune(name, arm, _rates(cfg), output / "sweep", jobs=cfg.jobs, halve_at=cfg.halve_at)

        model = output / name / "model"
        key = {**decisive(arm), "learning_rates": _rates(cfg)}
        if cfg.halve_at:
            key["halve_at"] = list(cfg.halve_at)
        tuning.append(Stage(name, key, model / "config.json", make, work=(output / "sweep",)))
        place = output / name.replace("finetune", "evaluate")
        request = replace(
            cfg.evaluate, model=str(model), output=str(place), data=replace(scored, shards=str(output / "shards"))
        )

        def score(request: EvaluateConfig = request) -> None:
            print(evaluate(request), flush=True)

        scoring.append(Stage(place.name, to_dict(request), place / "wer.json", score, cheap=True))
    return tuning + scoring


def _rates(cfg: RunConfig) -> tuple[float, ...]:
    return cfg.learning_rates or (cfg.finetune.optim.lr,)


def _scratch_ahead(cfg: RunConfig, output: Path, labels: dict[str, int]) -> Ahead | None:
    """Return the fine-tuning from random weights, to go on while pretraining runs (it does not depend on it).

    Only with several jobs, and only until the arm is complete.
    """
    from speechssl.interop.model_folder import is_model

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
        The folder does not exist, or a finished stage was made with other settings.
    DataError, RunError, InterruptedRun
        From the stages.
    """
    from speechssl.reports.run.build import build_report
    from speechssl.training.precision import settled_run

    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; give the folder that holds your audio")
    name = cfg.name or re.sub(r"[^A-Za-z0-9_-]+", "-", folder.name).strip("-") or "run"
    output = Path(cfg.output or f"runs/{name}").resolve()
    if output == folder or output in folder.parents:
        raise ConfigError(f"the output {output} must not hold the audio folder {folder}; give another --output")
    output.mkdir(parents=True, exist_ok=True)
    remove_leftovers(output)
    cfg = settled_run(cfg, output / "config.toml")
    first = _train_stages(folder, cfg, output)
    check_stages(output, first)  # a refused run leaves the configuration of the accepted one as it was
    if not (output / "config.toml").exists():
        write_toml(cfg, output / "config.toml")
    run_stages(output, first[:2], begin)
    labels = _labels(output / "shards", cfg)
    scored = bool(labels["train"] and (labels["dev"] or labels["test"]))
    if not scored:
        print(f"transcribed utterances: {labels}; nothing to fine-tune or score: pretraining only", flush=True)
    report = output / "report.html"
    last = Stage("report", time.time(), report, lambda: build_report(output), cheap=True)
    ahead = _scratch_ahead(cfg, output, labels) if scored else None
    stages = [*first, *(_score_stages(cfg, output, labels, ahead) if scored else []), last]
    check_stages(output, stages)
    write_toml(cfg, output / "config.toml")
    write_environment(output)
    with ahead or nullcontext():
        run_stages(output, stages, begin)
    print(f"report: {report}", flush=True)
    return report

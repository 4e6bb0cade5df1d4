"""``speechssl selftrain``: transcribe untranscribed speech, keep what is sure, fine-tune on it too, and again.

In: ``SelftrainConfig``. Out: ``model/``, the model with the fewest errors on dev; ``selftrain.json`` with every round;
``rounds/``, a folder a stage, each with a ledger. workflows/stages.py skips what is complete.

Round r: the model of round r - 1 transcribes (``label-r``), confident transcripts are kept (``select-r``), a student is
fine-tuned on them and the true ones (``student-r``), dev is scored (``dev-r``).
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from speechssl.asr.evaluate import evaluate
from speechssl.asr.finetune import finetune
from speechssl.asr.pseudo_labels import (
    error_rate,
    judged,
    lowest_confidence,
    read_rows,
    select,
    write_rows,
)
from speechssl.config import DataConfig, EvaluateConfig, SelftrainConfig
from speechssl.config.load import to_dict, write_toml
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.files import atomic_folder, exclusive, read_json, remove_leftovers, write_atomic, write_json
from speechssl.core.ledger import Ledger
from speechssl.core.text_table import percent
from speechssl.evaluation.wer.hypotheses import read_hypotheses
from speechssl.training.run_folder import decisive
from speechssl.workflows.stages import Stage, check_stages, digest, run_stages
from speechssl.workflows.untranscribed import candidates, transcribed

__all__ = ["selftrain"]

AGAIN = "run `speechssl selftrain` again"


@dataclass(frozen=True)
class _Round:
    """Folders of a round; round 0 is the first teacher's."""

    place: Path
    number: int
    model: Path

    @property
    def dev(self) -> Path:
        return self.place / f"dev-{self.number}"

    @property
    def label(self) -> Path:
        return self.place / f"label-{self.number}"

    @property
    def select(self) -> Path:
        return self.place / f"select-{self.number}"

    def dev_error(self) -> float:
        rate = error_rate(judged(read_hypotheses(self.dev)))
        return float("inf") if rate is None else rate


def selftrain(cfg: SelftrainConfig) -> Path:
    """Repeat self-training while the error rate of dev falls; return the folder of the best model.

    Started again, it goes on where it was stopped.

    Raises
    ------
    ConfigError
        No shards are named, or a finished stage had other settings.
    DataError
        There is nothing to transcribe, or nothing to choose on (dev).
    RunError, InterruptedRun
        From fine-tuning.
    """
    output = Path(cfg.output or f"runs/{cfg.name}").resolve()
    cfg = _resolved(cfg, output)
    place = output / "rounds"
    teacher = Path(cfg.model) if cfg.model else place / "teacher" / "model"
    rounds = [_Round(place, 0, teacher)]
    rounds += [_Round(place, n, place / f"student-{n}" / "model") for n in range(1, cfg.labelling.rounds + 1)]
    first = [_candidates_stage(cfg, place)]
    if not cfg.model:
        first.append(_finetune_stage(cfg, rounds[0], pseudo=""))
    first.append(_dev_stage(cfg, rounds[0]))
    parts = [first]
    for before, now in pairwise(rounds):
        pseudo = str(now.select / "pseudo.jsonl")
        parts.append([_label_stage(cfg, place, before, now), _select_stage(cfg, before, now)])
        parts.append([_finetune_stage(cfg, now, pseudo=pseudo), _dev_stage(cfg, now)])
    check_stages(output, [stage for part in parts for stage in part])  # refused settings are found before any work
    output.mkdir(parents=True, exist_ok=True)
    with exclusive(output / "selftrain.lock"):
        return _rounds(cfg, output, rounds, parts)


def _rounds(cfg: SelftrainConfig, output: Path, rounds: Sequence[_Round], parts: Sequence[list[Stage]]) -> Path:
    """Run ``parts`` (before the rounds; then two for each round) until dev does not improve."""
    remove_leftovers(output)
    write_toml(cfg, output / "config.toml")
    stages: list[Stage] = []

    def go_on(part: list[Stage]) -> None:
        stages.extend(part)
        run_stages(output, stages, said=len(stages) - len(part))

    go_on(parts[0])
    best, done = rounds[0], [rounds[0]]
    for number, now in enumerate(rounds[1:], 1):
        go_on(parts[2 * number - 1])
        if not read_json(now.select / "selection.json", AGAIN)["kept"]:
            print(f"round {number}: nothing is kept; raise labelling.max_error, or set labelling.share", flush=True)
            break
        go_on(parts[2 * number])
        done.append(now)
        if not now.dev_error() < best.dev_error():
            break
        best = now
    summary = _summary(done, best)
    go_on([_best_stage(output, best, summary)])
    print(_table(summary), flush=True)
    return output / "model"


def _resolved(cfg: SelftrainConfig, output: Path) -> SelftrainConfig:
    """Return the configuration with one folder of shards for all, and the language model of the first teacher."""
    shards, cache = cfg.finetune.data.shards, cfg.finetune.data.cache
    if not shards:
        raise ConfigError("no shards to read; give finetune.data.shards, the folder that `speechssl shard` wrote")
    for name in ("unlabelled", "test"):
        if getattr(cfg, name).shards not in ("", shards):
            raise ConfigError(f"{name}.shards must be those of finetune.data: {shards}")
    if cfg.labelling.rounds < 1:
        raise ConfigError(f"labelling.rounds = {cfg.labelling.rounds}: self-training needs at least one round")

    def here(data: DataConfig) -> DataConfig:
        return replace(data, shards=data.shards or shards, cache=data.cache or cache)

    decoder = cfg.labelling.decoder
    if decoder.kind == "lm" and not decoder.lm:  # students have none in their model folder
        if not cfg.model:
            raise ConfigError("labelling.decoder.kind = lm: give labelling.decoder.lm, a language model")
        decoder = replace(decoder, lm=cfg.model)
    return replace(
        cfg,
        output=str(output),
        labelling=replace(cfg.labelling, decoder=decoder),
        unlabelled=here(cfg.unlabelled),
        test=here(cfg.test),
        finetune=replace(cfg.finetune, dev=here(cfg.finetune.dev)),
    )


def _candidates_stage(cfg: SelftrainConfig, place: Path) -> Stage:
    """Return the choice of the utterances to transcribe: ``candidates/ids.txt``, and a ledger of the others."""
    folder = place / "candidates"
    parts = {"unlabelled": cfg.unlabelled, "test": cfg.test, "dev": cfg.finetune.dev, "true": cfg.finetune.data}
    key: dict[str, Any] = {name: {"splits": data.splits, "ids": data.ids} for name, data in parts.items()}
    key["limits"] = {"min_seconds": cfg.unlabelled.min_seconds, "max_seconds": cfg.unlabelled.max_seconds}
    key["shards"] = digest(Path(cfg.unlabelled.shards) / "manifest.jsonl")

    def make() -> None:
        ledger = Ledger(folder / "ledger.jsonl", fresh=True)
        ids = candidates(cfg, ledger)
        print(f"{len(ids)} utterances to transcribe; left out: {_counted(ledger.counts())}", flush=True)
        if not ids:
            raise DataError(
                f"no utterance of {cfg.unlabelled.shards} is left to transcribe ({_counted(ledger.counts())}); choose "
                "others by unlabelled.splits or unlabelled.ids"
            )
        write_atomic(folder / "ids.txt", "".join(f"{name}\n" for name in ids))

    return Stage("candidates", key, folder / "ids.txt", make)


def _dev_stage(cfg: SelftrainConfig, now: _Round) -> Stage:
    request = EvaluateConfig(
        model=str(now.model),
        output=str(now.dev),
        data=cfg.finetune.dev,
        decoder=cfg.labelling.decoder,
        precision=cfg.finetune.training.precision,
        device=cfg.finetune.training.device,
    )
    key = {
        **to_dict(request),
        "weights": digest(Path(cfg.model) / "config.json") if now.number == 0 and cfg.model else "",
    }
    return Stage(now.dev.name, key, now.dev / "wer.json", lambda: print(evaluate(request), flush=True), cheap=True)


def _label_stage(cfg: SelftrainConfig, place: Path, before: _Round, now: _Round) -> Stage:
    """Return the transcription of all candidates by the model of the round before."""
    key = {"decoder": to_dict(cfg.labelling.decoder), "precision": cfg.finetune.training.precision}

    def make() -> None:
        ledger = Ledger(now.label / "ledger.jsonl", fresh=True)
        labels = list(transcribed(cfg, place / "candidates" / "ids.txt", before.model, ledger))
        write_rows(now.label / "transcripts.jsonl", sorted(labels, key=lambda one: one.id))

    return Stage(now.label.name, key, now.label / "transcripts.jsonl", make)


def _select_stage(cfg: SelftrainConfig, before: _Round, now: _Round) -> Stage:
    """Return the choice of what is kept: ``pseudo.jsonl``, a ledger of all, and ``selection.json``."""
    key = {"max_error": cfg.labelling.max_error, "share": cfg.labelling.share}

    def make() -> None:
        labels, dev = read_rows(now.label / "transcripts.jsonl"), judged(read_hypotheses(before.dev))
        threshold = lowest_confidence(dev, **key, labels=labels)
        kept, entries = select(labels, threshold)
        ledger = Ledger(now.select / "ledger.jsonl", fresh=True)
        ledger.extend(entries)
        write_rows(now.select / "pseudo.jsonl", kept)
        seconds = round(sum(one.seconds for one in kept), 3)
        selection = {
            "lowest_confidence": threshold.confidence,
            "dev_error_of_kept": threshold.dev_error,
            "dev_share_of_kept": threshold.dev_share,
            "transcribed": len(labels),
            "kept": len(kept),
            "kept_seconds": seconds,
            "reasons": ledger.counts(),
        }
        write_json(now.select / "selection.json", selection)
        print(
            f"{len(kept)} of {len(labels)} utterances are kept ({seconds / 3600:.2f} h); those of dev that pass have "
            f"an error rate of {percent(threshold.dev_error)} %",
            flush=True,
        )

    return Stage(now.select.name, key, now.select / "selection.json", make, cheap=True)


def _finetune_stage(cfg: SelftrainConfig, now: _Round, *, pseudo: str) -> Stage:
    """Return the fine-tuning of a student, or of the first teacher where ``pseudo`` is empty."""
    labels = replace(cfg.finetune.pseudo, labels=pseudo)
    student = replace(cfg.finetune, output=str(now.model.parent), pseudo=labels)
    name = now.model.parent.name
    return Stage(name, decisive(student), now.model / "config.json", lambda: print(finetune(student), flush=True))


def _best_stage(output: Path, best: _Round, summary: dict[str, Any]) -> Stage:
    """Return the last stage: a copy of the best model, and the summary."""
    target = output / "model"

    def make() -> None:
        write_json(output / "selftrain.json", summary)
        with atomic_folder(target) as folder:
            shutil.copytree(best.model, folder, dirs_exist_ok=True)

    return Stage("best", summary, target / "config.json", make, cheap=True)


def _summary(done: Sequence[_Round], best: _Round) -> dict[str, Any]:
    rows = []
    for now in done:
        chosen = read_json(now.select / "selection.json", AGAIN) if now.number else {}
        rows.append({"round": now.number, "model": str(now.model), "dev_error": now.dev_error(), **chosen})
    return {"best_round": best.number, "rounds": rows}


def _table(summary: dict[str, Any]) -> str:
    """Return one line a round."""
    lines = [f"{'round':>5} {'kept':>13} {'dev error of kept':>18} {'dev error':>10}"]
    for row in summary["rounds"]:
        kept = f"{row['kept']} of {row['transcribed']}" if "kept" in row else "teacher"
        expected = f"{percent(row['dev_error_of_kept'])} %" if "kept" in row else ""
        best = "  best" if row["round"] == summary["best_round"] else ""
        lines.append(f"{row['round']:>5} {kept:>13} {expected:>18} {percent(row['dev_error']):>8} %{best}")
    return "\n".join(lines)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "none"

"""Fine-tune an arm with several learning rates and keep the one with the lowest dev WER.

In: a fine-tuning configuration and rates. Out: the arm's run folder (config, metrics, ledger, model), and
``sweep.json`` with the dev WER of every candidate of every arm. ``Ahead`` does it while something else is running.

Successive halving (Jamieson and Talwalkar 2016) ends the worse half of the rates early: at each of ``halve_at`` all
rates that are left stop at the same update, and those with the lower dev character error rate go on. What was decided
follows from the candidates' own metrics, so a sweep that was killed decides the same again.
"""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from speechssl.asr.finetune import finetune, with_steps
from speechssl.config import FinetuneConfig
from speechssl.config.load import read_toml, to_dict, write_toml
from speechssl.core.errors import InterruptedRun, RunError
from speechssl.core.files import atomic_folder, read_json, write_json
from speechssl.interop.model_folder import is_model
from speechssl.training.checkpoints.checkpoint import Checkpoints
from speechssl.training.monitoring.log import read_metrics
from speechssl.training.run_folder import config_changes
from speechssl.workflows.side_by_side import EXIT_INTERRUPTED, run_all, start, tail

__all__ = ["Ahead", "Candidate", "tune"]


@dataclass(frozen=True)
class Candidate:
    """One fine-tuning of one arm."""

    arm: str
    lr: float
    cfg: FinetuneConfig

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return Path(self.cfg.output)

    @property
    def done(self) -> bool:
        """Whether its model is there."""
        return is_model(self.folder / "model")

    def check(self) -> None:
        """Refuse a finished candidate that had other settings."""
        stored = self.folder / "config.toml"
        if not self.done or not stored.exists():
            return
        changes = config_changes(to_dict(read_toml(FinetuneConfig, stored)), to_dict(self.cfg))
        if changes:
            raise RunError(
                f"{self.folder} is complete, but was trained with other settings:\n  " + "\n  ".join(changes) + "\n"
                "Delete it to train it again"
            )

    def reached(self, step: int) -> bool:
        """Whether it is complete, or was saved at ``step`` or after it."""
        return self.done or any(saved >= step for saved in Checkpoints(self.folder / "checkpoints").steps())

    def dev_at(self, step: int) -> dict[str, float]:
        """Return the validation at ``step``, or the last one of a run that stopped before; empty without a dev set."""
        rows = read_metrics(self.folder / "metrics.jsonl")
        return next((row for row in reversed(rows) if row["phase"] == "valid" and row["step"] <= step), {})

    def dev_wer(self) -> float:
        """Return the dev WER (CER in a script without spaces) of the kept checkpoint; infinite without a dev set."""
        info = read_json(self.folder / "model" / "config.json", f"delete {self.folder} to train it again")["info"]
        rate = info.get("dev_cer") if info.get("dev_wer") is None else info["dev_wer"]
        return float("inf") if rate is None else float(rate)


def _start(candidate: Candidate, threads: int) -> subprocess.Popen[bytes]:
    """Start a candidate in a process of its own; its log lies beside its output."""
    request = candidate.folder / "request.toml"
    write_toml(candidate.cfg, request)
    print(f"  {candidate.arm}, learning rate {candidate.lr:g}: started", flush=True)
    return start(["finetune", str(request)], candidate.folder / "log.txt", {"OMP_NUM_THREADS": str(threads)})


def _check(candidate: Candidate, code: int) -> None:
    """Say how a finished candidate did, or raise."""
    pause = candidate.cfg.training.pause_at
    if code == EXIT_INTERRUPTED and pause and candidate.reached(pause):
        return
    if code == EXIT_INTERRUPTED:
        raise InterruptedRun(f"{candidate.folder} saved itself; run the same command again to resume")
    if code:
        raise tail(candidate.folder / "log.txt", f"fine-tuning in {candidate.folder}", code)
    print(f"  {candidate.arm}, learning rate {candidate.lr:g}: dev WER {candidate.dev_wer():.1%}", flush=True)


def _processes(waiting: list[Candidate], jobs: int, stop: threading.Event | None) -> None:
    """Run candidates, ``jobs`` at a time, until all are done or ``stop`` is set."""
    # Divide the cores among the jobs: more threads than cores slow all of them.
    others = 0 if stop is None else 1  # work done ahead runs beside a training in the main process
    threads = max(1, (os.cpu_count() or 1) // (jobs + others))
    run_all(waiting, lambda candidate, _: _start(candidate, threads), _check, jobs=jobs, stop=stop)


def tune(
    arm: str,
    cfg: FinetuneConfig,
    rates: Sequence[float],
    folder: Path,
    *,
    jobs: int = 1,
    halve_at: Sequence[float] = (),
    stop: threading.Event | None = None,
) -> None:
    """Fine-tune with every rate; leave the best candidate in ``cfg.output``.

    Parameters
    ----------
    arm
        Name in messages and in ``sweep.json``.
    cfg
        What to train; ``output`` is where the best candidate goes.
    rates
        Peak learning rates; with a single one and a single job the arm is trained in place, in this process.
    folder
        Where the candidates and ``sweep.json`` go.
    jobs
        Candidates at a time, each in its own process.
    halve_at
        Shares of the updates after which the worse half of the rates that are left ends.
    stop
        When it is set, running candidates are asked to save themselves, and the call returns.

    Raises
    ------
    RunError
        A candidate failed; the message ends with the last lines of its log.
    InterruptedRun
        A candidate was asked to stop and saved itself.
    """
    if halve_at:
        cfg = with_steps(cfg)
    candidates = []
    for lr in rates:
        output = cfg.output if len(rates) == 1 else str(folder / f"{arm}-lr-{lr:g}")
        candidates.append(Candidate(arm, lr, replace(cfg, output=output, optim=replace(cfg.optim, lr=lr))))
    for candidate in candidates:
        candidate.check()
    left, ended = candidates, dict[Candidate, int]()
    for step in sorted({round(share * cfg.training.steps) for share in halve_at}):
        if len(left) == 1 or not 0 < step < cfg.training.steps:
            continue
        _train([_until(each, step) for each in left if not each.reached(step)], jobs, stop)
        if stop is not None and stop.is_set():
            return
        order = sorted(left, key=lambda each: (each.dev_at(step).get("dev_cer", float("inf")), each.lr))
        left = order[: (len(order) + 1) // 2]
        for each in order[len(left) :]:
            ended[each] = step
            wer = _wer(each.dev_at(step))
            print(f"  {arm}, learning rate {each.lr:g}: {wer} after {step} updates, ended", flush=True)
    _train([candidate for candidate in left if not candidate.done], jobs, stop)
    if len(rates) > 1 and all(candidate.done for candidate in left):
        _keep_best(candidates, ended, Path(cfg.output), folder / "sweep.json")


def _until(candidate: Candidate, step: int) -> Candidate:
    """Return a candidate that stops at ``step``."""
    training = replace(candidate.cfg.training, pause_at=step)
    return replace(candidate, cfg=replace(candidate.cfg, training=training))


def _wer(row: dict[str, float]) -> str:
    return f"dev WER {row['dev_wer']:.1%}" if "dev_wer" in row else "no dev WER"


def _train(waiting: list[Candidate], jobs: int, stop: threading.Event | None) -> None:
    """Train candidates to their end, or to where they pause: in this process for one job, else in their own."""
    if jobs > 1 or stop is not None:
        _processes(waiting, jobs, stop)
        return
    for candidate in waiting:
        pause = candidate.cfg.training.pause_at
        try:
            finetune(candidate.cfg)
        except InterruptedRun:
            if not pause or not candidate.reached(pause):
                raise


def _keep_best(candidates: list[Candidate], ended: dict[Candidate, int], target: Path, listing: Path) -> None:
    """Copy the candidate with the lowest dev WER to ``target``, and list all of them, also those that ended early."""
    best = min((each for each in candidates if each not in ended), key=lambda each: (each.dev_wer(), each.lr))
    # Checkpoints stay with the candidate: the arm's folder is for reading.
    left_out = shutil.ignore_patterns("checkpoints", "request.toml", "*.lock")
    with atomic_folder(target) as folder:
        shutil.copytree(best.folder, folder, ignore=left_out, dirs_exist_ok=True)
    others = read_json(listing, "delete it and run again") if listing.exists() else []
    rows = [row for row in others if row["arm"] != best.arm]
    for each in candidates:
        step = ended.get(each)
        wer = each.dev_wer() if step is None else each.dev_at(step).get("dev_wer", float("inf"))
        row = {"arm": each.arm, "lr": each.lr, "dev_wer": wer, "kept": each is best, "ended_at": step}
        rows.append({**row, "folder": str(each.folder)})
    write_json(listing, rows)


class Ahead:
    """Work that goes on in a thread while later stages run; leaving the block before it is done asks it to stop.

    ``with Ahead(work) as ahead: ...; ahead.wait()``: ``work`` is called with an event that is set when it should stop.
    """

    def __init__(self, work: Callable[[threading.Event], None]) -> None:
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)

    def _run(self, work: Callable[[threading.Event], None]) -> None:
        try:
            work(self._stop)
        except BaseException as error:
            self._error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def wait(self) -> None:
        """Return when the work is done; raise what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

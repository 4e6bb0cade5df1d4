"""Fine-tune several arms with several learning rates and keep, for each arm, the rate with the lowest dev WER.

In: fine-tuning configurations by arm name. Out: for each arm its run folder (config, metrics, ledger, model), and
``sweep.json`` with the dev WER of every candidate. Every arm gets the same rates and the same updates.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from speechssl.config import FinetuneConfig
from speechssl.errors import InterruptedRun, RunError
from speechssl.settings import write_toml

__all__ = ["Candidate", "tune"]

EXIT_INTERRUPTED = 75


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
        return (self.folder / "model" / "config.json").exists()

    def dev_wer(self) -> float:
        """Return the dev WER of the kept checkpoint (infinite when there was no dev set)."""
        info = json.loads((self.folder / "model" / "config.json").read_text(encoding="utf-8"))["info"]
        return float("inf") if info.get("dev_wer") is None else float(info["dev_wer"])


def _processes(waiting: list[Candidate], jobs: int) -> None:
    """Run candidates in processes of their own, ``jobs`` at a time; each writes its log beside its output."""
    running: dict[Candidate, subprocess.Popen[bytes]] = {}
    # The cores are shared out: more threads than cores make every job slower.
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                candidate = waiting.pop(0)
                candidate.folder.mkdir(parents=True, exist_ok=True)
                request = candidate.folder / "request.toml"
                write_toml(candidate.cfg, request)
                with (candidate.folder / "log.txt").open("ab") as log:
                    running[candidate] = subprocess.Popen(
                        [sys.executable, "-m", "speechssl", "finetune", str(request)],
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, "OMP_NUM_THREADS": threads},
                    )
                print(f"  {candidate.arm}, learning rate {candidate.lr:g}: started", flush=True)
            time.sleep(0.2)
            for candidate, process in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[candidate]
                if code == EXIT_INTERRUPTED:
                    raise InterruptedRun(f"{candidate.folder} saved itself; run the same command again to resume")
                if code:
                    tail = (
                        (candidate.folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
                    )
                    raise RunError(f"fine-tuning in {candidate.folder} failed (exit code {code}):\n" + "\n".join(tail))
                print(
                    f"  {candidate.arm}, learning rate {candidate.lr:g}: dev WER {candidate.dev_wer():.1%}", flush=True
                )
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def tune(arms: Mapping[str, FinetuneConfig], rates: Sequence[float], folder: Path, *, jobs: int = 1) -> None:
    """Fine-tune every arm with every rate; leave each arm's best candidate in the arm's own output folder.

    Parameters
    ----------
    arms
        Configuration of each arm; ``output`` is where its best candidate goes.
    rates
        Peak learning rates; with a single one and a single job the arm is trained in place, in this process.
    folder
        Where the candidates and ``sweep.json`` go.
    jobs
        Candidates at a time, each in its own process.

    Raises
    ------
    RunError
        A candidate failed; the message ends with the last lines of its log.
    InterruptedRun
        A candidate was asked to stop and saved itself.
    """
    candidates = []
    for arm, cfg in arms.items():
        for lr in rates:
            output = cfg.output if len(rates) == 1 else str(folder / f"{arm}-lr-{lr:g}")
            candidates.append(Candidate(arm, lr, replace(cfg, output=output, optim=replace(cfg.optim, lr=lr))))
    waiting = [candidate for candidate in candidates if not candidate.done]
    if jobs == 1:
        from speechssl.asr.finetune import finetune

        for candidate in waiting:
            finetune(candidate.cfg)
    else:
        _processes(waiting, jobs)
    if len(rates) == 1:
        return
    rows = []
    for arm, cfg in arms.items():
        mine = [candidate for candidate in candidates if candidate.arm == arm]
        best = min(mine, key=lambda candidate: (candidate.dev_wer(), candidate.lr))
        target = Path(cfg.output)
        temporary = target.with_name(target.name + ".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        # Checkpoints stay with the candidate: the arm's folder is for reading.
        shutil.copytree(best.folder, temporary, ignore=shutil.ignore_patterns("checkpoints", "request.toml", "*.lock"))
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
        rows += [
            {"arm": arm, "lr": each.lr, "dev_wer": each.dev_wer(), "kept": each is best, "folder": str(each.folder)}
            for each in mine
        ]
    (folder / "sweep.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")

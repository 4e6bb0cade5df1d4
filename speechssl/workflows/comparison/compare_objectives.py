"""``speechssl compare-objectives``: every objective on equal terms, from pretraining to one page.

In: ``CompareObjectivesConfig``. Out: a folder with one run an arm and seed (pretraining, then for each label set the
fine-tunings, of which dev chooses one, and its scores on dev and test; then probes, if any), and ``objectives.html``,
``.json``, ``.txt``.
Arms run side by side, each a command line of this verb with ``only``. Finished stages are not made again; an arm that
fails does not stop the others.
"""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from speechssl.asr.evaluate import evaluate
from speechssl.config import CompareObjectivesConfig, FinetuneConfig, RunConfig
from speechssl.config.load import read_toml, to_dict, write_toml
from speechssl.core.environment import write_environment
from speechssl.core.errors import ConfigError, InterruptedRun, RunError
from speechssl.core.files import read_json, remove_leftovers, write_json
from speechssl.core.progress import duration
from speechssl.reports.comparison.objective_results import CHOSEN, ArmRun
from speechssl.reports.comparison.objectives_page import build_objectives
from speechssl.training.pretrain import pretrain
from speechssl.training.run_folder import decisive
from speechssl.workflows.comparison.arm_costs import ArmCost, arm_costs, expected_seconds, slot_environments
from speechssl.workflows.comparison.arm_probes import check_probes, probe_stages
from speechssl.workflows.comparison.arms import Arm, Labels, arms_of, finetunings, labels_of, pretrainings, runs_of
from speechssl.workflows.pipeline import corpus_stages
from speechssl.workflows.side_by_side import EXIT_INTERRUPTED, run_all, start, tail
from speechssl.workflows.stages import Stage, check_stages, digest, run_stages
from speechssl.workflows.sweep import tune

__all__ = ["compare_objectives"]


def compare_objectives(cfg: CompareObjectivesConfig) -> Path:
    """Train and score all arms, and write the page; return its path (with ``only``, the output folder).

    Raises
    ------
    ConfigError
        Arms or labels cannot be used, or a finished stage had other settings.
    RunError
        An arm failed. The others were trained, and the page has them.
    InterruptedRun
        An arm saved itself; the same command goes on.
    """
    output = Path(cfg.output).resolve()
    output.mkdir(parents=True, exist_ok=True)
    cfg = _with_shards(replace(cfg, output=str(output)), output)
    arms, labels = arms_of(cfg), labels_of(cfg)
    every = {_name(arm, seed): (arm, seed) for arm, seed in runs_of(arms, (*cfg.seeds, *cfg.finalist_seeds))}
    if unknown := set(cfg.only) - every.keys():
        raise ConfigError(f"only: there is no {', '.join(sorted(unknown))}; the arms are {', '.join(every)}")
    if cfg.only:
        for name in cfg.only:
            run_stages(output / "arms" / name, _stages(cfg, *every[name], labels, output / "arms" / name))
        return output
    remove_leftovers(output, deep=False)
    check_probes(cfg)
    for name, run in every.items():  # a refused setting is found before anything is made
        check_stages(output / "arms" / name, _stages(cfg, *run, labels, output / "arms" / name))
    write_toml(cfg, output / "config.toml")
    write_environment(output)
    slots = slot_environments(cfg.jobs)
    costs = arm_costs(cfg, arms, labels, slots, output / "costs.json")
    failed = _train(cfg, runs_of(arms, cfg.seeds), costs, labels, slots)
    again = _finalists(cfg, arms, labels) if cfg.finalists else []
    if again:
        failed += _train(cfg, runs_of(again, cfg.finalist_seeds), costs, labels, slots)
    done = [
        ArmRun(arm.name, arm.title, seed, arm.causal, arm.objective is None, output / "arms" / name)
        for name, (arm, seed) in every.items()
        if _done(cfg, arm, seed, labels)
    ]
    page = build_objectives(cfg, done, [each.name for each in labels], costs)
    print(f"page: {page}", flush=True)
    if failed:
        raise RunError(f"{len(failed)} arms failed:\n" + "\n".join(map(str, failed)))
    return page


def _with_shards(cfg: CompareObjectivesConfig, output: Path) -> CompareObjectivesConfig:
    """Make shards of the corpus folder, where one is given, and return the configuration that reads them."""
    if not cfg.corpus:
        return cfg
    made = RunConfig(manifest=cfg.manifest, shard=cfg.shard)
    run_stages(output, corpus_stages(Path(cfg.corpus).expanduser().resolve(), made, output))
    data = replace(cfg.pretrain.data, shards=str(output / "shards"))
    return replace(cfg, corpus="", pretrain=replace(cfg.pretrain, data=data))


def _name(arm: Arm, seed: int) -> str:
    return f"{arm.name}-seed-{seed}"


def _stages(cfg: CompareObjectivesConfig, arm: Arm, seed: int, labels: Sequence[Labels], folder: Path) -> list[Stage]:
    """Return all that is made of one arm with one seed."""
    stages = []
    for name, training in pretrainings(cfg, arm, seed, folder).items():
        key = {**decisive(training), "shards": digest(Path(training.data.shards) / "manifest.jsonl")}
        output = folder / name / "model" / "config.json"
        stages.append(Stage(name, key, output, lambda training=training: pretrain(training)))  # type: ignore[misc]
    for each in labels:
        tunings, place = finetunings(cfg, arm, seed, each, folder), folder / each.name
        rates = (cfg.scratch_rates if arm.objective is None else ()) or cfg.learning_rates
        key = {name: decisive(tuning) for name, tuning in tunings.items()}
        key |= {"rates": rates, "halve_at": cfg.halve_at, "shards": digest(Path(each.train.shards) / "manifest.jsonl")}

        def choose(
            tunings: dict[str, FinetuneConfig] = tunings, place: Path = place, rates: tuple[float, ...] = rates
        ) -> None:
            for name, tuning in tunings.items():
                tune(name, tuning, rates, place / "sweep", halve_at=cfg.halve_at)
            _choose(list(tunings.values()), place)

        stages.append(Stage(each.name, key, place / CHOSEN, choose))
        for split, data in (("dev", each.dev), ("test", each.test)):
            request = replace(cfg.evaluate, data=data, output=str(place / split), seed=cfg.evaluate.seed)

            def score(request=request, place: Path = place) -> None:  # type: ignore[no-untyped-def]
                chosen = read_json(place / CHOSEN, f"delete {place} to train it again")
                evaluate(replace(request, model=chosen["model"]))

            output = place / split / "wer.json"
            stages.append(Stage(f"{each.name}-{split}", to_dict(request), output, score, cheap=True))
    return stages + probe_stages(cfg, labels, folder)


def _choose(tunings: Sequence[FinetuneConfig], place: Path) -> None:
    """Write down which model has the lowest dev WER."""
    found = []
    for tuning in tunings:
        model = Path(tuning.output) / "model"
        info = read_json(model / "config.json", f"delete {tuning.output} to train it again")["info"]
        dev = info.get("dev_cer") if info.get("dev_wer") is None else info["dev_wer"]
        lr = read_toml(FinetuneConfig, Path(tuning.output) / "config.toml").optim.lr
        found.append({"model": str(model), "init": tuning.init, "lr": lr, "dev": dev})
    write_json(place / CHOSEN, min(found, key=lambda one: float("inf") if one["dev"] is None else one["dev"]))


def _done(cfg: CompareObjectivesConfig, arm: Arm, seed: int, labels: Sequence[Labels]) -> bool:
    folder = Path(cfg.output) / "arms" / _name(arm, seed)
    return all(done for *_, done in check_stages(folder, _stages(cfg, arm, seed, labels, folder)))


def _train(
    cfg: CompareObjectivesConfig,
    runs: Sequence[tuple[Arm, int]],
    costs: dict[str, ArmCost],
    labels: Sequence[Labels],
    slots: Sequence[dict[str, str]],
) -> list[RunError]:
    """Run what is not done yet, the longest first; return what failed."""
    left = [run for run in runs if not _done(cfg, *run, labels)]
    left.sort(key=lambda run: -costs[run[0].name].seconds)
    seconds = expected_seconds([costs[arm.name].seconds for arm, _ in left], len(slots))
    said = f"; {len(runs) - len(left)} are done already" if len(left) < len(runs) else ""
    print(
        f"{len(left)} arms, {len(slots)} at a time: about {duration(seconds)}, as long as this machine is as fast as "
        f"when updates were measured{said}",
        flush=True,
    )
    began = time.monotonic()
    output = Path(cfg.output)
    failed: list[RunError] = []

    def begin(run: tuple[Arm, int], slot: int) -> subprocess.Popen[bytes]:
        name = _name(*run)
        print(f"  {name}: started, about {duration(costs[run[0].name].seconds)}", flush=True)
        words = ["compare-objectives", str(output / "config.toml"), "--only", name]
        return start(words, output / "arms" / name / "log.txt", slots[slot])

    def end(run: tuple[Arm, int], code: int) -> None:
        name = _name(*run)
        if code == EXIT_INTERRUPTED:
            raise InterruptedRun(f"{output} saved itself; run the same command again to resume")
        if code:
            failed.append(tail(output / "arms" / name / "log.txt", name, code))
        print(f"  {name}: {f'failed (exit code {code})' if code else 'done'}", flush=True)

    run_all(left, begin, end, jobs=len(slots))
    if left:
        print(f"{len(left)} arms took {duration(time.monotonic() - began)}", flush=True)
    return failed


def _finalists(cfg: CompareObjectivesConfig, arms: Sequence[Arm], labels: Sequence[Labels]) -> list[Arm]:
    """Return the best objectives by dev WER, a mean over label sets and seeds, and the arms from random weights."""

    def dev(arm: Arm) -> float:
        places = [Path(cfg.output) / "arms" / _name(arm, seed) / each.name for seed in cfg.seeds for each in labels]
        found = [read_json(place / CHOSEN, f"delete {place} to train it again")["dev"] for place in places]
        return sum(float("inf") if rate is None else rate for rate in found) / len(found)

    trained = [arm for arm in arms if all(_done(cfg, arm, seed, labels) for seed in cfg.seeds)]
    ranked = sorted((arm for arm in trained if arm.objective is not None), key=dev)
    return [*ranked[: cfg.finalists], *(arm for arm in trained if arm.objective is None)]

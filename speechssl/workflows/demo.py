"""``speechssl demo``: what is pretraining worth? The whole way on a corpus made on the spot, or on a folder of yours.

The same model is fine-tuned on the same few labels twice, from pretrained and from random weights, with the same
learning rates to choose from (on dev) and the same updates; both word error rates are printed with their intervals.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from speechssl.config import RunConfig
from speechssl.core.processes import cores
from speechssl.core.progress import Whole, duration
from speechssl.data.synth.corpus import SynthConfig, make_corpus
from speechssl.evaluation.wer.hypotheses import read_hypotheses, score_row
from speechssl.evaluation.wer.summary import summarise
from speechssl.evaluation.wer.wer import compare_systems
from speechssl.workflows.outlook import Hours, expected_seconds, measure_speed

__all__ = ["DemoConfig", "demo"]


@dataclass(frozen=True)
class DemoConfig:
    """The corpus and the run."""

    output: str = "demo"
    """Folder of everything the demo makes."""
    corpus: str = ""
    """Folder of real audio to use instead of synthetic speech."""
    smoke: bool = False
    """A run of under two minutes that shows that everything works, and nothing about accuracy."""
    synth: SynthConfig = field(default_factory=SynthConfig)
    run: RunConfig = field(default_factory=RunConfig)


def _table(output: Path) -> str:
    """Return both arms' word error rates, their intervals and the difference as text, greedily decoded as well."""
    folders = {"pretrained": output / "evaluate", "from scratch": output / "evaluate-scratch"}
    arms = {title: read_hypotheses(folder) for title, folder in folders.items()}
    info = json.loads((folders["pretrained"] / "wer.json").read_text(encoding="utf-8")).get("info", {})
    if not all("greedy" in row for rows in arms.values() for row in rows):
        return _comparison(arms, info.get("decoder", ""))
    greedy = {
        title: [score_row(row["id"], row["ref"], row["greedy"], speaker=row.get("speaker")) for row in rows]
        for title, rows in arms.items()
    }
    return _comparison(arms, info.get("decoder", "")) + "\n\n" + _comparison(greedy, "greedy")


def _comparison(arms: Mapping[str, Sequence[Mapping[str, Any]]], decoding: str) -> str:
    """Return the lines of one way of decoding."""
    lines = [f"{'':22} {'WER':>7}   95 % interval" + (f" ({decoding})" if decoding else "")]
    wers = {}
    for title, rows in arms.items():
        score = summarise(rows)
        wers[title] = score.wer
        lines.append(f"{title:22} {_percent(score.wer)}   {_percent(score.ci_low)} to {_percent(score.ci_high)}")
    if wers["from scratch"] and wers["pretrained"] is not None:
        lines.append(f"{'relative reduction':22} {_percent(1 - wers['pretrained'] / wers['from scratch'])}")
    paired = compare_systems(arms["from scratch"], arms["pretrained"])
    if paired is not None:
        lines.append(
            f"{'difference':22} {_percent(paired.difference)}   {_percent(paired.low)} to {_percent(paired.high)} "
            "(paired bootstrap)"
        )
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "    n/a" if value is None else f"{value:7.1%}"


def _outlook(cfg: DemoConfig, output: Path) -> dict[str, float]:
    """Say what is about to be done and how long it will take here; return the seconds of each stage that is left."""
    synth = cfg.synth
    minutes = (synth.unlabelled_minutes, synth.labelled_minutes, synth.dev_minutes, synth.test_minutes)
    print(
        f"demo: {minutes[0]:g} minutes of synthetic speech (espeak-ng) without transcripts, {minutes[1]:g} with; the "
        f"same model is fine-tuned from pretrained and from random weights, and scored on {minutes[3]:g} minutes",
        flush=True,
    )
    speed = measure_speed(cfg.run)
    expected = expected_seconds(cfg.run, Hours(*(each / 60 for each in minutes)), speed, corpus=True)
    stamps = output / "run" / "stages"
    left = {name: seconds for name, seconds in expected.items() if not (stamps / f"{name}.json").exists()}
    if (output / "corpus" / "corpus.json").exists():
        left.pop("corpus", None)
    print(
        f"an update takes {1000 * speed.pretrain:.0f} ms in pretraining, {1000 * speed.finetune:.0f} ms in fine-tuning "
        f"(measured now): about {duration(sum(left.values()))} in all on {cores()} cores, as they are now"
        + (f"; {len(expected) - len(left)} stages are done already" if len(left) < len(expected) else ""),
        flush=True,
    )
    return left


def _silent(name: str) -> None:
    """Take no notice of a stage."""


def demo(cfg: DemoConfig) -> Path:
    """Make the corpus (unless one is given), run both arms, print the comparison; return the report's path.

    Raises
    ------
    ConfigError
        The synthesiser is not installed (``pip install 'speechssl[demo]'``) and no corpus was given.
    """
    start = time.monotonic()
    output = Path(cfg.output).resolve()
    corpus = Path(cfg.corpus).expanduser() if cfg.corpus else output / "corpus"
    place = output / "run"
    cfg = replace(cfg, run=replace(cfg.run, output=str(place), scratch=True))
    expected = {} if cfg.corpus else _outlook(cfg, output)
    with Whole(expected) if expected else nullcontext() as whole:
        begin = whole.begin if whole else _silent
        if not cfg.corpus:
            begin("corpus")
            print(make_corpus(corpus, cfg.synth), flush=True)
        from speechssl.workflows.pipeline import run  # torch comes with it: the first screen does not wait for it

        report = run(corpus, cfg.run, begin)
    if (place / "evaluate-scratch" / "wer.json").exists():
        print("\n" + _table(place))
    if cfg.smoke:
        print("(smoke size: it shows that everything works; the word error rates mean nothing)")
    print(f"{duration(time.monotonic() - start)} in all; report: {report}", flush=True)
    return report

"""Tunes a decoder: finds the language model weight and the word score with the fewest word errors on a dev set.

In: ``TuneConfig``. Out: ``decoder.toml``, to be given to ``speechssl evaluate``, and ``tune.json`` with every point
that was tried. The model runs once; its log-probabilities stay in memory. The same inputs give the same choice.
"""

import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from speechssl.asr.ctc import load_recogniser
from speechssl.asr.decoding.decode import greedy
from speechssl.asr.decoding.decoders import searcher
from speechssl.asr.decoding.language_model import open_graph
from speechssl.asr.labelled import open_labelled
from speechssl.asr.recognise import recognise
from speechssl.asr.tokens import Tokens
from speechssl.config import DecoderConfig, EvaluateConfig, TuneConfig
from speechssl.config.load import to_toml
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.files import write_atomic, write_json
from speechssl.core.ledger import Ledger
from speechssl.data.batches.stream import evaluation_batches
from speechssl.data.ingest.ids import say_absent
from speechssl.evaluation.wer.edit_distance import align_characters, score_utterance
from speechssl.training.parallel import start_parallel
from speechssl.training.precision import agreed

__all__ = ["Choice", "Point", "search_weights", "tune"]


@dataclass(frozen=True)
class Point:
    """One setting and its score on dev."""

    lm_weight: float
    word_score: float
    errors: int
    """Wrong words: substitutions, deletions, insertions."""
    character_errors: int
    wer: float

    @property
    def rank(self) -> tuple[int, int, float, float, float]:
        """Fewest wrong words first, then fewest wrong characters, then the smallest weights."""
        return (self.errors, self.character_errors, self.lm_weight, abs(self.word_score), self.word_score)


@dataclass(frozen=True)
class Choice:
    """The result of tuning."""

    best: Point
    points: tuple[Point, ...]
    """All that were tried, best first."""
    greedy_wer: float
    warnings: tuple[str, ...]
    settings: Path
    """``decoder.toml``."""

    def __str__(self) -> str:
        """Return the ten best points, the choice and the warnings."""
        lines = [f"{'lm_weight':>9} {'word_score':>10} {'dev WER':>8}"]
        lines += [f"{p.lm_weight:9g} {p.word_score:10g} {p.wer:8.2%}" for p in self.points[:10]]
        lines += [f"{'greedy':>20} {self.greedy_wer:8.2%}", *(f"warning: {warning}" for warning in self.warnings)]
        return "\n".join([*lines, f"decode with: speechssl evaluate {self.settings}"])


class Measure(Protocol):
    """Decodes dev with several settings."""

    def __call__(self, points: Sequence[tuple[float, float]]) -> list[Point]:
        """Return a point for each (lm_weight, word_score)."""


def search_weights(measure: Measure, cfg: TuneConfig) -> tuple[list[Point], list[str]]:
    """Return all points, best first, and warnings: the whole grid, then repeatedly half the step around the best.

    Raises ConfigError when the grid is empty.
    """
    weights = sorted(set(cfg.lm_weights)) if cfg.decoder.kind == "lm" else [0.0]
    scores = sorted(set(cfg.word_scores))
    if not all(map(isfinite, (*weights, *scores))):
        raise ConfigError(f"lm_weights and word_scores must be finite numbers, not {[*weights, *scores]}")
    if not weights or not scores:
        raise ConfigError("tuning needs at least one of lm_weights and of word_scores")
    known = {(p.lm_weight, p.word_score): p for p in measure([(w, s) for w in weights for s in scores])}
    best = min(known.values(), key=lambda point: point.rank)
    steps = [max(np.diff(axis), default=0.0) for axis in (weights, scores)]
    for _ in range(cfg.refinements):
        steps = [float(step) / 2 for step in steps]
        around = {
            (max(0.0, best.lm_weight + i * steps[0]), best.word_score + j * steps[1])
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
        }
        known |= {(p.lm_weight, p.word_score): p for p in measure(sorted(around - known.keys()))}
        best = min(known.values(), key=lambda point: point.rank)
    points = sorted(known.values(), key=lambda point: point.rank)
    return points, list(_edges(points))


def _edges(points: Sequence[Point]) -> Iterator[str]:
    """Yield a warning for each weight whose best value is the smallest or the largest that was tried."""
    best = points[0]
    for flag, value, tried in (
        ("lm-weights", best.lm_weight, {point.lm_weight for point in points}),
        ("word-scores", best.word_score, {point.word_score for point in points}),
    ):
        floor = flag == "lm-weights" and value == 0  # weight 0 is no language model: do not search below it
        if len(tried) > 1 and value in (min(tried), max(tried)) and not floor:
            yield f"the best value of {flag} ({value:g}) is at the edge of what was tried; widen it with --{flag}"


@dataclass(frozen=True)
class _Spoken:
    """A dev utterance: its reference and the log-probabilities of its frames."""

    ref: str
    log_probs: npt.NDArray[np.float32]


def tune(cfg: TuneConfig) -> Choice:
    """Choose the weights on ``cfg.data`` and write them.

    Raises
    ------
    ConfigError
        No model is named, the decoder has no weights, or hotwords are set (they would be tuned for dev).
    DataError
        Nothing in dev can be scored.
    """
    if not cfg.model:
        raise ConfigError("no model to tune a decoder for; give --model, the model folder of a fine-tuning run")
    if cfg.decoder.kind not in ("lexicon", "lm"):
        raise ConfigError(f"decoder.kind {cfg.decoder.kind} has no weights to tune; use lm or lexicon")
    if cfg.decoder.hotwords:
        raise ConfigError("tune without hotwords, and give them when you decode")
    output = Path(cfg.output or Path(cfg.model).parent / "tune")
    output.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(output / "ledger.jsonl", fresh=True)
    spoken, tokens = _listen(cfg, ledger)
    if said := say_absent(ledger.entries):
        print(said, file=sys.stderr, flush=True)
    words = sum(len(one.ref.split()) for one in spoken)
    if not words:
        raise DataError(f"no dev utterance of {cfg.data.shards} has words to score; choose others with --data.splits")
    plain = sum(score_utterance(one.ref, greedy(one.log_probs, tokens)).errors for one in spoken)
    with _measuring(cfg, spoken, tokens) as measure:
        points, warnings = search_weights(measure, cfg)
    best = points[0]
    chosen = replace(cfg.decoder, lm_weight=best.lm_weight, word_score=best.word_score)
    settings = output / "decoder.toml"
    write_atomic(settings, to_toml(EvaluateConfig(model=cfg.model, decoder=chosen)))
    choice = Choice(best, tuple(points), plain / words, tuple(warnings), settings)
    document = {
        "chosen": asdict(best),
        "greedy_wer": choice.greedy_wer,
        "utterances": len(spoken),
        "words": words,
        "warnings": warnings,
        "points": [asdict(point) for point in points],
    }
    write_json(output / "tune.json", document)
    return choice


def _listen(cfg: TuneConfig, ledger: Ledger) -> tuple[list[_Spoken], Tokens]:
    """Run the model over dev."""
    parallel = start_parallel(cfg.device)
    choice = agreed(cfg.precision, parallel, verb="tune")
    model, tokens = load_recogniser(Path(cfg.model), parallel.device)
    chosen = open_labelled(cfg.data, stage="tune")
    ledger.extend(chosen.dropped)
    batches = evaluation_batches(chosen.corpus(), cfg.data, workers=chosen.workers) if chosen.utterances else ()
    return [
        _Spoken(tokens.normal(item.text or ""), item.log_probs.clone().numpy())
        for item in recognise(model, batches, rejected=ledger.extend, bf16=choice.bf16)
    ], tokens


class _Dev:
    """Dev in one process: lexicon and language model are built once."""

    def __init__(self, cfg: DecoderConfig, spoken: Sequence[_Spoken], tokens: Tokens, model: Path) -> None:
        self.cfg, self.spoken = cfg, spoken
        self.words = sum(len(one.ref.split()) for one in spoken)
        self.graph = open_graph(cfg, tokens, model=model)

    def point(self, weights: tuple[float, float]) -> Point:
        decode = searcher(replace(self.cfg, lm_weight=weights[0], word_score=weights[1], n_best=1), self.graph)
        errors = wrong = 0
        for one in self.spoken:
            hyp = decode(torch.from_numpy(one.log_probs)).text
            errors += score_utterance(one.ref, hyp).errors
            wrong += sum(op != "C" for op, _, _ in align_characters(one.ref, hyp))
        return Point(*weights, errors, wrong, errors / self.words)


_worker: dict[str, Any] = {}


def _start(cfg: DecoderConfig, spoken: Sequence[_Spoken], tokens: Tokens, model: Path) -> None:
    torch.set_num_threads(1)
    _worker["dev"] = _Dev(cfg, spoken, tokens, model)


def _point(weights: tuple[float, float]) -> Point:
    dev: _Dev = _worker["dev"]
    return dev.point(weights)


@contextmanager
def _measuring(cfg: TuneConfig, spoken: Sequence[_Spoken], tokens: Tokens) -> Iterator[Measure]:
    """Give a function that decodes dev at several points, in ``decoder.jobs`` processes."""
    made = (cfg.decoder, spoken, tokens, Path(cfg.model))
    if cfg.decoder.jobs == 1:
        dev = _Dev(*made)
        yield lambda points: [dev.point(weights) for weights in points]
        return
    context = multiprocessing.get_context("spawn")  # threads of the loader and of torch do not survive a fork
    with ProcessPoolExecutor(cfg.decoder.jobs, mp_context=context, initializer=_start, initargs=made) as pool:
        yield lambda points: list(pool.map(_point, points))

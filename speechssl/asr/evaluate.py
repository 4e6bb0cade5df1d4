"""Scoring: decode a split with a fine-tuned model and write the data behind its word error rate.

In: ``EvaluateConfig``. Out: ``hypotheses.jsonl``, ``wer.json``, ``wer.txt`` and a ledger of every utterance that could
not be scored, so that it is known which utterances a rate covers.
"""

import json
import sys
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path
from typing import Any

from speechssl.asr.ctc import load_recogniser
from speechssl.asr.decoding.decode import greedy
from speechssl.asr.decoding.decoder_pool import decode_all
from speechssl.asr.decoding.decoders import Decoded, describe
from speechssl.asr.labelled import Labelled, open_labelled
from speechssl.asr.recognise import Recognised, recognise
from speechssl.asr.tokens import Tokens
from speechssl.config import EvaluateConfig
from speechssl.config.load import write_toml
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.ledger import Entry, Ledger
from speechssl.core.precision import Choice
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.audio.snr import snr_db
from speechssl.data.batches.plan import Plan
from speechssl.data.batches.stream import evaluation_batches
from speechssl.data.ingest.ids import say_absent
from speechssl.data.ingest.utterance import Utterance
from speechssl.evaluation.wer.hypotheses import score_row
from speechssl.evaluation.wer.report import WerReport
from speechssl.evaluation.wer.summary import summarise
from speechssl.evaluation.wer.wer import greedy_score, raw_text, write_wer
from speechssl.interop.hub import PREFIX
from speechssl.training.parallel import Parallel, start_parallel
from speechssl.training.precision import agreed

__all__ = ["evaluate", "fields_of"]


def evaluate(cfg: EvaluateConfig, *, parallel: Parallel | None = None) -> WerReport:
    """Decode ``cfg.data`` with ``cfg.model`` and score it; under torchrun the utterances are shared out over ranks.

    References and hypotheses are compared in the model's own text normalisation. An empty reference counts its
    hypothesis' words as insertions. Utterances without a transcript, of a length outside the limits, or whose audio
    cannot be read are not scored; they are listed in ``ledger.jsonl`` and counted in ``wer.json``.

    Raises
    ------
    ConfigError
        No model or no shards are named.
    DataError
        Nothing can be scored, or too much audio is unreadable.
    CheckpointError
        The model folder is missing or damaged.
    """
    if not cfg.model:
        raise ConfigError("no model to evaluate; give --model, the model folder of a fine-tuning run")
    if cfg.model.startswith(PREFIX) and not cfg.output:
        raise ConfigError(f"{cfg.model} has no folder here that the scores could go to; give --output FOLDER")
    ranks = parallel or start_parallel(cfg.device)
    try:
        return _evaluate(cfg, ranks)
    finally:
        if parallel is None:
            ranks.close()


def _evaluate(cfg: EvaluateConfig, parallel: Parallel) -> WerReport:
    choice = agreed(cfg.precision, parallel, verb="evaluate")
    cfg = replace(cfg, precision=choice.precision)
    model, tokens = load_recogniser(Path(cfg.model), parallel.device)
    chosen = open_labelled(cfg.data, stage="evaluate")
    if not chosen.utterances:
        raise DataError(
            f"no transcribed utterance of {chosen.name} in {cfg.data.shards}, so there is nothing to score "
            f"({len(chosen.dropped)} without a transcript); choose other splits with --data.splits"
        )
    output = Path(cfg.output or Path(cfg.model).parent / f"evaluate-{'-'.join(cfg.data.splits) or 'all'}")
    ledger = Ledger()
    if parallel.first:
        ledger = Ledger(output / "ledger.jsonl", fresh=True)
        (output / "wer.json").unlink(missing_ok=True)  # a folder that has it is complete
    corpus = chosen.corpus()
    ledger.extend([*chosen.dropped, *Plan.sequential(corpus, cfg.data).dropped])
    known = len(ledger.entries)
    rows: list[dict[str, Any]] = []
    batches = evaluation_batches(corpus, cfg.data, workers=chosen.workers, rank=parallel.rank, world=parallel.world)
    items = ((item, item.log_probs) for item in recognise(model, batches, rejected=ledger.extend, bf16=choice.bf16))
    frame = model.encoder.hop / SAMPLE_RATE
    for item, found in decode_all(items, cfg.decoder, tokens, model=Path(cfg.model)):
        rows.append(_row(cfg, item, found, utterance=chosen.utterances[item.id], tokens=tokens, frame=frame))
    unread = parallel.gather([asdict(entry) for entry in ledger.entries[known:]])
    rows = sorted((row for part in parallel.gather(rows) for row in part), key=lambda row: row["id"])
    if not parallel.first:
        return summarise(rows, n=cfg.bootstrap, seed=cfg.seed)
    if said := say_absent(chosen.dropped):
        print(said, file=sys.stderr, flush=True)
    ledger.extend(Entry(**fields) for part in unread[1:] for fields in part)
    return _write(cfg, output, tokens=tokens, chosen=chosen, rows=rows, ledger=ledger, choice=choice)


def _row(
    cfg: EvaluateConfig, item: Recognised, found: Decoded, *, utterance: Utterance, tokens: Tokens, frame: float
) -> dict[str, Any]:
    """Return the row of one utterance; a frame lasts ``frame`` seconds."""
    row = score_row(
        item.id,
        tokens.normal(item.text or ""),
        found.text,
        speaker=utterance.speaker,
        duration=round(item.samples / SAMPLE_RATE, 3),
        ref_raw=item.text or "",
        hyp_raw=found.text,
        confidences=[round(word.confidence, 4) for word in found.words],
        times=[[round(word.start * frame, 3), round(word.end * frame, 3)] for word in found.words],
        fields={**fields_of(utterance), "snr_db": _snr(item)},
    )
    if cfg.decoder.n_best > 1:
        row["n_best"] = [{"hyp": text, "score": round(score, 4)} for text, score in found.n_best]
    if cfg.decoder.kind != "greedy":
        row["greedy"] = greedy(item.log_probs, tokens)
    return row


def fields_of(utterance: Utterance) -> dict[str, str | int | float | None]:
    """Return the manifest fields by which rates can be broken down: single values only."""
    fields: dict[str, str | int | float | None] = {"language": utterance.language, "split": utterance.split}
    for name, value in utterance.meta.items():
        if isinstance(value, bool):
            fields[name] = str(value).lower()
        elif isinstance(value, str | int) or (isinstance(value, float) and isfinite(value)):
            fields[name] = value
    return {name: value for name, value in fields.items() if value is not None}


def _snr(item: Recognised) -> float | None:
    value = snr_db(item.wave.numpy())
    return None if value is None else round(value, 1)


def _write(
    cfg: EvaluateConfig,
    output: Path,
    *,
    tokens: Tokens,
    chosen: Labelled,
    rows: list[dict[str, Any]],
    ledger: Ledger,
    choice: Choice,
) -> WerReport:
    not_scored = ledger.counts()
    ledger.extend(tokens.tags(chosen.texts, stage="evaluate"))
    ledger.extend(tokens.unseen(chosen.texts, split=chosen.name, stage="evaluate"))
    write_toml(cfg, output / "config.toml")
    info = {
        "model": str(cfg.model),
        "split": chosen.name,
        "shards": cfg.data.shards,
        "decoder": describe(cfg.decoder),
        "precision": f"{choice.precision} ({choice.device})",
        "text": f"normalisation {tokens.normalise!r}",
        "raw text": raw_text(rows) or "not kept",
        "not_scored": ", ".join(f"{count} {reason}" for reason, count in not_scored.items()) or "none",
    }
    if cfg.decoder.kind != "greedy":
        info["greedy"] = str(greedy_score(rows, n=cfg.bootstrap, seed=cfg.seed))
    # How often each word occurs in the training transcripts; older models do not record it.
    model = json.loads((Path(cfg.model) / "config.json").read_text(encoding="utf-8"))
    counts = model.get("info", {}).get("word_counts")
    return write_wer(output, rows, info, n=cfg.bootstrap, seed=cfg.seed, train_words=counts)

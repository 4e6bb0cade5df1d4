"""Scoring: decode a split with a fine-tuned model and write what its word error rate rests on.

In: ``EvaluateConfig``. Out: ``hypotheses.jsonl``, ``wer.json``, ``wer.txt`` and a ledger of every utterance that could
not be scored, so that a rate always says what it is a rate of.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from speechssl.asr.ctc import load_recogniser
from speechssl.asr.decode import greedy, prefix_beam
from speechssl.asr.labelled import Labelled, open_labelled
from speechssl.asr.lexicon import LexiconDecoder
from speechssl.asr.recognise import recognise
from speechssl.asr.tokens import Tokens, normalise_text
from speechssl.config import EvaluateConfig
from speechssl.data.audio import SAMPLE_RATE
from speechssl.data.ledger import Entry, Ledger
from speechssl.data.plan import Plan
from speechssl.data.stream import evaluation_batches
from speechssl.errors import ConfigError, DataError
from speechssl.evaluation.wer import WerReport, greedy_score, score_row, summarise, write_wer
from speechssl.interop.model_folder import load_folder
from speechssl.settings import write_toml
from speechssl.training.parallel import Parallel, start_parallel

__all__ = ["evaluate"]

DECODERS = {
    "greedy": "greedy",
    "beam": "prefix beam search over characters, beam {beam}, no language model",
    "lexicon": "beam search over the words of the training transcripts, beam {beam}, no language model",
}


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
    ranks = parallel or start_parallel(cfg.device)
    try:
        return _evaluate(cfg, ranks)
    finally:
        if parallel is None:
            ranks.close()


def _evaluate(cfg: EvaluateConfig, parallel: Parallel) -> WerReport:
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
    decode = _decoder(cfg, tokens)
    batches = evaluation_batches(corpus, cfg.data, workers=chosen.workers, rank=parallel.rank, world=parallel.world)
    for item in recognise(model, batches, rejected=ledger.extend):
        utterance = chosen.utterances[item.id]
        ref = normalise_text(item.text or "", tokens.normalise)
        seconds = round(item.samples / SAMPLE_RATE, 3)
        row = score_row(item.id, ref, decode(item.log_probs), speaker=utterance.speaker, duration=seconds)
        if cfg.decoder != "greedy":
            row["greedy"] = greedy(item.log_probs, tokens)
        rows.append(row)
    unread = parallel.gather([asdict(entry) for entry in ledger.entries[known:]])
    rows = sorted((row for part in parallel.gather(rows) for row in part), key=lambda row: row["id"])
    if not parallel.first:
        return summarise(rows, n=cfg.bootstrap, seed=cfg.seed)
    ledger.extend(Entry(**fields) for part in unread[1:] for fields in part)
    return _write(cfg, output, tokens=tokens, chosen=chosen, rows=rows, ledger=ledger)


def _decoder(cfg: EvaluateConfig, tokens: Tokens) -> Callable[[torch.Tensor], str]:
    if cfg.decoder == "greedy":
        return lambda log_probs: greedy(log_probs, tokens)
    if cfg.decoder == "lexicon":
        words = load_folder(Path(cfg.model)).info.get("words")
        if not words:
            raise ConfigError(
                f"{cfg.model} does not list its training words; fine-tune it again to decode with a lexicon"
            )
        return LexiconDecoder(tokens, words, beam=cfg.beam)
    return lambda log_probs: prefix_beam(log_probs, tokens, cfg.beam)[0].text


def _write(
    cfg: EvaluateConfig, output: Path, *, tokens: Tokens, chosen: Labelled, rows: list[dict[str, Any]], ledger: Ledger
) -> WerReport:
    not_scored = ledger.counts()
    ledger.extend(tokens.unseen(chosen.texts, split=chosen.name, stage="evaluate"))
    write_toml(cfg, output / "config.toml")
    info = {
        "model": str(cfg.model),
        "split": chosen.name,
        "shards": cfg.data.shards,
        "decoder": DECODERS[cfg.decoder].format(beam=cfg.beam),
        "text": f"normalisation {tokens.normalise!r}",
        "not_scored": ", ".join(f"{count} {reason}" for reason, count in not_scored.items()) or "none",
    }
    if cfg.decoder != "greedy":
        info["greedy"] = str(greedy_score(rows, n=cfg.bootstrap, seed=cfg.seed))
    return write_wer(output, rows, info, n=cfg.bootstrap, seed=cfg.seed)

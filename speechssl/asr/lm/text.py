"""Text for a language model: from a text file, a manifest or shards, in the recogniser's own normalisation.

In: a path and ``LmConfig``. Out: sentences, as words or as the recogniser's tokens, and the model estimated from them.
"""

import gzip
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from speechssl.asr.labelled import open_labelled
from speechssl.asr.lm.kneser_ney import NgramModel, estimate
from speechssl.asr.tokens import Tokens, normalise_text
from speechssl.config import DataConfig, LmConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.ledger import Entry
from speechssl.data.ingest.ids import absent_ids, read_ids, say_absent
from speechssl.data.ingest.manifest import read_manifest

__all__ = ["estimate_lm", "read_text"]


def estimate_lm(source: Path, output: Path, cfg: LmConfig) -> NgramModel:
    """Estimate a model from ``source`` and write it to ``output`` (ARPA; gzip if the name ends in ``.gz``).

    Raises
    ------
    ConfigError
        Settings that cannot go together.
    DataError
        The source or the model folder cannot be read, or there is no text.
    """
    if not output.name.removesuffix(".gz").endswith(".arpa"):
        raise ConfigError(f"the language model is written as ARPA: name it {output.name}.arpa or {output.name}.arpa.gz")
    if cfg.order < 2:
        raise ConfigError(f"order must be at least 2, not {cfg.order}: KenLM reads no model of single words")
    model = estimate(map(_splitter(cfg), read_text(source, cfg)), cfg.order)
    model.write(output)
    return model


def _splitter(cfg: LmConfig) -> Callable[[str], list[str]]:
    """Return the function that turns a line into the words of the model."""
    if cfg.unit == "tokens" and not cfg.model:
        raise ConfigError("a model of tokens needs the recogniser whose tokens they are; give --model")
    if not cfg.model:
        return lambda line: normalise_text(line, cfg.normalise).split()
    from speechssl.interop.any_model import load_any

    stored = load_any(cfg.model).tokens
    if stored is None:
        raise DataError(f"{cfg.model} holds a model without tokens; give the folder of a fine-tuned one")
    tokens = Tokens.from_dict(stored)
    if cfg.unit == "words":
        return lambda line: tokens.normal(line).split()
    return lambda line: [tokens.symbols[index] for index in tokens.encode(line)]


def read_text(source: Path, cfg: LmConfig) -> Iterator[str]:
    """Yield the lines of a text file (.gz too), or the transcripts of a manifest or of shards, as they are.

    A folder with ``manifest.jsonl`` is that manifest, another folder holds shards, a ``.jsonl`` file is a manifest.

    Raises DataError when it cannot be read, or nothing in it is transcribed.
    """
    manifest = source / "manifest.jsonl" if source.is_dir() else source
    if manifest.suffix == ".jsonl" and manifest.is_file():
        wanted = read_ids(cfg.ids) if cfg.ids else None
        utterances = read_manifest(manifest)
        _warn(absent_ids(cfg.ids, (u.id for u in utterances), stage="lm", where=str(manifest)))
        texts = [
            utterance.text
            for utterance in utterances
            if utterance.text is not None
            and (utterance.id in wanted if wanted else not cfg.splits or (utterance.split or "train") in cfg.splits)
        ]
    elif source.is_dir():
        chosen = open_labelled(DataConfig(shards=str(source), splits=cfg.splits, ids=cfg.ids), stage="lm")
        _warn(chosen.dropped)
        texts = list(chosen.texts.values())
    else:
        yield from _lines(source)
        return
    if not texts:
        raise DataError(
            f"{source}: no transcript in {', '.join(cfg.ids or cfg.splits) or 'it'}; choose other splits with --splits"
        )
    yield from texts


def _warn(entries: Iterable[Entry]) -> None:
    if said := say_absent(entries):
        print(said, file=sys.stderr, flush=True)


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rt", encoding="utf-8-sig") if packed else path.open(encoding="utf-8-sig") as file:
            yield from file
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise DataError(f"text {path}: {error}; give a UTF-8 text file with one sentence per line") from error

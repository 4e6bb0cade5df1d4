"""The verb ``export``: a model written for another program, and compared with it on real recordings.

In: a model, a format. Out: a folder with the model, its card and ``export.json``; it is there only if the other program
gives the same numbers and texts.
"""

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechssl.asr.ctc import CtcModel, recogniser_of
from speechssl.asr.decoding.decode import greedy
from speechssl.asr.tokens import Tokens
from speechssl.config.data import DataConfig
from speechssl.config.verbs import ExportConfig, Format
from speechssl.core.errors import CheckpointError, ConfigError, DataError
from speechssl.core.files import atomic_folder, write_json
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.batches.batch import full_scale
from speechssl.data.ingest.ids import read_ids
from speechssl.data.store.reader import open_corpus
from speechssl.evaluation.wer.edit_distance import score_utterance
from speechssl.interop.any_model import encoder_of, load_any
from speechssl.interop.export import huggingface, onnx, torchaudio
from speechssl.interop.export.card import model_card
from speechssl.interop.export.peer import Answer, Peer
from speechssl.interop.model_folder import ModelFolder
from speechssl.models.encoder import SpeechEncoder

__all__ = ["Comparison", "Recording", "compare", "export", "ours", "recordings"]

SILENCE = SAMPLE_RATE // 2
"""Samples of digital silence at the start, in the middle and at the end of a recording."""
WITH_SILENCE = 4
"""Recordings that are repeated with silence in them; one more is nothing else."""
TOLERANCE, ROUGH_TOLERANCE = 1e-4, 1e-3
"""Largest differences: in the products of torch on a waveform stem; of onnxruntime, which rounds more, and of log-mel
stems, whose logarithm multiplies the rounding of near silence (ours is then 3e-4 from float64)."""
DIFFERENT_TEXTS = 0.05
"""Share of texts that may differ: rounding decides between symbols that are equally probable."""

WRITERS: dict[Format, Callable[[Path, ModelFolder, SpeechEncoder], str]] = {
    "hf": huggingface.write_huggingface,
    "onnx": onnx.write_onnx,
    "onnx-asr": onnx.write_onnx_asr,
    "sherpa": onnx.write_sherpa,
    "torchaudio": torchaudio.write_torchaudio,
}
READERS: dict[Format, Callable[[Path], Peer]] = {
    "hf": huggingface.open_huggingface,
    "onnx": onnx.open_onnx,
    "onnx-asr": onnx.open_onnx,
    "sherpa": onnx.open_sherpa,
    "torchaudio": torchaudio.open_torchaudio,
}


@dataclass(frozen=True)
class Recording:
    """One recording that both programs are run on."""

    id: str
    wave: Tensor
    """[T] float32 with full scale 1."""
    text: str | None
    """Its transcript; None where there is none, or where silence was put in."""


@dataclass(frozen=True)
class Comparison:
    """What another program makes of a model, beside the model itself."""

    recordings: int
    frames: int
    largest: float
    """Largest absolute difference of an output; infinite where one is NaN."""
    where: str
    """Recording with the largest difference."""
    texts: int
    """Recordings with the same text; 0 for an encoder."""
    differing: tuple[tuple[str, str, str], ...]
    """Id, our text and the other one, where they differ."""

    def __str__(self) -> str:
        text = f"largest difference {self.largest:.1e} in {self.frames} frames of {self.recordings} recordings"
        return text + (f"; same text in {self.texts} of {self.recordings}" if self.texts or self.differing else "")


def recordings(data: DataConfig, count: int) -> list[Recording]:
    """Return ``count`` recordings, evenly spread over the corpus, and some with digital silence.

    Raises DataError when there is none of an allowed length.
    """
    corpus = open_corpus(data.shards, cache=data.cache)
    wanted = read_ids(data.ids) if data.ids else None
    seconds = corpus.samples / SAMPLE_RATE
    allowed = [
        i
        for i in np.flatnonzero((seconds >= data.min_seconds) & (seconds <= data.max_seconds)).tolist()
        if (wanted is not None and corpus.ids[i] in wanted)
        or (wanted is None and (not data.splits or (corpus.row(i).split or "train") in data.splits))
    ]
    if not allowed:
        raise DataError(
            f"{data.shards} has no recording of {', '.join(data.ids or data.splits) or 'any split'} with "
            f"{data.min_seconds:g} to {data.max_seconds:g} s to compare with; choose others with --data.splits"
        )
    chosen = [allowed[i] for i in sorted({round(x) for x in np.linspace(0, len(allowed) - 1, count)})]
    texts = corpus.utterances()
    found = [
        Recording(corpus.ids[i], full_scale(torch.from_numpy(corpus.read(i).copy())), texts[corpus.ids[i]].text)
        for i in chosen
    ]
    gap = torch.zeros(SILENCE)
    for item in found[:WITH_SILENCE]:
        first, second = item.wave.tensor_split(2)
        found.append(Recording(f"{item.id} with silence", torch.cat([gap, first, gap, second, gap]), None))
    return [*found, Recording("silence", torch.zeros(2 * SILENCE), None)]


def compare(here: Peer, there: Peer, items: Sequence[Recording]) -> Comparison:
    """Run both programs on every recording."""
    frames, largest, where, texts = 0, 0.0, items[0].id, 0
    differing = []
    for item in items:
        mine, other = here(item.wave), there(item.wave)
        difference = float("inf")
        if mine.values.shape == other.values.shape and mine.values.numel():
            difference = float((mine.values - other.values).abs().max().nan_to_num(float("inf")))
        if difference > largest:
            largest, where = difference, item.id
        frames += len(mine.values)
        if mine.text is not None and mine.text == other.text:
            texts += 1
        elif mine.text is not None:
            differing.append((item.id, mine.text, str(other.text)))
    return Comparison(len(items), frames, largest, where, texts, tuple(differing))


def ours(model: SpeechEncoder | CtcModel, tokens: Tokens | None) -> Peer:
    """Return what our encoder, or our recogniser and its tokens, make of a wave."""

    @torch.inference_mode()
    def answer(wave: Tensor) -> Answer:
        if isinstance(model, SpeechEncoder):
            return Answer(model(wave[None]).x[0])
        values = model(wave[None])[0][0]
        return Answer(values, greedy(values, tokens) if tokens else None)

    return answer


def export(path: Path, output: Path, cfg: ExportConfig) -> str:
    """Write the model at ``path`` for another program into the new folder ``output``; return what was found, in lines.

    Raises
    ------
    ConfigError
        The format cannot hold the model, a package that it needs is not installed, there are no recordings to compare
        with, or ``output`` is there already.
    CheckpointError
        The other program gives other numbers or texts. Nothing is left behind.
    DataError
        The recordings cannot be read.
    """
    if output.exists():
        raise ConfigError(f"{output} is there already: name a new folder, or remove it")
    model = load_any(path)
    tokens = None
    module: SpeechEncoder | CtcModel
    if model.tokens is None:
        module = encoder = encoder_of(model, path)
    else:
        module, tokens = recogniser_of(model, path)
        encoder = module.encoder
    items = recordings(_with_shards(cfg.data, path), cfg.utterances)
    with atomic_folder(output) as new:
        written = WRITERS[cfg.to](new, model, encoder)
        found = compare(ours(module, tokens), READERS[cfg.to](new), items)
        exact = cfg.to in ("hf", "torchaudio") and encoder.cfg.frontend.kind == "waveform"
        _check(found, cfg, cfg.tolerance or (TOLERANCE if exact else ROUGH_TOLERANCE))
        findings = [f"{cfg.to}: {found}"]
        if cfg.int8:
            findings += _int8(new, cfg, items, tokens)
        write_json(new / "export.json", {"format": cfg.to, "written": written, **asdict(found)}, indent=2)
        (new / "README.md").write_text(model_card(cfg.to, model, encoder, written, findings), encoding="utf-8")
    return "\n".join([f"{output}: {written}", *findings])


def _with_shards(data: DataConfig, path: Path) -> DataConfig:
    """Return where recordings are; those of the run that a model folder lies in, if none is named."""
    if data.shards:
        return data
    settings = path.parent / "config.toml"
    if settings.is_file():
        with settings.open("rb") as file:
            table = tomllib.load(file).get("data", {})
        if table.get("shards"):
            return replace(data, shards=table["shards"])
    raise ConfigError(
        "an export is compared with the model on real recordings: name some with --data.shards SHARDS, a folder that "
        "`speechssl shard` wrote"
    )


def _check(found: Comparison, cfg: ExportConfig, tolerance: float) -> None:
    if not found.largest <= tolerance:
        raise CheckpointError(
            f"the export to {cfg.to} is wrong, and was not written: an output of {found.where} differs by "
            f"{found.largest:.1e}, more than tolerance = {tolerance:g} ({found})"
        )
    if len(found.differing) > DIFFERENT_TEXTS * found.recordings:
        name, mine, other = found.differing[0]
        raise CheckpointError(
            f"the export to {cfg.to} is wrong, and was not written: {len(found.differing)} of {found.recordings} texts "
            f"differ; {name} is {mine!r} here and {other!r} there"
        )


def _int8(folder: Path, cfg: ExportConfig, items: Sequence[Recording], tokens: Tokens | None) -> list[str]:
    """Write the graph in 8 bits; return its size and how much worse it recognises."""
    path = onnx.quantise(folder)
    size = f"{path.name}: {path.stat().st_size / 1e6:.1f} MB ({(folder / onnx.FLOAT_MODEL).stat().st_size / 1e6:.1f})"
    opened = onnx.open_sherpa if cfg.to == "sherpa" else onnx.open_onnx
    exact, rough = opened(folder), opened(folder, int8=True)
    found = compare(exact, rough, items)
    if tokens is None:
        return [f"{size}, {found}"]
    rates = []
    for peer in (exact, rough):
        scores = [score_utterance(tokens.normal(item.text), peer(item.wave).text or "") for item in items if item.text]
        words = sum(score.N for score in scores)
        rates.append(sum(score.errors for score in scores) / words if words else float("nan"))
    change = f"WER {rates[0]:.2%} -> {rates[1]:.2%} on {words} words" if words else "no transcripts to score"
    return [f"{size}, {change}, {found}"]

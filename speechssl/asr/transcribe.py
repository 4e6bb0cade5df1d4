"""Transcription of audio files of any format and length with a fine-tuned model.

In: paths and ``TranscribeConfig``. Out: one ``Transcript`` a file, in order, with word times; a bad file gives its
error and the others go on. Memory does not grow with the length of a file beyond a few bytes a frame.
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt
import torch

from speechssl.asr.align import Word, word_times
from speechssl.asr.chunks import Chunk, Chunking, read_chunks
from speechssl.asr.ctc import CtcModel, load_recogniser
from speechssl.asr.decode import best_path, spans
from speechssl.asr.recognise import frame_log_probs
from speechssl.asr.tokens import Tokens
from speechssl.config import TranscribeConfig
from speechssl.data.audio import SAMPLE_RATE
from speechssl.errors import AudioError, ConfigError
from speechssl.training.parallel import start_parallel

__all__ = ["Transcript", "transcribe", "transcribe_with"]


@dataclass(frozen=True)
class Transcript:
    """What was heard in one file."""

    path: str
    text: str
    words: tuple[Word, ...] = ()
    """In seconds from the start of the file."""
    duration: float = 0.0
    """Seconds of audio."""
    error: str | None = None
    """Why the file could not be transcribed; ``text`` is then empty."""


@dataclass
class _File:
    """A file on its way: the best path through the frames seen so far."""

    path: Path
    paths: list[npt.NDArray[np.int64]] = field(default_factory=list)
    scores: list[npt.NDArray[np.float32]] = field(default_factory=list)
    samples: int = 0
    waiting: int = 0
    """Chunks that were read and not yet decoded."""
    complete: bool = False
    """Whether its last chunk was read."""
    error: str | None = None

    def transcript(self, tokens: Tokens, hop: int) -> Transcript:
        if self.error is not None:
            return Transcript(str(self.path), "", error=self.error)
        labels = spans(np.concatenate(self.paths), np.concatenate(self.scores))
        words = tuple(word_times(labels, tokens, hop / SAMPLE_RATE))
        text = tokens.decode([label.token for label in labels])
        return Transcript(str(self.path), text, words, round(self.samples / SAMPLE_RATE, 3))


def transcribe(files: Iterable[Path | str], cfg: TranscribeConfig) -> Iterator[Transcript]:
    """Transcribe files, yielding one result a file in their order; ``cfg.output`` also gets them as JSON lines.

    Each file is read in overlapping chunks (``chunk_seconds``, ``overlap_seconds``); chunks of all files share batches
    of at most ``batch_seconds``. Text and word times are those of the best path (greedy decoding).

    Raises
    ------
    ConfigError
        No model is named, or the sizes of chunks do not fit together.
    CheckpointError, DataError
        The model cannot be used.
    """
    if not cfg.model:
        raise ConfigError("no model to transcribe with; give --model, the model folder of a fine-tuning run")
    model, tokens = load_recogniser(Path(cfg.model), start_parallel(cfg.device).device)
    with ExitStack() as stack:
        output = stack.enter_context(Path(cfg.output).open("w", encoding="utf-8")) if cfg.output else None
        for transcript in transcribe_with(model, tokens, files, cfg):
            if output is not None:
                _write(output, transcript)
            yield transcript


def transcribe_with(
    model: CtcModel, tokens: Tokens, files: Iterable[Path | str], cfg: TranscribeConfig
) -> Iterator[Transcript]:
    """Transcribe with a model that is loaded already; see :func:`transcribe`."""
    encoder = model.encoder
    chunking = Chunking.plan(
        cfg.chunk_seconds, cfg.overlap_seconds, hop=encoder.hop, receptive=encoder.frontend.receptive
    )
    queue: deque[_File] = deque()
    batch: list[tuple[_File, Chunk]] = []
    longest = 0
    for file, chunk in _chunks(files, chunking, queue):
        longest = max(longest, len(chunk.wave))
        if batch and longest * (len(batch) + 1) > cfg.batch_seconds * SAMPLE_RATE:
            _decode(model, batch)
            batch, longest = [], len(chunk.wave)
        batch.append((file, chunk))
        while queue and queue[0].complete and not queue[0].waiting:
            yield queue.popleft().transcript(tokens, encoder.hop)
    if batch:
        _decode(model, batch)
    for file in queue:
        yield file.transcript(tokens, encoder.hop)


def _chunks(files: Iterable[Path | str], chunking: Chunking, queue: "deque[_File]") -> Iterator[tuple[_File, Chunk]]:
    """Yield the chunks of all files; ``queue`` gets each file when it is opened. An error of a file stays with it."""
    for path in files:
        file = _File(Path(path))
        queue.append(file)
        try:
            for chunk in read_chunks(file.path, chunking):
                file.samples += len(chunk.wave) - (chunking.overlap if chunk.first else 0)
                file.waiting += 1
                file.complete = chunk.end is None
                yield file, chunk
        except AudioError as error:
            file.error = str(error)
            file.complete = True


def _decode(model: CtcModel, batch: list[tuple[_File, Chunk]]) -> None:
    """Run a batch and keep, of each chunk, the best token and its score in the frames that count."""
    lengths = torch.tensor([len(chunk.wave) for _, chunk in batch])
    waves = torch.zeros(len(batch), int(lengths.max()))
    for row, (_, chunk) in zip(waves, batch, strict=True):
        row[: len(chunk.wave)] = torch.from_numpy(chunk.wave)
    for (file, chunk), log_probs in zip(batch, frame_log_probs(model, waves, lengths), strict=True):
        path, scores = best_path(log_probs[chunk.first : chunk.end])
        file.paths.append(path)
        file.scores.append(scores)
        file.waiting -= 1


def _write(output: TextIO, transcript: Transcript) -> None:
    row = asdict(transcript)
    for word in row["words"]:
        word.update({name: round(word[name], 3) for name in ("start", "end", "score")})
    output.write(json.dumps(row, ensure_ascii=False) + "\n")
    output.flush()  # a long job that is stopped leaves what it has done

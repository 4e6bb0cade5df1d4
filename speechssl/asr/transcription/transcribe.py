"""Transcription of audio files of any format and length with a fine-tuned model.

In: files, folders and ``TranscribeConfig``. Out: one ``Transcript`` a file, in order, with word times; a bad file gives
its error and the others go on. Memory does not grow with the length of a file beyond its words.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from speechssl.asr.ctc import CtcModel, load_recogniser
from speechssl.asr.decoding.decoders import Decoder, build_decoder
from speechssl.asr.tokens import Tokens
from speechssl.asr.transcription.captions import captions
from speechssl.asr.transcription.inputs import Input, find_inputs, seconds_of
from speechssl.asr.transcription.longform import Samples, block_frames, local_log_probs, read_blocks
from speechssl.asr.transcription.outputs import open_outputs
from speechssl.asr.transcription.stretches import CutRule, decode_stream
from speechssl.asr.transcription.transcript import Transcript
from speechssl.asr.transcription.wordfiles import JOINABLE, parse_formats, render
from speechssl.config import TranscribeConfig
from speechssl.core.errors import AudioError, ConfigError
from speechssl.core.precision import Setting
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.training.parallel import start_parallel
from speechssl.training.precision import agreed

__all__ = [
    "Advance",
    "Recogniser",
    "Summary",
    "check_stream",
    "model_key",
    "open_recogniser",
    "transcribe",
    "transcribe_blocks",
    "transcribe_file",
]

Advance = Callable[[int, int], None]
"""(seconds of audio done, seconds in all)."""


@dataclass(frozen=True)
class Recogniser:
    """A model, its labels and a decoder."""

    model: CtcModel
    tokens: Tokens
    decoder: Decoder
    bf16: bool = False
    """Whether the model's products are in bfloat16."""


@dataclass
class Summary:
    """Counts of a finished job."""

    done: int = 0
    known: int = 0
    """Recordings that an earlier job had done."""
    failed: int = 0
    seconds: float = 0.0
    """Audio of those that were done now."""
    output: str = ""
    verb: str = "transcribed"
    left_out: dict[str, int] = field(default_factory=dict)
    """Ledger entries by reason, of utterances cut out of recordings."""

    def count(self, found: Transcript, *, known: bool) -> None:
        """Count one file."""
        if found.error is not None:
            self.failed += 1
        elif known:
            self.known += 1
        else:
            self.done += 1
            self.seconds += found.duration

    def __str__(self) -> str:
        known = f", {self.known} were done before" if self.known else ""
        failed = f"; {self.failed} failed, see {self.output}/ledger.jsonl" if self.failed else ""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        return (
            f"{self.done} recordings {self.verb} ({self.seconds / 60:.1f} min){known}{failed}. Results: {self.output}"
            + (f"\n  in the ledger: {reasons}" if reasons else "")
        )


def open_recogniser(cfg: TranscribeConfig) -> Recogniser:
    """Load the model and build the decoder.

    Raises
    ------
    ConfigError
        No model is named, or the decoder cannot be built.
    CheckpointError, DataError
        The model cannot be used.
    """
    if not cfg.model:
        raise ConfigError("no model to transcribe with; give --model, the model folder of a fine-tuning run")
    parallel = start_parallel(cfg.device)
    choice = agreed(cfg.precision, parallel, verb="transcribe")
    model, tokens = load_recogniser(Path(cfg.model), parallel.device)
    return Recogniser(model, tokens, build_decoder(cfg.decoder, tokens, model=Path(cfg.model)), bf16=choice.bf16)


def transcribe_file(
    recogniser: Recogniser, path: Path, cfg: TranscribeConfig, heard: Callable[[float], None] | None = None
) -> Transcript:
    """Transcribe one file, as :func:`transcribe_blocks`."""
    return transcribe_blocks(recogniser, read_blocks(path), cfg, str(path), heard)


def transcribe_blocks(
    recogniser: Recogniser,
    blocks: Iterable[Samples],
    cfg: TranscribeConfig,
    name: str,
    heard: Callable[[float], None] | None = None,
) -> Transcript:
    """Transcribe one recording: float32 samples at 16 kHz, cut anywhere, under the ``path`` ``name``.

    An AudioError raised by ``blocks`` becomes the transcript's ``error``. ``heard`` is called with the seconds of audio
    read so far. Of ``cfg``, ``block_seconds``, ``max_stretch_seconds`` and the kind of decoder are used.
    """
    model = recogniser.model
    samples = 0

    def counted() -> Iterator[Samples]:
        nonlocal samples
        for block in blocks:
            samples += len(block)
            if heard is not None:
                heard(samples / SAMPLE_RATE)
            yield block

    log_probs = local_log_probs(model, counted(), block_frames(model, cfg.block_seconds), bf16=recogniser.bf16)
    rule = CutRule.greedy() if cfg.decoder.kind == "greedy" else CutRule.search(cfg.max_stretch_seconds)
    hop = model.encoder.hop / SAMPLE_RATE
    try:
        words = tuple(decode_stream(log_probs, recogniser.decoder, recogniser.tokens, frame_seconds=hop, rule=rule))
    except AudioError as error:
        return Transcript(name, "", error=error)
    text = " ".join(word.word for word in words)
    return Transcript(name, text, words, round(samples / SAMPLE_RATE, 3))


def model_key(model: str, precision: Setting, **settings: Any) -> dict[str, Any]:
    """Return all that a transcript depends on beside the audio: the model, and settings with the files they name.

    With ``auto`` the results of another kind of processor are kept.
    """
    names = [str(value) for table in settings.values() if isinstance(table, dict) for value in table.values()]
    files = [path for name in names if name and (path := Path(name)).is_file()]
    files += [path for name in ("config.json", "model.safetensors") if (path := Path(model) / name).is_file()]
    stamps = {str(path.resolve()): [path.stat().st_size, path.stat().st_mtime_ns] for path in files}
    return {"files": stamps, **settings} | ({} if precision == "auto" else {"precision": precision})


def transcribe(
    paths: Sequence[Path],
    cfg: TranscribeConfig,
    *,
    say: Callable[[str], object] = print,
    warn: Callable[[str], object] = print,
    advance: Advance | None = None,
) -> Summary:
    """Transcribe files and folders into ``cfg.output``, or through ``say``; ``warn`` gets the errors of files.

    Without an output folder, text is given as path, tab, text. Other formats are given as they are; for more than one
    file the format must allow files to follow each other. ``advance`` is called as audio is read.

    Raises
    ------
    ConfigError
        No model, an unknown format, or a format that needs an output folder.
    DataError
        A folder without audio, or an output folder that another process uses.
    CheckpointError
        The model cannot be used.
    """
    formats = parse_formats(cfg.format)
    output = Path(cfg.output) if cfg.output else None
    inputs, passed = find_inputs(paths, output=output)
    check_stream(cfg.format, len(inputs), output)
    recogniser = open_recogniser(cfg)
    block_frames(recogniser.model, cfg.block_seconds)  # a bad setting is reported once, not for each file
    captions([], cfg.captions)
    summary = Summary(output=cfg.output)
    clock = _Clock(inputs, advance)
    with ExitStack() as stack:
        outputs = None
        if output is not None:
            settings = {"decoder": asdict(cfg.decoder), "cut": [cfg.block_seconds, cfg.max_stretch_seconds]}
            key = model_key(cfg.model, cfg.precision, **settings)
            outputs = stack.enter_context(
                open_outputs(output, stage="transcribe", formats=formats, captions=cfg.captions, key=key)
            )
            outputs.ledger.extend(passed)
        for item in inputs:
            known = outputs.known(item) if outputs is not None else None
            found = known or transcribe_file(recogniser, item.path, cfg, clock.heard)
            clock.finished(known=known is not None)
            if outputs is not None:
                outputs.write(item, found, known=known is not None)
            elif found.error is None:
                text = render(found, formats[0], name=item.name, cfg=cfg.captions).rstrip("\n")
                say(f"{found.path}\t{text}" if formats[0] == "text" else text)
            if found.error is not None:
                warn(str(found.error))
            summary.count(found, known=known is not None)
    return summary


def check_stream(formats: str, files: int, output: Path | None) -> None:
    """Raise ConfigError when results cannot go to standard output one after the other."""
    names = parse_formats(formats)
    if output is None and (len(names) > 1 or (files > 1 and names[0] not in {"text", *JOINABLE})):
        raise ConfigError(
            f"--format {formats} for {files} recording(s) does not fit into one stream; give --output, a folder"
        )


class _Clock:
    """Counts seconds of audio for a progress bar; known recordings count neither as work nor as done."""

    def __init__(self, inputs: Sequence[Input], advance: Advance | None) -> None:
        self.advance = advance
        self.lengths = [seconds_of(item.path) for item in inputs] if advance is not None else []
        self.index = 0
        self.before = 0.0

    def heard(self, seconds: float) -> None:
        """Record the seconds read of the current file."""
        if self.advance is not None:
            self.lengths[self.index] = max(
                self.lengths[self.index], seconds
            )  # a header may lack the length, or be wrong
            self.advance(round(self.before + seconds), round(sum(self.lengths)))

    def finished(self, *, known: bool) -> None:
        """Go on to the next file."""
        if self.advance is not None:
            if known:
                self.lengths[self.index] = 0.0
            self.before += self.lengths[self.index]
            self.index += 1
            self.advance(round(self.before), round(sum(self.lengths)))

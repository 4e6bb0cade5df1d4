"""Settings of transcription and alignment: what is written, how captions are split, how a recording is cut."""

from dataclasses import dataclass, field
from typing import Literal

from speechssl.config.decoding import DecoderConfig
from speechssl.core.errors import ConfigError

__all__ = ["AlignConfig", "CaptionConfig", "LiveConfig", "TranscribeConfig"]


@dataclass(frozen=True)
class CaptionConfig:
    """How words become captions (SRT, VTT)."""

    line_chars: int = 42
    """Longest line."""
    lines: int = 2
    """Most lines in a caption."""
    max_seconds: float = 6.0
    """Longest caption."""
    min_seconds: float = 1.0
    """A caption stays this long where the next one leaves room."""
    pause_seconds: float = 0.8
    """A silence this long begins a new caption."""


@dataclass(frozen=True)
class LiveConfig:
    """Transcription of a pipe, in windows that overlap: frames near the end of one wait for the next.

    A word comes out at most ``step_seconds + lookahead_seconds`` after the frame that ends it, and the time that
    computing one window takes.
    """

    window_seconds: float = 12.0
    """Audio that the model sees at a time."""
    step_seconds: float = 1.0
    """Distance of one window from the next."""
    lookahead_seconds: float = 2.0
    """Part at the end of a window whose words wait for the next window."""
    pause_seconds: float = 1.0
    """Silence that ends a word and a line."""


@dataclass(frozen=True)
class TranscribeConfig:
    """Transcribe audio files, folders or a pipe with a fine-tuned model."""

    model: str = ""
    """Model folder of a fine-tuning run."""
    output: str = ""
    """Folder that gets a file for each input and format, laid out as the input. Empty: standard output."""
    format: str = "text"
    """One or several, separated by commas: text, json, jsonl, ctm, textgrid, srt, vtt."""
    block_seconds: float = 5.0
    """Each layer attends to a block of this length and its two neighbours."""
    max_stretch_seconds: float = 30.0
    """Longest stretch that beam search decodes at once; recordings are cut at pauses. Greedy decoding needs no cut."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    live: LiveConfig = field(default_factory=LiveConfig)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 where the processor or the GPU computes in it, else fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True)
class AlignConfig:
    """Find when the words of known transcripts were spoken."""

    model: str = ""
    """Model folder of a fine-tuning run."""
    output: str = ""
    """Folder that gets a file for each utterance and format. Empty: standard output."""
    format: str = "textgrid"
    """One or several, separated by commas: text, json, jsonl, ctm, textgrid, srt, vtt. manifest, alone: utterances for
    training, cut out of long recordings."""
    max_seconds: float = 20.0
    """Of ``format manifest``: longest utterance; a recording that is not longer is kept as it is."""
    min_score: float = 0.15
    """Of ``format manifest``: utterances with a lower score are left out."""
    splits: tuple[str, ...] = ()
    """Splits of the manifest; empty for all."""
    block_seconds: float = 5.0
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 where the processor or the GPU computes in it, else fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        if "manifest" in self.format and self.format != "manifest":
            raise ConfigError(f"--format {self.format}: manifest stands alone; word times need a call of their own")
        if self.max_seconds <= 0 or not 0 <= self.min_score <= 1:
            raise ConfigError(
                f"max_seconds ({self.max_seconds:g}) must be above 0, min_score ({self.min_score:g}) between 0 and 1"
            )

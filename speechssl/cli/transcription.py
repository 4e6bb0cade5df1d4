"""Verbs that put words in time: ``transcribe``, ``align``."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from speechssl.cli.arguments import configure
from speechssl.cli.help import usage
from speechssl.core.errors import AudioError, ConfigError

if TYPE_CHECKING:
    from speechssl.config import TranscribeConfig

__all__ = ["align", "transcribe"]


def transcribe(words: list[str], overrides: list[str]) -> int:
    """Transcribe files, folders or standard input."""
    from speechssl.config import TranscribeConfig

    cfg = configure(TranscribeConfig, "transcribe", None, overrides)
    if not words:
        raise ConfigError(f"usage: {usage('transcribe')} --model FOLDER [--output FOLDER --format text,srt]")
    if "-" in words:
        if len(words) > 1:
            raise ConfigError("standard input (-) cannot be mixed with files; transcribe it alone")
        return _live(cfg)
    from speechssl.asr.transcription.transcribe import transcribe as run

    with _bar("transcribe", wanted=bool(cfg.output)) as advance:
        summary = run([Path(word) for word in words], cfg, say=_say, warn=_warn, advance=advance)
    if cfg.output:
        print(summary)
    return 1 if summary.failed else 0


def align(words: list[str], overrides: list[str]) -> int:
    """Align known transcripts."""
    from speechssl.config import AlignConfig

    cfg = configure(AlignConfig, "align", None, overrides)
    if not words:
        raise ConfigError(f"usage: {usage('align')} --model FOLDER [--output FOLDER --format textgrid,ctm]")
    from speechssl.asr.transcription.align import align_all, passages

    output = Path(cfg.output).resolve()
    if cfg.format == "manifest" and cfg.output and Path(words[0]).resolve() in (output, output / "manifest.jsonl"):
        raise ConfigError(f"--output {cfg.output} has the manifest that is to be read; give another folder")
    found = passages(words, cfg.splits)
    with _bar("align", wanted=bool(cfg.output)) as advance:
        summary = align_all(found, cfg, say=_say, warn=_warn, note=_note, advance=advance)
    if cfg.output:
        print(summary)
    return 1 if summary.failed else 0


def _live(cfg: "TranscribeConfig") -> int:
    """Print the words of standard input when they are final: as lines between pauses, or as a JSON or CTM line each."""
    import json
    from dataclasses import asdict

    if cfg.output or cfg.format not in ("text", "jsonl", "ctm"):
        raise ConfigError("standard input is transcribed to standard output: --format text, jsonl or ctm, no --output")
    from speechssl.asr.transcription.live import live_words, pcm_blocks
    from speechssl.asr.transcription.transcribe import open_recogniser

    end = 0.0
    begun = False
    try:
        for word in live_words(open_recogniser(cfg), pcm_blocks(sys.stdin.fileno()), cfg):
            if cfg.format == "text":
                gap = "\n" if word.start - end >= cfg.live.pause_seconds else " "
                print(f"{gap if begun else ''}{word.word}", end="", flush=True)
            elif cfg.format == "ctm":
                print(f"- 1 {word.start:.3f} {word.end - word.start:.3f} {word.word} {word.score:.3f}", flush=True)
            else:
                row = {name: round(v, 3) if isinstance(v, float) else v for name, v in asdict(word).items()}
                print(json.dumps(row, ensure_ascii=False), flush=True)
            end, begun = word.end, True
    except AudioError as error:
        _warn(str(error))
        return 1
    finally:
        if begun and cfg.format == "text":
            print(flush=True)
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _warn(text: str) -> None:
    print(f"error: {text}", file=sys.stderr, flush=True)


def _note(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


@contextmanager
def _bar(title: str, *, wanted: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a progress bar in seconds of audio, or None where the printed results show the progress."""
    from speechssl.core.progress import progress

    if not wanted:
        yield None
        return
    with progress(title, unit="s of audio") as advance:
        yield advance

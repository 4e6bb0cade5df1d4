"""Forced alignment of a manifest, or of one recording and its text: word times in files that other tools read.

In: utterances with transcripts and ``AlignConfig``. Out: the files of wordfiles.py, and a ledger of what could not be
aligned and why; the others go on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from speechssl.asr.ctc import CtcModel, load_recogniser
from speechssl.asr.tokens import Tokens
from speechssl.asr.transcription.captions import captions
from speechssl.asr.transcription.forced_alignment import align
from speechssl.asr.transcription.inputs import Input
from speechssl.asr.transcription.longform import Samples, block_frames, local_log_probs, read_blocks
from speechssl.asr.transcription.outputs import open_outputs
from speechssl.asr.transcription.transcribe import Advance, Summary, check_stream, model_key
from speechssl.asr.transcription.transcript import Transcript
from speechssl.asr.transcription.wordfiles import parse_formats, render
from speechssl.config import AlignConfig
from speechssl.core.errors import AudioError, ConfigError, DataError
from speechssl.core.ledger import Entry
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.ingest.manifest import read_manifest
from speechssl.data.ingest.text.corpus_tags import find_tags
from speechssl.training.parallel import start_parallel
from speechssl.training.precision import agreed

__all__ = ["MAX_CELLS", "Passage", "align_all", "align_passage", "passages"]

MAX_CELLS = 2_000_000_000
"""Most frames times states (twice the labels) of one alignment, a byte each: about 20 minutes of speech at 50 Hz."""


_SHOWN = 5


@dataclass(frozen=True)
class Passage:
    """A recording, or a part of one, and its text."""

    item: Input
    text: str | None
    start: float = 0.0
    duration: float | None = None


def passages(words: Sequence[str], splits: Sequence[str] = ()) -> list[Passage]:
    """Return the passages that the command line names: a manifest (or its folder), or a recording and its text.

    The text is the name of a .txt file, or the words themselves.

    Raises
    ------
    ConfigError
        Neither.
    DataError
        The manifest cannot be read, or has no utterance of these splits.
    """
    first = Path(words[0]) if words else Path()
    if len(words) == 1:
        manifest = first / "manifest.jsonl" if first.is_dir() else first
        if manifest.suffix != ".jsonl":
            raise ConfigError(f"no text to align {first} with; usage: speechssl align MANIFEST | AUDIO TEXT...")
        rows = [row for row in read_manifest(manifest) if not splits or row.split in splits]
        if not rows:
            raise DataError(f"{manifest}: no utterance of split {', '.join(splits) or '(any)'}")
        folder = manifest.parent
        return [Passage(Input(folder / row.path, row.id), row.text, row.start, row.duration) for row in rows]
    if not words:
        raise ConfigError("usage: speechssl align MANIFEST | AUDIO TEXT...")
    source = Path(words[1])
    if len(words) == 2 and source.suffix == ".txt":
        try:
            text = source.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{source}: not UTF-8 text ({error.reason}); write it again as UTF-8") from error
    else:
        text = " ".join(words[1:])
    return [Passage(Input(first, first.stem), text)]


def align_passage(model: CtcModel, tokens: Tokens, passage: Passage, *, block: int, bf16: bool = False) -> Transcript:
    """Return the words of a passage with their times; what cannot be aligned comes back with its reason.

    Reasons: those of audio files, ``no_transcript``, ``empty_transcript`` (nothing in it can be spelled with the
    model's characters), ``ctc_infeasible`` (more labels than frames), ``too_long_to_align`` (more than ``MAX_CELLS``),
    ``not_finite``.
    """
    name = str(passage.item.path)
    samples = 0

    def counted() -> Iterator[Samples]:
        nonlocal samples
        for part in read_blocks(passage.item.path, start=passage.start, duration=passage.duration):
            samples += len(part)
            yield part

    try:
        if passage.text is None:
            raise AudioError(name, "no_transcript", "its text is not known")
        labels = tokens.encode(passage.text)
        if not labels:
            raise AudioError(name, "empty_transcript", "nothing in its text can be spelled with the model's characters")
        rows = []
        frames = 0
        for rows_of_block in local_log_probs(model, counted(), block, bf16=bf16):
            rows.append(rows_of_block)
            frames += len(rows_of_block)
            if frames * (2 * len(labels) + 1) > MAX_CELLS:
                detail = f"{len(labels)} labels over {frames * model.encoder.hop / SAMPLE_RATE:.0f} s or more; cut it"
                raise AudioError(name, "too_long_to_align", f"{detail} into parts of 20 minutes")
        log_probs = torch.cat(rows) if rows else torch.zeros(0, tokens.size)
        words = align(log_probs, passage.text, tokens, frame_seconds=model.encoder.hop / SAMPLE_RATE, item=name)
    except AudioError as error:
        return Transcript(name, "", error=error)
    return Transcript(name, " ".join(w.word for w in words), tuple(words), round(samples / SAMPLE_RATE, 3))


def _part(passage: Passage) -> str:
    """Return values that differ for a changed passage of an unchanged file."""
    return f"{passage.start:.3f} {passage.duration} {passage.text}"


def _unspelled(passage: Passage, done: Transcript, tokens: Tokens) -> list[Entry]:
    """Return ledger entries for words and characters that the model cannot spell, and for tags that are no words."""
    if done.error is not None or passage.text is None:
        return []
    item = str(passage.item.path)
    gaps = [word.word for word in done.words if not word.spelled]
    parts = [word.word for word in done.words if word.spelled and not set(word.word) <= tokens.characters]
    texts = (
        (
            "unspelled_words",
            gaps,
            "cannot be spelled with the model's characters; they get the time between their neighbours",
        ),
        ("unspelled_characters", parts, "are aligned without some of their characters, which the model does not have"),
        ("corpus_tag", [tag for tag, kept in find_tags(passage.text) if not kept], "are tags, not words; left out"),
    )
    return [
        Entry("align", item, reason, f"{len(words)} of its words {what}: {_examples(words)}", "kept")
        for reason, words, what in texts
        if words
    ]


def _examples(words: Sequence[str]) -> str:
    return ", ".join(map(repr, words[:_SHOWN])) + (", …" if len(words) > _SHOWN else "")


def align_all(
    found: Sequence[Passage],
    cfg: AlignConfig,
    *,
    say: Callable[[str], object] = print,
    warn: Callable[[str], object] = print,
    note: Callable[[str], object] = print,
    advance: Advance | None = None,
) -> Summary:
    """Align passages into ``cfg.output``, or through ``say``; arguments and errors as those of ``transcribe``."""
    formats = parse_formats(cfg.format)
    output = Path(cfg.output) if cfg.output else None
    check_stream(cfg.format, len(found), output)
    if not cfg.model:
        raise ConfigError("no model to align with; give --model, the model folder of a fine-tuning run")
    parallel = start_parallel(cfg.device)
    choice = agreed(cfg.precision, parallel, verb="align")
    model, tokens = load_recogniser(Path(cfg.model), parallel.device)
    block = block_frames(model, cfg.block_seconds)
    captions([], cfg.captions)
    summary = Summary(output=cfg.output, verb="aligned")
    total = round(sum(passage.duration or 0.0 for passage in found))
    before = 0.0
    with ExitStack() as stack:
        outputs = None
        if output is not None:
            key = model_key(cfg.model, cfg.precision, block=cfg.block_seconds, words="all")
            outputs = stack.enter_context(
                open_outputs(output, stage="align", formats=formats, captions=cfg.captions, key=key)
            )
        for passage in found:
            item = passage.item
            known = outputs.known(item, of=_part(passage)) if outputs is not None else None
            done = known or align_passage(model, tokens, passage, block=block, bf16=choice.bf16)
            before += done.duration if passage.duration is None else passage.duration
            if advance is not None:
                advance(round(before), max(total, round(before)))
            if outputs is not None:
                outputs.write(item, done, known=known is not None, of=_part(passage))
            elif done.error is None:
                text = render(done, formats[0], name=item.name, cfg=cfg.captions).rstrip("\n")
                say(f"{done.path}\t{text}" if formats[0] == "text" else text)
            if done.error is not None:
                warn(str(done.error))
            for entry in _unspelled(passage, done, tokens):
                note(f"{entry.item}: {entry.detail}")
                if outputs is not None:
                    outputs.ledger.add(entry)
            summary.count(done, known=known is not None)
    return summary

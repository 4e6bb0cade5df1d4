"""Forced alignment of a manifest, or of one recording and its text: word times in files that other tools read.

In: utterances with transcripts and ``AlignConfig``. Out: the files of wordfiles.py, and a ledger of what could not be
aligned and why; the others go on. With the format ``manifest``: utterances for training, cut out of long recordings.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from speechssl.asr.ctc import CtcModel, load_recogniser
from speechssl.asr.tokens import Tokens
from speechssl.asr.transcription.captions import captions
from speechssl.asr.transcription.forced_alignment import align
from speechssl.asr.transcription.inputs import Input
from speechssl.asr.transcription.longform import Samples, block_frames, local_log_probs, read_blocks
from speechssl.asr.transcription.outputs import open_outputs
from speechssl.asr.transcription.segments import align_loosely, cut
from speechssl.asr.transcription.transcribe import Advance, Summary, check_stream, model_key
from speechssl.asr.transcription.transcript import Transcript
from speechssl.asr.transcription.wordfiles import parse_formats, render
from speechssl.config import AlignConfig
from speechssl.core.errors import AudioError, ConfigError, DataError
from speechssl.core.ledger import Entry
from speechssl.data.audio.decode import SAMPLE_RATE, AudioFile, AudioLimits
from speechssl.data.ingest.manifest import read_manifest, write_manifest
from speechssl.data.ingest.rows import clean_text
from speechssl.data.ingest.text.corpus_tags import find_tags
from speechssl.data.ingest.utterance import Utterance, safe_id
from speechssl.training.parallel import start_parallel
from speechssl.training.precision import agreed

__all__ = ["Passage", "align_all", "align_passage", "passages"]

_SHOWN = 5


@dataclass(frozen=True)
class Passage:
    """A recording, or a part of one, and its text."""

    item: Input
    text: str | None
    start: float = 0.0
    duration: float | None = None
    row: Utterance | None = None
    """Its line in a manifest."""


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
        return [Passage(Input(folder / row.path, row.id), row.text, row.start, row.duration, row) for row in rows]
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


def align_passage(
    model: CtcModel, tokens: Tokens, passage: Passage, *, block: int, bf16: bool = False, loosely: bool = False
) -> Transcript:
    """Return the words of a passage with their times; what cannot be aligned comes back with its reason.

    ``loosely`` allows text and sound that do not belong together, as ``align_loosely``. Reasons: those of audio files,
    ``no_transcript``, ``empty_transcript`` (nothing in it can be spelled with the model's characters),
    ``ctc_infeasible`` (more labels than frames), ``not_finite``.
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
        rows = list(local_log_probs(model, counted(), block, bf16=bf16))
        log_probs = torch.cat(rows) if rows else torch.zeros(0, tokens.size)
        del rows  # of hours: as large as all the rest
        find = align_loosely if loosely else align
        words = find(log_probs, passage.text, tokens, frame_seconds=model.encoder.hop / SAMPLE_RATE, item=name)
    except AudioError as error:
        return Transcript(name, "", error=error)
    text = " ".join(word.word for word in words if word.word)
    return Transcript(name, text, tuple(words), round(samples / SAMPLE_RATE, 3))


def _part(passage: Passage) -> str:
    """Return values that differ for a changed passage of an unchanged file."""
    return f"{passage.start:.3f} {passage.duration} {passage.text}"


def _unspelled(passage: Passage, done: Transcript, tokens: Tokens) -> list[Entry]:
    """Return ledger entries for words and characters that the model cannot spell, and for tags that are no words."""
    if done.error is not None or passage.text is None:
        return []
    item = str(passage.item.path)
    gaps = [word.word for word in done.words if not word.spelled]
    parts = [
        word.word for word in done.words if word.spelled and not set(tokens.normal(word.word)) <= tokens.characters
    ]
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
    loosely = cfg.format == "manifest"
    formats = ("jsonl",) if loosely else parse_formats(cfg.format)
    output = Path(cfg.output) if cfg.output else None
    if not loosely:
        check_stream(cfg.format, len(found), output)
    elif output is None:
        raise ConfigError("--format manifest needs --output, a folder for manifest.jsonl and its ledger")
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
    utterances = _Utterances(cfg)
    with ExitStack() as stack:
        outputs = None
        if output is not None:
            key = model_key(cfg.model, cfg.precision, block=cfg.block_seconds, words="loose" if loosely else "all")
            outputs = stack.enter_context(
                open_outputs(output, stage="align", formats=formats, captions=cfg.captions, key=key)
            )
            if loosely:  # when it is there, it is complete
                (output / "manifest.jsonl").unlink(missing_ok=True)
        for passage in found:
            item = passage.item
            if loosely and utterances.take_whole(passage):
                continue
            known = outputs.known(item, of=_part(passage)) if outputs is not None else None
            done = known or align_passage(model, tokens, passage, block=block, bf16=choice.bf16, loosely=loosely)
            before += done.duration if passage.duration is None else passage.duration
            if advance is not None:
                advance(round(before), max(total, round(before)))
            if outputs is not None:
                outputs.write(item, done, known=known is not None, of=_part(passage))
            elif done.error is None:
                text = render(done, formats[0], name=item.name, cfg=cfg.captions).rstrip("\n")
                say(f"{done.path}\t{text}" if formats[0] == "text" else text)
            entries = _unspelled(passage, done, tokens)
            if loosely and outputs is not None and done.error is None:
                done, entries = utterances.cut(passage, done, [e for e in entries if e.reason != "unspelled_words"])
                if done.error is not None:
                    entries.append(Entry("align", str(item.path), done.error.reason, done.error.detail))
            if done.error is not None:
                warn(str(done.error))
            for entry in entries:
                if not loosely:  # a list as long as the audio; the summary has the counts
                    note(f"{entry.item}: {entry.detail}")
                if outputs is not None:
                    outputs.ledger.add(entry)
            summary.count(done, known=known is not None)
        if loosely and outputs is not None:
            summary.verb = utterances.write(outputs.folder)
            summary.left_out = outputs.ledger.counts()
    return summary


class _Utterances:
    """The utterances of a manifest: segments of long recordings, and what is short or has no text, as it is."""

    def __init__(self, cfg: AlignConfig) -> None:
        self.cfg = cfg
        self._rows: dict[str, Utterance] = {}
        self._whole: list[Utterance] = []

    def take_whole(self, passage: Passage) -> bool:
        """Keep a row of a manifest that is not to be cut; return whether it is one."""
        row = passage.row
        if row is None or (row.text is not None and row.duration > self.cfg.max_seconds):
            return False
        self._whole.append(replace(row, path=passage.item.path.resolve().as_posix()))
        return True

    def cut(self, passage: Passage, done: Transcript, entries: list[Entry]) -> tuple[Transcript, list[Entry]]:
        """Cut a recording; return it and its ledger entries, or its error."""
        path, limits = passage.item.path, self.cfg
        try:
            row = passage.row or _described(passage.item, done)
            segments, left_out = cut(
                done.words,
                passage.text or "",
                seconds=done.duration,
                max_seconds=limits.max_seconds,
                min_score=limits.min_score,
                item=str(path),
            )
        except AudioError as error:
            return replace(done, error=error), entries
        for number, segment in enumerate(segments):
            name = safe_id(f"{row.id}-{number:04d}")
            self._rows[name] = replace(
                row,
                id=name,
                path=path.resolve().as_posix(),
                start=row.start + segment.start,
                duration=segment.end - segment.start,
                text=clean_text(segment.text),
                meta=row.meta | {"score": round(segment.score, 3)},
            )
        return done, [*entries, *left_out]

    def write(self, folder: Path) -> str:
        """Write ``manifest.jsonl``; return what was done, for the summary."""
        rows = [*self._whole, *self._rows.values()]
        if not rows:
            raise DataError(f"{folder}: no utterance could be cut; {folder / 'ledger.jsonl'} says why")
        if taken := sorted({row.id for row in self._whole} & self._rows.keys()):
            raise DataError(f"{folder}: the id {taken[0]!r} is also that of a segment; rename the utterance")
        write_manifest(folder / "manifest.jsonl", rows)
        minutes = sum(row.duration for row in self._rows.values()) / 60
        return f"cut into {len(self._rows)} utterances of {minutes:.1f} min"


def _described(item: Input, done: Transcript) -> Utterance:
    with AudioFile(item.path, str(item.path), AudioLimits()) as audio:
        rate, channels = audio.info.sample_rate, audio.info.channels
    return Utterance(safe_id(item.name), str(item.path), done.duration, rate, channels)

"""``score``: scores the transcripts of any number of systems against one reference.

In: `ScoreConfig` and a text normalisation. Out: a `Scoring`: rows of every system with the rates of the normalised and
of the raw text, and what could not be matched. `scoring_report` writes and shows it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.config import ScoreConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.ledger import Entry
from speechssl.data.ingest.text.casing import capitals_fold
from speechssl.data.ingest.text.corpus_tags import find_tags
from speechssl.evaluation.nist.alternatives import Item, has_markup, resolve, rewrite
from speechssl.evaluation.nist.files import read_transcripts
from speechssl.evaluation.nist.identity import match_ids, same_name
from speechssl.evaluation.nist.stm_ctm import Segment, group_words, read_ctm, read_stm
from speechssl.evaluation.nist.text_formats import Format, guess_formats
from speechssl.evaluation.nist.transcript import Transcript, read_lines
from speechssl.evaluation.wer.edit_distance import normal_text
from speechssl.evaluation.wer.hypotheses import Row, score_row
from speechssl.evaluation.wer.sclite_weights import WEIGHTS, Cost

__all__ = ["Scoring", "SystemRows", "score_files"]

Normaliser = Callable[[str], str]


@dataclass(frozen=True)
class SystemRows:
    """One system, scored."""

    name: str
    path: str
    format: Format
    rows: list[Row]
    """Of the normalised text."""
    raw: list[Row]
    """Of the raw text (NFC)."""
    missing: list[str]
    """Utterances without a hypothesis, scored as empty."""
    extra: list[str]
    """Hypotheses without a reference, left out."""
    optional: int
    """Optional words left out, which are not in N (sclite -D counts those of the reference as correct)."""
    renamed: dict[str, str]
    """Ids (or files and channels) that hypotheses and reference spell in different ways: both spellings."""


@dataclass(frozen=True)
class Scoring:
    """All systems on one reference."""

    ref: str
    format: Format
    systems: tuple[SystemRows, ...]
    rule: str
    """Description of the text normalisation."""
    cost: Cost
    ignored_segments: int
    """Segments of an stm reference that are marked as not to be scored."""
    tags: dict[str, int]
    """Corpus tags that the normalisation takes out of references and hypotheses, the most frequent first."""

    def ledger(self) -> list[Entry]:
        """Return an entry for every hypothesis that is missing, left out or spelled otherwise, and for every tag."""
        found = [Entry("score", tag, "corpus_tag", f"{count} times", "dropped") for tag, count in self.tags.items()]
        for system in self.systems:
            found += [Entry("score", f"{system.name}: {id_}", "no_hypothesis", "") for id_ in system.missing]
            found += [Entry("score", f"{system.name}: {id_}", "no_reference", "") for id_ in system.extra]
            found += [
                Entry("score", f"{system.name}: {id_}", "other_spelling_of_id", f"taken for {ref}", "repaired")
                for id_, ref in system.renamed.items()
            ]
        return found


def score_files(
    cfg: ScoreConfig, normalise: Normaliser, rule: str, *, for_language: Callable[[str], Normaliser] | None = None
) -> Scoring:
    """Read the files of ``cfg`` and score every system.

    An utterance without a hypothesis is scored as empty, and listed. A hypothesis without a reference is an error,
    unless ``cfg.allow_extra``: it is most often a sign of the wrong file.

    Parameters
    ----------
    normalise, rule
        The text normalisation, and its name.
    for_language
        The normalisation of a language, for references that name theirs; used when ``cfg.language`` is empty.

    Raises
    ------
    ConfigError
        No files are named, or the formats do not fit together.
    DataError
        A file cannot be read, or the utterances do not match.
    """
    if not cfg.ref or not cfg.hyp:
        raise ConfigError(
            "usage: speechssl score REF HYP... [--a.b value ...]: a reference and at least one hypothesis"
        )
    names = _names(cfg)
    ref_path = Path(cfg.ref)
    kind, kinds = guess_formats(
        ref_path, [Path(path) for path in cfg.hyp], ref_format=cfg.ref_format, hyp_format=cfg.hyp_format
    )
    for path, other in zip(cfg.hyp, kinds, strict=True):
        _fit(cfg.ref, kind, path, other)
    if kind == "stm":
        segments = read_stm(ref_path, optional=cfg.optional_words)
        references = {s.transcript.id: s.transcript for s in segments if not s.ignored}
        ignored = len(segments) - len(references)
    else:
        segments, ignored = [], 0
        references = read_transcripts(ref_path, kind, "ref", optional=cfg.optional_words)
    if not references:
        raise DataError(f"{ref_path}: no utterance to score")
    speakers = _speakers(cfg, references)
    rules = _Rules(normalise, cfg.language, for_language)
    systems = []
    for name, path, hyp_kind in zip(names, cfg.hyp, kinds, strict=True):
        hypotheses, extra, renamed = _hypotheses(cfg, Path(path), hyp_kind, references, segments)
        if kind == hyp_kind == "text" and len(hypotheses) != len(references):
            raise DataError(
                f"{cfg.ref} has {len(references)} lines and {path} has {len(hypotheses)}: without ids, line k of one "
                "is compared with line k of the other (where each line begins with an id, give --ref-format kaldi and "
                "--hyp-format kaldi)"
            )
        _check_extra(
            cfg, path, extra, next(iter(references)), shared=len(hypotheses) - (0 if hyp_kind == "ctm" else len(extra))
        )
        rows, raw, optional = _rows(references, hypotheses, speakers, rules, cfg.cost)
        missing = [id_ for id_ in references if id_ not in hypotheses]
        systems.append(SystemRows(name, path, hyp_kind, rows, raw, missing, extra, optional, renamed))
    tags = _tags(systems) if cfg.normalise == "own" else {}
    return Scoring(cfg.ref, kind, tuple(systems), rule, cfg.cost, ignored, tags)


def _hypotheses(
    cfg: ScoreConfig, path: Path, kind: Format, references: Mapping[str, Transcript], segments: Sequence[Segment]
) -> tuple[dict[str, Transcript], list[str], dict[str, str]]:
    """Return the hypotheses by the reference's ids, what has no reference, and ids of another spelling."""
    if kind == "ctm":
        grouped = group_words(segments, read_ctm(path, optional=cfg.optional_words))
        outside = Counter("file {} channel {}".format(*word.channel) for word in grouped.outside)
        channels = {" ".join(there): " ".join(here) for there, here in grouped.renamed.items()}
        return grouped.hypotheses, [f"{where} ({count} words)" for where, count in outside.items()], channels
    found = read_transcripts(path, kind, "hyp", optional=cfg.optional_words)
    renamed = match_ids(references, found, same_name)
    renamed |= _by_audio(references, {id_: item for id_, item in found.items() if id_ not in renamed})
    found = {renamed.get(id_, id_): transcript for id_, transcript in found.items()}
    return found, [id_ for id_ in found if id_ not in references], renamed


def _by_audio(references: Mapping[str, Transcript], found: Mapping[str, Transcript]) -> dict[str, str]:
    """Return the reference's id of hypotheses of the same audio file: both name it, or it is the other side's id."""
    counts = Counter(item.audio for item in references.values())
    there = {item.audio: id_ for id_, item in references.items() if item.audio and counts[item.audio] == 1}
    mine = {item.audio or id_: id_ for id_, item in found.items() if id_ not in references}
    names = {name: name for name in mine if name in there} | match_ids(there, mine, same_name)
    taken = found.keys() & references.keys()
    return {mine[name]: there[ref] for name, ref in names.items() if there[ref] not in taken}


class _Rules:
    """The normalisation of each utterance, by its language; where one text is in capitals, by what they do not show."""

    def __init__(self, normalise: Normaliser, language: str, for_language: Callable[[str], Normaliser] | None) -> None:
        self._language, self._for_language = language, None if language else for_language
        self._known: dict[str, Normaliser] = {"": normalise}

    def of(self, reference: Transcript, ref: str, hyp: str) -> Normaliser:
        """Return the normalisation of one pair of raw texts."""
        own = reference.language or "" if self._for_language else ""
        if own not in self._known and self._for_language:
            self._known[own] = self._for_language(own)
        normalise = self._known[own]
        fold = capitals_fold(ref, hyp, self._language or own)
        return normalise if fold is None else lambda text: fold(normalise(text))


def _rows(
    references: dict[str, Transcript],
    hypotheses: dict[str, Transcript],
    speakers: dict[str, str | None],
    rules: "_Rules",
    cost: Cost,
) -> tuple[list[Row], list[Row], int]:
    """Return rows of the normalised text, rows of the raw text, and the optional words that were left out."""
    rows, raw_rows, skipped = [], [], 0
    for id_, reference in references.items():
        hypothesis = hypotheses.get(id_)
        found = hypothesis.items if hypothesis else ()
        ref_raw, hyp_raw, _ = _texts(reference.items, found, cost)
        normalise = rules.of(reference, ref_raw, hyp_raw)
        ref, hyp, left_out = _texts(rewrite(reference.items, normalise), rewrite(found, normalise), cost)
        skipped += left_out
        fields: dict[str, Any] = {"ref_raw": ref_raw, "hyp_raw": hyp_raw}
        words = len(hyp.split())
        if hypothesis and words and len(hypothesis.times) == words:
            fields["times"] = [list(span) for span in hypothesis.times]
            if len(hypothesis.confidences) == words:
                fields["confidences"] = list(hypothesis.confidences)
        if reference.labels:
            fields["fields"] = {"label": ",".join(reference.labels)}
        seconds = reference.duration
        if seconds is None and hypothesis is not None:
            seconds = hypothesis.duration
        rows.append(score_row(id_, ref, hyp, cost=cost, speaker=speakers[id_], duration=seconds, **fields))
        raw_rows.append(score_row(id_, ref_raw, hyp_raw, cost=cost))
    return rows, raw_rows, skipped


def _tags(systems: Sequence[SystemRows]) -> dict[str, int]:
    """Count the tags of the reference once, and of every system."""
    texts = [row["hyp_raw"] for system in systems for row in system.rows]
    texts += [row["ref_raw"] for row in systems[0].rows]
    counts = Counter(tag.casefold() for text in texts for tag, kept in find_tags(text) if not kept)
    return dict(counts.most_common())


def _texts(ref: Sequence[Item], hyp: Sequence[Item], cost: Cost) -> tuple[str, str, int]:
    """Return both texts without markup, and the optional words that were left out."""
    if not has_markup(ref) and not has_markup(hyp):
        return normal_text(" ".join(map(str, ref))), normal_text(" ".join(map(str, hyp))), 0
    resolved = resolve(ref, hyp, WEIGHTS[cost])
    return normal_text(resolved.ref), normal_text(resolved.hyp), resolved.optional


def _names(cfg: ScoreConfig) -> list[str]:
    """Return a name for each system: given, or the shortest ends of the paths that differ."""
    if cfg.names:
        if len(cfg.names) != len(cfg.hyp):
            raise ConfigError(f"{len(cfg.names)} names for {len(cfg.hyp)} systems; give each --hyp one of --names")
        names = list(cfg.names)
    else:
        paths = [Path(path) for path in cfg.hyp]
        parts = [[*path.parts[:-1], path.name if path.is_dir() else path.stem] for path in paths]
        depth = 1
        while len({tuple(p[-depth:]) for p in parts}) < len(parts) and depth < max(map(len, parts)):
            depth += 1
        names = ["-".join(part.strip("/.") or "root" for part in p[-depth:]) for p in parts]
    if len(set(names)) < len(names):
        raise ConfigError(f"two systems have the same name ({', '.join(names)}); give each its own with --names")
    for name in names:
        if not name or "/" in name or name in (".", ".."):
            raise ConfigError(f"{name!r} cannot be the name of a system: it becomes the name of a folder")
    return names


def _fit(ref: str, kind: Format, hyp: str, other: Format) -> None:
    if (kind == "stm") != (other == "ctm"):
        raise ConfigError(
            f"{hyp} ({other}) cannot be scored against {ref} ({kind}): ctm goes with stm, for both have times; "
            "set --ref-format or --hyp-format if they were detected wrongly"
        )
    if (kind == "text") != (other == "text"):
        raise ConfigError(
            f"{hyp} ({other}) cannot be scored against {ref} ({kind}): only one of them has utterance ids; "
            "set --ref-format or --hyp-format if they were detected wrongly"
        )


def _check_extra(cfg: ScoreConfig, path: str, extra: Sequence[str], first_id: str, *, shared: int) -> None:
    if not shared:
        first = f" (its first is {extra[0]!r}, that of the reference {first_id!r})" if extra else ""
        raise DataError(
            f"{path}: has no utterance of {cfg.ref}{first}; are they of the same test set, and of the formats that "
            "--ref-format and --hyp-format should name?"
        )
    if extra and not cfg.allow_extra:
        raise DataError(
            f"{path}: {len(extra)} of its utterances are not in {cfg.ref} (first: {extra[0]!r}); remove them, or leave "
            "them out with --allow-extra"
        )


def _speakers(cfg: ScoreConfig, references: dict[str, Transcript]) -> dict[str, str | None]:
    """Return the speaker of each utterance, where known."""
    known = {id_: item.speaker for id_, item in references.items()}
    if cfg.speakers == "prefix":
        return {id_: speaker or _prefix(id_) for id_, speaker in known.items()}
    if not cfg.speakers:
        return known
    named: dict[str, str] = {}
    for number, line in enumerate(read_lines(Path(cfg.speakers)), 1):
        if not line.strip():
            continue
        parts = line.split()
        if len(parts) != 2:
            raise DataError(f"{cfg.speakers}, line {number}: not 'id speaker': {line[:60]!r}")
        named[parts[0]] = parts[1]
    renamed = match_ids(known, named, same_name)
    return known | {renamed.get(id_, id_): name for id_, name in named.items() if renamed.get(id_, id_) in known}


def _prefix(id_: str) -> str | None:
    """Return what stands before the first -, or else before the first _ (as sclite -i rm)."""
    return id_.partition("-" if "-" in id_ else "_")[0] if set(id_) & {"-", "_"} else None

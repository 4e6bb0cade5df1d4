"""Output of ``score``: a table of the systems, a table of the pairs, and a folder for each system.

In: a `Scoring`. Out: text for the terminal and, in the output folder, ``comparison.txt``, ``comparison.json``,
``ledger.jsonl`` and ``NAME/hypotheses.jsonl``, ``NAME/wer.json``, ``NAME/wer.txt``.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from speechssl.config import ScoreConfig
from speechssl.core.files import write_atomic, write_json
from speechssl.core.ledger import Ledger
from speechssl.core.text_table import interval_text, percent, text_table
from speechssl.evaluation.compare.mapsswe import holm
from speechssl.evaluation.compare.matching import match
from speechssl.evaluation.compare.pairs import Pair, pairs_of
from speechssl.evaluation.nist.score import Scoring, SystemRows
from speechssl.evaluation.wer.report import WerReport
from speechssl.evaluation.wer.summary import summarise
from speechssl.evaluation.wer.wer import write_wer
from speechssl.evaluation.wer.wer_text import UNSPACED

__all__ = ["bootstrap_p", "report_scoring"]

COSTS = {
    "levenshtein": "levenshtein: the fewest errors (substitution, deletion, insertion 1, 1, 1)",
    "sclite": "sclite: weights 4, 3, 3 and the ties of NIST sclite",
}
_LISTED = 5


def report_scoring(scoring: Scoring, cfg: ScoreConfig) -> str:
    """Return the tables as text; with ``cfg.output``, also write everything there."""
    reports = {s.name: summarise(s.rows, n=cfg.bootstrap, seed=cfg.seed) for s in scoring.systems}
    pairs: tuple[Pair, ...] = ()
    other: tuple[str, ...] = ()
    if len(scoring.systems) > 1:
        # Alternatives may give other reference words for each system: such utterances are left out of the pairs.
        matched = match({s.name: s.rows for s in scoring.systems}, common=True)
        pairs, other = pairs_of(matched, n=cfg.bootstrap, seed=cfg.seed), matched.other_references
    text = _text(scoring, reports, pairs, other, cfg)
    if cfg.output:
        output = Path(cfg.output)
        Ledger(output / "ledger.jsonl", fresh=True).extend(scoring.ledger())
        for system in scoring.systems:
            write_wer(output / system.name, system.rows, _info(scoring, system), n=cfg.bootstrap, seed=cfg.seed)
        document = _document(scoring, reports, pairs, other, cfg)
        write_atomic(output / "comparison.txt", text)
        write_json(output / "comparison.json", document)
    return text


def bootstrap_p(pair: Pair) -> float:
    """Two-tailed p of the paired bootstrap: twice the share of resamples on the other side of 0, at least one counted.

    1 where there is no bootstrap.
    """
    if pair.bootstrap is None:
        return 1.0
    n, probability = pair.bootstrap.resamples, pair.bootstrap.probability
    return min(1.0, 2 * (min(probability, 1 - probability) * n + 1) / (n + 1))


def _raw(system: SystemRows) -> tuple[float | None, dict[str, int]]:
    """Return WER and counts of the raw text."""
    total = {name: sum(row[name] for row in system.raw) for name in ("S", "D", "I", "N")}
    errors = total["S"] + total["D"] + total["I"]
    return (errors / total["N"] if total["N"] else None), total


def _info(scoring: Scoring, system: SystemRows) -> dict[str, Any]:
    wer, total = _raw(system)
    missing = f"{len(system.missing)} utterances without a hypothesis (scored as empty)" if system.missing else "none"
    info = {
        "reference": f"{scoring.ref} ({scoring.format})",
        "hypotheses": f"{system.path} ({system.format})",
        "text": scoring.rule,
        "raw text": f"WER {percent(wer)} % as it was (NFC only): S {total['S']}, D {total['D']}, I {total['I']}, "
        f"N {total['N']}",
        "alignment": COSTS[scoring.cost],
        "missing": missing,
    }
    if system.extra:
        info["extra"] = f"{len(system.extra)} without a reference (left out)"
    if scoring.ignored_segments:
        info["ignored"] = f"{scoring.ignored_segments} segments marked as not to be scored"
    if system.optional:
        info["optional"] = (
            f"{system.optional} optional words left out; they are not in N (sclite -D counts those of the reference "
            "in N, as correct)"
        )
    return info


def _text(
    scoring: Scoring, reports: dict[str, WerReport], pairs: tuple[Pair, ...], other: tuple[str, ...], cfg: ScoreConfig
) -> str:
    first = next(iter(reports.values()))
    parts = [
        f"{first.utterances} utterances of {scoring.ref} ({scoring.format}), {first.N} reference words, "
        f"{first.speakers} known speakers\n"
        f"text       {scoring.rule}\n"
        f"alignment  {COSTS[scoring.cost]}\n"
    ]
    header = ("system", "WER %", "95 % interval", "by speaker", "raw WER %", "S", "D", "I", "N")
    if scoring.tags:
        shown = ", ".join(f"{tag} {count}" for tag, count in list(scoring.tags.items())[:_LISTED])
        parts[0] += f"no words   {shown}{', …' if len(scoring.tags) > _LISTED else ''} (taken out of both sides)\n"
    rows = []
    for system in scoring.systems:
        r = reports[system.name]
        rows.append(
            (
                system.name,
                percent(r.wer),
                interval_text(r.ci_low, r.ci_high),
                interval_text(r.speaker_ci_low, r.speaker_ci_high),
                percent(_raw(system)[0]),
                *(str(number) for number in (r.S, r.D, r.I, r.N)),
            )
        )
    parts.append(text_table(header, rows))
    others = ("system", "CER %", "95 % interval", "MER %", "WIL %", "SER %", "missing", "extra")
    more = []
    for system in scoring.systems:
        r = reports[system.name]
        rates = (percent(r.cer), interval_text(r.cer_ci_low, r.cer_ci_high), percent(r.mer), percent(r.wil))
        more.append((system.name, *rates, percent(r.ser), str(len(system.missing)), str(len(system.extra))))
    parts.append(text_table(others, more))
    if first.unspaced:
        parts[1:] = [f"{UNSPACED}\n", parts[2], parts[1]]
    parts += [_listed(system) for system in scoring.systems if system.missing or system.extra or system.renamed]
    if pairs:
        parts.append(_pairs(pairs))
        parts.append(
            "MAPSSWE as in NIST sc_stats (p from the normal distribution; sc_stats rounds z down to a table); paired\n"
            f"bootstrap over utterances, {cfg.bootstrap} resamples; p corrected over all pairs (Holm 1979). Negative\n"
            "differences: the second system is better.\n"
        )
    if other:
        parts.append(
            f"{len(other)} utterances whose alternatives were resolved to other words for each system are left out of "
            "the pairs.\n"
        )
    return "\n".join(parts)


def _pairs(pairs: tuple[Pair, ...]) -> str:
    header = ("first, second", "difference", "95 % interval", "boot. p", "Holm", "segments", "z", "MAPSSWE p", "Holm")
    corrected = holm([bootstrap_p(pair) for pair in pairs])
    rows = []
    for pair, p_holm in zip(pairs, corrected, strict=True):
        b = pair.bootstrap
        change = (
            ("–", "–") if b is None else (f"{100 * b.difference:+.2f}", f"{100 * b.low:+.2f} to {100 * b.high:+.2f}")
        )
        numbers = (_p(bootstrap_p(pair)), _p(p_holm), str(pair.segments), f"{pair.z:.3f}", _p(pair.p), _p(pair.p_holm))
        rows.append((f"{pair.a}, {pair.b}", *change, *numbers))
    return text_table(header, rows)


def _listed(system: SystemRows) -> str:
    lines = []
    for ids, what in ((system.missing, "have no hypothesis: scored as empty"), (system.extra, "have no reference")):
        if ids:
            shown = ", ".join(ids[:_LISTED]) + (", …" if len(ids) > _LISTED else "")
            lines.append(f"{system.name}: {len(ids)} {what}: {shown}\n")
    if system.renamed:
        pairs = [f"{there} = {here}" for there, here in system.renamed.items()]
        shown = ", ".join(pairs[:_LISTED]) + (", …" if len(pairs) > _LISTED else "")
        lines.append(f"{system.name}: {len(pairs)} ids are spelled in another way in the reference: {shown}\n")
    return "".join(lines)


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _document(
    scoring: Scoring, reports: dict[str, WerReport], pairs: tuple[Pair, ...], other: tuple[str, ...], cfg: ScoreConfig
) -> dict[str, Any]:
    headline = ("wer", "ci_low", "ci_high", "speaker_ci_low", "speaker_ci_high", "cer", "cer_ci_low", "cer_ci_high")
    counted = ("mer", "wil", "ser", "S", "D", "I", "N", "utterances", "speakers")
    systems = []
    for system in scoring.systems:
        report = reports[system.name]
        raw_wer, raw = _raw(system)
        systems.append(
            {
                "name": system.name,
                "path": system.path,
                "format": system.format,
                **{name: getattr(report, name) for name in (*headline, *counted)},
                "raw": {"wer": raw_wer, **raw},
                "missing": system.missing,
                "extra": system.extra,
                "other_spellings": system.renamed,
                "optional_words_left_out": system.optional,
            }
        )
    corrected = holm([bootstrap_p(pair) for pair in pairs])
    return {
        "reference": scoring.ref,
        "format": scoring.format,
        "text": scoring.rule,
        "cost": scoring.cost,
        "resamples": cfg.bootstrap,
        "seed": cfg.seed,
        "ignored_segments": scoring.ignored_segments,
        "tags": scoring.tags,
        "systems": systems,
        "pairs": [
            {**asdict(pair), "bootstrap_p": bootstrap_p(pair), "bootstrap_p_holm": p}
            for pair, p in zip(pairs, corrected, strict=True)
        ],
        "not_in_pairs": list(other),
    }

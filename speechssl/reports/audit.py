"""The audit for people and for scripts: audit.json, audit.txt, findings.jsonl and one self-contained audit.html.

In: an `Audit`. Out: four files. The page shows the corpus, the findings, and for each check some suspects with
spectrogram and player. A content security policy forbids scripts and requests.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from speechssl.config.audit import AuditConfig
from speechssl.core.errors import AudioError
from speechssl.core.files import write_atomic, write_json
from speechssl.data.audio.decode import AudioLimits, decode
from speechssl.data.audit.audit import Audit
from speechssl.data.audit.census import census
from speechssl.data.audit.checks import CHECKS, Finding
from speechssl.reports.page.audio import player, spectrogram
from speechssl.reports.page.charts import bar_chart
from speechssl.reports.page.head import Section, document_head, page
from speechssl.reports.page.html import Child, Html, el
from speechssl.reports.run.tables import count, table

__all__ = ["render_audit", "render_text", "write_audit"]

_LISTED = 30
"""Findings of one check that the page lists; findings.jsonl has them all."""
_STYLE = """
p, figcaption, caption, summary, td { overflow-wrap: anywhere; }
td { min-width: 5em; }
td.n { min-width: 0; }
.suspect { max-width: 760px; margin: 26px 0 34px; break-inside: avoid; }
@media (max-width: 640px) { tbody th { max-width: 10em; } }
.suspect p { margin-bottom: 6px; }
"""
"""Texts and paths of a corpus can be one word of any length."""
_PLOTS = (
    ("seconds", "Seconds"), ("snr_db", "Signal-to-noise ratio (dB)"), ("bandwidth_hz", "Bandwidth (Hz)"),
    ("level_db", "Level of the loud frames (dB)"), ("characters_per_second", "Characters a second of sound"),
    ("speech_share", "Share of sound"),
)  # fmt: skip


def write_audit(audit: Audit, cfg: AuditConfig, output: Path) -> Path:
    """Write the four files into a folder; return the path of the page."""
    summary = census(audit)
    rows = [_row(finding) for finding in audit.findings]
    document = {"summary": summary, "config": asdict(cfg), "findings": rows}
    write_json(output / "audit.json", document, allow_nan=False)
    lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_atomic(output / "findings.jsonl", lines)
    write_atomic(output / "audit.txt", render_text(audit, summary))
    write_atomic(output / "audit.html", render_audit(audit, summary, cfg))
    return output / "audit.html"


def _row(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "severity": finding.severity,
        "id": finding.item,
        "path": finding.path,
        "value": finding.value,
        "threshold": finding.threshold,
        "detail": finding.detail,
        "others": list(finding.others),
        "advice": CHECKS[finding.check].advice,
    }


def render_text(audit: Audit, summary: dict[str, Any]) -> str:
    """Return the summary and the findings as plain text."""
    severities = summary["severities"]
    lines = [
        f"{summary['source']}: {summary['utterances']:,} utterances, {summary['hours']:.2f} h, "
        f"{summary['transcribed']:,} transcribed, {summary['speakers']} speakers",
        f"{severities['error']} errors, {severities['warning']} warnings, {severities['note']} notes",
        "",
    ]
    for split, group in summary["splits"].items():
        lines.append(
            f"  {split}: {group['utterances']:,} utterances, {group['hours']:.2f} h, {group['speakers']} speakers"
        )
    lines.append("")
    for check, number in _ordered(summary):
        kind = CHECKS[check]
        lines.append(f"{kind.severity:8} {check:24} {number:6,}  {kind.title}: {kind.advice}")
    for check, _ in _ordered(summary):
        lines += ["", f"{check}:"]
        lines += [f"  {f.item}\t{f.detail}" for f in audit.findings if f.check == check]
    return "\n".join(lines) + "\n"


def _ordered(summary: dict[str, Any]) -> list[tuple[str, int]]:
    gravity = {"error": 0, "warning": 1, "note": 2}
    return sorted(summary["checks"].items(), key=lambda entry: gravity[CHECKS[entry[0]].severity])


def render_audit(audit: Audit, summary: dict[str, Any], cfg: AuditConfig) -> str:
    """Return the page."""
    severities = summary["severities"]
    said = f"{severities['error']} errors, {severities['warning']} warnings, {severities['note']} notes"
    size = (
        f"{count(summary['utterances'])} utterances, {summary['hours']:.2f} hours, "
        f"{summary['speakers']} known speakers, {count(summary['transcribed'])} transcribed"
    )
    sections: list[Section] = [("corpus", "Corpus", _corpus(summary)), ("findings", "Findings", _findings(summary))]
    sections += [(check, CHECKS[check].title, _check(audit, check, cfg)) for check, _ in _ordered(summary)]
    header = [
        el("p", "speechssl audit", class_="kicker"),
        el("h1", summary["source"]),
        el("p", size, class_="subtitle"),
        el("p", said, class_="lead"),
    ]
    head = document_head(f"{summary['source']} – speechssl audit", style=_STYLE)
    footer = "Made by speechssl. All findings: findings.jsonl beside this page."
    return page(head, header, sections, footer, linked=2)


def _corpus(summary: dict[str, Any]) -> list[Html | None]:
    header = ("", "utterances", "hours", "transcribed", "speakers")
    parts: list[Html | None] = []
    for key, caption in (("splits", "Splits."), ("by_source", "Sources."), ("by_speaker", "Speakers.")):
        groups = list(summary[key].items())
        rows: list[Sequence[Child]] = [
            (name, count(g["utterances"]), f"{g['hours']:.3f}", count(g["transcribed"]), count(g["speakers"]))
            for name, g in groups[:12]
        ]
        left = f" The {len(groups) - 12} smaller ones are in audit.json." if len(groups) > 12 else ""
        parts.append(table(caption + left, header, rows))
    plots = []
    for key, label in _PLOTS:
        bars = [(a, b, float(n)) for a, b, n in summary[key].get("histogram", [])]
        chart = bar_chart(bars, x_label=label, y_label="Utterances")
        if chart is not None and summary[key]["p0"] < summary[key]["p100"]:
            middle, low, high = (f"{summary[key][share]:,.4g}" for share in ("p50", "p5", "p95"))
            caption = f"{label}. Median {middle}; 5 % to 95 %: {low} to {high}."
            plots.append(el("figure", chart, el("figcaption", caption)))
    parts.append(el("div", plots, class_="figures"))
    letters = "  ".join(f"{char!r} {count(n)}" for char, n in list(summary["alphabet"].items())[:120])
    words = summary["words"]
    said = f"{count(words['running'])} words, {count(words['distinct'])} distinct, {count(words['once'])} of them once"
    parts.append(el("details", el("summary", f"Alphabet: {len(summary['alphabet'])} characters; {said}"),
                    el("p", letters)))  # fmt: skip
    return parts


def _findings(summary: dict[str, Any]) -> list[Html | None]:
    if not summary["checks"]:
        return [el("p", f"Nothing: none of {len(CHECKS)} checks found a fault.", class_="lead")]
    rows = [
        (el("a", check, href=f"#{check}"), CHECKS[check].severity, count(number), CHECKS[check].title,
         CHECKS[check].advice)
        for check, number in _ordered(summary)
    ]  # fmt: skip
    caption = f"What was found, of {len(CHECKS)} checks."
    return [table(caption, ("check", "severity", "findings", "what", "what to do"), rows, text=(0, 1, 3, 4))]


def _check(audit: Audit, check: str, cfg: AuditConfig) -> list[Html | None]:
    found = [finding for finding in audit.findings if finding.check == check]
    kind = CHECKS[check]
    rows = [(f.item, _value(f.value), _value(f.threshold), f.detail, f.path) for f in found[:_LISTED]]
    shown, heard = min(len(found), _LISTED), _suspects(audit, found, cfg)
    caption = f"{check} ({kind.severity}): {shown} of {count(len(found))} findings; {len(heard)} can be heard below."
    header = ("id", "value", "threshold", "detail", "path")
    return [el("p", f"What to do: {kind.advice}."), table(caption, header, rows, text=(0, 3, 4)), *heard]


def _value(value: float | str | None) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, int | float) else value


def _suspects(audit: Audit, found: Sequence[Finding], cfg: AuditConfig) -> list[Html]:
    known = {u.id: u for u, m in audit.pairs if not m.reason}
    limits = AudioLimits(max_seconds=3600 * cfg.max_file_hours, max_channels=cfg.max_channels)
    parts: list[Html] = []
    for finding in found:
        u = known.get(finding.item) or next((known[i] for i in finding.others if i in known), None)
        if u is None or len(parts) >= cfg.suspects:
            continue
        length = min(u.duration or cfg.suspect_seconds, cfg.suspect_seconds)
        try:
            path = audit.inventory.path(u)
            wave = decode(path, item=u.id, start=u.start, duration=length, limits=limits)
        except AudioError:  # shorter than the manifest says, which is a finding of its own
            wave = None
        if wave is not None and len(wave):
            text = el("p", u.text) if u.text else None
            picture = [spectrogram(wave, label=f"Spectrogram of {u.id}"), player(wave, label=u.id)]
            parts.append(el("div", el("p", el("code", u.id), " ", finding.detail), text, picture, class_="suspect"))
    return parts

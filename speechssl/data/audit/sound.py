"""Faults of the sound itself: files, lengths, levels, silence, clipping, channels, bandwidth, noise.

In: an utterance, its measurement and the thresholds. Out: findings.
"""

from __future__ import annotations

from collections.abc import Iterator

from speechssl.config.audit import AuditConfig
from speechssl.data.audio.formats import LOSSY_FORMATS
from speechssl.data.audit.checks import Finding
from speechssl.data.audit.inventory import unusable
from speechssl.data.audit.measure import Measurement
from speechssl.data.ingest.utterance import Utterance

__all__ = ["check_sound"]

_DEAD_DB = 45.0
"""A channel this far below the other is dead."""
_WIDE_RATE = 12_000
"""A file below this is narrow-band by itself, and ``low_rate`` says so."""


def check_sound(u: Utterance, m: Measurement, cfg: AuditConfig, *, whole: bool, claimed: bool) -> Iterator[Finding]:
    """Yield what is wrong with one recording.

    The utterance is all of its file where ``whole``: its duration should then be the file's. ``claimed``: its duration
    and rate come from a manifest.
    """
    if m.reason:
        yield unusable(u.id, u.path, m.reason, m.detail)
        return

    def found(check: str, value: float, threshold: float, detail: str) -> Finding:
        return Finding(check, u.id, u.path, round(value, 4), round(threshold, 4), detail)

    if claimed and u.duration > 0:
        yield from _claims(u, m, cfg, whole=whole)
    if m.duration < cfg.min_seconds:
        yield found("too_short", m.duration, cfg.min_seconds, f"{m.duration:.3f} s")
        return
    if m.duration > cfg.max_seconds:
        yield found("too_long", m.duration, cfg.max_seconds, f"{m.duration:.1f} s")
    if m.sample_rate < cfg.low_rate_hz:
        yield found("low_rate", m.sample_rate, cfg.low_rate_hz, f"{m.sample_rate:,} Hz")
    yield from _channels(u, m, cfg)
    sound = m.activity
    loud = sound.loud_db if sound is not None else max(m.channel_db, default=-120.0)
    if loud < cfg.silent_db and (m.channels == 1 or max(m.channel_db) < cfg.silent_db - 6):
        yield found("silent", loud, cfg.silent_db, f"the loudest frames have {loud:.0f} dB")
        return
    if abs(m.dc) > cfg.dc_offset:
        yield found("dc_offset", abs(m.dc), cfg.dc_offset, f"mean {100 * m.dc:+.1f} % of full scale")
    if m.clipped > cfg.clipped_share:
        yield found("clipping", m.clipped, cfg.clipped_share, f"{100 * m.clipped:.2f} % of the samples at a rail")
    if sound is None or loud < cfg.silent_db:
        return
    if loud < cfg.quiet_db:
        yield found("quiet", loud, cfg.quiet_db, f"the loudest frames have {loud:.0f} dB")
    span = loud - sound.quiet_db
    if span < cfg.dynamic_db and m.duration > 1.0:
        yield found("no_speech", span, cfg.dynamic_db, f"{span:.1f} dB between its quiet and its loud moments")
        return  # all other checks assume speech
    for check, seconds in (("leading_silence", sound.leading), ("trailing_silence", sound.trailing)):
        if seconds > cfg.edge_silence:
            yield found(check, seconds, cfg.edge_silence, f"{seconds:.1f} s")
    if sound.speech_share < cfg.speech_share and m.duration > 1.0:
        detail = f"sound in {100 * sound.speech_share:.0f} % of {m.duration:.1f} s"
        yield found("mostly_silence", sound.speech_share, cfg.speech_share, detail)
    if sound.gaps and m.format not in LOSSY_FORMATS:  # lossy coders empty the closures of stops themselves
        yield found("dropouts", sound.gaps, 0, f"{sound.gaps} abrupt holes")
    yield from _spectral(u, m, cfg)


def _claims(u: Utterance, m: Measurement, cfg: AuditConfig, *, whole: bool) -> Iterator[Finding]:
    off = m.duration - u.duration
    allowed = max(cfg.duration_tolerance, 0.01 * u.duration)
    if abs(off) > allowed and (whole or off < 0):
        detail = f"the manifest says {u.duration:.3f} s, the file has {m.duration:.3f} s"
        yield Finding("duration_mismatch", u.id, u.path, round(abs(off), 4), round(allowed, 4), detail)
    if u.sample_rate and (u.sample_rate != m.sample_rate or u.channels != m.channels):
        detail = (
            f"the manifest says {u.sample_rate:,} Hz, {u.channels} channels; "
            f"the file has {m.sample_rate:,} Hz, {m.channels}"
        )
        yield Finding("header_mismatch", u.id, u.path, m.sample_rate, u.sample_rate, detail)


def _channels(u: Utterance, m: Measurement, cfg: AuditConfig) -> Iterator[Finding]:
    if m.channels < 2:
        return
    high, low = max(m.channel_db), min(m.channel_db)
    if high > cfg.silent_db and high - low > _DEAD_DB:
        number = m.channel_db.index(low) + 1
        detail = f"channel {number} of {m.channels} is {high - low:.0f} dB below the other"
        yield Finding("dead_channel", u.id, u.path, round(high - low, 1), _DEAD_DB, detail)
    elif m.correlation is not None and m.correlation < cfg.inverted_correlation and high > cfg.silent_db:
        detail = f"correlation {m.correlation:.2f}"
        yield Finding("inverted_channel", u.id, u.path, round(m.correlation, 3), cfg.inverted_correlation, detail)


def _spectral(u: Utterance, m: Measurement, cfg: AuditConfig) -> Iterator[Finding]:
    if m.snr_db is not None and m.snr_db < cfg.snr_db and m.duration > 1.0:  # one word has no pause for noise
        yield Finding("low_snr", u.id, u.path, round(m.snr_db, 1), cfg.snr_db, f"{m.snr_db:.1f} dB")
    if m.bandwidth is not None and m.bandwidth < cfg.bandwidth_hz and m.sample_rate >= _WIDE_RATE:
        detail = f"nothing above {m.bandwidth:,.0f} Hz in a file at {m.sample_rate:,} Hz"
        yield Finding("narrowband", u.id, u.path, m.bandwidth, cfg.bandwidth_hz, detail)
    if m.hum is not None and m.hum[1] > cfg.hum_db:
        detail = f"{m.hum[0]:.0f} Hz and its harmonics stand out by {m.hum[1]:.0f} dB"
        yield Finding("hum", u.id, u.path, round(m.hum[1], 1), cfg.hum_db, detail)

"""Sound inside a page: a player and a spectrogram, each one piece of HTML with its bytes in a ``data:`` address.

In: one waveform. Out: `Html` that asks for no other file and needs no script. The same samples give the same bytes, so
a report stays a function of its folder. The page's content security policy must allow ``img-src data:`` and
``media-src data:``; report.css lays the axes out and inverts the picture on a dark page.
"""

import base64
import io

import numpy as np

from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.reports.page.axes import linear_scale, tick_label
from speechssl.reports.page.html import Html, el

__all__ = ["MEL_BANDS", "RANGE_DB", "log_mel", "player", "spectrogram"]

MEL_BANDS = 80
RANGE_DB = 70.0
"""Decibels from the loudest point of the clip down to white."""
_WINDOW = 0.025
_HOP = 0.010
_LEVELS = 32
_RAMP = ((255, 255, 255), (216, 230, 242), (141, 184, 221), (63, 127, 184), (20, 70, 124), (10, 22, 46))
"""Quiet to loud: lightness falls all the way, so it reads in grey, in print and with any colour vision."""
_HERTZ = (500, 1_000, 2_000, 4_000, 8_000, 16_000)


def player(wave: np.ndarray, rate: int = SAMPLE_RATE, *, label: str) -> Html:
    """Return an ``<audio>`` element that holds a waveform, float32 [T] with full scale 1; ``label`` describes it.

    The bytes are MP3 at about 32 kbit/s for speech at 16 kHz: every browser plays it, and unlike Ogg Opus it has no
    random serial number. They are FLAC where the sound library lacks MP3 or the rate. Louder samples are clipped,
    samples that are not finite are silent. Raises ValueError when there are no samples, or more than one dimension.
    """
    kind, data = _encoded(_checked(wave, "player"), rate)
    return el("audio", controls="", preload="none", src=_address(kind, data), aria_label=label)


def spectrogram(wave: np.ndarray, rate: int = SAMPLE_RATE, *, label: str, width: int = 640, height: int = 112) -> Html:
    """Return a log-mel spectrogram of a waveform, float32 [T] with full scale 1: a PNG with axes in kHz and seconds.

    ``label`` is the picture's alternative text. It has ``width`` columns and ``height`` pixels; on the page it is as
    wide as there is room. Raises ValueError when there are no samples, more than one dimension, or a size is below 8.
    """
    if width < 8 or height < 8:
        raise ValueError(f"a spectrogram of {width} x {height} pixels shows nothing")
    wave = _checked(wave, "spectrogram")
    levels = log_mel(wave, rate, width)
    shades = np.clip(np.rint(-levels[::-1] * (_LEVELS - 1) / RANGE_DB), 0, _LEVELS - 1).astype(np.uint8)
    picture = el("img", src=_address("image/png", _png(_LEVELS - 1 - shades)), alt=label, width=width,
                 height=height, style=f"height:{height}px")  # fmt: skip
    top, shown = _mel(rate / 2), [f for f in _HERTZ if f <= rate / 2]
    hertz = [_tick(f / 1000, "kHz" * (f == shown[-1]), "bottom", _mel(f) / top) for f in shown]
    seconds = len(wave) / rate
    ticks = [tick for tick in linear_scale([0.0, seconds], 0.0, 1.0, n=6).ticks if tick <= seconds * 1.0001]
    times = [_tick(tick, "s" * (tick == ticks[-1]), "left", tick / seconds) for tick in ticks]
    axes = [el("span", hertz, class_="hertz"), el("span", times, class_="seconds")]
    return el("span", picture, el("span", axes, aria_hidden="true"), class_="spectrogram")


def log_mel(wave: np.ndarray, rate: int, columns: int) -> np.ndarray:
    """Return the power in mel bands over time, in dB below the loudest point.

    Windows of 25 ms (Hann) lie evenly over the clip, at most 10 ms apart where up to 16 windows a column allow it; a
    column is the mean power of its windows. Bands are librosa's, on O'Shaughnessy's mel scale from 0 to half the rate.

    Returns
    -------
    float32 array [80, columns], lowest band first, from -70 (or less) to 0; all at -70 in digital silence
    """
    from librosa.filters import mel as mel_filters

    size = max(round(_WINDOW * rate), 16)
    points = 1 << (2 * size - 1).bit_length()  # zero padding: low bands are narrower than a bin otherwise
    each = int(np.clip(np.ceil(len(wave) / columns / (_HOP * rate)), 1, 16))
    padded = np.pad(wave, (size // 2, size))
    starts = ((np.arange(columns * each) + 0.5) * len(wave) / (columns * each)).astype(np.int64)
    window = np.hanning(size).astype(np.float32)
    bank = mel_filters(sr=rate, n_fft=points, n_mels=MEL_BANDS, htk=True, norm=None).T
    mel = np.empty((columns, MEL_BANDS), dtype=np.float32)
    for first in range(0, columns, 256):
        part = starts[first * each : (first + 256) * each]
        frames = padded[part[:, None] + np.arange(size)] * window
        power = np.square(np.abs(np.fft.rfft(frames, points))).reshape(-1, each, points // 2 + 1).mean(1)
        mel[first : first + 256] = power @ bank
    loudest = float(mel.max())
    if loudest <= 1e-12:
        return np.full((MEL_BANDS, columns), -RANGE_DB, dtype=np.float32)
    return np.asarray(10 * np.log10(np.maximum(mel / loudest, 1e-12)), dtype=np.float32).T


def _tick(value: float, unit: str, side: str, share: float) -> Html:
    """Return a label at a share of the axis; the last one names the unit."""
    return el("span", f"{tick_label(value)} {unit}".rstrip(), style=f"{side}:{100 * share:.4g}%")


def _checked(wave: np.ndarray, name: str) -> np.ndarray:
    if wave.ndim != 1 or not len(wave):
        raise ValueError(f"{name} wants one channel with samples [T], not {wave.shape}")
    finite = np.nan_to_num(wave, nan=0.0, posinf=0.0, neginf=0.0)
    return np.asarray(np.clip(finite, -1.0, 1.0), dtype=np.float32)


def _encoded(wave: np.ndarray, rate: int) -> tuple[str, bytes]:
    import soundfile

    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, wave, rate, format="MP3", subtype="MPEG_LAYER_III")
        return "audio/mpeg", buffer.getvalue()
    except (soundfile.LibsndfileError, ValueError):  # a library without MP3, or a rate that MP3 does not have
        buffer = io.BytesIO()
        soundfile.write(buffer, wave, rate, format="FLAC", subtype="PCM_16")
        return "audio/flac", buffer.getvalue()


def _address(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _mel(hertz: float) -> float:
    from librosa import hz_to_mel

    return float(hz_to_mel(hertz, htk=True))


def _png(indices: np.ndarray) -> bytes:
    """Return indices [height, width] into the ramp as a PNG picture with a palette."""
    from PIL import Image

    anchors = np.linspace(0, _LEVELS - 1, len(_RAMP))
    ramp = np.stack([np.interp(np.arange(_LEVELS), anchors, [c[k] for c in _RAMP]) for k in range(3)], axis=1)
    image, buffer = Image.fromarray(indices), io.BytesIO()
    image.putpalette(np.rint(ramp).astype(np.uint8).tobytes())
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()

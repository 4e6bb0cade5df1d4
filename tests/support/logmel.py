"""The log-mel that objectives predict, by librosa and in plain loops: one utterance at a time, without padding."""

import librosa
import numpy as np

from tests.oracles import best_rq as oracle

__all__ = ["expected_speech"]


def log_mel(wave, n_mels):
    """Return librosa's log-mel [T][n_mels] of 25 ms windows every 10 ms, which no frame of the FFT is centred in."""
    mel = librosa.feature.melspectrogram(
        y=np.pad(wave, 56), sr=16_000, n_fft=512, win_length=400, hop_length=160, window=np.hanning(400),
        center=False, n_mels=n_mels, fmin=20.0, htk=True, norm=None,
    )  # fmt: skip
    return np.log(mel + 1e-8).T.tolist()


def expected_speech(encoder, wave, n_mels):
    """Return the stacked, standardised frames [F][stack * n_mels] of one utterance: those that the encoder has."""
    frames, stack = encoder.frames(len(wave)), encoder.hop // 160
    needed = 400 + (frames * stack - 1) * 160
    wave = np.pad(wave, (0, max(0, needed - len(wave))))[:needed]
    return oracle.stacked(oracle.standardise(log_mel(wave, n_mels), eps=1e-5), stack)

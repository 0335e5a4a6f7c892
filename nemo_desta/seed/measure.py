"""Attributes computed from a waveform: duration, loudness, pitch band, speaking rate, signal-to-noise ratio.

Corpora rarely name these, yet the seed description may hold them (the paper's seeds have pitch, volume, speed, SNR and duration;
facts of the lab's own taggers: ``penn`` for pitch, ``brouhaha`` for SNR). Everything here is plain numpy and takes a few milliseconds a clip.

Bands (the same for every speaker, so that the answer can be heard without knowing who speaks):

===============  ===================================  =========================================================
key              bands                                quantity
===============  ===================================  =========================================================
``loudness``     quiet < -28 <= medium < -14 <= loud  RMS level of the clip, dB relative to full scale
``pitch``        low < 150 <= medium < 220 <= high    median F0 of the voiced frames, Hz
``speaking_rate``  slow < 2.0 <= normal < 3.2 <= fast  words per second of active speech
``noise``        noisy <= 8 ... 30 <= clean           estimated SNR, dB; between the bounds no label is written
===============  ===================================  =========================================================

Shape suffixes: N samples, F frames, W samples of a frame, L lags.
"""

import math
import re

import numpy as np

SAMPLE_RATE = 16_000
PITCH_BOUNDS_HZ = (150.0, 220.0)
LOUDNESS_BOUNDS_DB = (-28.0, -14.0)
RATE_BOUNDS_WPS = (2.0, 3.2)
NOISE_BOUNDS_DB = (8.0, 30.0)

_F0_MIN, _F0_MAX = 60.0, 450.0  # Hz; adult and child speech
_HOP = 160  # samples at 16 kHz between frames (10 ms)
_APERIODICITY = 0.2  # a frame is voiced when YIN's normalised difference falls below this
_MIN_VOICED_FRAMES = 8
_SILENCE_DB = -100.0  # floor of every level, so that digital silence stays finite
_ACTIVE_BELOW_PEAK_DB = 30.0  # a frame is active speech when its level is at most this far below the clip's 95th percentile
_MIN_WORDS, _MIN_ACTIVE_SECONDS = 3, 0.8  # fewer words or less speech say nothing about the rate
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]")  # scripts that do not write spaces between words
_WORD = re.compile(r"\w+(?:['’\-]\w+)*")


def band(value: float, bounds: tuple[float, float], names: tuple[str, str, str]) -> str:
    """Return which of three bands a value falls into.

    Args:
        value: the measured quantity.
        bounds: the two inner bounds; a value equal to a bound belongs to the upper band.
        names: names of the lower, middle and upper band.
    """
    return names[0] if value < bounds[0] else names[1] if value < bounds[1] else names[2]


def rms_db(samples_N: np.ndarray) -> float:
    """Return the RMS level of a waveform in dB relative to full scale (at least -100)."""
    power = float(np.mean(np.square(samples_N, dtype=np.float64))) if len(samples_N) else 0.0
    return max(_SILENCE_DB, 10.0 * math.log10(power)) if power > 0.0 else _SILENCE_DB


def frame_levels_db(samples_N: np.ndarray) -> np.ndarray:
    """Return the level of every 25 ms frame (hop 10 ms) in dBFS, shape (F,), float64."""
    width = 400
    padded = np.pad(samples_N.astype(np.float64), (0, max(0, width - len(samples_N))))
    energy = np.concatenate([[0.0], np.cumsum(np.square(padded))])
    starts_F = np.arange(0, len(padded) - width + 1, _HOP)
    power_F = np.maximum(energy[starts_F + width] - energy[starts_F], 0.0) / width
    return 10.0 * np.log10(np.maximum(power_F, 10.0 ** (_SILENCE_DB / 10.0)))


def _halve_rate(samples_N: np.ndarray) -> np.ndarray:
    """Low-pass at about 3.4 kHz and keep every second sample (16 to 8 kHz): pitch needs no more, and it halves the work."""
    taps = np.arange(-15, 16)
    kernel = np.sinc(taps * 0.425) * np.hamming(31)
    return np.convolve(samples_N, (kernel / kernel.sum()).astype(np.float32), mode="same")[::2]


def _normalised_difference(samples_N: np.ndarray) -> np.ndarray:
    """YIN's cumulative-mean-normalised difference of every frame (de Cheveigne and Kawahara 2002, eq. 8), shape (F, L); input at 8 kHz."""
    rate, hop = SAMPLE_RATE // 2, _HOP // 2
    lags = int(rate / _F0_MIN) + 2
    window = 256  # 32 ms of integration
    padded = np.pad(samples_N.astype(np.float32), (0, max(0, window + lags - len(samples_N))))
    frames_FW = np.lib.stride_tricks.sliding_window_view(padded, window + lags)[::hop]
    size = 512
    head_F = np.fft.rfft(frames_FW[:, :window], size)
    correlation_FL = np.fft.irfft(np.conj(head_F) * np.fft.rfft(frames_FW, size), size)[:, :lags]
    energy_FW = np.concatenate([np.zeros((len(frames_FW), 1)), np.cumsum(np.square(frames_FW, dtype=np.float64), axis=1)], axis=1)
    shifted_FL = energy_FW[:, window : window + lags] - energy_FW[:, :lags]
    difference_FL = np.maximum(shifted_FL[:, :1] + shifted_FL - 2.0 * correlation_FL, 0.0)
    running_FL = np.cumsum(difference_FL, axis=1)
    normalised_FL = np.ones_like(difference_FL)
    np.divide(difference_FL * np.arange(lags), running_FL, out=normalised_FL, where=running_FL > 1e-9)
    normalised_FL[:, 0] = 1.0
    return normalised_FL


def track_f0(samples_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the pitch of every frame with YIN and an energy gate.

    Args:
        samples_N: mono waveform at 16 kHz, float32.

    Returns:
        F0 in Hz, shape (F,), NaN where the frame is unvoiced or too quiet; aperiodicity (YIN's normalised difference, 0 = periodic), shape (F,).
    """
    halved = _halve_rate(samples_N)
    curve_FL = _normalised_difference(halved)
    rate = SAMPLE_RATE / 2
    low = int(rate / _F0_MAX)
    inner_FL = curve_FL[:, low:-1]
    local_minimum = (inner_FL <= curve_FL[:, low - 1 : -2]) & (inner_FL < curve_FL[:, low + 1 :])
    below = local_minimum & (inner_FL < _APERIODICITY)
    # The first dip under the threshold is the period; without one, the deepest dip only measures how aperiodic the frame is.
    lag_F = np.where(below.any(axis=1), below.argmax(axis=1), inner_FL.argmin(axis=1)) + low
    rows = np.arange(len(curve_FL))
    left, centre, right = (curve_FL[rows, lag_F + shift] for shift in (-1, 0, 1))
    bend = left - 2.0 * centre + right
    offset = np.where(np.abs(bend) > 1e-12, 0.5 * (left - right) / np.where(np.abs(bend) > 1e-12, bend, 1.0), 0.0)
    f0_F = rate / (lag_F + np.clip(offset, -0.5, 0.5))
    level_F = frame_levels_db(samples_N)
    frames = min(len(level_F), len(f0_F))
    f0_F, aperiodicity_F, level_F = f0_F[:frames], centre[:frames], level_F[:frames]
    loud = level_F > max(np.percentile(level_F, 95) - 25.0, -70.0)
    return np.where(loud & (aperiodicity_F < _APERIODICITY), f0_F, np.nan), aperiodicity_F


def active_seconds(level_F: np.ndarray) -> float:
    """Return how long the clip holds speech: frames within 30 dB of the loud ones, pauses of at most 0.2 s bridged."""
    active = level_F > max(float(np.percentile(level_F, 95)) - _ACTIVE_BELOW_PEAK_DB, -65.0)
    edges = np.flatnonzero(active)
    if len(edges) == 0:
        return 0.0
    gaps = np.diff(edges)
    return float(len(edges) + np.sum(gaps[(gaps > 1) & (gaps <= 20)] - 1)) * _HOP / SAMPLE_RATE


def count_words(text: str) -> int | None:
    """Return the number of words of a transcript; None for scripts that write no spaces."""
    return None if _UNSPACED.search(text) else len(_WORD.findall(text))


def estimate_snr_db(level_F: np.ndarray) -> float:
    """Estimate the signal-to-noise ratio from the spread of the frame levels.

    Method: the 10th percentile of the frame powers is taken as the noise power, the mean power of the frames above it (less that
    noise) as the signal power. A clip that never pauses reads too low, which is why :func:`measure` labels only clear cases.

    Args:
        level_F: frame levels in dBFS.

    Returns:
        SNR in dB, clipped to [-10, 60].
    """
    power_F = 10.0 ** (level_F / 10.0)
    noise = float(np.percentile(power_F, 10))
    signal = float(np.mean(power_F[power_F >= noise])) - noise
    return 60.0 if noise <= 1e-10 else float(np.clip(10.0 * math.log10(max(signal, 1e-10) / noise), -10.0, 60.0))


def _noise_label(snr_db: float, level_F: np.ndarray, aperiodicity_F: np.ndarray) -> str | None:
    """Name the noise only where the estimate is clear: a low SNR counts when the quiet frames are not voiced speech themselves."""
    if snr_db >= NOISE_BOUNDS_DB[1]:
        return "clean"
    frames = min(len(level_F), len(aperiodicity_F))
    quiet = level_F[:frames] <= np.percentile(level_F[:frames], 20)
    return "noisy" if snr_db <= NOISE_BOUNDS_DB[0] and float(np.mean(aperiodicity_F[:frames][quiet])) > 0.4 else None


def _measure_speech(samples_N: np.ndarray, level_F: np.ndarray, text: str | None) -> dict[str, str | float]:
    out: dict[str, str | float] = {}
    f0_F, aperiodicity_F = track_f0(samples_N)
    voiced = f0_F[~np.isnan(f0_F)]
    if len(voiced) >= _MIN_VOICED_FRAMES:
        out["f0_hz"] = round(float(np.median(voiced)), 1)
        out["pitch"] = band(float(out["f0_hz"]), PITCH_BOUNDS_HZ, ("low", "medium", "high"))
    words, seconds = count_words(text) if text else None, active_seconds(level_F)
    if words is not None and words >= _MIN_WORDS and seconds >= _MIN_ACTIVE_SECONDS:
        out["words_per_second"] = round(words / seconds, 2)
        out["speaking_rate"] = band(words / seconds, RATE_BOUNDS_WPS, ("slow", "normal", "fast"))
    out["snr_db"] = round(estimate_snr_db(level_F), 1)
    label = _noise_label(float(out["snr_db"]), level_F, aperiodicity_F)
    return out | ({"noise": label} if label else {})


def measure(samples: np.ndarray, text: str | None, domain: str) -> dict[str, str | float]:
    """Compute the attributes a waveform shows by itself.

    Args:
        samples: mono waveform, float32, 16 kHz, shape (N,).
        text: transcript of the clip or None; the speaking rate needs it.
        domain: ``speech``, ``sound``, ``music`` or ``mixed``; the voice is measured for ``speech`` only.

    Returns:
        Plain JSON values: ``duration_seconds``, ``loudness_db`` and ``loudness`` always; for speech also ``f0_hz`` and ``pitch``,
        ``words_per_second`` and ``speaking_rate``, ``snr_db`` and, in clear cases, ``noise``. A key that the clip cannot support is
        left out. What a source states about a clip is worth more than these: let it overwrite them.

    Raises:
        ValueError: the waveform is not one-dimensional, is empty, or holds NaN or infinite samples.
    """
    if samples.ndim != 1 or len(samples) == 0:
        raise ValueError(f"measure needs a non-empty mono waveform of shape (N,), got shape {samples.shape}: average the channels first")
    if not np.isfinite(samples).all():
        raise ValueError("measure needs finite samples, got NaN or infinity: decode the clip again or leave it out")
    out: dict[str, str | float] = {"duration_seconds": round(len(samples) / SAMPLE_RATE, 2), "loudness_db": round(rms_db(samples), 1)}
    out["loudness"] = band(float(out["loudness_db"]), LOUDNESS_BOUNDS_DB, ("quiet", "medium", "loud"))
    return out | _measure_speech(samples, frame_levels_db(samples), text) if domain == "speech" else out

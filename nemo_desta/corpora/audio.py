"""Reading any audio file as 16 kHz mono, and writing it as FLAC.

Only numpy, soundfile, soxr and (where needed) PyAV are imported, so that worker processes start fast.
"""

import io
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import soundfile as sf
import soxr

SAMPLE_RATE = 16_000  # Hz; what both audio encoders of the project take

# Containers that libsndfile reads faster than PyAV does. Everything else (MP3, G.722, Opus in Matroska, ...) goes through PyAV.
_SNDFILE_SUFFIXES = frozenset({"wav", "flac", "ogg", "oga", "aiff", "aif", "au", "caf"})
_SNDFILE_MAGIC = (b"RIFF", b"fLaC", b"OggS", b"FORM", b".snd", b"caff")
# Streams without a header that tells: PyAV has to be told the format.
_HEADERLESS = frozenset({"g722", "mp3"})

AudioPayload = bytes | tuple[np.ndarray, int]  # file content, or samples [T] / [T, channels] with their rate in Hz
AudioLoader = Callable[[], AudioPayload]


class AudioError(ValueError):
    """A clip that cannot be used. ``reason`` is a short machine-readable word."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def read_member(path: str | Path, offset: int, size: int) -> bytes:
    """Bytes of one member of a container file. With `functools.partial` this is a picklable `ClipSource.audio` loader.

    Args:
        path: The container.
        offset: Position of the member's first byte.
        size: Length of the member in bytes.

    Returns:
        Exactly ``size`` bytes.

    Raises:
        AudioError: The container ends before the member does.
    """
    with open(path, "rb") as f:
        f.seek(offset)
        data = f.read(size)
    if len(data) != size:
        raise AudioError("undecodable", f"{path} ends {size - len(data)} bytes before its member at {offset} does")
    return data


def decode(audio: Path | bytes, *, format: str | None = None) -> tuple[np.ndarray, int]:
    """Decode a whole audio file.

    Args:
        audio: Path of a file, or the content of one.
        format: Container format ("g722", "mp3", "wav", ...); None = by the file's suffix or its first bytes.

    Returns:
        Samples ``[T, channels]`` float32 in [-1, 1], and the sample rate in Hz.

    Raises:
        AudioError: The file is missing, empty or not decodable.
    """
    fmt, data = _identify(audio, format)
    try:
        if fmt in _SNDFILE_SUFFIXES:
            try:
                samples, rate = sf.read(data, dtype="float32", always_2d=True)
                return samples, rate
            except sf.LibsndfileError:
                if isinstance(data, io.BytesIO):
                    data.seek(0)
        return _decode_av(data, fmt if fmt in _HEADERLESS else None)
    except AudioError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise AudioError("undecodable", f"{type(error).__name__}: {error}") from error


def _identify(audio: Path | bytes, format: str | None) -> tuple[str, str | io.BytesIO]:
    """Format name, and what the decoders open."""
    if isinstance(audio, bytes):
        if not audio:
            raise AudioError("empty", "no bytes")
        return format or ("wav" if audio.startswith(_SNDFILE_MAGIC) else "auto"), io.BytesIO(audio)
    if not audio.is_file():
        raise AudioError("missing", f"{audio} does not exist")
    if audio.stat().st_size == 0:
        raise AudioError("empty", f"{audio} has no bytes")
    return format or audio.suffix.lstrip(".").lower(), str(audio)


def _decode_av(data: str | io.BytesIO, container_format: str | None) -> tuple[np.ndarray, int]:
    """Decode the first audio stream with PyAV (FFmpeg's libraries, in the wheel)."""
    import av  # 0.3 s; most corpora never need it

    try:
        return _decode_frames(av, data, container_format)
    except av.FFmpegError as error:
        raise AudioError("undecodable", f"{type(error).__name__}: {error}") from error


def _decode_frames(av: ModuleType, data: str | io.BytesIO, container_format: str | None) -> tuple[np.ndarray, int]:
    blocks: list[np.ndarray] = []
    with av.open(data, mode="r", format=container_format) as container:
        if not container.streams.audio:
            raise AudioError("undecodable", "no audio stream")
        stream = container.streams.audio[0]
        for frame in container.decode(stream):
            block = frame.to_ndarray()  # planar: [channels, n]; packed: [1, n * channels]
            if not frame.format.is_planar:
                block = block.reshape(-1, frame.layout.nb_channels).T
            blocks.append(_to_float(block))
        rate = SAMPLE_RATE if container_format == "g722" else stream.rate
    if not blocks:
        raise AudioError("empty", "no audio frames")
    return np.concatenate(blocks, axis=1).T, rate


def _to_float(block: np.ndarray) -> np.ndarray:
    if block.dtype == np.uint8:
        return (block.astype(np.float32) - 128.0) / 128.0
    if np.issubdtype(block.dtype, np.integer):
        return block.astype(np.float32) / float(-np.iinfo(block.dtype).min)
    return block.astype(np.float32)


def to_mono_16k(samples: np.ndarray, rate: int) -> np.ndarray:
    """Mean of the channels, resampled to 16 kHz (soxr, high quality).

    Args:
        samples: ``[T]`` or ``[T, channels]``.
        rate: Sample rate in Hz.

    Returns:
        ``[T']`` float32, within [-1, 1] (float input above full scale is scaled down, not clipped).

    Raises:
        AudioError: NaN or infinite samples, or a rate that is not positive.
    """
    if rate <= 0:
        raise AudioError("undecodable", f"sample rate {rate}")
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    mono = np.ascontiguousarray(mono, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise AudioError("undecodable", "samples are not finite numbers")
    if rate != SAMPLE_RATE and mono.size:
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    peak = float(np.abs(mono).max()) if mono.size else 0.0
    return mono / peak if peak > 1.0 else mono


def load_16k(audio: Path | AudioLoader, *, format: str | None = None) -> np.ndarray:
    """Decode a clip as 16 kHz mono.

    Args:
        audio: Path, or a callable that returns file content or ``(samples, rate)``.
        format: See `decode`.

    Returns:
        ``[T]`` float32.

    Raises:
        AudioError: The clip cannot be read.
    """
    if isinstance(audio, Path):
        return to_mono_16k(*decode(audio, format=format))
    payload = audio()
    if isinstance(payload, tuple):
        return to_mono_16k(*payload)
    return to_mono_16k(*decode(bytes(payload), format=format))


def rms_db(samples: np.ndarray) -> float:
    """Level in dB relative to full scale (a full-scale square wave has 0 dB); -inf for digital silence or no samples."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) if samples.size else 0.0
    return 10.0 * np.log10(power) if power > 0.0 else float("-inf")


def windows(num_samples: int, max_seconds: float) -> list[tuple[int, int]]:
    """Split a recording into the fewest windows of nearly equal length that are no longer than ``max_seconds``.

    Equal lengths leave no useless rest of half a second at the end.

    Returns:
        ``(start, stop)`` in samples at 16 kHz; together they cover the recording without gap or overlap.
    """
    limit = int(max_seconds * SAMPLE_RATE)
    count = max(1, -(-num_samples // limit))
    edges = [num_samples * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def write_flac(path: Path, samples: np.ndarray) -> int:
    """Write 16-bit FLAC at 16 kHz under a temporary name and rename it, so that a file with its final name is whole.

    Returns:
        Size of the file in bytes.

    Raises:
        OSError: The disk is full or not writable; nothing is left at ``path``.
    """
    encoded = io.BytesIO()
    sf.write(encoded, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(encoded.getbuffer())  # not by libsndfile: it hides the errno of a full disk
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return encoded.getbuffer().nbytes

"""Untrusted bytes to 16 kHz mono samples, within bounds of time and memory.

libsndfile only: it decodes wav, flac, mp3 and ogg from memory, and unlike a general demuxer it knows no playlists and opens no other file or address.
A clip is read in blocks and resampled as it is read, so that neither a compressed hour of silence nor eight channels at 384 kHz are ever whole in memory.

Shape legend: T samples.
"""

import base64
import binascii
import io
import math

import numpy as np
import soundfile
import soxr

from nemo_desta.corpora.audio import SAMPLE_RATE
from nemo_desta.data.dataset import MIN_SECONDS, SILENCE
from nemo_desta.serving.errors import ApiError, bad_request, too_large

FORMATS = ("wav", "mp3", "flac", "ogg")
_CONTAINERS = {"WAV": "wav", "WAVEX": "wav", "RF64": "wav", "MP3": "mp3", "MPEG": "mp3", "FLAC": "flac", "OGG": "ogg"}  # libsndfile's names
_BLOCK_SECONDS = 1
_MIN_RATE, _MAX_RATE = 1_000, 384_000  # Hz; a rate outside is a damaged header


def from_base64(text: str, *, param: str) -> bytes:
    """The bytes of a base64 string (with or without a ``data:`` prefix).

    Raises:
        ApiError: 400, it is no base64 or holds nothing.
    """
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise bad_request("a data: address must be data:<type>;base64,<bytes>", code="invalid_base64", param=param)
    if "\n" in text:  # as the program base64 and MIME wrap it
        text = "".join(text.splitlines())
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_request(f"the audio is not valid base64 ({error})", code="invalid_base64", param=param) from error
    if not data:
        raise bad_request("the audio has 0 bytes", code="empty_audio", param=param)
    return data


def decode_clip(data: bytes, *, max_seconds: float, param: str) -> np.ndarray:
    """Decode a clip.

    Args:
        data: content of a wav, mp3, flac or ogg file.
        max_seconds: longest clip.
        param: the request's field, for error messages.

    Returns:
        samples_T: float32 at 16 kHz.

    Raises:
        ApiError: 415 a known format that is not taken; 413 longer than `max_seconds`; 400 damaged, too short or silent.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check_header(file, max_seconds, param)
            samples_T = _read(file, max_seconds, param)
    except soundfile.LibsndfileError as error:
        raise bad_request(f"the audio cannot be decoded ({error.error_string}): send a {_listed()} file", code="invalid_audio", param=param) from error
    return _checked(samples_T, param)


def _check_header(file: soundfile.SoundFile, max_seconds: float, param: str) -> None:
    if file.format not in _CONTAINERS:
        raise ApiError(415, f"the audio is a {file.format} file: send {_listed()}", code="unsupported_audio_format", param=param)
    if not _MIN_RATE <= file.samplerate <= _MAX_RATE:
        raise bad_request(f"the audio has a sample rate of {file.samplerate} Hz: the file is damaged", code="invalid_audio", param=param)
    if file.frames > max_seconds * file.samplerate:
        raise _too_long(file.frames / file.samplerate, max_seconds, param)


def _read(file: soundfile.SoundFile, max_seconds: float, param: str) -> np.ndarray:
    """Read, mix down and resample block by block, whatever length the header claims."""
    rate, heard, blocks = file.samplerate, 0, []
    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ") if rate != SAMPLE_RATE else None
    while True:
        block = file.read(_BLOCK_SECONDS * rate, dtype="float32", always_2d=True)
        heard += len(block)
        if heard > max_seconds * rate:
            raise _too_long(heard / rate, max_seconds, param)
        mono_T = np.ascontiguousarray(block.mean(axis=1))
        blocks.append(mono_T if stream is None else stream.resample_chunk(mono_T, last=not len(block)))
        if not len(block):
            return np.concatenate(blocks)


def _checked(samples_T: np.ndarray, param: str) -> np.ndarray:
    seconds = len(samples_T) / SAMPLE_RATE
    if seconds < MIN_SECONDS:
        raise bad_request(f"the audio lasts {seconds:.3f} s: at least {MIN_SECONDS} s are needed", code="audio_too_short", param=param)
    if not bool(np.isfinite(samples_T).all()):
        raise bad_request("the audio holds samples that are not finite numbers", code="invalid_audio", param=param)
    if float(np.abs(samples_T).max()) < SILENCE:
        raise bad_request("the audio is silent: no sample differs from zero", code="silent_audio", param=param)
    return samples_T


def _too_long(seconds: float, limit: float, param: str) -> ApiError:
    said = f"{seconds:.0f} s" if math.isfinite(seconds) else "too long"
    return too_large(f"the audio lasts {said}: the limit of a request is {limit:.0f} s", code="audio_too_long", param=param)


def _listed() -> str:
    return ", ".join(FORMATS[:-1]) + f" or {FORMATS[-1]}"

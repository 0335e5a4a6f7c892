"""Untrusted bytes to samples: formats, limits, and what is refused."""

import base64
import io
import struct

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_desta.serving.audio import decode_clip, from_base64
from nemo_desta.serving.errors import ApiError
from tests.serving.conftest import encoded, tone


def decode(data: bytes, seconds: float = 30.0) -> np.ndarray:
    return decode_clip(data, max_seconds=seconds, param="p")


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_lossless_formats_at_16_khz_keep_their_samples(kind):
    wanted, _ = soundfile.read(io.BytesIO(encoded(tone(), kind)), dtype="float32")
    assert np.array_equal(decode(encoded(tone(), kind)), wanted)


@pytest.mark.parametrize("kind", ["mp3", "ogg"])
def test_lossy_formats_are_decoded(kind):
    heard = decode(encoded(tone(1.0, rate=16_000), kind))
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    assert abs(np.argmax(spectrum) * 16_000 / len(heard) - 220) < 5 and 0.9 < len(heard) / 16_000 < 1.2


def test_stereo_at_another_rate_equals_one_conversion_of_the_whole():
    stereo = np.stack([tone(2.7, rate=44_100), tone(2.7, hz=500, rate=44_100)], axis=1)
    whole = soxr.resample(stereo.mean(axis=1), 44_100, 16_000, quality="HQ")
    heard = decode(encoded(stereo, "wav", rate=44_100))
    assert abs(len(heard) - len(whole)) <= 1 and np.allclose(heard[: len(whole)], whole[: len(heard)], atol=1e-4)


REFUSED = [
    (b"\x00\x01 not a sound file" * 50, 400, "invalid_audio"),
    (encoded(tone())[:30], 400, "invalid_audio"),
    (encoded(tone(), "flac")[:60], 400, None),
    (encoded(np.zeros(16_000, np.float32)), 400, "silent_audio"),
    (encoded(tone(0.05)), 400, "audio_too_short"),
    (encoded(tone(), "aiff"), 415, "unsupported_audio_format"),
    (encoded(tone(2.0)), 413, "audio_too_long"),
]


@pytest.mark.parametrize(("data", "status", "code"), REFUSED, ids=[str(code) + str(i) for i, (_, _, code) in enumerate(REFUSED)])
def test_what_cannot_be_heard_is_said(data, status, code):
    with pytest.raises(ApiError) as refused:
        decode(data, seconds=1.0)
    assert refused.value.status == status and code in (None, refused.value.code)


def test_an_hour_of_compressed_silence_is_refused_before_it_is_decoded():
    hour = io.BytesIO()
    with soundfile.SoundFile(hour, "w", 8_000, 1, format="FLAC") as file:
        for _ in range(60):
            file.write(np.zeros(480_000, np.int16))
    assert len(hour.getvalue()) < 1_000_000
    with pytest.raises(ApiError) as refused:
        decode(hour.getvalue(), seconds=300)
    assert refused.value.status == 413 and "3600 s" in refused.value.message


def test_a_header_that_lies_about_its_length_changes_nothing():
    data = bytearray(encoded(tone(0.5)))
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", 0xFFFFFFF0)
    try:
        assert len(decode(bytes(data))) == 8_000
    except ApiError as refused:
        assert refused.status in (400, 413)


def test_not_a_number_is_refused():
    file = io.BytesIO()
    soundfile.write(file, np.full(8_000, np.nan, np.float32), 16_000, format="WAV", subtype="FLOAT")
    with pytest.raises(ApiError, match="not finite"):
        decode(file.getvalue())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files_give_samples_or_a_refusal(data):
    whole = bytearray(encoded(tone(0.3), data.draw(st.sampled_from(["wav", "flac", "mp3", "ogg"]))))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, min(len(whole) - 1, 200)))] = data.draw(st.integers(0, 255))
    try:
        samples = decode(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    except ApiError as refused:
        assert refused.status in (400, 413, 415)
    else:
        assert samples.dtype == np.float32 and np.isfinite(samples).all() and 1_600 <= len(samples) <= 480_000


def test_base64():
    assert from_base64(base64.b64encode(b"abc").decode(), param="p") == b"abc"
    assert from_base64("data:audio/wav;base64,YWJj", param="p") == b"abc"
    wrapped = base64.encodebytes(bytes(200)).decode()
    assert from_base64(wrapped, param="p") == from_base64(wrapped.replace("\n", "\r\n"), param="p") == bytes(200)
    for wrong, code in (("", "empty_audio"), ("a", "invalid_base64"), ("YW Jj!", "invalid_base64"), ("data:audio/wav,abc", "invalid_base64")):
        with pytest.raises(ApiError) as refused:
            from_base64(wrong, param="p")
        assert refused.value.status == 400 and refused.value.code == code

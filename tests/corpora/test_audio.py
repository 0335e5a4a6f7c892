"""Decoding: formats, rates, channels, and every way in which a clip can be unusable."""

import errno
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile as sf

from nemo_desta.corpora import audio
from nemo_desta.corpora.audio import SAMPLE_RATE, AudioError, decode, load_16k, read_member, rms_db, to_mono_16k, windows, write_flac


def tone(seconds: float, rate: int, hz: float = 440.0, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def dominant_hz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * SAMPLE_RATE / len(samples))


def encode_av(path: Path, codec: str, rate: int, samples: np.ndarray, sample_format: str, container: str | None = None) -> None:
    """Encode mono audio with PyAV, for the formats that libsndfile does not write."""
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.rate = rate
        resampler = av.AudioResampler(format=sample_format, layout="mono", rate=rate, frame_size=stream.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("rate", "channels", "subtype", "suffix"),
    [
        (8_000, 1, "PCM_16", "wav"),
        (16_000, 2, "PCM_16", "wav"),
        (48_000, 2, "PCM_24", "wav"),
        (44_100, 1, "FLOAT", "wav"),
        (22_050, 1, "PCM_U8", "wav"),
        (44_100, 2, "VORBIS", "ogg"),
        (48_000, 1, "PCM_24", "flac"),
    ],
)
def test_any_rate_and_format_becomes_16k_mono(tmp_path: Path, rate: int, channels: int, subtype: str, suffix: str) -> None:
    path = tmp_path / f"clip.{suffix}"
    sf.write(path, np.repeat(tone(1.0, rate)[:, None], channels, axis=1), rate, subtype=subtype)
    for source in (path, path.read_bytes):  # a file, and a loader of its bytes
        samples = load_16k(source)
        assert samples.dtype == np.float32
        assert samples.shape == (SAMPLE_RATE,)
        assert dominant_hz(samples) == pytest.approx(440, abs=2)
        assert rms_db(samples) == pytest.approx(-9.03, abs=0.3)


def test_g722_and_mp3_through_pyav(tmp_path: Path) -> None:
    encode_av(tmp_path / "a.g722", "g722", 16_000, tone(1.0, 16_000), "s16", "g722")
    encode_av(tmp_path / "a.mp3", "mp3", 11_025, tone(1.0, 11_025), "s16p")
    for name, slack in (("a.g722", 100), ("a.mp3", 4000)):  # MP3 pads its first and last frame
        samples = load_16k(tmp_path / name)
        assert abs(len(samples) - SAMPLE_RATE) <= slack
        assert dominant_hz(samples) == pytest.approx(440, abs=3)
    content = (tmp_path / "a.mp3").read_bytes()
    assert abs(len(load_16k(lambda: content, format="mp3")) - SAMPLE_RATE) <= 4000


def test_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    encode_av(tmp_path / "a.mp3", "mp3", 44_100, tone(1.0, 44_100), "s16p")
    (tmp_path / "a.mp3").rename(tmp_path / "a.wav")
    assert len(load_16k(tmp_path / "a.wav")) >= SAMPLE_RATE


def test_stereo_is_averaged() -> None:
    left, right = tone(0.5, 16_000, 300), tone(0.5, 16_000, 900)
    np.testing.assert_allclose(to_mono_16k(np.stack([left, right], 1), 16_000), (left + right) / 2, atol=1e-6)


def test_float_input_above_full_scale_is_scaled_not_clipped() -> None:
    loud = tone(0.5, 16_000, level=4.0)
    mono = to_mono_16k(loud, 16_000)
    np.testing.assert_allclose(mono, loud / np.abs(loud).max(), atol=1e-6)


def test_resampling_removes_what_16k_cannot_hold() -> None:
    assert rms_db(to_mono_16k(tone(1.0, 48_000, 12_000), 48_000)) < -60  # 12 kHz would fold to 4 kHz


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "missing"), (b"", "empty"), (b"this is not audio at all " * 50, "undecodable"), (b"RIFF\x24\x00\x00\x00WAVEfmt ", "undecodable")],
)
def test_bad_files_name_their_reason(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "bad.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AudioError) as caught:
        decode(path)
    assert caught.value.reason == reason


def test_bytes_that_are_no_audio(tmp_path: Path) -> None:
    for content, reason in ((b"", "empty"), (b"\x00\x01" * 500, "undecodable")):
        with pytest.raises(AudioError) as caught:
            load_16k(lambda content=content: content)
        assert caught.value.reason == reason


def test_samples_that_are_not_finite() -> None:
    with pytest.raises(AudioError, match="finite"):
        to_mono_16k(np.array([0.0, np.nan], dtype=np.float32), 16_000)
    with pytest.raises(AudioError, match="sample rate 0"):
        to_mono_16k(np.zeros(4, dtype=np.float32), 0)


def test_rms_of_known_signals() -> None:
    assert rms_db(np.ones(100, dtype=np.float32)) == 0.0
    assert rms_db(np.zeros(100, dtype=np.float32)) == float("-inf")
    assert rms_db(np.zeros(0, dtype=np.float32)) == float("-inf")


@pytest.mark.parametrize(("seconds", "count"), [(0.0, 1), (29.9, 1), (30.0, 1), (30.1, 2), (61.0, 3)])
def test_windows_cover_the_recording(seconds: float, count: int) -> None:
    total = round(seconds * SAMPLE_RATE)
    parts = windows(total, 30.0)
    assert len(parts) == count
    assert parts[0][0] == 0 and parts[-1][1] == total
    assert all(before[1] == after[0] for before, after in pairwise(parts))
    assert all(stop - start <= 30 * SAMPLE_RATE for start, stop in parts)


def test_flac_keeps_the_samples(tmp_path: Path) -> None:
    samples = tone(0.2, SAMPLE_RATE)
    size = write_flac(tmp_path / "a.flac", samples)
    info = sf.info(tmp_path / "a.flac")
    assert (info.samplerate, info.channels, info.subtype) == (SAMPLE_RATE, 1, "PCM_16")
    assert (tmp_path / "a.flac").stat().st_size == size
    np.testing.assert_allclose(sf.read(tmp_path / "a.flac")[0], samples, atol=1 / 32000)


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(audio.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_flac(tmp_path / "a.flac", tone(0.1, SAMPLE_RATE))
    assert list(tmp_path.iterdir()) == []


def test_read_member(tmp_path: Path) -> None:
    (tmp_path / "box").write_bytes(b"0123456789")
    assert read_member(tmp_path / "box", 3, 4) == b"3456"
    with pytest.raises(AudioError, match="ends 2 bytes before"):
        read_member(tmp_path / "box", 8, 4)

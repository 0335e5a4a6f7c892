import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_desta.seed.measure import LOUDNESS_BOUNDS_DB, PITCH_BOUNDS_HZ, SAMPLE_RATE, band, count_words, frame_levels_db, measure, rms_db


def voice(f0: float, seconds: float = 1.5, level: float = 0.1, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """A pulse train through two resonances: as periodic as a vowel, with a formant above the fundamental."""
    rng = np.random.default_rng(seed)
    n = int(seconds * SAMPLE_RATE)
    phase = np.cumsum(np.full(n, f0 / SAMPLE_RATE))
    pulses = np.diff(np.floor(phase), prepend=0.0)
    t = np.arange(400) / SAMPLE_RATE
    formants = np.exp(-t * 300) * (np.sin(2 * np.pi * 600 * t) + 0.5 * np.sin(2 * np.pi * 1400 * t))
    wave = np.convolve(pulses, formants)[:n]
    wave = wave / np.sqrt(np.mean(wave**2)) * level + noise * rng.standard_normal(n)
    return wave.astype(np.float32)


@pytest.mark.parametrize("f0", [80.0, 120.0, 175.0, 220.0, 330.0])
def test_f0_of_pulse_trains_within_three_percent(f0):
    assert measure(voice(f0), None, "speech")["f0_hz"] == pytest.approx(f0, rel=0.03)


@settings(max_examples=25, deadline=None)
@given(st.floats(75, 380), st.floats(0.01, 0.3), st.floats(0.4, 3.0))
def test_f0_whatever_the_level_and_length(f0, level, seconds):
    assert measure(voice(f0, seconds, level), None, "speech")["f0_hz"] == pytest.approx(f0, rel=0.03)


def test_f0_survives_noise_at_15_db():
    assert measure(voice(120.0, noise=0.018), None, "speech")["f0_hz"] == pytest.approx(120.0, rel=0.03)


def test_pauses_do_not_move_the_pitch():
    wave = np.concatenate([voice(210.0, 0.6), np.zeros(12_000, np.float32), voice(210.0, 0.6)])
    assert measure(wave, None, "speech")["f0_hz"] == pytest.approx(210.0, rel=0.03)


@pytest.mark.parametrize(("f0", "pitch"), [(110.0, "low"), (185.0, "medium"), (260.0, "high")])
def test_pitch_bands(f0, pitch):
    assert measure(voice(f0), None, "speech")["pitch"] == pitch


def test_noise_and_silence_have_no_pitch():
    noise = 0.1 * np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
    assert "pitch" not in measure(noise, None, "speech")
    assert "pitch" not in measure(np.zeros(SAMPLE_RATE, np.float32), None, "speech")


@pytest.mark.parametrize(("level", "name"), [(0.01, "quiet"), (0.1, "medium"), (0.3, "loud")])
def test_loudness_bands(level, name):
    wave = level * np.sqrt(2) * np.sin(np.arange(SAMPLE_RATE) * 0.2)
    found = measure(wave.astype(np.float32), None, "sound")
    assert found["loudness"] == name
    assert found["loudness_db"] == pytest.approx(20 * np.log10(level), abs=0.2)


def test_only_the_voice_of_speech_is_measured():
    assert set(measure(voice(120.0), "one two three", "music")) == {"duration_seconds", "loudness_db", "loudness"}


@pytest.mark.parametrize(("words", "rate"), [(3, "slow"), (5, "normal"), (10, "fast")])
def test_speaking_rate_counts_words_per_second_of_speech(words, rate):
    wave = np.concatenate([np.zeros(SAMPLE_RATE, np.float32), voice(120.0, 2.0), np.zeros(SAMPLE_RATE, np.float32)])
    found = measure(wave, " ".join(["word"] * words), "speech")
    assert found["speaking_rate"] == rate
    assert found["words_per_second"] == pytest.approx(words / 2.0, rel=0.05)


def test_speaking_rate_needs_words():
    assert "speaking_rate" not in measure(voice(120.0), "two words", "speech")
    assert "speaking_rate" not in measure(voice(120.0), None, "speech")
    assert count_words("今日は天気がいい") is None
    assert count_words("It's a well-known fact, isn't it?") == 6


def test_noise_label_only_in_clear_cases():
    def with_pauses(noise):
        speech = np.concatenate([np.zeros(8000, np.float32), voice(120.0, 1.0), np.zeros(8000, np.float32)])
        return (speech + noise * np.random.default_rng(1).standard_normal(len(speech))).astype(np.float32)

    clean, middling, noisy = (measure(with_pauses(n), None, "speech") for n in (0.0001, 0.015, 0.08))
    assert clean["noise"] == "clean"
    assert "noise" not in middling
    assert noisy["noise"] == "noisy"
    assert clean["snr_db"] > middling["snr_db"] > noisy["snr_db"]


def test_speech_without_pauses_is_not_called_noisy():
    assert "noise" not in measure(voice(120.0, 2.0), None, "speech")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6000), st.floats(0.0, 1.0), st.integers(0, 2**16), st.sampled_from(["speech", "sound", "music", "mixed"]))
def test_any_waveform_gives_plain_finite_values(length, level, seed, domain):
    wave = (level * np.random.default_rng(seed).uniform(-1, 1, length)).astype(np.float32)
    for key, value in measure(wave, "some words to count", domain).items():
        assert isinstance(value, str | float | int), key
        assert isinstance(value, str) or np.isfinite(value), key


@pytest.mark.parametrize("bad", [np.zeros(0, np.float32), np.zeros((2, 100), np.float32), np.full(100, np.nan, np.float32)])
def test_bad_waveforms_are_named(bad):
    with pytest.raises(ValueError, match="measure needs"):
        measure(bad, None, "speech")


def test_bounds_belong_to_the_upper_band():
    names = ("a", "b", "c")
    assert [band(v, (1.0, 2.0), names) for v in (0.9, 1.0, 1.9, 2.0)] == ["a", "b", "b", "c"]
    assert PITCH_BOUNDS_HZ[0] < PITCH_BOUNDS_HZ[1] and LOUDNESS_BOUNDS_DB[0] < LOUDNESS_BOUNDS_DB[1]


def test_levels_of_digital_silence_are_finite():
    assert rms_db(np.zeros(100, np.float32)) == -100.0
    assert frame_levels_db(np.zeros(10, np.float32)).tolist() == [-100.0]

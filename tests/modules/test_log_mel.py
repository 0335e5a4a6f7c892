"""Log-mel features against transformers' own extractor, and their independence of batch mates."""

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from nemo_desta.config import PadTo
from nemo_desta.modules.log_mel import LogMel


def clip(samples: int, seed: int = 0) -> np.ndarray:
    """A voiced-like clip: a few gliding tones that fade to noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / 16000
    tones = sum(np.sin(2 * np.pi * (120 * k + 40 * time) * time + seed) / k for k in range(1, 8))
    return (0.1 * tones * np.exp(-time) + 0.003 * rng.standard_normal(samples)).astype(np.float32)


@pytest.mark.parametrize("num_mels", [80, 128])
def test_thirty_seconds_equals_transformers(num_mels: int) -> None:
    clips = [clip(50), clip(16000), clip(47123), clip(480_000)]
    features, lengths = LogMel(num_mels)(clips, PadTo.thirty_seconds)
    expected = WhisperFeatureExtractor(feature_size=num_mels)(clips, sampling_rate=16000, return_tensors="pt").input_features
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=0)
    assert lengths.tolist() == [3000] * 4


def test_longest_gives_the_first_frames_of_the_thirty_second_version() -> None:
    mel, clips = LogMel(80), [clip(16001), clip(47123, 1), clip(300, 2)]
    features, lengths = mel(clips)
    padded, _ = mel(clips, PadTo.thirty_seconds)
    assert lengths.tolist() == [101, 295, 2]
    assert features.shape == (3, 80, 295)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(features[row, :, :length], padded[row, :, :length], atol=1e-5, rtol=0)
        assert not features[row, :, length:].any()


def test_batch_mates_change_nothing() -> None:
    mel, clips = LogMel(80), [clip(n, n) for n in (100, 3200, 20000, 31999)]
    features, lengths = mel(clips)
    for row, samples in enumerate(clips):
        alone, length = mel([samples])
        assert length.item() == lengths[row]
        torch.testing.assert_close(features[row, :, : lengths[row]], alone[0], atol=1e-6, rtol=0)


def test_numpy_torch_and_double_are_the_same() -> None:
    samples, mel = clip(5000), LogMel(80)
    for variant in (torch.from_numpy(samples), samples.astype(np.float64)):
        torch.testing.assert_close(mel([variant])[0], mel([samples])[0])


def test_silence_is_finite() -> None:
    features, _ = LogMel(80)([np.zeros(8000, np.float32)])
    assert torch.isfinite(features).all()


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "no clips"),
        ([np.zeros(0, np.float32)], "clip 0 .* holds 0 samples"),
        ([clip(100), np.zeros((2, 100), np.float32)], "clip 1 .* shape"),
        ([np.zeros(100, np.int16)], "int16"),
        ([clip(100), np.full(100, np.nan, np.float32)], r"clips \[1\]"),
        ([clip(500_000)], "31.25 s"),
    ],
)
def test_unusable_clips_are_named(samples: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LogMel(80)(samples)


def test_a_little_too_long_is_a_resamplers_rounding() -> None:
    assert LogMel(80)([clip(480_100)])[1].item() == 3000
    assert LogMel(80, truncate=True)([clip(500_000)])[1].item() == 3000

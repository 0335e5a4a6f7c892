"""NeMo Conformer taps on a tiny random encoder. Importing NeMo takes some 15 s, so everything about it is in this file."""

import numpy as np
import pytest
import torch

from nemo_desta.config import ConnectorConfig, PadTo
from nemo_desta.modules import AudioEncoder, Perception
from nemo_desta.modules.canary import CanaryTaps

pytest.importorskip("nemo.collections.asr", reason="nemo_toolkit[asr] is not installed")

ENCODER = {"feat_in": 80, "n_layers": 4, "d_model": 32, "n_heads": 4, "subsampling": "dw_striding", "subsampling_factor": 8, "subsampling_conv_channels": 16}
ENCODER |= {"conv_kernel_size": 9, "dropout": 0.1, "dropout_att": 0.1, "xscaling": False, "sync_max_audio_length": False}
PREPROCESSOR = {"sample_rate": 16000, "window_size": 0.025, "window_stride": 0.01, "n_fft": 512, "features": 80, "normalize": "per_feature", "dither": 1e-5}


@pytest.fixture(scope="module")
def encoder() -> CanaryTaps:
    torch.manual_seed(0)
    return CanaryTaps.from_config(ENCODER, PREPROCESSOR, taps=[1, 3])


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def test_interface(encoder: CanaryTaps) -> None:
    assert isinstance(encoder, AudioEncoder)
    assert (encoder.dim, encoder.num_heads, encoder.num_taps, encoder.frames_per_second) == (32, 4, 2, 12.5)


def test_taps_are_layer_outputs_and_the_last_equals_the_encoders(encoder: CanaryTaps) -> None:
    features, lengths = encoder.featurizer([noise(32000), noise(30000, 1)])
    taps, mask = encoder.encode(features, lengths)
    with torch.no_grad():
        expected, frames = encoder.conformer(audio_signal=features, length=lengths)
    assert taps.shape == (2, 2, 25, 32)
    assert mask.sum(dim=1).tolist() == frames.tolist() == [25, 24]
    for row, count in enumerate(frames):
        torch.testing.assert_close(taps[-1, row, :count], expected[row, :, :count].T, atol=1e-5, rtol=1e-5)
    assert (taps[0] - taps[1]).abs().max() > 0.1


def test_a_clip_does_not_depend_on_its_batch(encoder: CanaryTaps) -> None:
    clips = [noise(32000), noise(9100, 1), noise(400, 2)]
    taps, mask = encoder.encode(*encoder.featurizer(clips))
    for row, clip in enumerate(clips):
        alone, alone_mask = encoder.encode(*encoder.featurizer([clip]))
        assert mask[row].sum() == alone_mask.sum()
        torch.testing.assert_close(taps[:, row, mask[row]], alone[:, 0, alone_mask[0]], atol=1e-4, rtol=1e-4)
        assert not taps[:, row, ~mask[row]].any()


def test_frozen_and_deterministic_in_training_mode(encoder: CanaryTaps) -> None:
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    batch = encoder.featurizer([noise(16000)])
    torch.testing.assert_close(encoder.encode(*batch)[0], encoder.encode(*batch)[0], atol=0, rtol=0)
    assert not encoder.encode(*batch)[0].requires_grad


def test_layers_after_the_last_tap_are_dropped() -> None:
    assert len(CanaryTaps.from_config(ENCODER, PREPROCESSOR, taps=[0, 2]).conformer.layers) == 3
    assert CanaryTaps.from_config(ENCODER, PREPROCESSOR).taps == (0, 1, 2, 3)


def test_perception_trains_on_conformer_taps(encoder: CanaryTaps) -> None:
    perception = Perception.build(encoder, ConnectorConfig(num_layers=1, num_queries=3, ffn_size=16), llm_dim=24).train()
    out = perception.listen([noise(16000), noise(8000, 1)])
    out.sum().backward()
    assert out.shape == (2, 3, 24)
    assert perception.connector.layer_weights.grad is not None


def test_thirty_seconds_and_short_clips_are_refused(encoder: CanaryTaps) -> None:
    with pytest.raises(ValueError, match="pad_to=longest"):
        encoder.featurizer([noise(16000)], PadTo.thirty_seconds)
    with pytest.raises(ValueError, match="pad_to=longest"):
        CanaryTaps.from_config(ENCODER, PREPROCESSOR, pad_to=PadTo.thirty_seconds)
    with pytest.raises(ValueError, match="needs 320"):
        encoder.featurizer([noise(200)])


def test_nemo_checkpoint_round_trip(tmp_path) -> None:
    """A .nemo file of a small ASR model, as the hub serves them."""
    from nemo.collections.asr.models import EncDecCTCModel
    from omegaconf import OmegaConf

    from nemo_desta.modules import build_encoder, build_featurizer

    targets = {"preprocessor": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor", "encoder": "nemo.collections.asr.modules.ConformerEncoder"}
    decoder = {"_target_": "nemo.collections.asr.modules.ConvASRDecoder", "feat_in": 32, "num_classes": 2, "vocabulary": ["a", "b"]}
    parts = {"preprocessor": {"_target_": targets["preprocessor"], **PREPROCESSOR}, "encoder": {"_target_": targets["encoder"], **ENCODER}, "decoder": decoder}
    model = EncDecCTCModel(OmegaConf.create(parts)).eval()
    path = tmp_path / "tiny.nemo"
    model.save_to(str(path))
    loaded = build_encoder(path, taps=[0, 3])
    features, lengths = build_featurizer(path)([noise(16000)])
    with torch.no_grad():
        expected, frames = model.encoder(audio_signal=features, length=lengths)
    torch.testing.assert_close(loaded.encode(features, lengths)[0][-1, 0], expected[0, :, : frames[0]].T, atol=1e-5, rtol=1e-5)

"""Whisper taps against transformers' encoder, masking, freezing, and the path from samples to LLM vectors."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from nemo_desta.config import ConnectorConfig, ConnectorInit, PadTo
from nemo_desta.modules import AudioEncoder, Perception, QFormerConnector, build_encoder, build_featurizer
from nemo_desta.modules.encoder import similar_lengths
from nemo_desta.modules.whisper import WhisperTaps

LAYERS, DIM, HEADS, POSITIONS = 6, 32, 4, 150


def config(**changes: object) -> WhisperConfig:
    sizes = {"d_model": DIM, "encoder_layers": LAYERS, "encoder_attention_heads": HEADS, "encoder_ffn_dim": 48, "num_mel_bins": 80}
    sizes |= {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "vocab_size": 60, "max_source_positions": POSITIONS}
    sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "dropout": 0.2, "encoder_layerdrop": 0.2}
    return WhisperConfig(**(sizes | changes))


def hugging_face_encoder() -> WhisperEncoder:
    """A random encoder whose biases and norms are not at their initial zeros and ones."""
    torch.manual_seed(0)
    encoder = WhisperEncoder(config()).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def test_taps_are_the_raw_block_outputs() -> None:
    encoder = hugging_face_encoder()
    features = torch.randn(2, 80, 2 * POSITIONS)
    outputs: list[torch.Tensor] = []
    for layer in encoder.layers:
        layer.register_forward_hook(lambda module, args, out: outputs.append(out if isinstance(out, torch.Tensor) else out[0]))
    with torch.no_grad():
        final = encoder(features).last_hidden_state
    taps, mask = WhisperTaps(encoder, taps=[1, 2, 5], pad_to=PadTo.thirty_seconds).encode(features, torch.tensor([7, 300]))
    assert mask is None
    torch.testing.assert_close(taps, torch.stack([outputs[tap] for tap in (1, 2, 5)]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoder.layer_norm(taps[-1]), final, atol=1e-5, rtol=1e-5)
    assert (taps[-1] - final).abs().max() > 0.1  # the final LayerNorm is not applied


def test_blocks_after_the_last_tap_are_dropped() -> None:
    assert len(WhisperTaps(hugging_face_encoder(), taps=[0, 3]).blocks) == 4


@pytest.mark.parametrize("lengths", [[300, 299, 250], [300, 40, 5, 299, 1, 38], [8, 8], [1]])
def test_a_clip_does_not_depend_on_its_batch(lengths: list[int]) -> None:
    encoder = WhisperTaps(hugging_face_encoder())
    features = 5 * torch.randn(len(lengths), 80, max(lengths))  # what lies after a clip's frames must not matter
    taps, mask = encoder.encode(features, torch.tensor(lengths))
    assert mask.sum(dim=1).tolist() == [(length + 1) // 2 for length in lengths]
    for row, length in enumerate(lengths):
        alone, alone_mask = encoder.encode(features[row : row + 1, :, :length], torch.tensor([length]))
        assert alone_mask.all()
        torch.testing.assert_close(taps[:, row : row + 1, : alone.shape[2]], alone, atol=1e-5, rtol=1e-4)
        assert not taps[:, row, alone.shape[2] :].any()


def test_groups_hold_every_clip_once_and_little_padding() -> None:
    frames = [1500, 3, 150, 140, 4, 1400, 150, 10]
    groups = similar_lengths(frames)
    assert sorted(row for group in groups for row in group) == list(range(len(frames)))
    for group in groups:
        longest = max(frames[row] for row in group)
        assert sum(frames[row] for row in group) >= 0.8 * longest * len(group)
    assert similar_lengths([5, 5, 5]) == [[0, 1, 2]]


def test_frozen_and_deterministic_in_training_mode() -> None:
    encoder = WhisperTaps(hugging_face_encoder()).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    features, lengths = torch.randn(2, 80, 60, requires_grad=True), torch.tensor([60, 31])
    first, second = encoder.encode(features, lengths)[0], encoder.encode(features, lengths)[0]
    assert not first.requires_grad
    torch.testing.assert_close(first, second, atol=0, rtol=0)


def test_autocast_does_not_change_the_taps() -> None:
    encoder, features, lengths = WhisperTaps(hugging_face_encoder()), torch.randn(2, 80, 60), torch.tensor([60, 31])
    exact = encoder.encode(features, lengths)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(encoder.encode(features, lengths)[0], exact, atol=0, rtol=0)


def test_bfloat16_stays_close() -> None:
    encoder, features, lengths = WhisperTaps(hugging_face_encoder()), torch.randn(3, 80, 60), torch.tensor([60, 31, 8])
    exact, half = encoder.encode(features, lengths)[0], encoder.bfloat16().encode(features, lengths)[0]
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).norm() / exact.norm() < 0.02


def test_directory_round_trip_and_featurizer(tmp_path: Path) -> None:
    model = WhisperModel(config()).eval()
    model.save_pretrained(tmp_path)
    encoder = build_encoder(tmp_path)
    assert isinstance(encoder, AudioEncoder)
    assert (encoder.dim, encoder.num_heads, encoder.taps, encoder.num_taps, encoder.frames_per_second) == (DIM, HEADS, (1, 2, 4, 5), 4, 50.0)
    clips = [noise(16000), noise(4000, 1)]
    for featurizer in (encoder.featurizer, build_featurizer(tmp_path)):
        features, lengths = featurizer(clips)
        assert features.shape == (2, 80, 100) and lengths.tolist() == [100, 25]
    taps, _ = encoder.encode(features, lengths)
    direct, _ = WhisperTaps(model.encoder).encode(features, lengths)
    torch.testing.assert_close(taps, direct)
    assert build_encoder(tmp_path, taps=[0, 5], dtype=torch.bfloat16).positions.dtype == torch.bfloat16


def test_checkpoint_without_encoder_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    WhisperModel(config()).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(weights).items() if "layers.3" not in name}, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks \d+ encoder tensors"):
        build_encoder(tmp_path)


@pytest.mark.parametrize(
    ("shape", "lengths", "message"),
    [
        ((2, 128, 60), [60, 60], "takes"),
        ((2, 80, 60), [60, 61], "do not fit"),
        ((2, 80, 60), [60, 0], "do not fit"),
        ((1, 80, 60), [60, 60], "do not fit"),
        ((1, 80, 302), [302], "do not fit"),
    ],
)
def test_wrong_features_are_refused(shape: tuple, lengths: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WhisperTaps(hugging_face_encoder()).encode(torch.zeros(shape), torch.tensor(lengths))


def test_thirty_seconds_takes_only_full_length() -> None:
    with pytest.raises(ValueError, match="300 mel frames, got 60"):
        WhisperTaps(hugging_face_encoder(), pad_to=PadTo.thirty_seconds).encode(torch.zeros(1, 80, 60), torch.tensor([60]))


def test_large_v3_on_meta_tensors() -> None:
    with torch.device("meta"):
        encoder = WhisperTaps.from_config(config(d_model=1280, encoder_layers=32, encoder_attention_heads=20, encoder_ffn_dim=5120, num_mel_bins=128))
    assert (encoder.taps, encoder.dim, encoder.num_heads) == ((7, 15, 23, 31), 1280, 20)
    taps, _ = encoder.encode(torch.zeros(2, 128, 300, device="meta"), torch.tensor([300, 298]))
    assert taps.shape == (4, 2, 150, 1280)


def test_perception_from_samples_to_vectors() -> None:
    torch.manual_seed(0)
    connector_config = ConnectorConfig(num_layers=2, num_queries=5, ffn_size=16, init=ConnectorInit.embedding_scale)
    perception = Perception.build(WhisperTaps.from_config(config()), connector_config, llm_dim=24, embedding_std=0.02).eval()
    clips = [noise(16000), noise(7000, 1), noise(400, 2)]
    together = perception.listen(clips)
    assert together.shape == (3, 5, 24)
    assert together.std().item() == pytest.approx(0.02, rel=0.5)
    for row, samples in enumerate(clips):
        torch.testing.assert_close(perception.listen([samples])[0], together[row], atol=1e-6, rtol=1e-4)
    perception.train()
    perception.listen(clips).sum().backward()
    assert all(parameter.grad is not None for parameter in perception.connector.parameters())
    assert all(parameter.grad is None for parameter in perception.encoder.parameters())
    assert perception.connector.training and not perception.encoder.training


def test_perception_refuses_a_connector_of_another_size() -> None:
    encoder = WhisperTaps.from_config(config())
    with pytest.raises(ValueError, match="the connector takes 3 taps"):
        Perception(encoder, QFormerConnector(encoder_dim=DIM, llm_dim=8, num_taps=3, num_heads=HEADS, num_layers=1, num_queries=2, ffn_size=8))
    with pytest.raises(ValueError, match="embedding_std"):
        Perception.build(encoder, ConnectorConfig(init=ConnectorInit.embedding_scale), llm_dim=8)


@pytest.mark.assets
def test_real_whisper_equals_transformers(asset: Callable[..., dict[str, Path]]) -> None:
    directory = asset("whisper-base")["whisper-base"]
    reference = WhisperModel.from_pretrained(directory, dtype=torch.float32).encoder.eval()
    encoder = build_encoder(directory, pad_to=PadTo.thirty_seconds)
    assert encoder.taps == (1, 2, 4, 5)
    features, lengths = encoder.featurizer([noise(48000)], PadTo.thirty_seconds)
    with torch.no_grad():
        expected, final = reference(features).last_hidden_state, reference.layer_norm(encoder.encode(features, lengths)[0][-1])
    torch.testing.assert_close(final, expected, atol=2e-3, rtol=1e-4)  # of values up to 24


@pytest.mark.assets
def test_real_whisper_does_not_see_batch_mates(asset: Callable[..., dict[str, Path]]) -> None:
    encoder = build_encoder(asset("whisper-base")["whisper-base"])
    clips = [noise(16000), noise(14400, 1), noise(3000, 2)]
    taps, mask = encoder.encode(*encoder.featurizer(clips))
    for row, clip in enumerate(clips):
        alone, _ = encoder.encode(*encoder.featurizer([clip]))
        assert (taps[:, row, mask[row]] - alone[:, 0]).norm() <= 1e-5 * alone.norm()


def test_compiled_parts_compute_the_same_under_the_same_names() -> None:
    torch.manual_seed(0)
    encoder = WhisperTaps(hugging_face_encoder(), taps=[1, 3])
    perception = Perception.build(encoder, ConnectorConfig(num_layers=2, num_queries=3, ffn_size=16, dropout=0.0), llm_dim=24)
    names = list(perception.state_dict())
    clips = [[noise(16000), noise(9000, 1)], [noise(12000, 2), noise(5000, 3)]]
    plain = [perception.listen(batch) for batch in clips]
    perception.compile_parts(backend="eager")  # what is traced is what counts here; code is made on a GPU
    assert list(perception.state_dict()) == names
    for batch, wanted in zip(clips, plain, strict=True):
        got = perception.listen(batch)
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    got.sum().backward()
    assert perception.connector.layer_weights.grad is not None

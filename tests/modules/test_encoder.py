"""Taps by depth, and the choice of encoder by its reference."""

import json
from pathlib import Path

import pytest

from nemo_desta.modules.encoder import build_encoder, check_taps, default_taps, is_nemo_model


@pytest.mark.parametrize(
    ("layers", "taps"),
    [(32, (7, 15, 23, 31)), (24, (5, 11, 17, 23)), (12, (2, 5, 8, 11)), (4, (0, 1, 2, 3)), (6, (1, 2, 4, 5)), (17, (4, 8, 12, 16)), (2, (0, 1))],
)
def test_default_taps(layers: int, taps: tuple[int, ...]) -> None:
    assert default_taps(layers) == taps
    assert check_taps(None, layers) == taps


@pytest.mark.parametrize("taps", [[], [3, 1], [1, 1], [-1, 2], [0, 6]])
def test_wrong_taps_are_refused(taps: list[int]) -> None:
    with pytest.raises(ValueError, match="taps"):
        check_taps(taps, 6)


def test_depth_must_be_positive() -> None:
    with pytest.raises(ValueError, match="0 layers"):
        default_taps(0)


@pytest.mark.parametrize(
    ("location", "nemo"),
    [
        ("nvidia/canary-1b-flash", True),
        ("nvidia/parakeet-tdt-0.6b-v2", True),
        (Path("models/canary.nemo"), True),
        ("openai/whisper-large-v3", False),
        ("someone/whisper-canary", False),
    ],
)
def test_nemo_models_are_told_from_whisper(location: str | Path, nemo: bool) -> None:
    assert is_nemo_model(location) is nemo


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        build_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="'llama'"):
        build_encoder(str(tmp_path))

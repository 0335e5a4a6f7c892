"""The taps cache: what it holds, its bound, and that no disk trouble ends a run."""

import errno
from pathlib import Path

import pytest
import torch

from nemo_desta.config import OptimConfig
from nemo_desta.data.dataset import Clip, MicroBatch, StepBatch
from nemo_desta.data.packing import TokenPack
from nemo_desta.data.taps_cache import TapsCache
from nemo_desta.models.lightning import DestaModule

TAPS = torch.randn(4, 5, 8)
NO_TOKENS = TokenPack(*(torch.zeros(0, dtype=torch.int64) for _ in range(6)))


def cache_at(root: Path) -> TapsCache:
    return TapsCache(root, encoder_id="e", max_bytes=10**6)


def test_a_clip_is_found_again_as_it_was_stored(tmp_path):
    cache_at(tmp_path / "taps").put("aa1", TAPS)
    again = cache_at(tmp_path / "taps")
    assert torch.equal(again.get("aa1"), TAPS.bfloat16()) and again.bytes > 0
    assert again.get("aa2") is None


def test_a_read_only_mount_with_damaged_taps_costs_a_warning(tmp_path, monkeypatch, caplog):
    cache = cache_at(tmp_path / "taps")
    cache.put("aa1", TAPS)
    next((tmp_path / "taps").rglob("aa1.safetensors")).write_bytes(b"damaged")

    def read_only(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", read_only)
    monkeypatch.setattr("nemo_desta.data.taps_cache.save_file", read_only)
    assert cache.get("aa1") is None and "damaged" in caplog.text
    cache.put("aa2", TAPS)
    assert cache.full and "cannot be written" in caplog.text


def test_a_file_in_the_place_of_the_folder_ends_caching(tmp_path, caplog):
    (tmp_path / "taps").write_text("a file")
    cache = cache_at(tmp_path / "taps")
    cache.put("aa1", TAPS)
    assert cache.full and cache.get("aa1") is None and "cannot be made" in caplog.text and "damaged" not in caplog.text


class Listener(torch.nn.Module):
    """Counts how often a clip is encoded."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[float] = []

    def trainable_parameters(self) -> list[torch.nn.Parameter]:
        return []

    def encode_clip(self, samples_T: torch.Tensor) -> torch.Tensor:
        self.heard.append(float(samples_T[0]))
        return samples_T.expand(2, 3, -1)


@pytest.mark.parametrize("room", [10**6, 0], ids=["cached", "full"])
def test_a_clip_in_several_micro_batches_is_encoded_once_a_step(tmp_path, room):
    model, cache = Listener(), TapsCache(tmp_path / "taps", encoder_id="e", max_bytes=room)
    module = DestaModule(model, OptimConfig(), max_steps=1, seed=0, training_rows=4, max_bad_fraction=0.0, report_dir=tmp_path, cache=cache)
    one, two = Clip("aa1", samples_T=torch.full((4,), 1.0)), Clip("bb2", samples_T=torch.full((4,), 2.0))
    known = Clip("cc3", taps_NTD=torch.zeros(2, 3, 4))
    step = StepBatch([MicroBatch(NO_TOKENS, clips) for clips in ([one, two], [one, known], [two, one])], [])
    module._cache_taps(step)
    assert model.heard == [1.0, 2.0]
    assert all(clip.taps_NTD is not None for batch in step.micro_batches for clip in batch.clips)
    assert [[clip.key for clip in batch.clips] for batch in step.micro_batches] == [["aa1", "bb2"], ["aa1", "cc3"], ["bb2", "aa1"]]

"""`tools/measure_loading.py`: a sparse checkpoint in real shapes, read by real processes."""

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, LlamaConfig

from nemo_desta.parallel.plan import ParallelSizes
from tools import measure_loading
from tools.measure_loading import Peak, measure, write_sparse_checkpoint

SMALL = LlamaConfig(
    vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False
)


def test_the_sparse_checkpoint_is_one_that_transformers_loads(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_loading, "SHARD_BYTES", 100_000)
    total = write_sparse_checkpoint(SMALL, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert total == sum(2 * p.numel() for p in model.parameters()) and not any(p.any() for p in model.parameters())
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 1 and sum(file.stat().st_blocks for file in files) * 512 < total  # holes take no room
    with safe_open(files[0], framework="pt") as file:
        assert file.get_tensor(next(iter(file.keys()))).dtype == torch.bfloat16


def test_each_process_reports_its_own_part(tmp_path) -> None:
    config = LlamaConfig(
        vocab_size=32000, hidden_size=512, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=2, tie_word_embeddings=False
    )
    peaks = measure(config, ParallelSizes(tp=2), folder=tmp_path)
    whole = 2 * sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters()) / 2**30
    assert [peak.rank for peak in peaks] == [0, 1]
    assert sum(peak.weights for peak in peaks) == pytest.approx(whole, rel=0.01)
    assert all(peak.fits and peak.owned >= peak.before + 0.8 * peak.weights for peak in peaks)
    assert list(tmp_path.iterdir()) == []


def test_more_than_a_part_and_a_tensor_does_not_fit() -> None:
    assert Peak(0, before=0.5, weights=8.0, largest=1.0, owned=9.6, resident=20.0, seconds=1.0).fits
    assert not Peak(0, before=0.5, weights=8.0, largest=1.0, owned=16.0, resident=20.0, seconds=1.0).fits

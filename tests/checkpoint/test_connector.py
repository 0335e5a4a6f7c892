"""Checkpoint directories: names, atomicity, and what is said about broken ones."""

import json

import pytest
import torch

from nemo_desta.checkpoint import CheckpointConfig, latest_checkpoint, load_weights, read_config, save_checkpoint
from nemo_desta.checkpoint.lightning_io import DirectoryCheckpointIO

CARD = CheckpointConfig("owner/llm", "owner/encoder", placeholder_token="<|x|>", nemo_desta={"taps": [0, 1]})
STATE = {"perception.connector.layer_weights": torch.randn(4, 2)}


def test_a_checkpoint_round_trips_and_keeps_the_references_keys(tmp_path):
    save_checkpoint(tmp_path / "c", CARD, STATE)
    assert read_config(tmp_path / "c") == CARD
    assert torch.equal(load_weights(tmp_path / "c")["perception.connector.layer_weights"], STATE["perception.connector.layer_weights"])
    raw = json.loads((tmp_path / "c" / "config.json").read_text())
    wanted = {
        "llm_model_id",
        "encoder_model_id",
        "connector_mode",
        "qformer_num_hidden_layers",
        "prompt_size",
        "use_lora",
        "audio_locator",
        "placeholder_token",
    }
    assert wanted | {"llm_config", "encoder_config"} <= set(raw) and raw["model_type"] == "desta25" and raw["architectures"] == ["DeSTA25AudioModel"]


def test_a_published_config_with_more_keys_is_read():
    text = json.dumps({"llm_model_id": "a", "encoder_model_id": "b", "model_type": "desta25", "train_id": "x", "commit": "y", "transformers_version": "4.51"})
    card = CheckpointConfig.from_json(text)
    assert (card.prompt_size, card.qformer_num_hidden_layers, card.nemo_desta) == (64, 6, {})


def test_foreign_and_broken_checkpoints_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="not a DeSTA2.5-Audio checkpoint"):
        read_config(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="cannot read the weights"):
        load_weights(tmp_path)


def test_the_latest_is_the_highest_finished_step(tmp_path):
    for step in (5, 40, 100):
        save_checkpoint(tmp_path / "checkpoints" / f"step={step}.ckpt", CARD, STATE)
    assert latest_checkpoint(tmp_path).name == "step=100.ckpt"
    (tmp_path / "checkpoints" / "step=100-unfinished").touch()
    assert latest_checkpoint(tmp_path).name == "step=40.ckpt"
    (tmp_path / "checkpoints" / "step=40.ckpt" / "model.safetensors").unlink()
    assert latest_checkpoint(tmp_path).name == "step=5.ckpt"
    assert latest_checkpoint(tmp_path / "nowhere") is None


def test_a_full_disk_leaves_the_checkpoint_before_it_whole(tmp_path, monkeypatch):
    io = DirectoryCheckpointIO(lambda: CARD)
    path = tmp_path / "step=1.ckpt"
    io.save_checkpoint({"state_dict": STATE, "global_step": 1}, path)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nemo_desta.checkpoint.lightning_io.torch.save", full)
    with pytest.raises(OSError, match="No space"):
        io.save_checkpoint({"state_dict": {}, "global_step": 2}, path)
    assert io.load_checkpoint(path)["global_step"] == 1


def test_a_published_checkpoint_cannot_be_resumed_and_says_so(tmp_path):
    save_checkpoint(tmp_path / "c", CARD, STATE)
    with pytest.raises(ValueError, match="cannot be resumed"):
        DirectoryCheckpointIO(lambda: CARD).load_checkpoint(tmp_path / "c")

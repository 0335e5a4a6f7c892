"""Checkpoint directories: names, atomicity, and what is said about broken ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nemo_desta.checkpoint import CheckpointConfig, latest_checkpoint, lightning_io, load_weights, read_config, save_checkpoint
from nemo_desta.checkpoint.lightning_io import DirectoryCheckpointIO, resumable_checkpoint

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
    with pytest.raises(ValueError, match=r"not a DeSTA2\.5-Audio checkpoint"):
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


def test_a_resume_needs_the_training_state(tmp_path):
    io = DirectoryCheckpointIO(lambda: CARD)
    io.save_checkpoint({"state_dict": STATE, "global_step": 5}, tmp_path / "step=5.ckpt")
    save_checkpoint(tmp_path / "step=9.ckpt", CARD, STATE)
    assert latest_checkpoint(tmp_path).name == "step=9.ckpt"
    assert latest_checkpoint(tmp_path, resumable=True).name == "step=5.ckpt" == resumable_checkpoint(tmp_path).name


@pytest.mark.parametrize("part", ["model.safetensors", "training_state/state.pt"])
@pytest.mark.parametrize("keep", [0, 100])
def test_a_damaged_newest_checkpoint_is_set_aside_for_the_one_before(tmp_path, caplog, part, keep):
    io = DirectoryCheckpointIO(lambda: CARD)
    for step in (5, 9):
        io.save_checkpoint({"state_dict": STATE, "global_step": step, "moments": torch.randn(100)}, tmp_path / f"step={step}.ckpt")
    path = tmp_path / "step=9.ckpt" / part
    path.write_bytes(path.read_bytes()[:keep])
    assert resumable_checkpoint(tmp_path).name == "step=5.ckpt" == latest_checkpoint(tmp_path).name
    assert "step=9.ckpt is damaged" in caplog.text and (tmp_path / "step=9.ckpt.damaged").is_dir()
    (tmp_path / "step=5.ckpt" / part).write_bytes(b"")
    assert resumable_checkpoint(tmp_path) is None


def damaged_run(folder):
    """Two checkpoints, the newer one cut off."""
    for step in (5, 9):
        DirectoryCheckpointIO(lambda: CARD).save_checkpoint({"state_dict": STATE, "global_step": step}, folder / f"step={step}.ckpt")
    (folder / "step=9.ckpt" / "training_state" / "state.pt").write_bytes(b"")


def test_what_another_process_has_set_aside_is_kept(tmp_path, monkeypatch):
    """Every rank of a run looks for the newest checkpoint; here the other one is through between this one's look and its renaming."""
    damaged_run(tmp_path)

    def slowly(folder):
        monkeypatch.setattr(lightning_io, "load_state", at_once)
        assert resumable_checkpoint(tmp_path).name == "step=5.ckpt"
        return at_once(folder)

    at_once = lightning_io.load_state
    monkeypatch.setattr(lightning_io, "load_state", slowly)
    assert resumable_checkpoint(tmp_path).name == "step=5.ckpt" and (tmp_path / "step=9.ckpt.damaged").is_dir()


@pytest.mark.parametrize("cause", [OSError(116, "Stale file handle"), RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes")])
def test_what_the_machine_cannot_read_now_is_no_damage(tmp_path, monkeypatch, cause):
    DirectoryCheckpointIO(lambda: CARD).save_checkpoint({"state_dict": STATE, "global_step": 9}, tmp_path / "step=9.ckpt")

    def failing(*args, **kwargs):
        raise cause

    monkeypatch.setattr("nemo_desta.checkpoint.lightning_io.torch.load", failing)
    with pytest.raises(OSError, match=r"cannot read the training state .*the checkpoint is kept"):  # no mistake of the user: a cluster's job tries again
        resumable_checkpoint(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step=9.ckpt"]


def test_a_folder_that_cannot_be_looked_into_is_not_taken_for_an_empty_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "step=9.ckpt", CARD, STATE)
    assert latest_checkpoint(tmp_path).name == "step=9.ckpt"

    def stale(path):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr("os.scandir", stale)
    with pytest.raises(OSError, match="Stale file handle"):
        latest_checkpoint(tmp_path)


def test_a_second_damage_of_the_same_step_is_set_aside_beside_the_first(tmp_path):
    for aside in ("step=9.ckpt.damaged", "step=9.ckpt.2.damaged"):
        damaged_run(tmp_path)
        assert resumable_checkpoint(tmp_path).name == "step=5.ckpt" and (tmp_path / aside).is_dir()


FULL = [
    OSError(28, "No space left on device"),
    RuntimeError("[enforce fail at inline_container.cc:859] . PytorchStreamWriter failed writing file data/0: file write failed"),
]


@pytest.mark.parametrize("error", FULL, ids=["system", "torch"])
def test_a_full_disk_is_a_sentence_and_leaves_the_checkpoint_before_it_whole(tmp_path, monkeypatch, error):
    io = DirectoryCheckpointIO(lambda: CARD)
    path = tmp_path / "step=1.ckpt"
    io.save_checkpoint({"state_dict": STATE, "global_step": 1}, path)

    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr("nemo_desta.checkpoint.lightning_io.torch.save", full)
    with pytest.raises(OSError, match=r"cannot write the checkpoint .*step=1\.ckpt .*make room"):
        io.save_checkpoint({"state_dict": {}, "global_step": 2}, path)
    assert io.load_checkpoint(path)["global_step"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["step=1.ckpt"]


def test_a_disk_that_is_really_full_is_a_sentence(tmp_path):
    """A limit on the size of a file, in a process of its own: what torch and safetensors themselves say then."""
    code = (
        "import resource, signal, sys, torch\nfrom pathlib import Path\n"
        "from nemo_desta.checkpoint import CheckpointConfig\nfrom nemo_desta.checkpoint.lightning_io import DirectoryCheckpointIO\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "io, small, big = DirectoryCheckpointIO(lambda: CheckpointConfig('a', 'b')), torch.zeros(4), torch.zeros(10_000)\n"
        "for weights, moments in ((small, big), (big, small)):\n"
        "    try:\n        io.save_checkpoint({'state_dict': {'w': weights}, 'moments': moments}, Path(sys.argv[1]) / 'step=1.ckpt')\n"
        "    except OSError as error:\n        assert 'cannot write the checkpoint' in str(error) and 'make room' in str(error), error\n"
        "    else:\n        raise AssertionError('written')\n"
        "    assert not list(Path(sys.argv[1]).iterdir())\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_files_reach_the_disk_before_the_checkpoint_gets_its_name(tmp_path, monkeypatch):
    synced: list[str] = []
    real = os.fsync

    def noted(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append(Path(name).name)
        real(descriptor)

    monkeypatch.setattr("nemo_desta.locking.os.fsync", noted)
    DirectoryCheckpointIO(lambda: CARD).save_checkpoint({"state_dict": STATE, "global_step": 1}, tmp_path / "step=1.ckpt")
    assert synced[-1] == tmp_path.name  # the folder that holds the name, last
    assert {"config.json", "model.safetensors", "state.pt", "training_state", "step=1.ckpt.part"} == set(synced[:-1])


def test_a_published_checkpoint_cannot_be_resumed_and_says_so(tmp_path):
    save_checkpoint(tmp_path / "c", CARD, STATE)
    with pytest.raises(ValueError, match="cannot be resumed"):
        DirectoryCheckpointIO(lambda: CARD).load_checkpoint(tmp_path / "c")

"""What goes wrong in a run of several processes ends in a sentence, costs only the steps since the last whole checkpoint, and never a checkpoint."""

import json
import shutil
from pathlib import Path

import pytest

from tests.parallel.runs import checkpoint, fresh_run, losses, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]  # minutes where other programs share the machine
TP2 = {"parallel__tp": 2}


def with_config(llm: Path, folder: Path, **changes: int) -> Path:
    """The LLM with another configuration beside its weights."""
    shutil.copytree(llm, folder)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | changes))
    return folder


@pytest.mark.parametrize(("key", "factor"), [("vocab_size", 0.5), ("hidden_size", 2)])
def test_weights_of_other_sizes_than_the_config_are_named(key, factor, data, tmp_path):
    size = json.loads((data / "llm" / "config.json").read_text())[key]
    llm = with_config(data / "llm", tmp_path / "llm", **{key: int(size * factor)})
    root = fresh_run(data, tmp_path / "run")
    done = run(data, root, 2, **TP2, model__llm=str(llm))
    assert done.returncode != 0 and "error: model.embed_tokens.weight has the shape" in done.stderr, done.stderr[-2000:]


def test_a_run_of_another_configuration_tells_the_keys(alone, tmp_path):
    root = fresh_run(alone, tmp_path / "run", keep_training=True)
    done = run(alone, root, 2, **TP2, optim__lr=0.5)
    assert done.returncode != 0 and "another configuration (different: optim.lr was 0.001, is 0.5)" in done.stderr, done.stderr[-2000:]


def test_a_half_written_checkpoint_is_said_so_and_the_one_before_it_is_taken(alone, tmp_path):
    root = fresh_run(alone, tmp_path / "run", keep_training=True)
    state = checkpoint(root, 6) / "training_state" / "state.pt"
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
    done = run(alone, root, 2, **TP2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "step=6.ckpt is damaged" in done.stderr + done.stdout and (root / "train" / "checkpoints" / "step=6.ckpt.damaged").is_dir()
    assert sorted(losses(root)) == [5, 6] and losses(root)[6] == pytest.approx(losses(alone)[6], rel=1e-4)


def test_a_full_disk_is_said_so_and_costs_only_the_steps_since_the_last_checkpoint(alone, tmp_path):
    root = fresh_run(alone, tmp_path / "run", keep_training=True)
    size = (checkpoint(root, 6) / "training_state" / "state.pt").stat().st_size
    shutil.rmtree(checkpoint(root, 6))
    full = run(alone, root, 2, **TP2, file_bytes=size // 2)
    assert full.returncode != 0 and "cannot write the checkpoint" in full.stderr and "make room" in full.stderr, full.stderr[-2000:]
    left = {path.name for path in (root / "train" / "checkpoints").iterdir() if path.is_dir()}
    assert "step=4.ckpt" in left and not any("step=6" in name for name in left)
    (root / "losses.jsonl").unlink()
    done = run(alone, root, 2, **TP2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(losses(root)) == [5, 6] and losses(root)[6] == pytest.approx(losses(alone)[6], rel=1e-4)


def test_machines_that_do_not_share_the_run_directory_are_told(alone, tmp_path):
    """In a first run, and where one machine alone has the checkpoint: they would train different connectors together."""
    for rank in range(2):
        fresh_run(alone, tmp_path / "run" / str(rank))
    first = run(alone, tmp_path / "run", 2, **TP2, own_disks=True)
    assert first.returncode != 0 and "process 1 does not see" in first.stderr and "file system that all machines share" in first.stderr, first.stderr[-2000:]
    shutil.rmtree(tmp_path / "run" / "0")
    root = fresh_run(alone, tmp_path / "run" / "0", keep_training=True)
    shutil.rmtree(checkpoint(root, 6))
    (tmp_path / "run" / "1" / "train").mkdir(exist_ok=True)
    shutil.copy(root / "train" / "manifest.json", tmp_path / "run" / "1" / "train")
    again = run(alone, tmp_path / "run", 2, **TP2, own_disks=True)
    assert again.returncode != 0 and "process 1 would go on from step 0 and process 0 from step 4" in again.stderr, again.stderr[-2000:]
    assert not (root / "losses.jsonl").exists()

"""A training run that is killed goes on as if nothing had happened (contract C6), skips bad clips, and keeps to its configuration."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nemo_desta.checkpoint import latest_checkpoint, load_weights
from nemo_desta.models.training import train
from tests.models.train_child import config
from tests.tiny import tiny_model_config, tiny_targets

ROOT = Path(__file__).resolve().parents[2]


def start(root: Path, journal: Path, pause: float) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.models.train_child", str(root), str(journal), str(pause)]
    with (root / "log.txt").open("a") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True)


def records(journal: Path) -> list[dict]:
    return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []


def test_a_killed_run_resumes_to_the_same_losses_samples_and_weights(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for root in (whole, killed):
        root.mkdir()
        tiny_targets(root)
        tiny_model_config(root)
    first = start(whole, whole / "journal", 0.0)
    kill_after = random.Random().randint(5, 11)
    second = start(killed, killed / "journal", 0.15)
    deadline = time.monotonic() + 240
    while len(records(killed / "journal")) < kill_after and second.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(second.pid, signal.SIGKILL)
    second.wait()
    assert first.wait(timeout=240) == 0, (whole / "log.txt").read_text()[-3000:]
    before = len(records(killed / "journal"))
    assert kill_after <= before < 14
    assert start(killed, killed / "journal", 0.0).wait(timeout=240) == 0, (killed / "log.txt").read_text()[-3000:]

    expected = {r["step"]: r for r in records(whole / "journal")}
    resumed = records(killed / "journal")[before:]
    assert resumed[0]["step"] > 1, "the second process started from nothing"
    assert [r["step"] for r in resumed] == list(range(resumed[0]["step"], 15))
    for record in records(killed / "journal"):
        wanted = expected[record["step"]]
        assert record["rows"] == wanted["rows"]
        assert (record["loss"], record["norm"], record["lr"]) == pytest.approx((wanted["loss"], wanted["norm"], wanted["lr"]), rel=1e-6)
    a, b = (load_weights(latest_checkpoint(root / "train")) for root in (whole, killed))
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[name], b[name], rtol=1e-5, atol=1e-7) for name in a)


def test_bad_clips_are_skipped_listed_and_too_many_are_an_error(tmp_path):
    tiny_targets(tmp_path)
    (tmp_path / "audio" / "tone3.flac").write_bytes(b"not audio")
    (tmp_path / "audio" / "tone5.flac").unlink()
    cfg = config(tmp_path)
    cfg.data.num_workers, cfg.data.max_bad_fraction, cfg.trainer.max_steps = 0, 0.5, 6
    train(cfg)
    listed = [json.loads(line) for line in (tmp_path / "train" / "skipped_rows.jsonl").read_text().splitlines()]
    assert {entry["row"] for entry in listed} <= {"row-3-0", "row-3-1", "row-5-0", "row-5-1"} and len(listed) >= 2
    assert all("undecodable" in entry["reason"] for entry in listed)
    cfg.run_dir = str(tmp_path / "strict")
    (tmp_path / "strict").mkdir()
    (tmp_path / "strict" / "targets").symlink_to(tmp_path / "targets")
    cfg.data.max_bad_fraction = 0.0
    with pytest.raises(ValueError, match=r"max_bad_fraction=0\.0.*undecodable"):
        train(cfg)


def test_another_configuration_in_the_same_place_is_refused(tmp_path):
    tiny_targets(tmp_path)
    cfg = config(tmp_path)
    cfg.data.num_workers, cfg.trainer.max_steps = 0, 2
    done = train(cfg)
    assert train(cfg) == done  # nothing left to do
    cfg.optim.lr = 0.5
    with pytest.raises(ValueError, match=r"another configuration.*optim"):
        train(cfg)


def test_missing_targets_say_which_command_writes_them(tmp_path):
    with pytest.raises(ValueError, match=r"generate_targets\.py"):
        train(config(tmp_path))

"""A training run that is killed goes on as if nothing had happened (contract C6), skips bad clips, and keeps to its configuration."""

import copy
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

from nemo_desta.checkpoint import CheckpointConfig, latest_checkpoint, load_weights, step_of
from nemo_desta.checkpoint.lightning_io import DirectoryCheckpointIO
from nemo_desta.config import DestaConfig, ModelConfig, Overlong, Precision, TrainerConfig
from nemo_desta.models.interruption import SaveAndStop
from nemo_desta.models.lightning import SKIPPED
from nemo_desta.models.same_run import check_same_run, decisive_settings
from nemo_desta.models.training import load_targets, train
from tests.models.train_child import config
from tests.tiny import tiny_model_config, tiny_targets

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(1500)  # minutes where other programs share the machine


def start(root: Path, journal: Path, pause: float) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.models.train_child", str(root), str(journal), str(pause)]
    with (root / "log.txt").open("a") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True)


def records(journal: Path) -> list[dict]:
    return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []


def wait_for(journal: Path, steps: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 600
    while len(records(journal)) < steps and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


def check_same(whole: Path, other: Path) -> None:
    """A run that was stopped and went on took the steps and ended with the weights of one that was left alone."""
    expected = {r["step"]: r for r in records(whole / "journal")}
    for record in records(other / "journal"):
        wanted = expected[record["step"]]
        assert record["rows"] == wanted["rows"]
        assert (record["loss"], record["norm"], record["lr"]) == pytest.approx((wanted["loss"], wanted["norm"], wanted["lr"]), rel=1e-6)
    a, b = (load_weights(latest_checkpoint(root / "train")) for root in (whole, other))
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[name], b[name], rtol=1e-5, atol=1e-7) for name in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nobody disturbs."""
    root = tmp_path_factory.mktemp("whole")
    tiny_targets(root)
    tiny_model_config(root)
    assert start(root, root / "journal", 0.0).wait(timeout=600) == 0, (root / "log.txt").read_text()[-3000:]
    return root


@pytest.fixture
def stopped(tmp_path) -> Path:
    """A run directory with the same inputs, to disturb."""
    tiny_targets(tmp_path)
    tiny_model_config(tmp_path)
    return tmp_path


def test_a_killed_run_resumes_to_the_same_losses_samples_and_weights(whole, stopped):
    kill_after = random.Random().randint(5, 11)
    process = start(stopped, stopped / "journal", 0.15)
    wait_for(stopped / "journal", kill_after, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = len(records(stopped / "journal"))
    assert kill_after <= before < 14
    assert start(stopped, stopped / "journal", 0.0).wait(timeout=600) == 0, (stopped / "log.txt").read_text()[-3000:]
    resumed = records(stopped / "journal")[before:]
    assert resumed[0]["step"] > 1, "the second process started from nothing"
    assert [r["step"] for r in resumed] == list(range(resumed[0]["step"], 15))
    check_same(whole, stopped)


def test_an_interrupted_run_saves_its_last_step_and_goes_on_from_there(whole, stopped):
    journal, log = stopped / "journal", stopped / "log.txt"
    for number, steps in ((signal.SIGTERM, 3), (signal.SIGINT, 8)):
        process = start(stopped, journal, 0.15)
        wait_for(journal, steps, process)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does it: the data workers get it too
        else:
            process.send_signal(number)
        assert process.wait(timeout=600) == 130, log.read_text()[-3000:]
        assert log.read_text().endswith("interrupted: the same command goes on from the last checkpoint\n") and "Traceback" not in log.read_text()
        taken = len(records(journal))
        assert steps <= taken < 14 and step_of(latest_checkpoint(stopped / "train", resumable=True)) == taken
    assert start(stopped, journal, 0.0).wait(timeout=600) == 0, log.read_text()[-3000:]
    assert [r["step"] for r in records(journal)] == list(range(1, 15))
    assert {path.name for path in (stopped / "train" / "checkpoints").iterdir()} <= {f"step={n}.ckpt" for n in range(7, 15)}  # those of early starts are gone
    assert len(list((stopped / "train" / "checkpoints").iterdir())) == 3  # keep_checkpoints, and the last
    check_same(whole, stopped)


def test_a_second_interruption_ends_at_once(stopped):
    process = start(stopped, stopped / "journal", 60.0)
    wait_for(stopped / "journal", 1, process)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(3)  # two signals that wait to be handled are one
    assert process.wait(timeout=300) == 130, (stopped / "log.txt").read_text()[-3000:]
    assert "interrupted: the same command goes on" in (stopped / "log.txt").read_text()
    assert latest_checkpoint(stopped / "train") is None


class Group:
    """What a strategy answers where another process got the signal, and where the first process lacks the checkpoint."""

    def reduce_boolean_decision(self, decision: bool, all: bool) -> bool:
        assert not all
        return True

    def __init__(self) -> None:
        self.waited = 0

    def broadcast(self, decision: bool) -> bool:
        return True

    def barrier(self) -> None:
        self.waited += 1


def test_all_processes_stop_and_save_when_one_must(tmp_path):
    io, saved = DirectoryCheckpointIO(lambda: CheckpointConfig("llm", "encoder")), []
    io.save_checkpoint({"state_dict": {"w": torch.zeros(1)}}, tmp_path / "step=3.ckpt")  # this process sees it already
    checkpoints = SimpleNamespace(dirpath=tmp_path, save_top_k=2)
    trainer = SimpleNamespace(strategy=Group(), global_step=3, checkpoint_callback=checkpoints, save_checkpoint=saved.append, is_global_zero=False)
    stop = SaveAndStop()
    stop.on_train_batch_end(trainer, None, None, None, 0)
    stop.on_train_end(trainer, None)
    assert trainer.should_stop and stop.requested and saved == [tmp_path / "step=3.ckpt"]
    assert trainer.strategy.waited == 1  # none goes on while the first process removes older checkpoints


def test_bad_clips_are_skipped_listed_and_too_many_are_an_error(tmp_path):
    tiny_targets(tmp_path)
    (tmp_path / "audio" / "tone3.flac").write_bytes(b"not audio")
    (tmp_path / "audio" / "tone5.flac").unlink()
    cfg = config(tmp_path)
    cfg.data.num_workers, cfg.data.max_bad_fraction, cfg.trainer.max_steps = 0, 0.5, 6
    train(cfg)
    listed = skipped(tmp_path)
    assert {entry["row"] for entry in listed} <= {"row-3-0", "row-3-1", "row-5-0", "row-5-1"} and len(listed) >= 2
    assert all("undecodable" in entry["reason"] for entry in listed)
    cfg.run_dir = str(tmp_path / "strict")
    (tmp_path / "strict").mkdir()
    (tmp_path / "strict" / "targets").symlink_to(tmp_path / "targets")
    cfg.data.max_bad_fraction = 0.0
    with pytest.raises(ValueError, match=r"max_bad_fraction=0\.0.*undecodable"):
        train(cfg)


def skipped(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root / "train" / "skipped" / SKIPPED).read_text().splitlines()]


def test_the_list_of_skipped_rows_is_that_of_an_undisturbed_run_after_a_resume(tmp_path):
    tiny_targets(tmp_path)
    for i in range(0, 12, 2):
        (tmp_path / "audio" / f"tone{i}.flac").write_bytes(b"not audio")
    cfg = config(tmp_path)
    cfg.data.num_workers, cfg.data.max_bad_fraction, cfg.trainer.max_steps, cfg.trainer.checkpoint_every_steps = 0, 0.9, 6, 2
    last = train(cfg)
    wanted = skipped(tmp_path)
    assert {entry["step"] < 2 for entry in wanted} == {True, False}
    for step in (4, 6):
        shutil.rmtree(last.parent / f"step={step}.ckpt")  # killed before it was written; the list has what was skipped since
    with (tmp_path / "train" / "skipped" / SKIPPED).open("a") as file:
        file.write('{"row": "cut o')
    assert train(cfg) == last and skipped(tmp_path) == wanted
    assert (tmp_path / "train" / "run_0").is_dir()  # NeMo's, with the files that lay beside the folder


def short_run(root: Path) -> DestaConfig:
    tiny_targets(root)
    cfg = config(root)
    cfg.data.num_workers, cfg.trainer.max_steps = 0, 2
    return cfg


def test_what_decides_the_result_may_not_change_and_what_saves_memory_may(tmp_path):
    cfg = short_run(tmp_path)
    done = train(cfg)
    assert train(cfg) == done  # nothing left to do
    cfg.data.micro_batch_tokens, cfg.data.taps_cache_gib, cfg.data.max_bad_fraction, cfg.data.num_workers = 100, 0.0, 0.5, 1
    assert train(cfg) == done
    for section, key, value in (("optim", "lr", 0.5), ("trainer", "precision", "bf16-mixed"), ("model", "llm_precision", Precision.bf16)):
        other = copy.deepcopy(cfg)
        setattr(getattr(other, section), key, value)
        with pytest.raises(ValueError, match=rf"another configuration \(different: {section}\.{key.replace('precision', '')}.*remove .*train"):
            train(other)


def test_the_record_of_a_run_from_before_a_key_stands_for_what_it_did(tmp_path):
    cfg = DestaConfig(name="toy", run_dir=str(tmp_path), model=ModelConfig(llm="llm", encoder="encoder"), trainer=TrainerConfig(max_steps=2))
    record = {"config": decisive_settings(cfg), "inputs": {"targets": {"sha256": "x"}}}
    del record["config"]["data"]["overlong"]
    (tmp_path / "manifest.json").write_text(json.dumps(record))
    check_same_run(tmp_path, decisive_settings(cfg), "x")
    cfg.data.overlong = Overlong.cut
    with pytest.raises(ValueError, match=r"data\.overlong was 'skip', is 'cut'"):
        check_same_run(tmp_path, decisive_settings(cfg), "x")


def test_one_key_records_steps_with_pytorchs_profiler(tmp_path):
    cfg = short_run(tmp_path)
    cfg.trainer.max_steps, cfg.trainer.profile_steps = 4, 1
    train(cfg)
    traces = list((tmp_path / "train" / "profile").glob("*.json"))
    assert len(traces) == 1 and json.loads(traces[0].read_text())["traceEvents"]


def test_one_process_of_several_says_where_the_checkpoint_is(tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", logger="nemo_desta")
    cfg = short_run(tmp_path)
    said = f"checkpoint: {train(cfg)}"
    assert caplog.messages.count(said) == 1
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    train(cfg)
    assert caplog.messages.count(said) == 1


def test_a_finished_run_beside_other_targets_or_without_a_record_is_not_done(tmp_path):
    cfg = short_run(tmp_path)
    train(cfg)
    tiny_targets(tmp_path, clips=13)
    with pytest.raises(ValueError, match=r"run on other targets.*remove .*train"):
        train(cfg)
    (tmp_path / "train" / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"no readable manifest\.json.*remove .*train"):
        train(cfg)
    (tmp_path / "train" / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"no readable manifest\.json.*remove .*train"):
        train(cfg)


def test_a_run_killed_while_its_record_was_moved_goes_on(tmp_path):
    cfg = short_run(tmp_path)
    done = train(cfg)
    (tmp_path / "train" / "run_0").mkdir()
    (tmp_path / "train" / "manifest.json").rename(tmp_path / "train" / "run_0" / "manifest.json")
    assert train(cfg) == done
    cfg.optim.lr = 0.5
    with pytest.raises(ValueError, match=r"another configuration \(different: optim\.lr"):
        train(cfg)


def test_a_damaged_newest_checkpoint_costs_only_its_steps(tmp_path, caplog):
    cfg = short_run(tmp_path)
    cfg.trainer.checkpoint_every_steps = 1
    last = train(cfg)
    weights = load_weights(last)
    state = last / "training_state" / "state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    again = train(cfg)
    assert "is damaged" in caplog.text and "step=2.ckpt.damaged" in {path.name for path in last.parent.iterdir()}
    assert step_of(again) == 2
    assert all(torch.allclose(tensor, weights[name], rtol=1e-5, atol=1e-7) for name, tensor in load_weights(again).items())


def test_missing_targets_say_which_command_writes_them(tmp_path):
    with pytest.raises(ValueError, match=r"generate_targets\.py"):
        train(config(tmp_path))


def test_damaged_targets_are_named_with_the_remedy(tmp_path):
    tiny_targets(tmp_path)
    path = tmp_path / "targets" / "cuts_train.jsonl.gz"
    whole = path.read_bytes()
    lines = gzip.decompress(whole).splitlines()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    damaged = [whole[: len(whole) // 2], gzip.compress(b"\n".join([*lines[:-1], lines[-1][:200]])), bytes(flipped), gzip.compress(b""), b"no gzip"]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"cuts_train\.jsonl\.gz.*generate_targets\.py"):
            load_targets(tmp_path)


def test_unknown_fields_of_targets_are_left_out_and_counted(tmp_path):
    cuts = tiny_targets(tmp_path)
    path = tmp_path / "targets" / "cuts_train.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    path.write_bytes(gzip.compress("\n".join(json.dumps({**row, "mood": "calm"}) for row in rows).encode()))
    problems: list[str] = []
    assert list(load_targets(tmp_path, problems=problems)) == list(cuts)
    assert problems == [f"{path}: unknown field 'mood' left out of 12 cuts"]

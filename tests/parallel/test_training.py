"""Whole trainings under torchrun: killed, resumed under another layout, hung; the checkpoint is the one of a single process."""

import json
import shutil

import pytest

from nemo_desta.checkpoint import load_into, load_weights
from nemo_desta.models.desta import DestaModel
from tests.parallel.runs import checkpoint, fresh_run, losses, replicas, run, torchrun
from tests.parallel.train_child import adapted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]  # minutes where other programs share the machine


def test_a_killed_rank_ends_the_job_and_another_layout_goes_on_with_the_same_losses(alone, tmp_path):
    root = fresh_run(alone, tmp_path / "parallel")
    killed = torchrun(alone, root, 2, parallel__pp=2, die_at=[1, 3])
    assert killed.returncode != 0 and checkpoint(root, 2).is_dir() and not checkpoint(root, 6).is_dir()
    resumed = torchrun(alone, root, 2, parallel__tp=2, parallel__sequence_parallel=True)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    got, wanted = losses(root), losses(alone)
    assert sorted(got) == sorted(wanted) == [1, 2, 3, 4, 5, 6]
    for step, (loss, norm) in wanted.items():
        assert got[step] == pytest.approx((loss, norm), rel=1e-4), step
    one, two = replicas(root, 0), replicas(root, 1)  # rank 1 was the last stage at first, without a connector
    assert sorted(two) == [3, 4, 5, 6] and all(one[step] == two[step] for step in two)
    assert {line["taps"] for line in one.values()} == {line["taps"] for line in replicas(alone, 0).values()}  # measured once, kept by every layout
    assert (checkpoint(root, 6) / "config.json").read_bytes() == (checkpoint(alone, 6) / "config.json").read_bytes()


def test_a_checkpoint_of_four_processes_goes_on_with_one(alone, tmp_path):
    root = fresh_run(alone, tmp_path / "parallel")
    spread = run(alone, root, 4, parallel__tp=2, parallel__pp=2)
    assert spread.returncode == 0, spread.stderr[-2000:]
    shutil.rmtree(checkpoint(root, 6))
    back = run(alone, root, 1, parallel__backbone="megatron")
    assert back.returncode == 0, back.stderr[-2000:]
    lines = [json.loads(line) for line in (root / "losses.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 5, 6]
    for line in lines:
        assert (line["loss"], line["norm"]) == pytest.approx(losses(alone)[line["step"]], rel=1e-4), line["step"]


def test_the_connector_directory_is_the_one_that_the_other_backbone_writes(alone, tmp_path):
    root = fresh_run(alone, tmp_path / "parallel", keep_training=True)
    shutil.rmtree(checkpoint(root, 6))  # go on from step 4 of the single process
    done = run(alone, root, 4, parallel__tp=2, parallel__pp=2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(losses(root)) == [5, 6] and losses(root)[6] == pytest.approx(losses(alone)[6], rel=1e-4)
    model = DestaModel.from_config(adapted(alone, root, {}).model)
    load_into(model, load_weights(checkpoint(root, 6)))
    model.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        again = (tmp_path / "again" / name).read_bytes()
        assert again == (checkpoint(root, 6) / name).read_bytes(), name


def test_a_stuck_rank_is_named_and_the_job_ends(alone, tmp_path):
    root = fresh_run(alone, tmp_path / "stuck")
    stuck = run(alone, root, 2, parallel__tp=2, parallel__timeout_seconds=40.0, hang_at=[1, 2])
    assert stuck.returncode != 0
    assert "no progress for 40 s (parallel.timeout_seconds)" in stuck.stderr and "the others wait for rank 1 (computing at step 1)" in stuck.stderr
    for rank in range(2):  # both have measured the taps for themselves, and got what one process gets
        assert replicas(root, rank)[1] == replicas(root, 0)[1] and replicas(root, rank)[1]["taps"] == replicas(alone, 0)[1]["taps"]


def test_processes_that_do_not_divide_are_a_sentence(alone, tmp_path):
    root = fresh_run(alone, tmp_path / "three")
    done = run(alone, root, 2, parallel__tp=3)
    assert done.returncode != 0 and "error: 2 processes cannot be divided by parallel.tp=3" in done.stderr

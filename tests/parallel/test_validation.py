"""Held-out loss and answers during a training: the same with every backbone and layout, and the training does not notice (contract C6)."""

import pytest

from nemo_desta.checkpoint import load_weights
from nemo_desta.models.training import train
from tests.models.train_child import config
from tests.parallel.runs import checkpoint, fresh_run, losses, records, run
from tests.tiny import tiny_targets

pytestmark = pytest.mark.timeout(2400)  # minutes where other programs share the machine


@pytest.mark.slow
def test_the_training_does_not_notice_and_every_layout_measures_the_same(alone, tmp_path):
    plain, parallel = fresh_run(alone, tmp_path / "plain"), fresh_run(alone, tmp_path / "parallel")
    done = run(alone, plain, 1, validate=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert losses(plain) == losses(alone)
    assert all((tensor == load_weights(checkpoint(alone, 6))[name]).all() for name, tensor in load_weights(checkpoint(plain, 6)).items())
    wanted = records(plain)
    assert sorted(wanted) == [2, 4, 6] and len({record["tokens"] for record in wanted.values()}) == 1
    assert len({record["loss"] for record in wanted.values()}) == 3
    assert all(answer["wanted"].startswith("It is tone number") and answer["question"] for answer in wanted[6]["answers"])
    done = run(alone, parallel, 4, validate=True, parallel__tp=2, parallel__pp=2)
    assert done.returncode == 0, done.stderr[-2000:]
    for step, record in records(parallel).items():
        assert record["loss"] == pytest.approx(wanted[step]["loss"], rel=1e-5) and record["tokens"] == wanted[step]["tokens"]
        assert [answer["row"] for answer in record["answers"]] == [answer["row"] for answer in wanted[step]["answers"]]
        assert record["answers"] == wanted[step]["answers"]


def test_held_out_rows_must_be_named_and_hold_targets(tmp_path):
    tiny_targets(tmp_path)
    cfg = config(tmp_path)
    cfg.trainer.validate_every_steps = 2
    with pytest.raises(ValueError, match=r"validate_every_steps=2 needs held-out rows: set data.validation_manifest"):
        train(cfg)
    cfg.data.validation_manifest = str(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match=r"data.validation_manifest=.*nowhere.jsonl: no such file"):
        train(cfg)

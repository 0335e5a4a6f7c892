"""A training with the frozen LLM in shards (FSDP2), under torchrun: killed, resumed, and gone on with by a plain process."""

import shutil

import pytest

from tests.parallel.runs import checkpoint, fresh_run, losses, records, replicas, run, tensors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]  # minutes where other programs share the machine
SHARDED = {"parallel__data_parallel": "fsdp2"}


def test_it_takes_the_steps_of_one_process_whatever_happens_to_it(alone, tmp_path):
    root = fresh_run(alone, tmp_path / "sharded")
    killed = run(alone, root, 2, **SHARDED, validate=True, die_at=[1, 3])
    assert killed.returncode != 0 and checkpoint(root, 2).is_dir() and not checkpoint(root, 4).is_dir()
    resumed = run(alone, root, 2, **SHARDED, validate=True)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    got, wanted = losses(root), losses(alone)
    assert sorted(got) == sorted(wanted)
    for step, (loss, norm) in wanted.items():
        assert got[step][0] == pytest.approx(loss, rel=1e-5) and got[step][1] == pytest.approx(norm, rel=1e-4), step
    assert replicas(root, 0) == replicas(root, 1)
    assert sorted(records(root)) == [2, 4, 6] and all(len(record["answers"]) == 2 for record in records(root).values())
    assert (checkpoint(root, 6) / "config.json").read_bytes() == (checkpoint(alone, 6) / "config.json").read_bytes()
    assert tensors(checkpoint(root, 6)) == tensors(checkpoint(alone, 6))
    shutil.rmtree(checkpoint(root, 6))
    (root / "losses.jsonl").unlink()
    after = run(alone, root, 1)
    assert after.returncode == 0, after.stderr[-2000:]
    assert sorted(losses(root)) == [5, 6] and losses(root)[6] == pytest.approx(wanted[6], rel=1e-4)

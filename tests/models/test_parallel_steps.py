"""Who reads a step, and who hears which clip of it."""

import pytest
import torch

from nemo_desta.config import DataConfig
from nemo_desta.data.conversation import AudioLayout
from nemo_desta.data.datamodule import DestaDataModule
from nemo_desta.data.dataset import Clip, MicroBatch, StepBatch
from nemo_desta.data.packing import empty_pack
from nemo_desta.models.parallel_steps import ParallelSteps, _part
from nemo_desta.parallel.plan import ParallelSizes
from nemo_desta.parallel.schedule import pad_step
from nemo_desta.parallel.topology import Topology
from tests.tiny import tiny_targets, tiny_tokenizer

SIZES = ParallelSizes(tp=2, pp=2)


def heard(part: StepBatch) -> list[str]:
    return [clip.key for batch in part.micro_batches for clip in batch.clips if clip.samples_T is not None]


def test_every_clip_is_heard_by_one_position_of_the_first_stage_and_by_no_later_stage():
    clips = [Clip(f"clip{i}", samples_T=torch.zeros(8)) for i in range(5)]
    step = StepBatch([MicroBatch(empty_pack(4), clips[:3]), MicroBatch(empty_pack(4), clips[3:])], ["a", "b"])
    first, second = (_part(step, 0, shard, 2) for shard in range(2))
    assert sorted(heard(first) + heard(second)) == [clip.key for clip in clips] and abs(len(heard(first)) - len(heard(second))) <= 1
    assert [[clip.key for clip in batch.clips] for batch in first.micro_batches] == [["clip0", "clip1", "clip2"], ["clip3", "clip4"]]  # all keep their places
    assert all(batch.clips == [] for shard in range(2) for batch in _part(step, 1, shard, 2).micro_batches)


@pytest.mark.parametrize(("stage", "shard"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_one_process_of_a_copy_reads_rows_and_audio(stage, shard, tmp_path):
    topology = Topology(SIZES, world=4, stage=stage, shard=shard)
    settings = DataConfig(batch_rows=4, micro_batch_tokens=200, num_buckets=2, num_workers=0, max_tokens=256)
    data = DestaDataModule(tiny_targets(tmp_path), tiny_tokenizer(), AudioLayout("<|placeholder|>", 3, 100), settings, max_steps=2, seed=0, topology=topology)
    (tmp_path / "audio").rename(tmp_path / "gone")  # who reads finds nothing to hear
    steps = list(data.train_dataloader())
    assert len(steps) == 2
    assert [bool(step.skipped) for step in steps] == [topology.reads_data] * 2


@pytest.mark.parametrize("sizes", [ParallelSizes(), ParallelSizes(tp=2, sequence_parallel=True), SIZES, ParallelSizes(pp=2, virtual_pp=2)], ids=str)
@pytest.mark.parametrize("lengths", [[], [5], [70, 33, 1]], ids=str)
def test_the_filling_that_is_reported_is_what_the_schedule_adds(sizes, lengths):
    packs = [empty_pack(n) for n in lengths]
    computed = sum(pack.num_tokens for pack in pad_step(packs, sizes)) if packs else 0
    assert ParallelSteps(Topology(sizes)).filling([MicroBatch(pack, []) for pack in packs]) == computed - sum(lengths)

"""Two processes with unequal token counts take the step that one process would take (contract C3), on gloo."""

import json
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from lhotse import CutSet

from nemo_desta.config import OptimConfig
from nemo_desta.data.dataset import DestaDataset, StepBatch
from nemo_desta.models import DestaModel
from nemo_desta.models.lightning import SKIPPED, DestaModule
from nemo_desta.models.steps import train_step
from tests.parallel.processes import run_processes
from tests.tiny import tiny_model_config, tiny_targets

pytestmark = pytest.mark.timeout(600)


def gradient_of(root: Path, rank: int, world: int) -> tuple[float, int, torch.Tensor]:
    torch.manual_seed(0)
    model = DestaModel.from_config(tiny_model_config(root)).eval()
    cuts = CutSet.from_file(root / "targets" / "cuts_train.jsonl.gz")
    mine = CutSet.from_cuts(list(cuts)[rank::world])
    step = DestaDataset(model.tokenizer, model.layout, micro_batch_tokens=120, max_tokens=256)[mine]
    loss, tokens = train_step(model, step.micro_batches, model.trainable_parameters())
    return loss, tokens, torch.cat([p.grad.flatten() for p in model.trainable_parameters()])


def skipping(root: Path, rank: int, world: int) -> tuple[list[str], str]:
    """Rank 0 skips one row of ten in the first step; then both meet one more, each another, which together are too many."""
    model = torch.nn.Linear(1, 1)
    model.trainable_parameters = lambda: []
    DestaModule.global_rank = property(lambda self: rank)
    module = DestaModule(model, OptimConfig(), max_steps=3, seed=0, training_rows=10, max_bad_fraction=0.2, report_dir=root, cache=None)
    steps = [[("a", "silent")] if rank == 0 else [], [("a", "silent")] if rank == 1 else [], [(f"b{rank}", "undecodable")]]
    said = ""
    for skipped in steps:
        try:
            module._count_skipped(StepBatch([], [], skipped))
        except ValueError as error:
            said = str(error)
    return sorted(module.skipped), said


def worker(rank: int, root: str, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.save([what(Path(root), rank, 2) for what in (gradient_of, skipping)], Path(root) / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    tiny_targets(folder, clips=3, rows_each=1)  # rank 0 has two clips, rank 1 one
    tiny_model_config(folder)
    return folder


@pytest.fixture(scope="module")
def of_processes(root) -> list[tuple]:
    """(what `gradient_of` returns, what `skipping` returns) on each of two processes; they are started once, for that takes most of the time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_processes(worker, (str(root), port), 2, minutes=9)
    return [torch.load(root / f"rank{rank}.pt") for rank in range(2)]


def test_two_processes_take_the_step_of_one(root, of_processes):
    loss, tokens, gradient = gradient_of(root, 0, 1)
    for (other_loss, other_tokens, other_gradient), _ in of_processes:
        assert other_tokens == tokens
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert torch.allclose(other_gradient, gradient, rtol=1e-4, atol=1e-7)


def test_skipped_rows_are_counted_over_all_processes_and_end_all_of_them(root, of_processes):
    for _, (skipped, said) in of_processes:
        assert skipped == ["a", "b0", "b1"]
        assert said.startswith("3 of 10 training rows could not be used")
    listed = [json.loads(line)["row"] for line in (root / SKIPPED).read_text().splitlines()]
    assert sorted(listed) == ["a", "b0", "b1"]  # each once

"""Two processes with unequal token counts take the step that one process would take (contract C3), on gloo."""

import os
import socket
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lhotse import CutSet

from nemo_desta.data.dataset import DestaDataset
from nemo_desta.models import DestaModel
from nemo_desta.models.lightning import train_step
from tests.tiny import tiny_model_config, tiny_targets


def gradient_of(root: Path, rank: int, world: int) -> tuple[float, int, torch.Tensor]:
    torch.manual_seed(0)
    model = DestaModel.from_config(tiny_model_config(root)).eval()
    cuts = CutSet.from_file(root / "targets" / "cuts_train.jsonl.gz")
    mine = CutSet.from_cuts(list(cuts)[rank::world])
    step = DestaDataset(model.tokenizer, model.layout, micro_batch_tokens=120, max_tokens=256)[mine]
    loss, tokens = train_step(model, step.micro_batches, model.trainable_parameters())
    return loss, tokens, torch.cat([p.grad.flatten() for p in model.trainable_parameters()])


def worker(rank: int, root: str, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.save(gradient_of(Path(root), rank, 2), Path(root) / f"rank{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_take_the_step_of_one(tmp_path):
    tiny_targets(tmp_path, clips=3, rows_each=1)  # rank 0 has two clips, rank 1 one
    tiny_model_config(tmp_path)
    loss, tokens, gradient = gradient_of(tmp_path, 0, 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.spawn(worker, args=(str(tmp_path), port), nprocs=2, join=False)
    deadline = time.monotonic() + 120
    while not context.join(timeout=5):  # True once all have ended; raises what a process raised
        assert time.monotonic() < deadline, "the processes hang"
    for rank in range(2):
        other_loss, other_tokens, other_gradient = torch.load(tmp_path / f"rank{rank}.pt")
        assert other_tokens == tokens
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert torch.allclose(other_gradient, gradient, rtol=1e-4, atol=1e-7)

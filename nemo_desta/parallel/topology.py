"""Where this process stands among the others, and the messages between them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nemo_desta.parallel.cpu import use_cpu_without_cuda
from nemo_desta.parallel.plan import ParallelSizes


@dataclass(frozen=True)
class Topology:
    """A process's place and its groups; by default one that has the whole model and is alone.

    Attributes:
        sizes: of the cut.
        world: all processes.
        data, data_size: which copy of the model this process belongs to, of how many.
        stage: pipeline stage.
        shard: tensor-parallel position.
        device: of this process.
        data_group: same stage and position, other data.
        tensor_group: the neighbours that share this stage's layers.
        pipeline_group: same copy and position, other stages.
        stage_group: all copies and positions of this stage: those that hold the same connector.
        model_group: all processes of this copy, for objects (gloo, on the CPU).
        copy_group: the same processes, for tensors.
        leader: global rank of the process that reads this copy's data (stage 0, position 0).
    """

    sizes: ParallelSizes = field(default_factory=ParallelSizes)
    world: int = 1
    data: int = 0
    data_size: int = 1
    stage: int = 0
    shard: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    data_group: Any = None
    tensor_group: Any = None
    pipeline_group: Any = None
    stage_group: Any = None
    model_group: Any = None
    copy_group: Any = None
    leader: int = 0

    @property
    def is_first(self) -> bool:
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        return self.stage == self.sizes.pp - 1

    @property
    def reads_data(self) -> bool:
        """Whether this process reads rows and audio for its copy of the model."""
        return self.is_first and self.shard == 0

    def sum(self, value: float, group: Any = None) -> float:
        """Sum of a number over a group (all processes by default)."""
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, group=group)
        return float(tensor)

    def sum_over_data(self, value: float) -> float:
        """Sum of a number that only the data's readers count: once for every copy of the model, known to all processes."""
        return self.sum(value if self.reads_data else 0.0)

    def scatter(self, objects: Sequence[Any] | None) -> Any:
        """From the leader to each process of its copy, in the order of `members`, one object; the others pass None."""
        if self.sizes.model == 1:
            assert objects is not None
            return objects[0]
        received: list[Any] = [None]
        dist.scatter_object_list(received, list(objects) if objects is not None else None, src=self.leader, group=self.model_group)
        return received[0]

    @property
    def members(self) -> list[tuple[int, int]]:
        """(stage, position) of the processes of this copy, in the order of `scatter`."""
        return [(stage, shard) for stage in range(self.sizes.pp) for shard in range(self.sizes.tp)]


def start(sizes: ParallelSizes, *, timeout_seconds: float = 600.0, seed: int = 0) -> Topology:
    """Join the other processes (as torchrun, Slurm or a test's spawn has started them) and make the groups.

    Raises:
        ValueError: tp x pp does not divide the number of processes, or the processes were started for other sizes before.
    """
    from megatron.core import parallel_state, tensor_parallel

    use_cpu_without_cuda()
    world = int(os.environ.get("WORLD_SIZE", 1)) if not dist.is_initialized() else dist.get_world_size()
    sizes.data(world)
    device = _device()
    if not dist.is_initialized():
        _init_process_group(device, timeout_seconds)
    if not parallel_state.is_initialized():
        parallel_state.initialize_model_parallel(
            sizes.tp,
            sizes.pp,
            virtual_pipeline_model_parallel_size=sizes.virtual_pp if sizes.virtual_pp > 1 else None,
            distributed_timeout_minutes=max(1, round(timeout_seconds / 60)),
            create_gloo_process_groups=False,
        )
        tensor_parallel.model_parallel_cuda_manual_seed(seed)  # sequence parallelism forks this generator
    topology = _topology(sizes, world, device)
    if (parallel_state.get_tensor_model_parallel_world_size(), parallel_state.get_pipeline_model_parallel_world_size()) != (sizes.tp, sizes.pp):
        raise ValueError(f"these processes were started with another tp x pp than {sizes.tp} x {sizes.pp}: use one layout in a process")
    return topology


def stop() -> None:
    """Take the groups apart."""
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    return device


def _init_process_group(device: torch.device, timeout_seconds: float) -> None:
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    timeout = timedelta(seconds=timeout_seconds)
    if "MASTER_ADDR" in os.environ and "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)


def _topology(sizes: ParallelSizes, world: int, device: torch.device) -> Topology:
    from megatron.core import parallel_state as state

    data_size = sizes.data(world)
    stage, shard, data = state.get_pipeline_model_parallel_rank(), state.get_tensor_model_parallel_rank(), state.get_data_parallel_rank()
    at = {place: rank for rank, place in enumerate((s, d, t) for s in range(sizes.pp) for d in range(data_size) for t in range(sizes.tp))}
    model_group = None
    for copy in range(data_size):  # every process has to take part in making every group
        ranks = [at[s, copy, t] for s in range(sizes.pp) for t in range(sizes.tp)]
        group = dist.new_group(ranks, backend="gloo")
        model_group = group if copy == data else model_group
    return Topology(
        sizes=sizes,
        world=world,
        data=data,
        data_size=data_size,
        stage=stage,
        shard=shard,
        device=device,
        data_group=state.get_data_parallel_group(),
        tensor_group=state.get_tensor_model_parallel_group(),
        pipeline_group=state.get_pipeline_model_parallel_group(),
        stage_group=state.get_tensor_and_data_parallel_group(),
        model_group=model_group,
        copy_group=state.get_model_parallel_group(),
        leader=at[0, data, 0],
    )


def gather_rows(rows: Tensor, counts: Sequence[int], group: Any) -> Tensor:
    """Rows of all processes of a group one behind the other. Every process must use the result alike; each gets the gradient of its own rows.

    Args:
        rows: [counts[own position], ...].
        counts: rows of every process.
    """
    gathered: Tensor = _GatherRows.apply(rows, tuple(counts), group)
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: tuple[int, ...], group: Any) -> Tensor:
        ctx.counts, ctx.position = counts, dist.get_rank(group)
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: rows.shape[0]] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return gradient.split(list(ctx.counts))[ctx.position], None, None

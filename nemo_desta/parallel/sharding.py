"""Fully sharded data parallelism (PyTorch's FSDP2) for an LLM whose weights never move.

Every data-parallel process keeps a part of every frozen weight, and gathers a layer's weights while it computes that layer, forward and backward. What is
trained (connector, LoRA adapters) is left whole on every process: it is small, and so gradients, clipping, optimiser state and checkpoints are those of plain
data parallelism.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method


def shard_frozen(root: nn.Module, blocks: Sequence[nn.Module], methods: Sequence[str], device: torch.device) -> None:
    """Leave this process only its part of the frozen weights of ``root``, on ``device``. All processes call this, with equal weights.

    Args:
        root: what lies in it and in no block (embedding, head, last norm) is gathered once a step.
        blocks: modules inside it that are gathered one by one: the layers.
        methods: of ``root``, that need its weights; every process must call them equally often, for each call may gather.
        device: where the parts lie, and the process's computations.
    """
    assert dist.is_initialized(), "the processes must have joined before weights are shared out"
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    trained = {parameter for parameter in root.parameters() if parameter.requires_grad}
    for module in (*blocks, root):
        fully_shard(module, mesh=mesh, ignored_params=trained)
    for method in methods:
        register_fsdp_forward_method(root, method)

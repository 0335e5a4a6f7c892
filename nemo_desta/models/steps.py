"""What differs between a step on plain processes and one on tensor-parallel pipeline stages; the training module knows only this interface."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nemo_desta.checkpoint import load_into, trainable_state
from nemo_desta.data.dataset import MicroBatch, StepBatch
from nemo_desta.data.packing import empty_pack
from nemo_desta.models.desta import DestaModel


def is_distributed() -> bool:
    """Whether there are other processes to talk to."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def prompt_embeddings(model: DestaModel, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """Embeddings [B, T, H] and mask [B, T] of prompts that `DestaDataset.prompts` has laid out."""
    pack = batch.tokens.to(model.device)
    rows = pack.cu_seqlens_S1.numel() - 1
    embeds_TH = model.splice(pack, model.hear(batch.clips) if batch.clips else None)
    return embeds_TH.unflatten(0, (rows, -1)), (pack.position_ids_T >= 0).long().unflatten(0, (rows, -1))


def hash_seed(seed: int, step: int, rank: int) -> int:
    """A seed for the dropout of one step on one process."""
    return ((seed * 1_000_003 + step) * 1_009 + rank) % 2**63


def reduce_sum(value: float, device: torch.device) -> float:
    """Sum of a number over all processes."""
    if not is_distributed():
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return float(tensor)


def reduce_max(value: float, device: torch.device) -> float:
    """Largest of a number over all processes."""
    if not is_distributed():
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return float(tensor)


def sum_gradients(parameters: Sequence[Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Add up the gradients of all processes (of a group), as one message. A process without rows contributes zeros."""
    if not is_distributed() or not parameters:
        return
    flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters])
    dist.all_reduce(flat, group=group)
    for parameter, grad in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = grad.view_as(parameter).clone()


def train_step(model: DestaModel, micro_batches: Sequence[MicroBatch], parameters: Sequence[Tensor]) -> tuple[float, int]:
    """Forward and backward of one optimiser step; gradients are those of (sum of losses) / (tokens) over the *global* batch (contract C3).

    Args:
        model: the audio LLM.
        micro_batches: this process's part of the step; may be empty.
        parameters: whose gradients are summed over the processes.

    Returns:
        (mean token loss over the global batch, tokens with a loss in the global batch).
    """
    device = model.device
    tokens = int(reduce_sum(sum(b.tokens.num_targets for b in micro_batches), device))
    total = 0.0
    for batch in micro_batches:
        loss_sum, _ = model(MicroBatch(batch.tokens.to(device), batch.clips))
        (loss_sum / max(tokens, 1)).backward()
        total += float(loss_sum.detach())
    sum_gradients(parameters)
    return reduce_sum(total, device) / max(tokens, 1), tokens


class Steps(Protocol):
    """How a step is taken.

    Attributes:
        random_rank: number of this process for its dropout: processes that hear different clips have different ones.
    """

    random_rank: int

    def seed(self, seed: int, step: int) -> None:
        """Begin the randomness of a step: a function of (seed, step, place of this process)."""
        ...

    def share(self, batch: StepBatch) -> StepBatch:
        """This process's part of the step, from whoever has read it."""
        ...

    def run(self, model: DestaModel, micro_batches: Sequence[MicroBatch], parameters: Sequence[Tensor]) -> tuple[float, int]:
        """Forward and backward; see `train_step`."""
        ...

    def evaluate(self, model: DestaModel, micro_batches: Sequence[MicroBatch]) -> tuple[float, int]:
        """(sum of the token losses, tokens with a loss) over the global batch, without gradients. All processes call this."""
        ...

    @property
    def asks(self) -> bool:
        """Whether this process reads the prompts for `answer`."""
        ...

    def answer(self, model: DestaModel, prompts: StepBatch, *, max_new_tokens: int) -> list[list[int]]:
        """Greedy continuations, known to the first process. All processes call this.

        Args:
            prompts: laid out by `DestaDataset.prompts`; empty where the process does not ask.
        """
        ...

    def clip(self, parameters: Sequence[nn.Parameter], limit: float) -> float:
        """Clip the gradients by their global norm, and return it."""
        ...

    def filling(self, micro_batches: Sequence[MicroBatch]) -> int:
        """Tokens that are computed for their shape alone, besides those of this process's part of the step."""
        ...

    def sum(self, value: float) -> float:
        """Sum of a number over the global batch: every row counts once, however many processes know it."""
        ...

    def sum_all(self, value: float) -> float:
        """Sum of a number over all processes."""
        ...

    def trained_state(self, model: DestaModel) -> dict[str, Tensor]:
        """The trained tensors whole, under their published names, on the process that writes checkpoints. All processes call this."""
        ...

    def load_trained(self, model: DestaModel, state: Mapping[str, Tensor]) -> None:
        """Fill this process's part of the trained tensors; every one must be there.

        Raises:
            ValueError: names or shapes differ.
        """
        ...


class DataParallelSteps:
    """Every process has the whole model and its own rows."""

    def __init__(self, rank: int = 0, device: torch.device | None = None) -> None:
        self.random_rank = rank
        self.device = device or torch.device("cpu")

    def seed(self, seed: int, step: int) -> None:
        torch.manual_seed(hash_seed(seed, step, self.random_rank))

    def share(self, batch: StepBatch) -> StepBatch:
        return batch

    def run(self, model: DestaModel, micro_batches: Sequence[MicroBatch], parameters: Sequence[Tensor]) -> tuple[float, int]:
        return train_step(model, micro_batches, parameters)

    @torch.no_grad()
    def evaluate(self, model: DestaModel, micro_batches: Sequence[MicroBatch]) -> tuple[float, int]:
        results = [model(MicroBatch(batch.tokens.to(model.device), batch.clips)) for batch in micro_batches]
        total, tokens = sum(float(loss) for loss, _ in results), sum(count for _, count in results)
        return reduce_sum(total, model.device), int(reduce_sum(tokens, model.device))

    @property
    def asks(self) -> bool:
        return self.random_rank == 0

    @torch.no_grad()
    def answer(self, model: DestaModel, prompts: StepBatch, *, max_new_tokens: int) -> list[list[int]]:
        if not prompts.micro_batches:
            return []
        embeds_BTH, mask_BT = prompt_embeddings(model, prompts.micro_batches[0])
        return model.backbone.generate(embeds_BTH, mask_BT, max_new_tokens=max_new_tokens)

    def clip(self, parameters: Sequence[nn.Parameter], limit: float) -> float:
        return float(torch.nn.utils.clip_grad_norm_(parameters, limit))

    def filling(self, micro_batches: Sequence[MicroBatch]) -> int:
        return 0

    def sum(self, value: float) -> float:
        return reduce_sum(value, self.device)

    def sum_all(self, value: float) -> float:
        return reduce_sum(value, self.device)

    def trained_state(self, model: DestaModel) -> dict[str, Tensor]:
        return trainable_state(model)

    def load_trained(self, model: DestaModel, state: Mapping[str, Tensor]) -> None:
        load_into(model, state)


class ShardedSteps(DataParallelSteps):
    """As on plain processes, but the LLM's weights lie in shards (FSDP2): every micro-batch gathers them, so all processes run as many as the one with most."""

    def run(self, model: DestaModel, micro_batches: Sequence[MicroBatch], parameters: Sequence[Tensor]) -> tuple[float, int]:
        return train_step(model, self._as_many(micro_batches), parameters)

    def evaluate(self, model: DestaModel, micro_batches: Sequence[MicroBatch]) -> tuple[float, int]:
        return super().evaluate(model, self._as_many(micro_batches))

    @property
    def asks(self) -> bool:
        return True  # all generate the same, since each holds a part of the weights

    def _as_many(self, micro_batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        """With filling behind one's own."""
        missing = int(reduce_max(len(micro_batches), self.device)) - len(micro_batches)
        return [*micro_batches, *[MicroBatch(empty_pack(1), [])] * missing]

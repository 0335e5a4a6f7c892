"""A training step over tensor-parallel pipeline stages.

One process of every copy of the model reads rows and audio and hands them out: each process of the first stage gets the clips it will encode, later stages get
token packs only. Encoder and connector are replicated over the first stage's processes, their work is not: each hears its share of the clips, the vectors are
gathered, and the connector's gradients are summed over all who hold it in one message, so that the replicas stay equal bit for bit. LoRA adapters lie on every
stage; those of a part of a layer are summed over the copies of the model alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from torch import Tensor, nn

from nemo_desta.checkpoint import load_into, trainable_state
from nemo_desta.checkpoint.connector import LORA_PREFIX
from nemo_desta.data.dataset import Clip, MicroBatch, StepBatch
from nemo_desta.models.desta import DestaModel, own_share
from nemo_desta.models.steps import hash_seed, prompt_embeddings, sum_gradients
from nemo_desta.parallel.lora import is_cut, summed_over_positions
from nemo_desta.parallel.schedule import pad_step, padded_lengths, run_schedule
from nemo_desta.parallel.topology import Topology

if TYPE_CHECKING:
    from nemo_desta.backbones.megatron import MegatronBackbone
    from nemo_desta.parallel.gpt import Part


class ParallelSteps:
    """See `nemo_desta.models.steps.Steps`.

    Args:
        topology: where this process stands.
    """

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.random_rank = topology.data * topology.sizes.tp + topology.shard

    def seed(self, seed: int, step: int) -> None:
        """Each process its own, and one that the tensor-parallel positions of a stage share: for dropout of what all of them hold."""
        topology = self.topology
        model_parallel_cuda_manual_seed(hash_seed(seed, step, topology.data * topology.sizes.pp + topology.stage))
        torch.manual_seed(hash_seed(seed, step, self.random_rank))

    def share(self, batch: StepBatch) -> StepBatch:
        """The reader's batch on every process of its copy, with only the clips that the process will encode."""
        parts = [_part(batch, stage, shard, self.topology.sizes.tp) for stage, shard in self.topology.members] if self.topology.reads_data else None
        received: StepBatch = self.topology.scatter(parts)
        return received

    def run(self, model: DestaModel, micro_batches: Sequence[MicroBatch], parameters: Sequence[Tensor]) -> tuple[float, int]:
        """Forward and backward of this process's parts; see `train_step`."""
        topology = self.topology
        tokens = int(topology.sum_over_data(sum(b.tokens.num_targets for b in micro_batches)))
        total = self.forward_backward(model, micro_batches, tokens=tokens) if micro_batches else 0.0
        sum_gradients([p for p in parameters if summed_over_positions(p)], topology.stage_group)
        sum_gradients([p for p in parameters if not summed_over_positions(p)], topology.data_group)
        counted = total if topology.is_last and topology.shard == 0 else 0.0
        return topology.sum(counted) / max(tokens, 1), tokens

    @torch.no_grad()
    def evaluate(self, model: DestaModel, micro_batches: Sequence[MicroBatch]) -> tuple[float, int]:
        topology = self.topology
        tokens = int(topology.sum_over_data(sum(b.tokens.num_targets for b in micro_batches)))
        total = self.forward_backward(model, micro_batches, tokens=tokens, forward_only=True) if micro_batches else 0.0
        return topology.sum(total if topology.is_last and topology.shard == 0 else 0.0), tokens

    @property
    def asks(self) -> bool:
        return self.topology.data == 0 and self.topology.reads_data

    @torch.no_grad()
    def answer(self, model: DestaModel, prompts: StepBatch, *, max_new_tokens: int) -> list[list[int]]:
        """The first copy of the model answers."""
        batch = self.share(prompts) if self.topology.data == 0 else prompts
        if not batch.micro_batches:
            return []
        embeds_BTH, mask_BT = prompt_embeddings(model, batch.micro_batches[0]) if self.topology.is_first else (None, None)
        with torch.autocast(self.topology.device.type, enabled=False):  # as in training, the frozen layers compute in the type of their weights
            return _backbone(model).generate(embeds_BTH, mask_BT, max_new_tokens=max_new_tokens)

    def forward_backward(self, model: DestaModel, micro_batches: Sequence[MicroBatch], *, tokens: int, forward_only: bool = False) -> float:
        """The schedule over this process's parts; returns the sum of the token losses on the last stage, 0 elsewhere."""
        backbone = _backbone(model)
        packs = pad_step([batch.tokens.to(self.topology.device) for batch in micro_batches], self.topology.sizes)

        def forward(part: "Part", index: int) -> Tensor:
            embeds_TH = None
            if part.gpt.pre_process:
                clips = micro_batches[index].clips if index < len(micro_batches) else []
                embeds_TH = model.splice(packs[index], model.hear(clips) if clips else None)
            return backbone.run(part, embeds_TH, packs[index])

        return run_schedule(backbone.parts, packs, forward, self.topology.sizes, tokens=tokens, forward_only=forward_only)

    def clip(self, parameters: Sequence[nn.Parameter], limit: float) -> float:
        """The norm over all stages and positions; what several positions hold alike counts once."""
        own = [p.grad for p in parameters if p.grad is not None and (is_cut(p) or self.topology.shard == 0)]
        squares = sum(float(torch.linalg.vector_norm(gradient)) ** 2 for gradient in own)
        norm = math.sqrt(self.topology.sum(squares, self.topology.copy_group))
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, torch.tensor(norm, dtype=torch.float32, device=self.topology.device))
        return norm

    def trained_state(self, model: DestaModel) -> dict[str, Tensor]:
        return {**trainable_state(model), **_backbone(model).adapter_state()}

    def load_trained(self, model: DestaModel, state: Mapping[str, Tensor]) -> None:
        """A later pipeline stage has no connector, and every process a part of the adapters."""
        adapters = {name: tensor for name, tensor in state.items() if name.startswith(LORA_PREFIX)}
        _backbone(model).load_adapters(adapters)
        if self.topology.is_first:
            load_into(model, {name: tensor for name, tensor in state.items() if name not in adapters})

    def filling(self, micro_batches: Sequence[MicroBatch]) -> int:
        lengths = [batch.tokens.num_tokens for batch in micro_batches]
        return sum(padded_lengths(lengths, self.topology.sizes)) - sum(lengths)

    def sum(self, value: float) -> float:
        return self.topology.sum_over_data(value)

    def sum_all(self, value: float) -> float:
        return self.topology.sum(value)


def _backbone(model: DestaModel) -> "MegatronBackbone":
    backbone: MegatronBackbone = model.backbone  # type: ignore[assignment]
    return backbone


def _part(batch: StepBatch, stage: int, shard: int, shards: int) -> StepBatch:
    """What one process needs of a batch."""
    return replace(batch, micro_batches=[MicroBatch(b.tokens, _clips(b.clips, stage, shard, shards)) for b in batch.micro_batches])


def _clips(clips: Sequence[Clip], stage: int, shard: int, shards: int) -> list[Clip]:
    if stage > 0:
        return []
    own = set(own_share(len(clips), shard, shards))
    return [clip if i in own else Clip(clip.key) for i, clip in enumerate(clips)]

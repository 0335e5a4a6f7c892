"""Micro-batches through Megatron's forward-backward schedules: none, 1F1B, or interleaved, whichever the cut asks for.

Shape legend: T tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from nemo_desta.data.packing import TokenPack, empty_pack, pad_pack
from nemo_desta.parallel.gpt import Part
from nemo_desta.parallel.plan import ParallelSizes, padded_length, padded_micro_batches

Forward = Callable[[Part, int], Tensor]


def pad_step(packs: Sequence[TokenPack], sizes: ParallelSizes) -> list[TokenPack]:
    """The packs of a step as the schedule wants them: of one length, and as many as it takes. Added packs stand at the end."""
    lengths = padded_lengths([pack.num_tokens for pack in packs], sizes)
    padded = [pad_pack(pack, n) for pack, n in zip(packs, lengths, strict=False)]
    return padded + [empty_pack(n, packs[0].input_ids_T.device) for n in lengths[len(packs) :]]


def padded_lengths(lengths: Sequence[int], sizes: ParallelSizes) -> list[int]:
    """Tokens of the packs that `pad_step` makes of packs of some lengths."""
    if sizes.pp == 1:
        return [padded_length(n, sizes) for n in lengths]
    return [padded_length(max(lengths), sizes)] * padded_micro_batches(len(lengths), sizes) if lengths else []


def run_schedule(
    parts: Sequence[Part], packs: Sequence[TokenPack], forward: Forward, sizes: ParallelSizes, *, tokens: int, forward_only: bool = False
) -> float:
    """Forward, and backward, of all micro-batches of a step through this process's parts.

    Args:
        parts: of this process.
        packs: padded by `pad_step`.
        forward: (part, number of the micro-batch) -> hidden states, or the sum of the token losses behind the last layer.
        tokens: with a loss in the global batch; gradients are those of the sum of all losses divided by it.

    Returns:
        The sum of the token losses, on the last stage; 0 elsewhere.
    """
    part_of = {id(part.gpt): part for part in parts}

    def step(iterator: Any, gpt: Any) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]:
        return forward(part_of[id(gpt)], next(iterator)), normalised

    def normalised(loss: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # A copy: the schedule may divide what it is given in place, and the logged loss must not change with it.
        return loss / max(tokens, 1), torch.zeros((), dtype=torch.int32, device=loss.device), loss.detach().clone()

    iterators = [iter(range(len(packs))) for _ in parts]
    losses = get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=iterators if sizes.virtual_pp > 1 else iterators[0],
        model=[part.gpt for part in parts],
        num_microbatches=len(packs),
        seq_length=packs[0].num_tokens,
        micro_batch_size=1,
        forward_only=forward_only,
    )
    return float(sum(float(loss) for loss in losses))
